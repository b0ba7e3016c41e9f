"""The benchmark of techniques: its statistics, its list, one run of it."""

import dataclasses
import json

import numpy as np
import pytest
from conftest import ROOT
from scipy import stats

from jaxnets.config.experiment import Experiment
from jaxnets.data import Digits
from jaxnets.models import MLP
from jaxnets.parallel import MeshShape
from jaxnets.tasks import Classification


@pytest.fixture(scope="module", autouse=True)
def benchmarks():
    """The folder is no part of the package, and is imported from the top of the repository."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        yield


@pytest.fixture
def files():
    import benchmarks.techniques as harness
    import benchmarks.techniques_list as listed
    import benchmarks.techniques_report as report

    return harness, listed, report


@pytest.mark.smoke
def test_the_interval_is_that_of_a_paired_t_test(files):
    report = files[2]
    # Sleep gained by ten patients under two drugs (Student 1908): mean 1.58, interval .70 to 2.46, p .0028.
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = report.paired(second, first)
    assert found.mean == pytest.approx(1.58)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((0.7001, 2.4599), abs=1e-4)
    assert found.p == pytest.approx(0.002833, abs=1e-6)
    assert found.excludes_zero
    interval = stats.ttest_rel(second, first).confidence_interval(0.95)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((interval.low, interval.high))


def test_too_few_pairs_have_no_interval_and_equal_runs_no_effect(files):
    report = files[2]
    assert report.paired([1.0], [0.5]) is None
    equal = report.paired([1.0, 2.0], [1.0, 2.0])
    assert (equal.mean, equal.half, equal.p, equal.excludes_zero) == (0, 0, 1, False)


def test_a_recipe_compared_with_itself_wins_or_loses_in_one_case_of_twenty(files):
    paired, rng, repeats = files[2].paired, np.random.default_rng(0), 2000
    draws = rng.normal(size=(repeats, 2, 5)) + 3 * rng.normal(
        size=(repeats, 1, 5)
    )  # a part that both runs of a seed share
    false = np.mean([paired(a, b).excludes_zero for a, b in draws])
    # Four standard deviations of the share of 2,000 cases.
    assert abs(false - 0.05) < 4 * np.sqrt(0.05 * 0.95 / repeats)


def test_holms_correction_by_number_and_by_its_error_rate(files):
    holm = files[2].holm
    assert holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]  # bounds .0125, .0167, .025, .05 in order
    assert holm([]) == []
    rng = np.random.default_rng(1)
    assert np.mean([any(holm(rng.uniform(size=50))) for _ in range(1000)]) < 0.08


def row(recipe, technique, seed, value, cost=1.0):
    return {"recipe": recipe, "technique": technique, "seed": seed, "value": value, "cost": cost}


def rows_of(*rows):
    return {(one["recipe"], one["technique"], one["seed"]): one for one in rows}


def test_better_is_positive_for_losses_and_only_runs_of_the_same_seed_are_compared(files):
    report = files[2]
    values = {"baseline": (2.0, 2.2, 2.1, 9.0), "no biases": (1.9, 2.0, 2.05), "SGD": (2.3, None, 2.4)}
    rows = rows_of(*(row("text", t, seed, v, 0.9) for t, runs in values.items() for seed, v in enumerate(runs)))
    found = {one.technique.name: one for one in report.effects(rows)}
    assert found["no biases"].difference.mean == pytest.approx((0.1 + 0.2 + 0.05) / 3)
    assert found["no biases"].difference.pairs == 3
    assert found["SGD"].difference.mean == pytest.approx(-0.3)
    assert (found["SGD"].failed, found["SGD"].difference.pairs) == (1, 2)
    assert found["baseline"].difference is None
    assert found["SGD"].cost == pytest.approx(1.0)  # the baseline's own .9 is taken as 1
    assert "not finite in 1 of 3" in report.written(rows)


def test_a_technique_is_compared_with_the_one_that_it_names(files):
    rows = rows_of(*(
        row("images", t, seed, v + seed / 100)
        for t, v in (("baseline", 0.9), ("SGD", 0.5), ("SGD: Nesterov", 0.6))
        for seed in range(3)
    ))  # fmt: skip
    found = {one.technique.name: one.difference for one in files[2].effects(rows)}
    assert found["SGD: Nesterov"].mean == pytest.approx(10)  # points, against SGD
    assert found["SGD"].mean == pytest.approx(-40)


def test_the_table_and_the_picture_are_written_between_the_markers(files, tmp_path):
    report, page, picture = files[2], tmp_path / "page.md", tmp_path / "picture.png"
    rng = np.random.default_rng(0)
    rows = rows_of(*(
        row("images", t, seed, 0.9 + 0.01 * rng.normal()) for t in ("baseline", "flip", "SGD") for seed in range(3)
    ))  # fmt: skip
    page.write_text(f"above\n{report.BEGIN}\nold\n{report.END}\nbelow\n")
    report.write_docs(rows, page, picture)
    text = page.read_text()
    assert text.startswith(f"above\n{report.BEGIN}\n")
    assert text.endswith(f"{report.END}\nbelow\n")
    assert "old" not in text
    assert "| flip |" in text
    assert "2 effects, each from 3 pairs of runs" in text
    assert picture.stat().st_size > 1000
    page.write_text("no markers")
    with pytest.raises(SystemExit, match="has no lines"):
        report.write_docs(rows, page, picture)


def test_every_technique_gives_a_different_experiment(files):
    from jaxnets.config.serialize import digest

    harness, listed, _ = files
    pairs = listed.pairs()
    keys = [(recipe.name, technique.name) for recipe, technique in pairs]
    assert len(set(keys)) == len(keys)
    assert all((recipe.name, technique.against) in keys for recipe, technique in pairs)
    digests = [digest(harness.experiment_of(recipe, technique, 0)) for recipe, technique in pairs]
    assert len(set(digests)) == len(digests)


@pytest.fixture
def tiny(files, monkeypatch, tmp_path):
    """The harness with one recipe of a few steps and its own results."""
    harness, listed, report = files
    # On one of the devices of these tests, as in a benchmark.
    experiment = Experiment(
        task=Classification(model=MLP(widths=(8,))), data=Digits(), steps=20, batch_size=32, mesh=MeshShape(data=1)
    )
    recipe = listed.Recipe("tiny", "digits", experiment, "accuracy", "higher", "points", 100.0)
    techniques = (
        listed.Technique("baseline", listed.unchanged, ("tiny",)),
        listed.Technique("dropout", listed.model(dropout=0.5), ("tiny",)),
    )
    known = [(recipe, technique) for technique in techniques]
    for module in (harness, report):
        monkeypatch.setattr(module, "pairs", lambda: known)
    monkeypatch.setattr(report, "RECIPES", (recipe,))
    monkeypatch.setattr(report, "GROUPS", {"All": techniques})
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results.jsonl")
    return harness, report, recipe, known


def test_runs_are_measured_once_and_again_after_a_change(tiny, capsys):
    harness, report, recipe, known = tiny
    runs = harness.left(known, 2)
    assert len(runs) == 4
    assert harness.work([runs[0], runs[2]]) == 0
    assert "2/2 tiny/dropout, seed 0: accuracy" in capsys.readouterr().out
    assert [(t.name, seed) for _, t, seed in harness.left(known, 2)] == [("baseline", 1), ("dropout", 1)]
    with harness.RESULTS.open("a") as file:
        file.write('{"recipe": "tiny", "techni')  # cut off
    lines = harness.read(harness.RESULTS)
    assert len(lines) == 2
    one = lines[0]
    assert 0 < one["value"] <= 1
    assert 0 < one["cost"] < 100
    assert one["steps"] == 20
    # The same run again has the same bits, whatever ran between its pieces.
    again = harness.measure(recipe, known[0][1], 0, harness.Speedometer(recipe))
    assert again["value"] == one["value"]
    assert again["train_loss"] == one["train_loss"]
    assert "one run" in report.written(harness.current(lines))
    # Another experiment under the same name.
    changed = dataclasses.replace(recipe.experiment, batch_size=16)
    known[:] = [(dataclasses.replace(recipe, experiment=changed), technique) for _, technique in known]
    assert len(harness.left(known, 2)) == 4


def test_one_step_is_enough_for_a_run(tiny):
    harness, _, recipe, known = tiny
    short = dataclasses.replace(recipe, experiment=dataclasses.replace(recipe.experiment, steps=1))
    found = harness.measure(short, known[1][1], 0, harness.Speedometer(short))
    assert 0 <= found["value"] <= 1
    assert "cost" not in found  # too short to time
    json.dumps(found)


def test_runs_that_are_not_finite_or_not_possible_are_reported(tiny, capsys):
    harness, _, recipe, known = tiny
    from benchmarks.techniques_recipes import Technique, model, optimizer

    wild = (recipe, Technique("wild", optimizer(learning_rate=1e30), ("tiny",)))
    wrong = (recipe, Technique("wrong", model(inputs=3), ("tiny",)))
    known += [wild, wrong]
    assert harness.work([(*wild, 0), (*wrong, 0)]) == 1
    printed = capsys.readouterr().out
    assert "tiny/wild, seed 0: not finite" in printed
    assert "tiny/wrong, seed 0: not run, " in printed
    (only,) = harness.read(harness.RESULTS)
    assert only["value"] is None
    assert "failed" in only


def test_names_on_the_command_line(files):
    harness = files[0]
    assert {recipe.name for recipe, _ in harness.chosen(["text"])} == {"text"}
    assert [(r.name, t.name) for r, t in harness.chosen(["images/flip"])] == [("images", "flip")]
    assert {recipe.name for recipe, _ in harness.chosen(["/dropout 0.1"])} == {"images", "text", "table"}
    with pytest.raises(SystemExit, match="images/nothing is no recipe"):
        harness.chosen(["images/nothing"])
