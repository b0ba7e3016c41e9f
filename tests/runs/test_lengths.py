"""The length of a run in epochs, examples and tokens is the number of steps that it is, counted once, and kept as a number."""

import json

import numpy as np
import pytest
from conftest import replace, run_here

import jaxnets
from jaxnets import config
from jaxnets.cli.fast_parse import with_flags
from jaxnets.cli.train import RunOptions
from jaxnets.config.serialize import digest, from_data, to_data
from jaxnets.core.durations import UnknownLengthError
from jaxnets.core.errors import UsageError
from jaxnets.data import GPT2Tokens
from jaxnets.data.validation import Validation
from jaxnets.evidence.counted import counted_trials
from jaxnets.evidence.trials import trials
from jaxnets.models import MLP
from jaxnets.optim import AdamW, WarmupCosine
from jaxnets.runs.arguments import as_experiment
from jaxnets.runs.build import assemble
from jaxnets.runs.lengths import counted

QUIET = {"progress": "none"}


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("steps", "number"),
    [("10ep", 80), (".5ep", 4), ("0.24k ex", 10), ("250ex", 10), ("250ba", 250), ("1.5k ba", 1500), (7, 7)],
)
def test_every_unit_is_converted_to_its_number_of_steps(experiment, blobs, steps, number):
    # 203 examples in batches of 24: 8 steps an epoch.
    assert counted(replace(experiment, steps=steps), blobs).steps == number


def test_tokens_are_counted_by_the_length_of_an_example():
    tokens = GPT2Tokens("books", length=1024).outline()
    long = replace(config.load("gpt2_124m").experiment, steps="2M tok", batch_size=8)
    assert counted(long, tokens).steps == round(2e6 / (8 * 1024))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("0.3dur", "a share of the run has no meaning here"),
        ("many", r"epochs '10ep', examples '50k ex' or tokens '2M tok'; got 'many'"),
        ("10", "a number such as 500"),
        ("0ep", "steps is at least 1, got '0ep'"),
        ("0ba", "steps is at least 1"),
        (0.3, r"Experiment.steps is int \| str, got 0.3"),
    ],
)
def test_a_share_and_what_is_no_duration_are_refused_at_once(experiment, wrong, why):
    with pytest.raises(UsageError, match=why):
        replace(experiment, steps=wrong)


def test_less_than_a_step_and_tokens_of_data_without_any_are_refused(experiment, blobs):
    with pytest.raises(UsageError, match="at least one step, and '3ex' with batches of 24 is less"):
        assemble(replace(experiment, steps="3ex"), blobs)
    with pytest.raises(UnknownLengthError, match="tokens is not known here"):
        assemble(replace(experiment, steps="2M tok"), blobs)


def test_after_opening_the_data_the_length_is_a_number(experiment, blobs, one_device):
    rule = AdamW(1e-2, schedule=WarmupCosine(warmup="2ep"))
    given = replace(experiment, optimizer=rule, steps="3ep", validation=Validation(0.25))
    parts = assemble(given, blobs, mesh=one_device)
    left = parts.dataset.card.examples["train"]
    assert left < 160  # without the validation split
    steps = 3 * (left // 24)
    assert parts.experiment == replace(given, steps=steps)
    wanted = assemble(replace(given, steps=steps), blobs, mesh=one_device)
    rates = [[float(one.recipe.rate(step)) for step in range(steps)] for one in (parts, wanted)]
    np.testing.assert_array_equal(*rates)
    assert rates[0][-1] < 0.2 * max(rates[0])  # it falls over the run


def test_names_and_saved_forms_of_numeric_lengths_are_unchanged(experiment):
    assert digest(replace(experiment, steps="20ba")) == digest(replace(experiment, steps=20))
    assert to_data(replace(experiment, steps="20ba"))["steps"] == 20
    written = replace(config.load("digits_cnn").experiment, steps="3ep")
    assert from_data(to_data(written)) == written
    assert digest(written) != digest(replace(written, steps=33))


def test_fit_takes_a_duration_and_trains_further_by_one():
    rng = np.random.default_rng(0)
    data = (rng.normal(size=(96, 3)).astype(np.float32), rng.integers(0, 2, 96))
    options = {"test": data, "batch_size": 16, **QUIET}
    run = jaxnets.fit(MLP(widths=(4,)), data, steps="1.5ep", **options)
    assert run.experiment == as_experiment(MLP(widths=(4,)), data, steps=9, test=data, batch_size=16)[0]
    assert int(run.state.step) == 9
    assert int(run.fit(steps="1ep", **QUIET).state.step) == 15
    with pytest.raises(UsageError, match="a share of the run has no meaning"):
        run.fit(steps="0.5dur")


def test_each_trial_of_a_sweep_is_counted_by_its_own_batch(experiment, blobs):
    made = trials(experiment, {"batch_size": [24, 48], "steps": ["1ep", "48ex", 3]})
    assert [one.experiment.steps for one in counted_trials(made, blobs)] == [8, 2, 3, 4, 1, 3]


def test_a_flag_takes_numbers_and_durations():
    loaded = config.load("digits_softmax")
    for flag, steps in (("2ep", "2ep"), ("500ba", 500), ("40", 40)):
        assert with_flags(loaded, "jaxnets train", ["--steps", flag], RunOptions)[0].steps == steps


@pytest.mark.slow
def test_the_command_counts_it_and_extends_it(tmp_path):
    short = ("train", "digits_softmax", "--steps", "1ep", "--batch-size", 128, "--run-dir", "run")
    done = run_here(*short, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "config.json").read_text())["steps"] == 1438 // 128
    assert "complete already" in run_here(*short, cwd=tmp_path).stdout
    done = run_here(*short, "--extend", 5, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert jaxnets.open_run(tmp_path / "run").experiment.steps == 1438 // 128 + 5
    for verb in ("summary", "shard"):
        assert run_here(verb, "digits_softmax", "--steps", "1ep", cwd=tmp_path).returncode == 0
