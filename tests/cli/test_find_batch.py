"""`jaxnets find-batch`: what it says fits does fit by the compiler, and what it measures here."""

import dataclasses
import json

import jax
import pytest
from conftest import run_cli

from jaxnets import config
from jaxnets.accelerators.batch import fitting
from jaxnets.accelerators.estimate import compile_step, prepare
from jaxnets.core.errors import UsageError
from jaxnets.data import Ring
from jaxnets.models import MLP
from jaxnets.runs.batch_trials import measure_noise, throughput
from jaxnets.tasks import Adversarial, Classification

EXPERIMENT = dataclasses.replace(
    config.load("digits_softmax").experiment, task=Classification(model=MLP(widths=(2048,))), batch_size=128
)


def peak(batch, micro=1):
    sized = dataclasses.replace(EXPERIMENT, batch_size=batch, micro_batches=micro)
    return compile_step(prepare(sized, jax.devices())).peak


@pytest.mark.slow
def test_the_batch_sizes_that_fit_are_those_of_the_compilers_analysis():
    """A memory in which a batch of about 700 fits, and the wanted 1,024 in parts."""
    limit = int(peak(700) / 0.92) + 1
    wanted = dataclasses.replace(EXPERIMENT, batch_size=1024)
    found = fitting(wanted, jax.devices(), limit)
    assert 0.97 * 700 <= found.largest.size <= 720
    assert found.largest.bounded
    assert found.compilations <= 9
    # Two parts have half the activations, but also the sum of the gradients beside each part's own.
    assert found.micro_batches in (2, 4)
    assert peak(1024, found.micro_batches) <= 0.92 * limit < peak(1024, found.micro_batches // 2)


@pytest.mark.slow
def test_no_batch_fits_and_every_batch_fits():
    none = fitting(EXPERIMENT, jax.devices(), 1000)
    assert (none.largest.size, none.micro_batches) == (0, None)
    every = fitting(EXPERIMENT, jax.devices(), 1 << 40)
    # The rows of a batch are divided over the devices.
    devices = len(jax.devices())
    assert every.largest.size == EXPERIMENT.data.outline().card.examples["train"] // devices * devices
    assert not every.largest.bounded
    assert every.micro_batches == 1


@pytest.mark.slow
def test_speeds_and_noise_are_measured_on_the_devices_that_are_here():
    speeds = throughput(EXPERIMENT, [16, 64], seconds=0.5)
    assert list(speeds) == [16, 64]
    assert all(speed > 0 for speed in speeds.values())
    noise = measure_noise(EXPERIMENT, steps=30)
    assert noise.batch > 1
    assert noise.error > 0
    assert measure_noise(dataclasses.replace(EXPERIMENT, batch_size=1), steps=20) is None
    game = dataclasses.replace(EXPERIMENT, task=Adversarial(model=MLP(), critic=MLP()), data=Ring())
    with pytest.raises(UsageError, match="several players"):
        measure_noise(game)


@pytest.mark.slow
def test_the_command_for_this_machine_and_for_an_absent_one(tmp_path):
    picture = tmp_path / "batch.png"
    flags = ["--seconds", "0.2", "--noise-steps", "20", "--output", str(picture)]
    here = run_cli("find-batch", "digits_softmax", *flags, cwd=tmp_path)
    assert here.returncode == 0, here.stderr
    assert "the largest batch that fits is 1,438" in here.stdout
    assert "noise" in here.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    there = run_cli("find-batch", "digits_softmax", "--on", "h100:8", "--json", cwd=tmp_path)
    assert there.returncode == 0, there.stderr
    data = json.loads(there.stdout)
    assert data["on"] == "h100:8"
    assert data["largest"] % 8 == 0
    bad = run_cli("find-batch", "digits_softmax", "--noise-steps", "3", cwd=tmp_path)
    assert bad.returncode == 2
    assert "noise_steps" in bad.stderr
