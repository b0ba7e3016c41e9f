"""The paired interval against a hand number, its verdicts under no effect, the seeds that are needed, sets of finished runs."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from jaxnets.cli.paired_runs import paired_rows
from jaxnets.core.errors import UsageError
from jaxnets.evidence.comparison import compared
from jaxnets.evidence.paired import Paired, in_words, interval, paired_by_seed
from jaxnets.evidence.sweep_result import Outcome, SweepResult
from jaxnets.report.evidence_plots import paired_dots
from jaxnets.report.plots import to_png


def test_the_interval_is_students():
    """Differences 1 to 5: mean 3, deviation sqrt(2.5), t with 4 degrees of freedom 2.7764 (tables): 3 +- 1.9632."""
    found = Paired((10.0, 20.0, 30.0, 40.0, 50.0), (11.0, 22.0, 33.0, 44.0, 55.0))
    assert found.mean == 3
    assert found.half == pytest.approx(2.7764 * math.sqrt(2.5 / 5), abs=1e-4)
    assert found.verdict == "better"
    assert Paired(found.first, found.second, "min").verdict == "worse"
    assert math.isnan(interval([1.0])[1])


@pytest.mark.smoke
def test_an_experiment_against_itself_wins_or_loses_in_one_case_of_twenty():
    rng = np.random.default_rng(0)
    called = sum(Paired(*map(tuple, rng.normal(size=(2, 5)))).verdict != "unclear" for _ in range(200))
    assert 2 <= called <= 14  # 7 %; 10 are expected


def test_pairing_removes_the_noise_that_seeds_share():
    rng = np.random.default_rng(1)
    luck = rng.normal(size=6)
    first, second = luck, luck + 0.1 + 0.01 * rng.normal(size=6)
    assert Paired(tuple(first), tuple(second)).verdict == "better"
    assert Paired(tuple(first), tuple(rng.permutation(second))).verdict == "unclear"


def test_the_suggested_number_of_seeds_has_the_promised_power():
    """SciPy's noncentral t says how often a difference of this size and spread is found."""
    rng = np.random.default_rng(2)
    noise = rng.normal(size=5)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    found = Paired((0.0,) * 5, tuple(0.5 + noise))
    count = 5 + found.more_seeds()
    shift = 0.5 * math.sqrt(count)
    power = stats.nct.sf(stats.t.ppf(0.975, count - 1), count - 1, shift)
    assert 0.79 < power < 0.83
    assert f"{count - 5} more seeds" in in_words(found, "accuracy")
    assert Paired((0.0,) * 5, tuple(5 + noise)).more_seeds() == 0
    assert Paired((0.0,) * 5, tuple(1e-4 + noise)).more_seeds() is None


def test_equal_differences_give_no_estimate_of_their_spread():
    found = Paired((0.5, 0.6), (0.75, 0.85))
    assert found.verdict == "unclear"
    assert "the same difference" in in_words(found, "accuracy")


def test_seeds_without_a_pair_are_left_out():
    found = paired_by_seed({0: 1.0, 1: 2.0, 2: math.nan}, {1: 3.0, 0: 5.0, 2: 1.0, 7: 0.0})
    assert (found.first, found.second) == ((1.0, 2.0), (5.0, 3.0))
    with pytest.raises(UsageError, match="2 of A and 1 of B"):
        Paired((1.0, 2.0), (1.0,))
    with pytest.raises(UsageError, match="finite"):
        Paired((1.0, math.inf), (1.0, 2.0))


def sweep_of(scores, failed=()):
    some = [
        Outcome({"seed": s}, f"{s}", 9, {} if s in failed else {"loss": v}, "not finite" if s in failed else "")
        for s, v in scores.items()
    ]
    return SweepResult(tuple(some), "loss", "min")


def test_a_comparison_reports_its_limits():
    first, second = sweep_of({0: 1.0, 1: 1.2, 2: 1.1}), sweep_of({0: 0.5, 1: 0.8, 2: 9.0}, failed=(2,))
    found = compared(first, second, ["steps: 3 in A, 4 in B", "batch_size: 1 in A, 2 in B"])
    assert found.seeds == (0, 1)
    assert "2 fields differ" in str(found)
    assert "1 runs of B failed" in str(found)
    same = compared(first, first, [])
    assert "chance alone" in str(same)
    assert same.verdict == "unclear"


def runs_of(name, rate, scores):
    return [
        SimpleNamespace(name=f"{name}_{s}", config={"seed": s, "rate": rate}, scores={"accuracy": v})
        for s, v in scores.items()
    ]


def test_finished_runs_that_differ_by_seed_are_paired():
    first, second = runs_of("a", 1, {0: 0.5, 1: 0.7, 2: 0.6}), runs_of("b", 2, {2: 0.71, 0: 0.6, 1: 0.8, 5: 0.9})
    said, rows = paired_rows([*first, *second])
    assert said == ["pairs by seed: A is a_0, a_1, a_2; B is b_0, b_1, b_2, b_5"]
    assert rows[0][:2] == ["accuracy", "+0.1033"]
    assert rows[0][3:] == ["3", "B is better", ""]
    assert paired_rows(first) == ([], [])
    assert paired_rows([*first, *second, *runs_of("c", 3, {0: 0.1, 1: 0.2})]) == ([], [])


def test_the_picture_is_drawn():
    figure = paired_dots([0.5, 0.6], [0.7, 0.65], "accuracy", mean=0.125, half=0.9, says="unclear")
    assert to_png(figure, dpi=30)[:4] == b"\x89PNG"
    assert figure.axes[1].get_title(loc="left") == "B - A: unclear"
