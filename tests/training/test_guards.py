"""Guards: what a run does when a number, a shape or a process goes wrong."""

import itertools
import json
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_same_bits, replace
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnets.checkpoints.checkpoint import Checkpoints
from jaxnets.core.errors import NonFiniteError, RecompileError, UsageError
from jaxnets.data.feed import ResidentFeed
from jaxnets.optim import EMA
from jaxnets.parallel import determinism
from jaxnets.runs.build import assemble
from jaxnets.runs.train import train
from jaxnets.tasks import Classification
from jaxnets.training.guards import Guard, RollBackError, SpikeWatch
from jaxnets.training.loop import fit


@pytest.fixture
def poison(monkeypatch):
    """Makes the batches of chosen steps wrong, by a factor on their inputs."""

    def spoil(steps, factor):
        original = ResidentFeed.batch

        def batch(self, payload, index, step):
            whole = original(self, payload, index, step)
            wrong = jnp.isin(step, jnp.asarray(steps))
            return {**whole, "inputs": jnp.where(wrong, factor * whole["inputs"], whole["inputs"])}

        monkeypatch.setattr(ResidentFeed, "batch", batch)

    return spoil


def masked(monkeypatch, steps):
    """Leaves batches out from the start: what a run that went back must be equal to."""
    original = ResidentFeed.load
    monkeypatch.setattr(
        ResidentFeed, "load", lambda self, step, count, capacity, left_out=frozenset(): original(
            self, step, count, capacity, left_out | frozenset(steps)
        ),
    )  # fmt: skip


@pytest.mark.parametrize("steps_per_call", [1, 8])
@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_batch_that_is_left_out_changes_nothing(experiment, blobs, one_device, steps_per_call, average):
    parts = assemble(replace(experiment, steps_per_call=steps_per_call, average=EMA(average)), blobs, mesh=one_device)
    with jax.set_mesh(one_device):
        before = fit(parts.program, parts.fresh_state(), start=0, stop=5)
        after = fit(parts.program, before, start=5, stop=7, left_out=[5, 6])
    assert_same_bits(before.params, after.params)
    assert_same_bits(before.opt_state, after.opt_state)
    assert_same_bits(before.average, after.average)
    assert (int(after.step), int(after.guard["left_out"]), int(after.guard["skipped"])) == (7, 2, 0)


SPIKING = {"steps": 40, "log_every": 4, "eval_every": 20, "guard": Guard(spike=20.0, window=16)}


@pytest.mark.parametrize("save_every", [pytest.param(3, marks=pytest.mark.slow), 10, 0])
@pytest.mark.parametrize("steps_per_call", [1, 6])
def test_a_spike_rolls_back_and_the_run_ends_as_if_the_batch_had_not_existed(
    tmp_path, experiment, blobs, one_device, poison, monkeypatch, save_every, steps_per_call
):
    options = {"dataset": blobs, "mesh": one_device, "progress": "none"}
    spiking = replace(experiment, save_every=save_every, steps_per_call=steps_per_call, **SPIKING)
    poison([23], 1e4)
    run = train(spiking, run_dir=tmp_path / "run", **options)
    (entry,) = json.loads((tmp_path / "run" / "quarantine.json").read_text())
    assert (entry["step"], entry["batches"]) == (24, [23])
    assert re.match(r"step 24: the loss is [\d.e+]+ where [\d.]+ ± [\d.]+ is usual", entry["reason"])
    assert int(run.state.guard["left_out"]) == 1
    masked(monkeypatch, [23])
    never = train(spiking, run_dir=tmp_path / "never", **options)
    assert_same_bits(run.state, never.state)
    assert [strip(r) for r in run.history.records] == [strip(r) for r in never.history.records]
    assert not (tmp_path / "never" / "quarantine.json").exists()


def strip(record):
    return {k: v for k, v in record.items() if k != "examples_per_second"}


@pytest.mark.slow
def test_a_run_that_rolled_back_and_was_interrupted_resumes_with_the_same_result(
    tmp_path, experiment, blobs, one_device, poison
):
    options = {"dataset": blobs, "mesh": one_device, "progress": "none"}
    spiking = replace(experiment, save_every=5, **SPIKING)
    poison([23], 1e4)
    whole = train(spiking, run_dir=tmp_path / "whole", **options)
    for stop in (17, 24, 31):
        train(spiking, run_dir=tmp_path / "cut", stop_at=stop, **options)
    cut = train(spiking, run_dir=tmp_path / "cut", **options)
    assert_same_bits(whole.state, cut.state)
    assert [strip(r) for r in whole.history.records] == [strip(r) for r in cut.history.records]


@pytest.mark.slow
@pytest.mark.parametrize("save_every", [1, 5])
def test_non_finite_numbers_roll_back_too_and_leave_out_the_batches_before(
    tmp_path, experiment, blobs, one_device, poison, monkeypatch, save_every
):
    wild = replace(experiment, on_nonfinite="rollback", save_every=save_every, guard=Guard(leave_out=3))
    poison([12], np.nan)
    run = train(wild, dataset=blobs, mesh=one_device, run_dir=tmp_path / "run", progress="none")
    (entry,) = json.loads((tmp_path / "run" / "quarantine.json").read_text())
    assert (entry["step"], entry["batches"]) == (13, [10, 11, 12])
    assert int(run.state.guard["left_out"]) == 3
    assert int(run.state.guard["skipped"]) == 0
    assert all(np.isfinite(r["gradient_norm"]) for r in run.history if r["split"] == "train")
    assert Checkpoints(tmp_path / "run" / "checkpoints").latest == 20
    masked(monkeypatch, [10, 11, 12])
    never = train(wild, dataset=blobs, mesh=one_device, run_dir=tmp_path / "never", progress="none")
    assert_same_bits(run.state, never.state)


@pytest.mark.slow
def test_the_number_of_roll_backs_is_limited(tmp_path, experiment, blobs, one_device, poison):
    poison(list(range(12, 20)), np.nan)
    wild = replace(experiment, on_nonfinite="rollback", guard=Guard(rollbacks=2))
    with pytest.raises(NonFiniteError, match=r"rolled back 2 times already \(guard.rollbacks\).*quarantine.json"):
        train(wild, dataset=blobs, mesh=one_device, run_dir=tmp_path / "run", progress="none")
    assert Checkpoints(tmp_path / "run" / "checkpoints").newest_verified().step == 10


@pytest.mark.parametrize("changes", [{"guard": Guard(spike=10.0)}, {"on_nonfinite": "rollback"}])
def test_a_roll_back_needs_a_run_directory(experiment, blobs, one_device, changes):
    with pytest.raises(UsageError, match="a roll-back needs checkpoints: give a run_dir"):
        train(replace(experiment, **changes), dataset=blobs, mesh=one_device, progress="none")


def test_the_first_bad_parameter_and_the_batch_are_named(experiment, blobs, one_device, poison):
    poison([12], np.inf)
    with pytest.raises(
        NonFiniteError, match=r"step 13 is not finite .*first at the gradient of hidden_0/kernel\).*number 12"
    ):
        train(experiment, dataset=blobs, mesh=one_device, progress="none")


@settings(max_examples=50, deadline=None)
@given(
    losses=st.lists(st.floats(0.1, 10.0), min_size=30, max_size=60),
    cuts=st.lists(st.integers(1, 59), max_size=5),
    window=st.integers(8, 40),
)
def test_spike_detection_does_not_depend_on_steps_per_call(losses, cuts, window):
    def first_spike(pieces):
        watch = SpikeWatch(Guard(spike=5.0, window=window))
        start = 0
        for piece in pieces:
            watch = SpikeWatch(Guard(spike=5.0, window=window), watch.recent)  # as after a resume
            try:
                watch.observe(start, {"loss": (np.asarray(piece), np.ones(len(piece)))})
            except RollBackError as back:
                return back.step
            start += len(piece)
        return None

    edges = [0, *sorted({c for c in cuts if c < len(losses)}), len(losses)]
    assert first_spike([losses]) == first_spike([losses[a:b] for a, b in itertools.pairwise(edges)])


@pytest.mark.parametrize("steps_per_call", [1, 4, 16])
def test_a_spike_before_a_nan_is_the_reported_cause_for_any_steps_per_call(
    tmp_path, experiment, blobs, one_device, poison, steps_per_call
):
    both = {**SPIKING, "on_nonfinite": "halt"}
    poison([23], 1e4)
    original = ResidentFeed.batch

    def batch(self, payload, index, step):
        whole = original(self, payload, index, step)
        return {**whole, "inputs": jnp.where(step == 25, jnp.nan, whole["inputs"])}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResidentFeed, "batch", batch)
        with pytest.raises(NonFiniteError, match="step 26"):
            train(
                replace(experiment, steps_per_call=steps_per_call, save_every=10, **both),
                dataset=blobs, mesh=one_device, run_dir=tmp_path / "run", progress="none",
            )  # fmt: skip
    (entry,) = json.loads((tmp_path / "run" / "quarantine.json").read_text())
    assert entry["batches"] == [23]


def test_falling_noisy_losses_are_no_spikes():
    rng = np.random.default_rng(0)
    losses = 2.3 * np.exp(-np.arange(3000) / 500) + 0.1 + 0.05 * rng.standard_normal(3000)
    SpikeWatch(Guard(spike=10.0)).observe(0, {"loss": (losses, np.ones(3000))})
    losses[2000] = 3.0
    with pytest.raises(RollBackError, match="step 2001: the loss is 3 where"):
        SpikeWatch(Guard(spike=10.0)).observe(0, {"loss": (losses, np.ones(3000))})


@pytest.mark.parametrize(
    "fields", [{"spike": -1.0}, {"window": 3}, {"leave_out": 0}, {"rollbacks": 0}, {"spike": float("inf")}]
)
def test_bad_guards_are_refused(fields):
    (name,) = fields
    with pytest.raises(UsageError, match=f"guard.{name} is at least"):
        Guard(**fields)


def test_a_second_trace_names_the_leaf_that_changed(experiment, blobs, one_device):
    parts = assemble(experiment, blobs, mesh=one_device)
    with jax.set_mesh(one_device):
        state = fit(parts.program, parts.fresh_state(), start=0, stop=3)
        half = jax.tree.map(lambda a: a, state)
        half.params["output"]["bias"] = half.params["output"]["bias"].astype(jnp.bfloat16)
        with pytest.raises(RecompileError, match=r"state/params/output/bias: float32\[4\] before, bfloat16\[4\] now"):
            fit(parts.program, half, start=3, stop=6)


class Logarithm(nn.Module):
    @nn.compact
    def __call__(self, x):
        return jnp.log(nn.Dense(4)(x))


@pytest.mark.slow
def test_jax_names_the_operation_that_makes_a_nan(experiment, blobs, one_device):
    """With JAX_DEBUG_NANS, which runs a step again operation by operation; a sound run goes on with it."""
    bad = replace(experiment, task=Classification(model=Logarithm()))
    sound, sick = (assemble(one, blobs, mesh=one_device) for one in (experiment, bad))
    with jax.set_mesh(one_device), jax.debug_nans(True):
        assert int(fit(sound.program, sound.fresh_state(), start=0, stop=3).step) == 3
        with pytest.raises(FloatingPointError, match=r"invalid value \(nan\) encountered in log"):
            fit(sick.program, sick.fresh_state(), start=0, stop=3)


def test_determinism_sets_the_flag_before_the_devices_start(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_foo=1")
    monkeypatch.setattr(determinism, "devices_started", lambda: False)
    determinism.require_determinism()
    import os

    assert os.environ["XLA_FLAGS"] == f"--xla_foo=1 {determinism.FLAG}"
    determinism.require_determinism()
    assert os.environ["XLA_FLAGS"].count(determinism.FLAG) == 1
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(determinism, "devices_started", lambda: True)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for _ in range(2):  # asking again does not make it so
        with pytest.raises(UsageError, match="comes too late"):
            determinism.require_determinism()
