"""Soups of runs: the mean of their weights, the greedy choice, and what is refused."""

import dataclasses

import jax
import numpy as np
import pytest

import jaxnets
from jaxnets.core.errors import UsageError
from jaxnets.models import MLP


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 4)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(int)


@pytest.fixture(scope="module")
def runs():
    """Three continuations of one run, and its weights."""
    first = jaxnets.fit(
        MLP(widths=(6,), norm="batch"), data(), steps=40, batch_size=16, validation=0.2, progress="none"
    )

    def from_first(seed):
        return jaxnets.fit(
            MLP(widths=(6,), norm="batch"),
            data(),
            steps=6,
            batch_size=16,
            validation=0.2,
            progress="none",
            seed=seed,
            initial=first,
        )

    return [from_first(seed) for seed in (1, 2)]


def test_a_soup_is_the_mean_of_the_weights(runs):
    made = jaxnets.soup(runs, statistics_from=0)
    for name in ("params", "batch_stats"):
        mean = jax.tree.map(lambda a, b: (np.asarray(a) + b) / 2, *(run.variables[name] for run in runs))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), mean, made.variables[name])
    assert set(made.evaluate()) == set(runs[0].evaluate())
    same = jaxnets.soup(runs[:1], statistics_from=0)
    jax.tree.map(np.testing.assert_array_equal, same.variables, runs[0].variables)


def test_it_measures_its_own_batch_statistics(runs):
    """After many batches the running mean is that of the soup's own activations."""
    made = jaxnets.soup(runs, statistics_from=200)
    parts, variables = made.parts, made.variables
    x = np.concatenate(
        [np.asarray(parts.feed.batch(parts.feed.load(s, 1, 1), 0, np.int32(s))["inputs"]) for s in range(180, 200)]
    )
    mean = (x @ np.asarray(variables["params"]["hidden_0"]["kernel"])).mean(axis=0)
    # The running mean weighs the last ten batches most: it is off by the spread of a batch's mean.
    np.testing.assert_allclose(mean, variables["batch_stats"]["norm_0"]["mean"], atol=0.12)


def test_a_greedy_soup_is_no_worse_than_its_best(runs):
    scores = [run.evaluate("validation")["accuracy"] for run in runs]
    made = jaxnets.soup(runs, greedy=True, statistics_from=0)
    assert made.evaluate("validation")["accuracy"] >= max(scores)
    # A run that is worse than chance is left out: the soup with it is that without it.
    state = runs[1].state
    noise = jax.tree.map(lambda a: -3 * a, state.params)
    spoiled = dataclasses.replace(runs[1], state=dataclasses.replace(state, params=noise), best=None)
    with_noise = jaxnets.soup([runs[0], spoiled], greedy=True, statistics_from=0)
    jax.tree.map(np.testing.assert_array_equal, with_noise.variables, runs[0].variables)


def test_invalid_soups_are_refused(runs):
    other = jaxnets.fit(MLP(widths=(5,), norm="batch"), data(), steps=1, batch_size=16, progress="none")
    with pytest.raises(UsageError, match=r"run 1 of the soup is of another model than run 0: batch_stats/norm_0/mean"):
        jaxnets.soup([runs[0], other])
    with pytest.raises(UsageError, match="first run has none"):
        jaxnets.soup([other], greedy=True)
    with pytest.raises(UsageError, match="at least one run"):
        jaxnets.soup([])
