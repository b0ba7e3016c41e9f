"""The maximal update parametrisation: the coordinate check, factors by their table, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets.core.errors import UsageError
from jaxnets.models import CNN, MLP, LanguageModel
from jaxnets.ops.initialisers import Initialiser, initialised
from jaxnets.optim import SGD, Adam, Constant, MuP, mup

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(16, 10)), jnp.float32)
Y = jnp.asarray(RNG.normal(size=(16, 4)), jnp.float32)


def net(width):
    return MLP(widths=(width, width), outputs=4, activation="tanh")


def moved(width, optimizer, initialiser, steps=3, seeds=2):
    """Mean absolute change of the outputs and of the last hidden potentials over a few steps, as the width grows."""
    model = net(width)
    update = optax.chain(optimizer.build(steps))

    @jax.jit
    def train(key):
        params = start = initialised(model.init(key, X)["params"], key, initialiser)
        state = update.init(params)

        def loss(p):
            return jnp.square(model.apply({"params": p}, X) - Y).mean()

        for _ in range(steps):
            updates, state = update.update(jax.grad(loss)(params), state, params)
            params = optax.apply_updates(params, updates)

        def seen(p):
            hidden = jnp.tanh(X @ p["hidden_0"]["kernel"] + p["hidden_0"]["bias"][None])
            return hidden @ p["hidden_1"]["kernel"] + p["hidden_1"]["bias"][None], model.apply({"params": p}, X)

        return [jnp.abs(a - b).mean() for a, b in zip(seen(params), seen(start), strict=True)]

    return np.mean([[float(v) for v in train(jax.random.key(seed))] for seed in range(seeds)], axis=0)


@pytest.mark.smoke
def test_the_coordinate_check_steps_are_as_large_in_a_wide_model_as_in_its_base():
    """Yang et al. 2022, appendix D.1: with muP what moves does not depend on the width; without it, it grows with it."""
    adam, widths = Adam(1e-2, schedule=Constant()), (64, 1024)
    plain = np.array([moved(width, adam, Initialiser("lecun_normal")) for width in widths])
    scaled = moved(1024, *mup(adam, net(1024), net(64), X))  # at the base width both are the same
    growth = {"plain": plain[-1] / plain[0], "scaled": scaled / plain[0]}
    assert (growth["plain"] > (5, 2)).all(), growth  # up to 16; the outputs reach their targets before
    assert (growth["scaled"] < 1.35).all(), growth
    assert (growth["scaled"] > 0.65).all(), growth


def test_the_factors_are_those_of_the_table():
    """Table 3, last two rows, for input, hidden and output weights and biases; a width 4 times that of the base."""
    params = jax.eval_shape(net(64).init, jax.random.key(0), X)["params"]
    optimizer, initialiser = mup(Adam(1e-2), net(64), net(16), X)
    factors = optimizer.factors(params)
    assert factors["hidden_0"] == {"kernel": 1.0, "bias": 1.0}
    assert factors["hidden_1"] == {"kernel": 0.25, "bias": 1.0}
    assert factors["output"] == {"kernel": 0.25, "bias": 1.0}
    assert initialiser == Initialiser("lecun_normal", last_gain=0.5)
    slow, _ = mup(SGD(1e-2), net(64), net(16), X)
    factors = slow.factors(params)
    assert factors["hidden_0"] == {"kernel": 4.0, "bias": 4.0}
    assert factors["hidden_1"] == {"kernel": 1.0, "bias": 4.0}
    assert factors["output"] == {"kernel": 0.25, "bias": 1.0}


@pytest.mark.slow
def test_a_language_model_grows_by_its_heads_and_its_embedding_keeps_its_rate():
    def model(heads):
        return LanguageModel(
            vocab_size=9, width=8 * heads, heads=heads, head_dim=8, layers=1, length=6, embedding="untied"
        )

    tokens = jnp.zeros((1, 6), jnp.int32)
    optimizer, _ = mup(Adam(1e-2), model(4), model(1), tokens)
    factors = optimizer.factors(jax.eval_shape(model(4).init, jax.random.key(0), tokens)["params"])
    assert factors["embedding"]["embedding"] == factors["positions"] == 1.0
    assert (
        factors["block_0"]["query"]["kernel"]
        == factors["block_0"]["down"]["kernel"]
        == factors["output"]["kernel"]
        == 0.25
    )
    assert factors["block_0"]["mlp_norm"]["scale"] == 1.0


def test_models_that_differ_in_more_than_widths_and_unknown_parameters_are_refused():
    with pytest.raises(UsageError, match="differ in more than widths: only one has hidden_1/bias"):
        mup(Adam(1e-2), MLP(widths=(8, 8)), MLP(widths=(8,)), X)
    tied = LanguageModel(vocab_size=9, width=8, heads=1, layers=1, length=6)
    with pytest.raises(UsageError, match="embedding='untied'"):
        mup(Adam(1e-2), tied, tied, jnp.zeros((1, 6), jnp.int32))
    optimizer, _ = mup(Adam(1e-2), net(8), net(4), X)
    images = jnp.zeros((1, 8, 8, 1))
    with pytest.raises(UsageError, match="does not know how the parameter 'conv_0_0/bias' grows"):
        optimizer.factors(jax.eval_shape(CNN(features=(2,)).init, jax.random.key(0), images)["params"])
    assert MuP(Adam(1e-2)).rates(10, 3) is not None


@pytest.mark.slow
def test_the_best_learning_rate_of_a_narrow_model_is_right_for_a_wide_one():
    """A small transfer experiment: over a grid of rates, the best one of the base is within a factor of 2 of the wide one's."""
    rates, best = [2.0**-k for k in range(3, 12)], {}
    for kind in ("plain", "scaled"):
        for width in (32, 512):
            model, losses = net(width), []
            for rate in rates:
                adam = Adam(rate, schedule=Constant())
                optimizer, start = (adam, Initialiser("lecun_normal"))
                if kind == "scaled":
                    optimizer, start = mup(adam, model, net(32), X)
                losses.append(final_loss(model, optimizer.build(40), start))
            best[kind, width] = rates[int(np.argmin(losses))]
    assert 0.5 <= best["scaled", 512] / best["scaled", 32] <= 2, best
    assert best["plain", 512] <= best["plain", 32] / 4, best


def final_loss(model, update, initialiser):
    """The mean loss after 40 steps, over two seeds, of fitting a random function."""

    @jax.jit
    def train(key):
        params = initialised(model.init(key, X)["params"], key, initialiser)

        def loss(p):
            return jnp.square(model.apply({"params": p}, X) - Y).mean()

        def step(carry, _):
            params, state = carry
            updates, state = update.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, update.init(params)), None, length=40)
        return loss(params)

    return np.mean([np.nan_to_num(float(train(jax.random.key(seed))), nan=1e9) for seed in range(2)])
