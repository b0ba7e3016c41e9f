"""Settings of a sweep, successive halving on numbers, results in a file, flags of the commands."""

import math

import numpy as np
import pytest
from conftest import replace

from jaxnets.cli import compare_seeds, sweep
from jaxnets.cli.completion import candidates
from jaxnets.core.errors import DataError, UsageError
from jaxnets.evidence.halving import halved, rungs
from jaxnets.evidence.sweep_result import Outcome, SweepResult, read, written
from jaxnets.evidence.trials import Range, changed_fields, trials, with_field
from jaxnets.optim import SGD
from jaxnets.report.evidence_plots import parallel_coordinates
from jaxnets.report.plots import to_png


def test_a_grid_has_every_combination(experiment):
    made = trials(experiment, {"optimizer.learning_rate": [1, 0.1], "task.model.widths": [[8], (8, 8)], "seed": [0, 3]})
    assert len(made) == 8
    assert [one.experiment.seed for one in made[:2]] == [0, 3]
    assert made[0].experiment.optimizer == replace(experiment.optimizer, learning_rate=1.0)
    assert made[-1].experiment.task.model.widths == (8, 8)
    assert len({one.setting for one in made}) == 4


def test_random_settings_are_drawn_once_for_all_seeds(experiment):
    values = {"optimizer.learning_rate": Range(1e-4, 1e-1, "log"), "batch_size": Range(8, 16), "seed": [0, 1]}
    made = trials(experiment, values, random=60)
    rates = np.array([one.experiment.optimizer.learning_rate for one in made[::2]])
    assert rates.min() >= 1e-4
    assert rates.max() <= 1e-1
    assert np.mean(rates < 10**-2.5) == pytest.approx(0.5, abs=0.2)  # half below the geometric middle
    assert {one.experiment.batch_size for one in made} == set(range(8, 17))
    assert [one.experiment.seed for one in made[:4]] == [0, 1, 0, 1]
    assert made[0].setting == made[1].setting
    assert [one.values for one in trials(experiment, values, random=60)] == [one.values for one in made]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"optimizer.learningrate": [1]}, "AdamW has no field 'learningrate'"),
        ({"optimizer.learning_rate": [-1.0]}, "learning_rate=-1.0: learning_rate is positive"),
        ({"optimizer.learning_rate": Range(0.1, 1)}, "how many settings"),
        ({"seed": 3}, "seed takes a list"),
        ({"seed": []}, "no value to try"),
        ({}, "needs a field"),
    ],
)
def test_invalid_sweeps_are_refused(experiment, values, why):
    with pytest.raises(UsageError, match=why):
        trials(experiment, values)


def test_fields_that_differ_are_named(experiment):
    other = with_field(with_field(experiment, "optimizer.learning_rate", 0.5), "seed", 9)
    assert changed_fields(experiment, other) == ["optimizer.learning_rate: 0.01 in A, 0.5 in B"]
    assert changed_fields(experiment, replace(experiment, optimizer=SGD())) == ["optimizer: AdamW in A, SGD in B"]
    assert changed_fields(experiment, experiment) == []


class Numbers:
    """A group whose scores are a function of the setting and of the share of the steps."""

    built_in = 0.0

    def __init__(self, made, share=0.0):
        self.trials, self.share = made, share

    def advance(self, share):
        assert share > self.share, "it would be trained again"
        self.share = share

    def kept(self, chosen):
        return Numbers([self.trials[number] for number in chosen], self.share)


def test_halving_keeps_the_best_and_continues_their_training(experiment):
    assert rungs(9, 3) == pytest.approx([1 / 9, 1 / 3, 1])
    assert rungs(5, 2) == [0.125, 0.25, 0.5, 1]
    assert rungs(1, 2) == [1]
    rates = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    made = trials(experiment, {"optimizer.learning_rate": rates, "seed": [0, 1]})

    def measure(group, seconds):
        return [
            Outcome(
                one.values, "", round(group.share * 90), {"loss": abs(one.values["optimizer.learning_rate"] - 0.42)}
            )
            for one in group.trials
        ]

    done = halved([Numbers(made[:10]), Numbers(made[10:])], 3, "loss", "min", measure=measure)
    steps = {one.values["optimizer.learning_rate"]: one.steps for one in done}
    assert len(done) == 18
    assert {rate for rate, count in steps.items() if count == 90} == {0.4}
    assert {rate for rate, count in steps.items() if count == 30} == {0.3, 0.5}
    assert SweepResult(tuple(done), "loss", "min").best == {"optimizer.learning_rate": 0.4}


def outcome(rate, seed, score, steps=10):
    metrics = {} if score is None else {"accuracy": score}
    return Outcome({"rate": rate, "seed": seed}, f"{rate}{seed}", steps, metrics, "" if metrics else "not finite")


def test_the_table_has_the_best_first_with_its_interval():
    scores = {0.1: (0.5, 0.7), 0.2: (0.9, 0.8), 9.0: (None, 0.99), 99.0: (None, None)}
    some = [outcome(rate, seed, score) for rate, pair in scores.items() for seed, score in enumerate(pair)]
    found = SweepResult(tuple(some), "accuracy", "max")
    header, rows = found.table()
    assert header == ["rate", "test accuracy", "seeds", "steps"]
    assert [row[0] for row in rows] == [
        "0.2",
        "0.1",
        "9",
        "99",
    ]  # one whose runs failed comes after those that all ended
    # Two values 0.1 apart: t = 12.706 (tables) times 0.1 / 2.
    assert rows[0][1] == f"0.85 ± {12.706 * 0.05:.2g}"
    assert rows[2][2] == "1, 1 failed"
    assert rows[3][1] == "failed"
    assert "test split" in str(found)
    assert to_png(found.picture(), dpi=30)[:4] == b"\x89PNG"
    with pytest.raises(UsageError, match="every run of the sweep failed: not finite"):
        _ = SweepResult(tuple(some[-2:]), "accuracy", "max").best


def test_fields_with_text_values_are_drawn_at_fixed_places():
    rows = [(["adam", 1e-4], 0.5), (["lion", 1e-1], 0.7), (["adam", 1e-2], 0.9)]
    figure = parallel_coordinates(["optimizer", "rate"], rows, "accuracy", better="max")
    lines = [line.get_ydata() for line in figure.axes[0].lines if len(line.get_ydata()) == 3]
    # The best last; the rates are on a logarithmic axis.
    np.testing.assert_allclose(lines, [[0, 0, 0], [1, 1, 0.5], [0, 2 / 3, 1]], atol=1e-12)


def test_results_are_equal_after_saving_and_loading(tmp_path):
    some = [outcome(0.1, 0, 0.5), outcome(0.1, 1, math.nan), outcome(9.0, 0, None)]
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join(map(written, some)) + '\n{"values": {"ra')
    assert str(read(path)) == str(some)
    path.write_text("{}\n" + written(some[0]))
    with pytest.raises(DataError, match="line 1"):
        read(path)


def test_flags_of_a_sweep():
    flags = ["--optimizer.learning-rate", "1e-3", "1e-2", "--steps", "20", "--seed=3", "--json", "--b", "log:1:2"]
    fixed, axes = sweep.split_flags(flags)
    assert fixed == ["--steps", "20", "--seed=3", "--json"]
    assert axes == {"optimizer.learning_rate": ["1e-3", "1e-2"], "b": ["log:1:2"]}
    *_, values = sweep.read(
        "mnist_mlp",
        [
            "--task.model.widths",
            "64",
            "64,32",
            "--optimizer",
            "adam",
            "lion",
            "--seed",
            "0",
            "1",
            "--mesh.data",
            "linear:1:4",
        ],
    )
    assert values["task.model.widths"] == [(64,), (64, 32)]
    assert [type(one).__name__ for one in values["optimizer"]] == ["Adam", "Lion"]
    assert values["seed"] == [0, 1]
    assert values["mesh.data"] == Range(1, 4)
    assert "--halving" in candidates(["sweep", "mnist_mlp", "--hal"])


def test_flags_of_a_comparison():
    both, a, b = compare_seeds.split_flags(["--steps", "5", "--a.seed", "1", "--b.optimizer", "lion", "--seeds", "3"])
    assert (both, a, b) == (["--steps", "5", "--seeds", "3"], ["--seed", "1"], ["--optimizer", "lion"])
    assert compare_seeds.wanted(["x", "--seeds=3"])
    assert not compare_seeds.wanted(["runs/a", "runs/b", "--output", "c.png"])
