"""Augmentation of series, tokens and graphs, and how a configuration holds it."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.config import serialize
from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import DataError, UsageError
from jaxnets.data import (
    MNIST,
    Augment,
    GraphAugment,
    SeriesAugment,
    TokenAugment,
    from_arrays,
    from_graph,
    from_graphs,
    span_corruption,
)
from jaxnets.data.augment import Facts, as_augment, series, tokens
from jaxnets.models import MLP
from jaxnets.tasks import Classification

RNG = np.random.default_rng(2)
KEY = jax.random.key(9)


def batch_of(inputs, **more):
    return {"inputs": inputs, "mask": jnp.ones(len(inputs)), "index": jnp.arange(len(inputs)), **more}


# --- series


def test_series_are_read_at_warped_times():
    walk = jnp.asarray(RNG.normal(size=(30, 2)).cumsum(axis=0), jnp.float32)
    times = np.sort(RNG.uniform(0, 29, 50))
    for c in range(2):
        want = np.interp(times, np.arange(30), np.asarray(walk)[:, c])
        np.testing.assert_allclose(series.at_times(walk, jnp.asarray(times))[:, c], want, atol=1e-5)
    speed = jnp.asarray(RNG.uniform(-0.5, 2.0, 30), jnp.float32)
    passed = np.asarray(series.warped_times(speed))
    assert (passed[0], passed[-1]) == (0, pytest.approx(29, abs=1e-4))
    assert (np.diff(passed) > 0).all()
    np.testing.assert_allclose(series.warped_times(jnp.full(30, 1.7)), np.arange(30), atol=1e-4)
    np.testing.assert_allclose(
        series.curve(jnp.asarray([[0.0], [3.0], [0.0]]), 7)[:, 0], [0, 1, 2, 3, 2, 1, 0], atol=1e-6
    )


def test_changes_of_series_equal_their_definitions():
    flat = jnp.broadcast_to(jnp.asarray([1.0, -2.0]), (300, 40, 2))
    facts, base = Facts(shape=(40, 2)), np.asarray([1.0, -2.0])

    def changed(**fields):
        return np.asarray(jax.jit(lambda x: SeriesAugment(**fields).change(batch_of(x), KEY, facts)["inputs"])(flat))

    noise = changed(jitter=0.3) - base
    assert noise.std() == pytest.approx(0.3, rel=0.02)
    factors = changed(scaling=0.2) / base
    np.testing.assert_allclose(factors, np.broadcast_to(factors[:, :1], factors.shape), rtol=1e-5)
    assert factors[:, 0].std() == pytest.approx(0.2, rel=0.15)
    assert np.corrcoef(factors[:, 0].T)[0, 1] == pytest.approx(0, abs=0.2)  # each channel has its own
    warped = changed(magnitude_warp=0.2, knots=3) / base
    assert np.abs(np.diff(warped, n=2, axis=1)).max(axis=(1, 2)).mean() > 0.001
    assert warped[:, 0].std() == pytest.approx(0.2, rel=0.15)
    np.testing.assert_allclose(changed(time_warp=0.3, window=0.5), np.asarray(flat), rtol=1e-6)
    ramp = jnp.broadcast_to(jnp.arange(40.0)[None, :, None], (50, 40, 1))
    windows = np.asarray(SeriesAugment(window=0.5).change(batch_of(ramp), KEY, facts)["inputs"])[..., 0]
    np.testing.assert_allclose(windows[:, -1] - windows[:, 0], 19, atol=1e-4)  # 20 of 40 steps
    assert windows.min() >= 0
    assert windows.max() <= 39
    assert windows[:, 0].std() > 3


# --- tokens


def test_words_are_dropped_and_padding_is_not():
    rows = jnp.where(jnp.arange(30)[None] < 24, jnp.asarray(RNG.integers(4, 50, (200, 30))), 0)
    made = np.asarray(TokenAugment(drop=0.2).change(batch_of(rows), KEY, Facts(shape=(30,), tokens=True))["inputs"])
    changed = made != np.asarray(rows)
    assert (made[changed] == 3).all()
    assert not changed[:, 24:].any()
    assert changed[:, :24].mean() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("length", [2, 7, 64])
def test_spans_are_dropped_and_can_be_put_back(length):
    dropped, spans = tokens.span_sizes(length)
    assert {2: (1, 1), 7: (1, 1), 64: (10, 3)}[length] == (dropped, spans)
    rows = jnp.asarray(RNG.integers(10, 1000, (20, length)))
    corrupt = jax.jit(jax.vmap(lambda key, row: span_corruption(key, row, first_sentinel=2000, end=2)))
    inputs, targets = map(np.asarray, corrupt(jax.random.split(KEY, 20), rows))
    assert inputs.shape == (20, length - dropped + spans)
    assert targets.shape == (20, dropped + spans + 1)
    for row, given, wanted in zip(np.asarray(rows), inputs, targets, strict=True):
        assert wanted[-1] == 2
        parts = np.split(wanted[:-1], np.flatnonzero(wanted >= 2000))[1:]
        found = {part[0]: part[1:] for part in parts}
        assert [*found] == list(range(2000, 2000 + spans))
        assert all(len(part) >= 1 for part in found.values())
        back = np.concatenate([found.get(token, [token]) for token in given])
        np.testing.assert_array_equal(back, row)
    if length == 64:
        assert len({tuple(np.flatnonzero(row >= 2000)) for row in inputs}) > 10


def test_each_place_and_division_of_spans_has_the_same_probability():
    # 6 = a + b + c has 10 divisions into whole numbers of at least 1.
    made = np.asarray(jax.jit(jax.vmap(lambda key: tokens._parts(key, 6, 3)))(jax.random.split(KEY, 2000)))
    kinds, counts = np.unique(made, axis=0, return_counts=True)
    assert len(kinds) == 10
    assert (kinds.sum(axis=1) == 6).all()
    assert abs(counts - 200).max() < 4.5 * np.sqrt(200 * 0.9)


# --- graphs


def graphs():
    return [(RNG.normal(size=(8, 3)), np.array([(a, b) for a in range(8) for b in range(a)])) for _ in range(12)]


def test_both_directions_of_an_edge_are_dropped_together():
    data = from_graphs(graphs(), np.arange(12) % 2, augment=GraphAugment(drop_edges=0.3, drop_features=0.2))
    batch = batch_of(
        *(jnp.asarray(data.train["inputs"]),), **{k: jnp.asarray(data.train[k]) for k in ("edges", "edge_mask")}
    )
    facts = Facts(shape=(8, 3), arrays=tuple(data.train))
    made = data.augment.change(batch, KEY, facts)
    kept = np.asarray(made["edge_mask"])
    assert kept.mean() == pytest.approx(0.7, abs=0.1)
    np.testing.assert_array_equal(kept[:, :28], kept[:, 28:])  # edges are stored forwards, then backwards
    assert (np.asarray(made["inputs"]) == 0).mean() == pytest.approx(0.2, abs=0.1)
    one_way = from_graphs(graphs(), np.arange(12) % 2, undirected=False)
    again = {
        **batch,
        "edge_mask": jnp.asarray(one_way.train["edge_mask"]),
        "edges": jnp.asarray(one_way.train["edges"]),
    }
    np.testing.assert_array_equal(data.augment.change(again, KEY, facts)["edge_mask"], kept[:, :28])


def test_one_graph_takes_an_augmentation_too():
    nodes, edges = graphs()[0]
    kept = {"train": [0, 1, 2], "test": [3, 4], "augment": GraphAugment(drop_edges=0.5)}
    data = from_graph(nodes, edges, np.arange(8) % 2, **kept)
    assert data.augment == GraphAugment(drop_edges=0.5)


# --- what fits which inputs, and configurations


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (
            SeriesAugment(jitter=0.1),
            r"SeriesAugment needs series of real numbers \[steps, channels\]; inputs are numbers",
        ),
        (TokenAugment(drop=0.1), "TokenAugment.drop needs tokens; inputs are numbers of shape"),
        (GraphAugment(drop_edges=0.1), "GraphAugment needs graphs, with the arrays 'edges' and 'edge_mask'"),
        ((Augment(noise=0.1), GraphAugment(drop_edges=0.1)), "GraphAugment needs graphs"),
    ],
)
def test_an_augmentation_for_other_inputs_is_refused(augment, message):
    with pytest.raises(DataError, match=message):
        from_arrays(RNG.normal(size=(20, 3)), np.arange(20) % 2, augment=augment)


def test_an_invalid_augmentation_is_refused():
    with pytest.raises(UsageError, match="augment is an Augment, another augmentation"):
        as_augment(0.3)
    with pytest.raises(
        ValueError, match=re.escape("GraphAugment.drop_edges is a share or probability in [0, 1], got 2")
    ):
        GraphAugment(drop_edges=2)
    with pytest.raises(ValueError, match="knots is at least 2"):
        SeriesAugment(knots=1)
    with pytest.raises(DataError, match="a token below 5, the size of the vocabulary"):
        TokenAugment(drop=0.1, by=5).check(Facts(shape=(3,), tokens=True, vocabulary=5))
    with pytest.raises(DataError, match="no continuation of the series"):
        SeriesAugment(scaling=0.1).check(Facts(shape=(9, 1), kind="series"))
    with pytest.raises(ValueError, match="at least 2 tokens"):
        span_corruption(KEY, jnp.ones(1, int), first_sentinel=5, end=2)


def test_a_configuration_saves_an_augmentation_and_its_defaults_do_not_change_a_name():
    augment = Augment(shift=2, flip=True, policy="trivial", erase=0.25, mixup=0.2)
    data = serialize.to_data(MNIST(augment=augment))
    assert serialize.from_data(data) == MNIST(augment=augment)
    before = {**data, "augment": {"type": "Augment", "shift": 2, "flip": True, "cutout": 0, "noise": 0.0}}
    assert serialize.from_data(before) == MNIST(augment=Augment(shift=2, flip=True))
    experiment = Experiment(task=Classification(model=MLP()), data=MNIST(augment=Augment(shift=2)))
    shown = serialize._without_younger(serialize.to_data(experiment))["data"]["augment"]
    assert shown == {"type": "Augment", "shift": 2, "flip": False, "cutout": 0, "noise": 0.0}
    other = dataclasses.replace(experiment, data=MNIST(augment=augment))
    assert serialize.digest(other) != serialize.digest(experiment)
