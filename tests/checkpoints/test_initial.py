"""Weights in memory to begin with, and parts of the parameters that are not trained."""

import flax.linen as nn
import jax
import numpy as np
import pytest

import jaxnets
from jaxnets import Initial
from jaxnets.core.errors import RunDirectoryError, UsageError


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(64, 5)).astype(np.float32), rng.integers(0, 3, 64)


class Net(nn.Module):
    outputs: int = 3

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.BatchNorm(use_running_average=not train, name="norm")(nn.Dense(4, name="body")(x))
        return nn.Dense(self.outputs, name="head")(x)


def fitted(data, **options):
    return jaxnets.fit(Net(), data, **{"test": data, "steps": 3, "batch_size": 32, "progress": "none"} | options)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_a_run_begins_with_the_weights_given_and_never_changes_them(data):
    first = fitted(data)
    kept = jax.device_get(first.variables)
    for given in (first, first.variables, kept):
        run = fitted(data, initial=given, optimizer={".*": "sgd"}, freeze=".*")
        assert same(run.state.params, kept["params"])
    moved = fitted(data, initial=kept, average=jaxnets.optim.EMA(decay=0.9))
    assert not same(moved.state.params, kept["params"])
    assert same(first.variables, kept)


@pytest.mark.slow
def test_leaves_can_be_fresh_ignored_and_renamed(data):
    kept = jax.device_get(fitted(data, seed=5).variables)
    kept["params"]["old_head"] = kept["params"].pop("head")
    renamed = Initial(kept, renames=(("/old_head/", "/head/"),))
    assert same(fitted(data, initial=renamed, freeze=".*").state.params["head"], kept["params"]["old_head"])
    fresh = Initial(kept, fresh=("params/head/.*",), ignore=("params/old_head/.*",))
    run = fitted(data, initial=fresh, freeze=".*")
    assert same(run.state.params["body"], kept["params"]["body"])
    assert same(run.state.params["head"], run.parts.fresh_state().params["head"])
    with pytest.raises(
        UsageError, match=r"params/head/kernel: missing\n(.|\n)*params/old_head/kernel: not in the model"
    ):
        fitted(data, initial=kept)
    kept["params"]["head"] = {"bias": np.zeros(3), "kernel": np.zeros((4, 2))}
    with pytest.raises(UsageError, match=r"params/head/kernel: \[4, 2\], the model has \[4, 3\]"):
        fitted(data, initial=Initial(kept, ignore=("params/old.*",)))
    with pytest.raises(UsageError, match="two arrays the path"):
        fitted(data, initial=Initial(kept, renames=(("head", "x"), ("old_x", "x"))))
    with pytest.raises(UsageError, match="initial is variables"):
        fitted(data, initial=3)


def test_a_part_is_trained_and_the_rest_keeps_its_bits(data):
    run = fitted(data, train_only="head/.*")
    before = run.parts.fresh_state().params
    assert same(run.state.params["body"], before["body"])
    assert not same(run.state.params["head"], before["head"])
    other = fitted(data, freeze="(body|norm)/.*")
    assert same(other.state.params, run.state.params)
    with pytest.raises(UsageError, match="either train_only or freeze"):
        fitted(data, train_only="a", freeze="b")


@pytest.mark.slow
def test_a_run_directory_identifies_its_initial_weights(data, tmp_path):
    where = tmp_path / "run"
    kept = jax.device_get(fitted(data, seed=5).variables)
    whole = fitted(data, initial=kept, run_dir=where, save_every=1)
    again = fitted(data, initial=kept, run_dir=where, save_every=1)
    assert same(whole.state, again.state)
    other = jax.tree.map(lambda a: a + 1, kept)
    with pytest.raises(RunDirectoryError, match="began with other weights"):
        fitted(data, initial=other, run_dir=where, save_every=1)
    from_directory = fitted(data, initial=where, freeze=".*")
    assert same(from_directory.state.params, whole.state.params)
    replaced = fitted(data, initial=other, run_dir=where, save_every=1, overwrite=True)
    assert not same(replaced.state.params, whole.state.params)
