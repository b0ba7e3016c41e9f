"""Each schedule against its formula, written in numpy, at all steps of a run."""

import math

import numpy as np
import pytest

from jaxnets.core.errors import UsageError
from jaxnets.optim import (
    WSD,
    Exponential,
    InverseSquareRoot,
    InverseTime,
    OneCycle,
    Restarts,
    Steps,
    WarmupCosine,
    WarmupLinear,
)
from jaxnets.optim.schedules import rates

T, PEAK = 40, 0.4


def ramp(t, w):
    return (t + 1) / (w + 1)


def half_cosine(x):
    return (1 + math.cos(math.pi * min(x, 1.0))) / 2


def restarts(t, lengths, final=0.0):
    for length in lengths:
        if t < length:
            break
        t -= length
    return final + (1 - final) * half_cosine(t / length)


# The schedule, and the share of the peak at step t.
FORMULAS = {
    "cosine": (WarmupCosine("8ba", 0.1), lambda t: ramp(t, 8) if t < 8 else 0.1 + 0.9 * half_cosine((t - 8) / 32)),
    "linear": (WarmupLinear(0.2), lambda t: ramp(t, 8) if t < 8 else 1 - (t - 8) / 32),
    "wsd": (WSD("4ba", 0.25, final=0.1), lambda t: ramp(t, 4) if t < 4 else 1 - 0.9 * max(0, t - 30) / 10),
    "wsd, 1-sqrt": (WSD(0, "10ba", "1-sqrt"), lambda t: 1 - math.sqrt(max(0, t - 30) / 10)),
    "wsd, too short": (WSD("30ba", "20ba"), lambda t: ramp(t, 30) if t < 30 else 1 - (t - 30) / 10),
    "wsd, shorter than its warm-up": (WSD("400ba", "100ba"), lambda t: ramp(t, 400)),
    "wsd, no decay": (WSD(0.1, 0), lambda t: min(1, ramp(t, 4))),
    "one cycle": (
        OneCycle(0.25, 0.04, 0.001),
        lambda t: 1 - 0.96 * half_cosine(t / 10) if t < 10 else 0.001 + 0.999 * half_cosine((t - 10) / 30),
    ),
    "one cycle, linear": (
        OneCycle("10ba", 0.1, 0.01, "linear"),
        lambda t: 0.1 + 0.9 * t / 10 if t < 10 else 1 - 0.99 * (t - 10) / 30,
    ),
    "restarts": (Restarts("5ba", 2.0, 0.1), lambda t: restarts(t, (5, 10, 20, 40), 0.1)),
    "restarts, one length": (Restarts(0.2, 1.0), lambda t: half_cosine((t % 8) / 8)),
    "steps": (Steps((0.5, "30ba"), 0.1), lambda t: 0.1 ** ((t >= 20) + (t >= 30))),
    "steps, warm-up": (Steps((0.5,), 0.5, warmup=0.1), lambda t: ramp(t, 4) if t < 4 else 0.5 ** (t >= 20)),
    "exponential": (Exponential(0.5, "10ba"), lambda t: 0.5 ** (t / 10)),
    "exponential, warm-up": (
        Exponential(0.01, warmup="4ba"),
        lambda t: ramp(t, 4) if t < 4 else 0.01 ** ((t - 4) / 40),
    ),
    "inverse time": (InverseTime("10ba"), lambda t: 1 / (1 + t / 10)),
    "inverse square root": (InverseSquareRoot("4ba"), lambda t: min(ramp(t, 4), math.sqrt(5 / (t + 1)))),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_schedule_is_its_formula(name):
    schedule, formula = FORMULAS[name]
    # float32 powers and cosines: about 1e-6 of the peak.
    wanted = [PEAK * formula(t) for t in range(T)]
    np.testing.assert_allclose(rates(schedule.build(PEAK, T), T), wanted, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    "schedule",
    [WarmupCosine(0.2), WarmupLinear(0.2), WSD(0.2, 0.25), OneCycle(0.25), Restarts(0.2, 1.0), Steps((0.5,), 0.1)],
    ids=lambda schedule: type(schedule).__name__,
)
def test_a_run_of_half_the_steps_has_every_second_rate(schedule):
    whole, half = (rates(schedule.build(PEAK, steps), T)[:steps] for steps in (T, T // 2))
    # A warm-up of w steps ends at step w and begins above 0, at 1 / (w + 1): it has no step 0 in common.
    begin = 0 if isinstance(schedule, (OneCycle, Restarts, Steps)) else T // 10
    np.testing.assert_allclose(half[begin:], whole[::2][begin:], rtol=1e-6, atol=1e-7)


def test_the_default_restarts_are_three_whole_periods():
    found = rates(Restarts().build(1.0, 35), T)[:35]
    np.testing.assert_array_equal(np.flatnonzero(found == 1.0), [0, 5, 15])


@pytest.mark.parametrize("kind", [WSD, OneCycle, Restarts, Steps, Exponential, InverseTime, InverseSquareRoot])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_runs_have_finite_rates_above_zero_at_first(kind, steps):
    found = rates(kind().build(1.0, steps), T)[:steps]  # of one shape, which compiles once
    assert np.isfinite(found).all()
    assert found[0] > 0
    assert found.max() <= 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: WSD(shape="cosine"), "linear"),
        (lambda: WSD(final=2.0), "final is a share of the peak"),
        (lambda: OneCycle(start=0.0), "start is a share"),
        (lambda: Restarts(growth=0.5), "growth is a number, at least 1"),
        (lambda: Steps(factor=0.0), "factor is a positive number"),
    ],
)
def test_bad_fields_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_a_thousand_restarts_are_refused():
    with pytest.raises(UsageError, match="make `first` longer than 1 steps"):
        Restarts("1ba", 1.0).build(1.0, 1000)
