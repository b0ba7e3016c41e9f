"""Optimizers with typed fields: each is Optax's transformation, and goes on from a saved state with the same bits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_close, assert_same_bits
from jax.flatten_util import ravel_pytree
from optax import contrib

import jaxnets
from jaxnets.core.errors import UsageError
from jaxnets.models import MLP
from jaxnets.optim import (
    LAMB,
    LBFGS,
    SAM,
    SGD,
    WSD,
    Adafactor,
    Adagrad,
    Adam,
    AdamW,
    Constant,
    Exponential,
    InverseTime,
    Lion,
    Lookahead,
    Muon,
    OneCycle,
    Optax,
    Optimizer,
    Restarts,
    RMSProp,
    ScheduleFree,
    Steps,
)
from jaxnets.optim.reading import evaluation_params
from jaxnets.optim.schedules import on_schedule

KEEP = Constant()
PARAMS = {
    "hidden": {"kernel": np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3), "bias": np.ones(3, np.float32)},
    "output": {"kernel": np.linspace(0.5, 1, 6, dtype=np.float32).reshape(3, 2)},
}
KERNELS = {"hidden": {"kernel": True, "bias": False}, "output": {"kernel": True}}


def loss(params):
    """A smooth function of all parameters with a gradient that is nowhere 0 for long."""
    return sum(
        jnp.sum(jnp.cos(leaf * (1.0 + index)) + 0.1 * leaf**2) for index, leaf in enumerate(jax.tree.leaves(params))
    )


def extras(params, gradients):
    gradient_at = jax.grad(loss)
    return {"value": loss(params), "grad": gradients, "value_fn": loss, "grad_fn": lambda at, *_: gradient_at(at)}


@functools.partial(jax.jit, static_argnums=0)
def advanced(rule, params, state, step):
    """One update as a training step makes it."""
    gradients = jax.grad(loss)(params)
    whole = optax.with_extra_args_support(rule)
    updates, state = whole.update(gradients, on_schedule(state, step), params, **extras(params, gradients))
    return optax.apply_updates(params, updates), state


@functools.cache
def built(optimizer):
    """Built once, so that it compiles once."""
    return optimizer.build(10)


def after(optimizer, steps=5):
    rule = built(optimizer) if isinstance(optimizer, Optimizer) else Optax(optimizer).build(10)
    params, state = PARAMS, rule.init(PARAMS)
    for step in range(steps):
        params, state = advanced(rule, params, state, step)
    return params, state


def matrices(params):
    """Muon's default is every matrix; here the hidden kernel alone."""
    one = contrib.MuonDimensionNumbers()
    return {"hidden": {"kernel": one, "bias": None}, "output": {"kernel": None}}


SAME = {
    "RMSProp": (
        RMSProp(0.01, 0.8, momentum=0.5, centered=True, schedule=KEEP),
        lambda: optax.rmsprop(0.01, 0.8, 1e-8, centered=True, momentum=0.5),
    ),
    "Adagrad": (Adagrad(0.1, schedule=KEEP), lambda: optax.adagrad(0.1)),
    "Adafactor": (
        Adafactor(0.1, factored_from=3, weight_decay=0.01, schedule=KEEP),
        lambda: optax.adafactor(0.1, 3, weight_decay_rate=0.01, weight_decay_mask=KERNELS),
    ),
    "LAMB": (LAMB(0.1, 0.1, schedule=KEEP), lambda: optax.lamb(0.1, weight_decay=0.1, mask=KERNELS)),
    "Lion": (
        Lion(0.01, 0.1, clip_norm=1.0, schedule=KEEP),
        lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.lion(0.01, weight_decay=0.1, mask=KERNELS)),
    ),
    "Muon": (
        Muon(0.05, 0.01, weight_decay=0.1, schedule=KEEP),
        lambda: contrib.muon(
            0.05,
            weight_decay=0.1,
            weight_decay_mask=KERNELS,
            adam_learning_rate=0.01,
            muon_weight_dimension_numbers=matrices,
        ),
    ),
    "LBFGS": (
        LBFGS(4, 10),
        lambda: optax.lbfgs(
            memory_size=4, linesearch=optax.scale_by_zoom_linesearch(10, initial_guess_strategy="one")
        ),
    ),
    "ScheduleFree": (
        ScheduleFree(SGD(0.1, schedule=KEEP), b1=0.8),
        lambda: contrib.schedule_free(optax.sgd(0.1), 0.1, b1=0.8),
    ),
    "SAM": (SAM(SGD(0.1, momentum=0.5, schedule=KEEP), rho=0.1), lambda: by_hand_sam(optax.sgd(0.1, 0.5), 0.1)),
    "SAM, every second": (SAM(SGD(0.1, momentum=0.5, schedule=KEEP), rho=0.05, every=2),
                          lambda: by_hand_sam(optax.sgd(0.1, 0.5), 0.1, every=2)),
}  # fmt: skip


def by_hand_sam(base, rho, every=1):
    """Optax's SAM: its ascent is a normalised step of another optimizer, so that every second of its updates counts."""

    def update(gradients, state, params=None, *, grad_fn, **_):
        ascent = contrib.normalize()
        way, _ = ascent.update(gradients, ascent.init(params), params)
        sharp = grad_fn(jax.tree.map(lambda p, w: p + rho * w, params, way), 0)
        due = (state[0] + 1) % every == 0
        used = jax.tree.map(lambda a, b: jnp.where(due, a, b), sharp, gradients)
        moves, inner = base.update(used, state[1], params)
        return moves, (state[0] + 1, inner)

    return optax.GradientTransformationExtraArgs(lambda params: (jnp.zeros((), int), base.init(params)), update)


@pytest.mark.parametrize("name", SAME)
def test_an_optimizer_is_the_transformation_of_optax(name):
    ours, theirs = SAME[name]
    # The same operations, compiled into other programs: they differ in the last digits.
    assert_close(after(ours)[0], after(theirs())[0], rtol=1e-5, atol=1e-6)


@pytest.mark.smoke
def test_sam_with_rho_0_and_lookahead_with_share_1_equal_their_base():
    base = Adam(0.05, schedule=KEEP)
    wanted, _ = after(base)
    for same in (SAM(base, rho=0.0), SAM(base, rho=0.0, every=2), Lookahead(base, every=1, share=1.0)):
        assert_close(after(same)[0], wanted, rtol=1e-6, atol=1e-6)
    for other in (SAM(base, rho=0.2), Lookahead(base, every=1, share=0.5)):
        assert np.abs(after(other)[0]["hidden"]["kernel"] - wanted["hidden"]["kernel"]).max() > 1e-4


def test_lookahead_with_share_one_half_moves_half_way_every_second_step():
    base = SGD(0.1, momentum=0.0, schedule=KEEP)
    params, slow = PARAMS, PARAMS
    gradient = jax.jit(jax.grad(loss))
    for step in range(4):
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient(params))
        if step % 2:
            params = slow = jax.tree.map(lambda s, p: s + 0.5 * (p - s), slow, params)
    assert_close(after(Lookahead(base, every=2), steps=4)[0], params, rtol=1e-5, atol=1e-6)


def test_lookahead_with_a_falling_share_by_hand():
    base = SGD(0.1, momentum=0.0, schedule=KEEP)
    params, slow = PARAMS, PARAMS
    gradient = jax.jit(jax.grad(loss))
    for step in range(1, 7):
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient(params))
        if step % 2 == 0:
            share = 0.9 + (0.3 - 0.9) * (step / 10) ** 3  # of a run of ten steps
            params = slow = jax.tree.map(lambda s, p, share=share: s + share * (p - s), slow, params)
    found, state = after(Lookahead(base, every=2, share=0.9, last_share=0.3), steps=6)
    assert_close(found, params, rtol=1e-5, atol=1e-6)
    assert_close(state.slow, slow, rtol=1e-5, atol=1e-6)
    constant = after(Lookahead(base, every=2, share=0.9, last_share=0.9), steps=6)[0]
    assert_close(constant, after(Lookahead(base, every=2, share=0.9), steps=6)[0], rtol=1e-6, atol=1e-6)


def test_sam_finds_the_gradient_at_the_distance_rho():
    """On half a square the gradient at w + rho g / |g| is w (1 + rho / |w|)."""
    rule = SAM(SGD(1.0, momentum=0.0, schedule=KEEP), rho=0.5).build(10)
    w = jnp.array([3.0, 4.0])
    updates, _ = rule.update({"w": w}, rule.init({"w": w}), {"w": w}, grad_fn=lambda at, _: at)
    np.testing.assert_allclose(updates["w"], -w * (1 + 0.5 / 5), rtol=1e-6)


@pytest.mark.slow
def test_sam_ends_where_the_loss_is_flatter():
    """Noisy points of a sine, and the largest eigenvalue of the Hessian from ten starts (measured: half of that of SGD)."""
    x = jax.random.uniform(jax.random.key(0), (24, 1), minval=-2, maxval=2)
    y = jnp.sin(2 * x) + 0.3 * jax.random.normal(jax.random.key(1), x.shape)
    model, second = MLP(widths=(12,), outputs=1, activation="tanh"), []
    back = ravel_pytree(model.init(jax.random.key(0), x)["params"])[1]

    def error(w):
        return jnp.square(model.apply({"params": back(w)}, x) - y).mean()

    def again(at, _):
        second.append(at)
        return jax.grad(error)(at)

    def largest(base, key, steps=1000):
        rule, w = base.build(steps), ravel_pytree(model.init(key, x)["params"])[0]

        def step(carry, _):
            w, state = carry
            updates, state = rule.update(jax.grad(error)(w), state, w, grad_fn=again)
            return (w + updates, state), None

        (w, _), _ = jax.lax.scan(step, (w, rule.init(w)), None, length=steps)
        return jnp.linalg.eigvalsh(jax.hessian(error)(w))[-1]

    keys, sgd = jax.random.split(jax.random.key(7), 10), SGD(0.05, momentum=0.0, schedule=KEEP)
    plain = jax.jit(jax.vmap(lambda key: largest(sgd, key)))(keys)
    assert not second
    flat = jax.jit(jax.vmap(lambda key: largest(SAM(sgd, rho=0.2), key)))(keys)
    assert len(second) == 1  # in the trace of a step: two gradients in place of one
    assert (flat < 0.8 * plain).sum() >= 8


def test_if_the_second_gradient_of_sam_is_not_finite_it_uses_the_first():
    rule = SAM(SGD(1.0, momentum=0.0, schedule=KEEP)).build(10)
    w = jnp.array([3.0, 4.0])
    updates, _ = rule.update({"w": w}, rule.init({"w": w}), {"w": w}, grad_fn=lambda at, _: {"w": at["w"] * jnp.nan})
    np.testing.assert_array_equal(updates["w"], -w)


def test_schedule_free_evaluates_the_average_of_the_weights():
    """With a constant rate, x is the mean of z over the updates (Defazio et al. 2024, equation 5)."""
    params, state = after(ScheduleFree(SGD(0.1, schedule=KEEP), b1=0.8), steps=1)
    z = jax.tree.map(lambda p, g: p - 0.1 * g, PARAMS, jax.grad(loss)(PARAMS))
    assert_close(evaluation_params(state, params), z, rtol=1e-4, atol=1e-5)


def test_muon_orthogonalises_updates_of_hidden_matrices_and_adamw_updates_the_rest():
    rule = Muon(1.0, 0.5, schedule=KEEP).build(10)
    rng = np.random.default_rng(0)
    gradients = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), PARAMS)
    updates, _ = jax.jit(rule.update)(gradients, rule.init(PARAMS), PARAMS)
    # Five iterations bring singular values near 1, within about 0.3 (Jordan et al. 2024).
    np.testing.assert_allclose(np.linalg.svd(updates["hidden"]["kernel"])[1], 1.0, atol=0.35)
    # Adam's first update is the sign of the gradient, and with Nesterov's momentum b1 (1 - b1) / (1 - b1^2) more of it.
    size = 0.5 * (1 + 0.9 * 0.1 / (1 - 0.81))
    np.testing.assert_allclose(updates["output"]["kernel"], -size * np.sign(gradients["output"]["kernel"]), rtol=1e-4)
    np.testing.assert_allclose(updates["hidden"]["bias"], -size * np.sign(gradients["hidden"]["bias"]), rtol=1e-4)


RESUMED = {
    **{name: ours for name, (ours, _) in SAME.items()},
    "Lookahead": Lookahead(Adam(0.05, schedule=OneCycle()), every=3),
    "Lookahead, falling": Lookahead(Adam(0.05, schedule=OneCycle()), every=3, share=1.0, last_share=0.2),
    **{
        type(schedule).__name__: SGD(0.1, schedule=schedule)
        for schedule in (WSD(), Restarts(), Steps(), Exponential(), InverseTime())
    },
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_saved_state_resumes_with_the_same_bits(name):
    rule = built(RESUMED[name])
    whole, half, states = PARAMS, PARAMS, [rule.init(PARAMS), rule.init(PARAMS)]
    for step in range(7):
        whole, states[0] = advanced(rule, whole, states[0], step)
        if step == 3:  # through the host, into a transformation that was built anew
            leaves, tree = jax.tree.flatten((half, states[1]))
            half, states[1] = jax.tree.unflatten(tree, [np.asarray(leaf) for leaf in leaves])
            again = RESUMED[name].build(10)
        half, states[1] = advanced(rule if step < 3 else again, half, states[1], step)
    assert_same_bits(whole, half)


@pytest.mark.slow
def test_lbfgs_solves_a_regression_in_a_few_steps():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 3)).astype(np.float32)
    y = x @ np.array([1.0, -2.0, 0.5], np.float32)
    run = jaxnets.fit(MLP(widths=()), (x, y), test=(x, y), optimizer=LBFGS(), steps=12, batch_size=64, progress="none")
    # 12 steps of gradient descent at its best rate leave 1e-2 and more.
    np.testing.assert_allclose(run.predict(x), y, atol=2e-3)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SAM(rho=-1.0), "SAM.rho is a distance"),
        (lambda: SAM(every=0), "SAM.every is a number of steps"),
        (lambda: Lookahead(every=0), "Lookahead.every is a number of updates"),
        (lambda: Lookahead(share=0.0), "Lookahead.share is in"),
        (lambda: Lookahead(last_share=1.5), "Lookahead.last_share is in"),
        (lambda: ScheduleFree(optax.sgd(0.1)), "Optax does not say one"),
        (lambda: ScheduleFree(AdamW(), b1=0.0), "ScheduleFree.b1 is in"),
        (lambda: after(Lookahead(SAM())), "put the other one inside, as in"),
    ],
)
def test_bad_wrappers_are_refused(make, said):
    with pytest.raises(UsageError, match=said):
        make()
