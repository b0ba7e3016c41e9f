"""Learning rates by depth, and by player."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from conftest import assert_close, assert_same_bits

import jaxnets
from jaxnets import models, tasks
from jaxnets.core.errors import UsageError
from jaxnets.data import Ring
from jaxnets.optim import Adam, ByDepth, Constant, Optax


class Deep(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6, name="embed")(x)
        for i in range(3):
            x = nn.tanh(nn.Dense(6, name=f"block_{i}")(x))
        return nn.Dense(2, name="head")(x)


def test_it_equals_one_optimizer_for_each_layer():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int)
    variables = Deep().init(jax.random.key(0), x[:1])
    factor = {"embed": 0.5**4, "block_0": 0.5**3, "block_1": 0.5**2, "block_2": 0.5, "head": 1.0}
    by_layer = {f"{layer}/.*": optax.adamw(1e-2 * f, weight_decay=0.1) for layer, f in factor.items()}
    options = {"test": (x, y), "initial": variables, "steps": 6, "batch_size": 32, "progress": "none"}
    ours = jaxnets.fit(
        Deep(), (x, y), optimizer=ByDepth(Optax(optax.adamw(1e-2, weight_decay=0.1)), decay=0.5), **options
    )
    theirs = jaxnets.fit(Deep(), (x, y), optimizer=by_layer, **options)
    assert_close(ours.state.params, theirs.state.params, atol=1e-7)
    assert ours.history.series("loss")[1] == pytest.approx(theirs.history.series("loss")[1], rel=1e-6)


def test_the_layers_are_read_from_the_paths():
    params = {"patch_embed": {"kernel": 0.0}, "block_0": {"a_1": 0.0}, "block_11": {"a": 0.0}, "norm": {"scale": 0.0}}
    found = ByDepth(Adam(), decay=0.5).factors(params)
    assert found["norm"]["scale"] == 1.0
    assert found["block_11"]["a"] == 0.5
    assert found["block_0"]["a_1"] == 0.5**12
    assert found["patch_embed"]["kernel"] == 0.5**13


def test_its_rates_are_those_of_the_top_and_its_decay_is_checked():
    inner = Adam(learning_rate=1e-2, schedule=Constant())
    assert np.array_equal(ByDepth(inner).rates(10, 5), inner.rates(10, 5))
    with pytest.raises(UsageError, match=r"decay is in \(0, 1\]"):
        ByDepth(inner, decay=0.0)


def test_the_players_of_a_gan_have_their_own_optimizers():
    """With a rate of 0 for one of them, that one keeps its bits and the other moves as it does with one rate for both."""
    data = Ring(examples=256).open() if "examples" in {f.name for f in dataclasses.fields(Ring)} else Ring().open()
    task = tasks.Adversarial(model=models.MLP(widths=(8,)), critic=models.MLP(widths=(8,)), latent=2)
    options = {"steps": 2, "batch_size": 32, "progress": "none"}
    both = jaxnets.fit(task, data, optimizer=optax.sgd(0.1), **options)
    begun = both.parts.fresh_state()
    by_player = {"critic": optax.sgd(0.1), "generator": optax.sgd(0.0)}
    run = jaxnets.fit(task, data, optimizer=by_player, **options)
    assert_same_bits(run.state.params["generator"], begun.params["generator"])
    one = {**options, "steps": 1}
    first = jaxnets.fit(task, data, optimizer=by_player, **one)
    assert_same_bits(
        first.state.params["critic"], jaxnets.fit(task, data, optimizer=optax.sgd(0.1), **one).state.params["critic"]
    )
    with pytest.raises(UsageError, match="for the players of a GAN, and this task has none"):
        jaxnets.fit(Deep(), (np.zeros((40, 4), np.float32), np.arange(40) % 2), optimizer=by_player, **options)
