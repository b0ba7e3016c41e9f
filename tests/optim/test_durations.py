"""Durations in every unit are the same steps, in schedules at any depth, and errors say what to write."""

import dataclasses

import numpy as np
import optax
import pytest

from jaxnets.config.serialize import from_data, to_data
from jaxnets.core.durations import Clock, UnknownLengthError, as_steps, in_steps, parse
from jaxnets.core.errors import UsageError
from jaxnets.optim import SGD, Adam, AdamW, ByPath, Lookahead, Optax, WarmupCosine
from jaxnets.optim.later import Later
from jaxnets.optim.schedule_shapes import WSD, Steps
from jaxnets.optim.schedules import with_clock
from jaxnets.runs.build import assemble, clock_of

# 1,000 steps of 32 examples; an epoch of 1,010 examples has 31 steps; an example has 16 tokens.
CLOCK = Clock(steps=1000, batch_size=32, examples=1010, tokens=16)


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        (0.3, 300),
        (0, 0),
        (1, 1000),
        ("0.3dur", 300),
        ("500ba", 500),
        ("1.5k ba", 1500),
        ("10ep", 310),
        (".5ep", 16),  # 15.5, to the even number
        ("3200ex", 100),
        ("3.2k ex", 100),
        ("0.0512M tok", 100),
        ("5.12e4tok", 100),
    ],
)
def test_every_unit_in_steps(duration, steps):
    assert in_steps(duration, CLOCK) == steps
    assert in_steps(as_steps(duration, CLOCK), Clock(1000)) == steps


@pytest.mark.parametrize("wrong", ["10epp", "ten ep", "", "10", "-1ba", "10 Kex", "1.2.3ba", True, None])
def test_an_invalid_duration_is_refused_with_the_valid_forms(wrong):
    with pytest.raises(UsageError, match="'500ba', epochs '10ep'"):
        parse(wrong)


def test_numbers_above_one_and_negative_ones_are_distinguished_from_steps():
    with pytest.raises(UsageError, match=r"share of the run, between 0 and 1; got 500. Write '500ba' for steps"):
        parse(500)
    with pytest.raises(UsageError, match="between 0 and 1"):
        parse(-0.1)
    with pytest.raises(UsageError, match=r"between 0 and 1; got '1.5dur'"):
        parse("1.5dur")
    with pytest.raises(UsageError, match=r"WSD.decay: a duration is .* got '10epp'"):
        WSD(decay="10epp")
    with pytest.raises(UsageError, match="Steps.at"):
        Steps(at=(0.5, "3eps"))


@pytest.mark.parametrize("unit", ["ep", "ex", "tok"])
def test_without_a_run_epochs_are_refused_with_the_remedy(unit):
    schedule = WarmupCosine(warmup=f"3{unit}")
    with pytest.raises(
        UnknownLengthError, match=r"depends on batch_size.* not known here; give it in steps \('500ba'\)"
    ):
        schedule.build(1.0, 100)
    assert AdamW(schedule=schedule).rates(100, 10) is None


def test_a_clock_reaches_every_schedule_of_a_nested_optimizer():
    inner = SGD(schedule=WarmupCosine(warmup="10ep"))
    whole = ByPath(((".*kernel", Lookahead(inner)), (".*", Later(Adam(schedule=Steps(at=(0.5, "20ep"))), step="1ep"))))
    found = with_clock(whole, CLOCK)
    assert found.rules[0][1].optimizer.schedule.warmup == "310ba"
    assert found.rules[1][1].optimizer.schedule.at == (0.5, "620ba")
    assert found.rules[1][1].step == "31ba"
    wanted = SGD(schedule=WarmupCosine(warmup=0.31)).rates(1000, 1000)
    np.testing.assert_array_equal(found.rules[0][1].rates(1000, 1000), wanted)


def test_a_run_counts_the_epochs_of_its_own_data(experiment, blobs, one_device):
    # 203 examples in batches of 24: 8 steps an epoch.
    rule = AdamW(1e-2, schedule=WarmupCosine(warmup="2ep"))
    parts = assemble(dataclasses.replace(experiment, optimizer=rule), blobs, mesh=one_device)
    wanted = AdamW(1e-2, schedule=WarmupCosine(warmup="16ba")).rates(20, 20)
    # The last digit depends on whether a step is a Python number.
    np.testing.assert_allclose([parts.recipe.rate(step) for step in range(20)], wanted, rtol=1e-6)
    assert clock_of(experiment, blobs) == Clock(20, 24, 203, None)
    assert parts.experiment.optimizer == rule  # what is saved is what was written
    assert from_data(to_data(rule)) == rule


def test_an_optimizer_without_such_durations_is_returned_unchanged():
    for value in (AdamW(), Lookahead(SGD()), Later(Adam(), step=3), Optax(optax.adam(1e-3))):
        assert with_clock(value, CLOCK) is value
    assert dataclasses.replace(Later(Adam(), step=3)).step == 3
