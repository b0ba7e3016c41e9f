"""The share of the peak FLOPs in the log: by the kind of the device, by a given peak, and nowhere else."""

import dataclasses
import itertools
import time
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import replace

from jaxnets.config import load
from jaxnets.core.errors import UsageError
from jaxnets.parallel.chips import CHIPS, KINDS, chip_of
from jaxnets.runs import flops
from jaxnets.runs.build import assemble
from jaxnets.runs.train import train
from jaxnets.training.hooks import LogHook
from jaxnets.training.plan import Every, Moment
from jaxnets.training.ramp import Ramp


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("NVIDIA A100-SXM4-40GB", "a100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("cpu", None),
    ],
)
def test_the_peak_goes_by_what_jax_calls_the_device(kind, name):
    assert chip_of(kind) is (None if name is None else CHIPS[name])
    assert set(KINDS.values()) == set(CHIPS)


def per_example(widths):
    """FLOPs of a step of an MLP: two for each weight, in the forward pass, for its gradient, and for that of its input, which
    the first layer does not need."""
    each = [2 * a * b for a, b in itertools.pairwise(widths)]
    return 3 * sum(each) - each[0]


def on_devices(parts, kind, count):
    """The parts as if they were on devices of this kind."""
    devices = np.array([SimpleNamespace(device_kind=kind) for _ in range(count)])
    return dataclasses.replace(parts, mesh=SimpleNamespace(devices=devices))


def test_four_known_devices_and_a_clock(experiment, blobs, one_device, monkeypatch):
    parts = assemble(experiment, blobs, mesh=one_device)
    whole = flops.model_flops(parts)
    sizes = (blobs.train["inputs"].shape[1], *experiment.task.model.widths, 4)
    assert whole == per_example(sizes) * experiment.batch_size
    assert flops.utilisation(parts) is None  # a CPU
    monkeypatch.setattr(flops, "model_flops", lambda parts: whole)
    reached = flops.utilisation(on_devices(parts, "TPU v5 lite", 4))
    now = [10.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    records, shown = [], []
    hook = LogHook(
        Every(2),
        parts.task,
        examples=lambda steps: 1000 * steps,
        record=records.append,
        show=lambda step, numbers: shown.append(dict(numbers)),
        utilisation=reached,
    )
    hook.observe(0, {"loss": (np.ones(2), np.ones(2))})
    now[0] += 0.5
    hook.run(Moment(2, None))
    expected = 4000 * per_example(sizes) / (4 * 197e12)
    assert records[0]["examples_per_second"] == 4000
    assert records[0]["mfu"] == pytest.approx(expected, rel=5e-3)
    assert shown[-1]["mfu"] == records[0]["mfu"]


def test_a_given_peak_is_for_any_device_and_a_ramp_of_lengths_has_none(experiment, blobs, one_device):
    parts = assemble(replace(experiment, peak_flops=1e9), blobs, mesh=one_device)
    reached = flops.utilisation(parts)
    sizes = (blobs.train["inputs"].shape[1], *experiment.task.model.widths, 4)
    assert reached(100.0) == pytest.approx(100 * per_example(sizes) / 1e9)
    ramped = dataclasses.replace(parts, experiment=replace(parts.experiment, ramp=Ramp(length=(4,))))
    assert flops.utilisation(ramped) is None
    with pytest.raises(UsageError, match="peak_flops is at least 0, got -1"):
        replace(experiment, peak_flops=-1.0)


def test_rows_that_fill_up_a_batch_are_no_work_and_a_step_of_its_own_counts_as_it_is(experiment, blobs):
    sizes = (blobs.train["inputs"].shape[1], *experiment.task.model.widths, 4)
    padded = assemble(replace(experiment, peak_flops=1e9, batch_size=10), blobs)  # 16 rows on eight devices
    assert padded.mesh.devices.size == 8
    assert flops.utilisation(padded)(800.0) == pytest.approx(100 * per_example(sizes) / 1e9)
    sums = assemble(replace(load("sums_grpo").experiment, peak_flops=1e9))
    assert flops.model_flops(sums) == pytest.approx(flops.step_flops(sums))
    assert flops.utilisation(sums)(1.0) > 0


@pytest.mark.slow
def test_a_run_logs_it_where_the_peak_is_given_and_may_go_on_with_another(experiment, blobs, tmp_path):
    plain = train(experiment, dataset=blobs, progress="none")
    assert not any("mfu" in record for record in plain.history.records)
    given = replace(experiment, peak_flops=1e9)
    run = train(given, dataset=blobs, run_dir=tmp_path / "run", stop_at=experiment.steps // 2, progress="none")
    run = train(replace(given, peak_flops=2e9), dataset=blobs, run_dir=tmp_path / "run", progress="none")
    records = [record for record in run.history.records if record["split"] == "train"]
    assert all(record["mfu"] > 0 for record in records)
    one, last = records[0], records[-1]
    ratio = (one["mfu"] / one["examples_per_second"]) / (last["mfu"] / last["examples_per_second"])
    assert ratio == pytest.approx(2, rel=0.02)
