"""Parameters that are trained from some step on."""

import jax
import numpy as np
import optax
import pytest
from conftest import assert_same_bits, replace

import jaxnets
from jaxnets.config.serialize import from_data, to_data
from jaxnets.core.errors import UsageError
from jaxnets.models import MLP
from jaxnets.optim import Adam, AdamW, Constant, Later, Until, WarmupCosine
from jaxnets.optim.schedules import on_schedule


def run_of(transformation, steps):
    """Parameters and state after each step of a small quadratic."""
    params = {"w": np.array([1.0, -2.0], np.float32)}
    state, seen = transformation.init(params), []
    for step in range(steps):
        updates, state = transformation.update({"w": params["w"] * 2}, on_schedule(state, step), params)
        params = optax.apply_updates(params, updates)
        seen.append(params["w"])
    return np.array(seen)


def test_before_its_step_parameters_are_fixed_and_then_the_optimizer_starts_fresh():
    inner = Adam(1e-1, schedule=Constant(), clip_norm=None)
    later, plain = run_of(Later(inner, 3).build(8), 8), run_of(inner.build(8), 5)
    np.testing.assert_array_equal(later[:3], np.array([[1.0, -2.0]] * 3, np.float32))
    np.testing.assert_array_equal(later[3:], plain)


def test_from_its_step_on_parameters_are_fixed():
    inner = Adam(1e-1, schedule=Constant())
    until, plain = run_of(Until(inner, 3).build(8), 8), run_of(inner.build(8), 8)
    np.testing.assert_array_equal(until[:3], plain[:3])
    np.testing.assert_array_equal(until[3:], np.repeat(plain[2:3], 5, axis=0))
    assert (Until(inner, 3).rates(8, 8) > 0).tolist() == [True] * 3 + [False] * 5
    with pytest.raises(UsageError, match="Until.step is a step of the run, at least 0; got -1"):
        Until(inner, -1)


def test_schedules_count_all_steps():
    inner = AdamW(1e-1, schedule=WarmupCosine(warmup=0.5))
    rates = Later(inner, 4).rates(10, 10)
    np.testing.assert_array_equal(rates[4:], inner.rates(10, 10)[4:])
    assert not rates[:4].any()


def test_by_path_it_unfreezes_from_the_output_down(blobs):
    optimizer = {"output/.*": "adam", "hidden_1/.*": Later("adam", 4), ".*": Later("adam", 8)}
    options = {"batch_size": 24, "optimizer": optimizer, "seed": 1, "progress": "none", "log_every": 4}
    seen = {}

    class Look(jaxnets.Callback):
        every = 4

        def at(self, run):
            seen[run.step] = jax.device_get(run.variables["params"])

    run = jaxnets.fit(MLP(widths=(8, 8)), blobs, steps=12, hooks=[Look()], **options)
    start = jax.device_get(run.parts.fresh_state().params)
    assert_same_bits(seen[4]["hidden_0"], start["hidden_0"])
    assert_same_bits(seen[4]["hidden_1"], start["hidden_1"])
    assert np.abs(seen[4]["output"]["kernel"] - start["output"]["kernel"]).max() > 0
    assert_same_bits(seen[8]["hidden_0"], start["hidden_0"])
    assert np.abs(seen[8]["hidden_1"]["kernel"] - start["hidden_1"]["kernel"]).max() > 0
    assert np.abs(seen[12]["hidden_0"]["kernel"] - start["hidden_0"]["kernel"]).max() > 0


@pytest.mark.slow
def test_an_interrupted_run_equals_the_uninterrupted_one(experiment, blobs, tmp_path):
    from jaxnets.runs.train import train

    later = replace(experiment, optimizer=Later(AdamW(1e-2), 7), steps=12)
    whole = train(later, dataset=blobs, progress="none")
    train(later, dataset=blobs, run_dir=tmp_path / "cut", stop_at=5, progress="none")
    assert_same_bits(train(later, dataset=blobs, run_dir=tmp_path / "cut", progress="none").state, whole.state)


def test_it_is_saved_and_checked():
    later = Later(AdamW(1e-3), 5)
    assert from_data(to_data(later)) == later
    with pytest.raises(UsageError, match="at least 0"):
        Later("adamw", -1)
