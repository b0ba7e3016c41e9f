"""Learning rates by depth: equal to a hand-written Optax loop with one rate for each layer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import whole_batch

import jaxnets
from jaxnets.config.serialize import from_data, to_data
from jaxnets.core.errors import UsageError
from jaxnets.optim import Adam, ByDepth, Constant


def factors(optimizer, *paths):
    tree = {}
    for path in paths:
        branch = tree
        *parts, last = path.split("/")
        for part in parts:
            branch = branch.setdefault(part, {})
        branch[last] = jnp.zeros(2)
    found = optimizer.factors(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): factor
        for path, factor in jax.tree.leaves_with_path(found)
    }


def test_levels_are_embedding_numbered_layers_and_head():
    found = factors(
        ByDepth(decay=0.5),
        "embedding/embedding", "positions", "block_0/query/kernel", "block_2/up/kernel", "block_10/up/kernel",
        "final_norm/scale", "output/kernel",
    )  # fmt: skip
    assert found == {
        "embedding/embedding": 1 / 16, "positions": 1 / 16, "block_0/query/kernel": 1 / 8, "block_2/up/kernel": 1 / 4,
        "block_10/up/kernel": 1 / 2, "final_norm/scale": 1.0, "output/kernel": 1.0,
    }  # fmt: skip


def test_the_last_numbered_layer_is_the_head_where_there_is_no_other():
    assert factors(ByDepth(decay=0.5), "Dense_0/kernel", "Dense_1/kernel") == {
        "Dense_0/kernel": 0.5,
        "Dense_1/kernel": 1.0,
    }


def test_stages_and_patterns():
    found = factors(ByDepth(decay=0.5), "stage_0_block_1/conv_5/kernel", "stage_1_block_0/conv_0/kernel")
    assert list(found.values()) == [0.5, 1.0]
    found = factors(ByDepth(decay=0.5, layers=r"enc_0/l_(\d+)/.*"), "enc_0/l_0/w", "enc_0/l_1/w", "head_0/w")
    assert found == {"enc_0/l_0/w": 0.25, "enc_0/l_1/w": 0.5, "head_0/w": 1.0}


def test_it_equals_a_hand_written_loop_and_opens_again():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 5)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int)
    options = {"steps": 4, "batch_size": 32, "test": (x, y), "progress": "none"}
    optimizer = ByDepth(Adam(learning_rate=0.05, schedule=Constant(), clip_norm=None), decay=0.4)
    run = jaxnets.fit(jaxnets.models.MLP(widths=(6, 5)), (x, y), optimizer=optimizer, **options)
    params, inputs = run.parts.fresh_state().params, whole_batch(run)
    rates = {"hidden_0": 0.05 * 0.4**2, "hidden_1": 0.05 * 0.4, "output": 0.05}
    loops = {name: optax.adam(rate) for name, rate in rates.items()}
    states = {name: loops[name].init(params[name]) for name in loops}

    def loss(params):
        logits = run.parts.task.model.apply({"params": params}, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(y)).mean()

    @jax.jit
    def step(params, states):
        gradients, new = jax.grad(loss)(params), {}
        for name, loop in loops.items():
            moves, new[name] = loop.update(gradients[name], states[name])
            params = {**params, name: optax.apply_updates(params[name], moves)}
        return params, new

    for _ in range(4):
        params, states = step(params, states)
    for found, wanted in zip(jax.tree.leaves(run.state.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert from_data(to_data(optimizer)) == optimizer


def test_mistakes_are_refused_with_the_reason():
    with pytest.raises(UsageError, match=r"no.*numbers|there are none in blocks/kernel"):
        factors(ByDepth(), "blocks/kernel")
    with pytest.raises(UsageError, match=r"in \(0, 1\], got 0"):
        ByDepth(decay=0)
    with pytest.raises(UsageError, match="regular expression"):
        ByDepth(layers="(")
