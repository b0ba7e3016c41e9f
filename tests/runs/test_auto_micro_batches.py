"""Micro-batches chosen by memory: the fewest that fit, the result of that number by hand, the same number after a cut."""

import json
import random
import re

import pytest
from conftest import assert_same_bits, replace, run_here

from jaxnets.cli.fast_parse import with_flags
from jaxnets.cli.train import RunOptions
from jaxnets.config import load
from jaxnets.core.errors import DataWarning, RunDirectoryError, UsageError
from jaxnets.diagnose.batch_size import fewest_parts
from jaxnets.models import MLP
from jaxnets.optim import LocalSGD
from jaxnets.runs import micro_batches as chosen
from jaxnets.runs.arguments import as_experiment
from jaxnets.runs.build import assemble
from jaxnets.runs.memory import FILL, StepMemory, step_memory
from jaxnets.runs.train import train
from jaxnets.tasks import Classification

NUMBERS = [1, 2, 3, 4, 6, 8, 12, 24]


@pytest.fixture
def device(monkeypatch):
    """Says how many bytes may be filled, and that a step takes 1,000 of them and 100 for each row of a micro-batch."""

    def counted(parts):
        return StepMemory(0.0, 0, 0, 1000 + 100 * 24 // parts.experiment.micro_batches)

    def may_fill(bytes_):
        monkeypatch.setattr(chosen, "memory_here", lambda: bytes_ / FILL + 1)

    monkeypatch.setattr(chosen, "step_memory", counted)
    return may_fill


@pytest.mark.smoke
def test_the_fewest_parts_equal_those_of_an_exhaustive_search():
    draw = random.Random(0)
    for _ in range(300):
        numbers = sorted({1, *draw.sample(range(2, 40), draw.randint(0, 9))})
        falling = sorted((draw.randint(0, 50) for _ in numbers[1:]), reverse=True)
        peaks = dict(zip(numbers, [draw.randint(0, 50), *falling], strict=True))
        limit, tried = draw.randint(0, 50), []

        def peak(number, peaks=peaks, tried=tried):
            tried.append(number)
            return peaks[number]

        found = fewest_parts(peak, limit, numbers)
        assert found == min((n for n in numbers if peaks[n] <= limit), default=None)
        assert len(tried) <= 2 + len(numbers).bit_length()
        fits = [n for n in tried if peaks[n] <= limit]
        assert fits[-1:] == ([] if found is None else [found])


def test_candidates_divide_the_batch_and_reduce_the_rows_of_a_device(experiment):
    assert chosen._sizes(experiment, 1) == NUMBERS
    assert chosen._sizes(experiment, 8) == [1, 2, 3]
    assert chosen._sizes(replace(experiment, local=LocalSGD(replicas=2, every=10)), 1) == [1, 2, 3, 4, 6, 12]


def test_the_number_is_chosen_once_and_the_run_equals_one_with_that_number(
    experiment, blobs, one_device, tmp_path, device
):
    options = {"dataset": blobs, "mesh": one_device, "run_dir": tmp_path / "run", "progress": "none"}
    given = replace(experiment, micro_batches="auto")
    device(1800)
    with pytest.warns(
        DataWarning, match="micro_batches is 'auto': it is 3, with 8 examples each.*; with 2 it would take"
    ):
        begun = train(given, stop_at=10, **options)
    assert begun.experiment == replace(given, micro_batches=3)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["micro_batches"] == 3
    device(1 << 40)  # a larger device does not change it
    run = train(given, stop_at=15, **options)
    assert run.experiment.micro_batches == 3
    by_hand = train(replace(given, micro_batches=3), stop_at=15, dataset=blobs, mesh=one_device, progress="none")
    assert_same_bits(run.state, by_hand.state)
    with pytest.raises(RunDirectoryError, match=r"batch_size: 24 there, 20 here"):
        train(replace(given, batch_size=20), **options)


def test_a_batch_that_fits_is_not_divided_and_one_that_never_fits_is_refused(experiment, blobs, one_device, device):
    given = replace(experiment, micro_batches="auto")
    device(3400)
    with pytest.warns(DataWarning, match="it is 1, with 24 examples"):
        assert assemble(given, blobs, mesh=one_device).experiment.micro_batches == 1
    device(1099)
    least = "fits in no number of micro-batches: in 24 a step takes"
    with pytest.raises(UsageError, match=least):
        assemble(given, blobs, mesh=one_device)
    # A batch norm needs two examples, so 24 parts are no way to run it.
    normed = replace(given, task=Classification(model=MLP(widths=(8,), norm="batch")))
    with pytest.raises(UsageError, match=least.replace("24", "12")):
        assemble(normed, blobs, mesh=one_device)
    with pytest.raises(UsageError, match=re.escape("micro_batches is int | 'auto', got 'many'")):
        replace(experiment, micro_batches="many")


def test_fit_and_the_command_line_take_it(blobs):
    assert as_experiment(MLP(), blobs, micro_batches="auto")[0].micro_batches == "auto"
    flags = ["--micro-batches", "auto"]
    assert with_flags(load("digits_softmax"), "jaxnets train", flags, RunOptions)[0].micro_batches == "auto"


@pytest.mark.slow
def test_the_choice_is_the_fewest_parts_that_fit_by_the_compilers_analysis(experiment, blobs, one_device, monkeypatch):
    wide = replace(experiment, task=Classification(model=MLP(widths=(1024,))), batch_size=12)
    parts = {n: assemble(replace(wide, micro_batches=n), blobs, mesh=one_device) for n in (2, 3, 4, 12)}
    peaks = {n: step_memory(one).peak for n, one in parts.items()}
    assert peaks[2] > peaks[3] > peaks[4] > peaks[12]
    monkeypatch.setattr(chosen, "memory_here", lambda: peaks[4] / FILL + 1)
    assert assemble(replace(wide, micro_batches="auto"), blobs, mesh=one_device).experiment.micro_batches == 4


@pytest.mark.slow
def test_commands_about_a_configuration_take_it(tmp_path):
    for verb, *flags in (("summary",), ("shard",), ("estimate", "--on", "h100:8")):
        done = run_here(verb, "digits_softmax", "--micro-batches", "auto", *flags, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    done = run_here("train", "digits_softmax", "--steps", 3, "--micro-batches", "auto", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "micro_batches is 'auto': it is 1, with 64 examples" in done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert json.loads((folder / "config.json").read_text())["micro_batches"] == 1
