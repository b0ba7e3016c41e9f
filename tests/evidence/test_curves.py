"""Curves over examples and fields: which runs they are, that each is the run alone, what is kept, the command."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import replace, run_here

import jaxnets
from jaxnets.cli.completion import candidates
from jaxnets.core.errors import UsageError
from jaxnets.data import from_arrays
from jaxnets.evidence import curves, search
from jaxnets.evidence.curves import planned
from jaxnets.evidence.error_parts import scored
from jaxnets.evidence.groups import groups
from jaxnets.evidence.sweep_result import Outcome, read, written
from jaxnets.evidence.trials import Trial
from jaxnets.models import MLP, Autoencoder
from jaxnets.optim import SGD, AdamW, WarmupLinear
from jaxnets.report.curve_plots import error_over_size
from jaxnets.report.plots import to_png
from jaxnets.runs.train import train
from jaxnets.tasks import Classification, Reconstruction, Regression
from jaxnets.tasks.base import bound

SIZES, SEEDS = [48, 120], [3, 5]


@pytest.fixture(scope="module")
def short(experiment):
    task, optimizer = Classification(model=MLP(widths=(8,))), SGD(0.1)
    return replace(experiment, task=task, optimizer=optimizer, steps=12, eval_every=0)


@pytest.fixture(scope="module")
def arguments(short, blobs):
    """Arguments of `fit` for the same experiment."""
    return {"model": short.task, "data": blobs, "optimizer": short.optimizer, "steps": 12, "batch_size": 24}


@pytest.fixture(scope="module")
def learned(arguments, tmp_path_factory):
    """A learning curve in a directory."""
    folder = tmp_path_factory.mktemp("curve")
    found = jaxnets.curve(arguments, examples=SIZES[::-1], seeds=SEEDS, directory=folder, progress="none")
    return folder, found


def some_of(data, seed, count):
    """The examples that a run sees, without the code under test: the first ones of the permutation of its seed."""
    chosen = np.random.default_rng((0xE8A, seed)).permutation(len(data.train["targets"]))[:count]
    return {name: array[np.sort(chosen)] for name, array in data.train.items()}


def test_examples_of_smaller_runs_are_among_those_of_larger_ones(experiment):
    def rows(examples, seed):
        return set(Trial({}, replace(experiment, seed=seed), examples).rows(200).tolist())

    assert len(rows(40, 1)) == 40
    assert rows(40, 1) < rows(80, 1)
    assert len(rows(40, 1) & rows(40, 2)) < 20
    assert Trial({}, experiment).rows(200) is None
    assert len({Trial({}, experiment, count).name for count in (0, 40, 80)}) == 3


@pytest.mark.smoke
def test_a_run_on_a_subset_equals_a_separate_run_on_it(learned, short, blobs, one_device):
    """Its held-out and training loss and its predictions, of which the split is computed."""
    folder, found = learned
    assert [point.value for point in found.points] == SIZES
    own = some_of(blobs, 5, 48)
    # Scaled as all are: by the whole training split.
    data = replace(blobs, train=own, learned=replace(blobs.preparation, examples=(48, 61)))
    alone = train(replace(short, seed=5), dataset=data, mesh=one_device, progress="none")
    assert found.points[0].held_out[1] == pytest.approx(alone.evaluate()["loss"], rel=1e-4)
    seen = alone.evaluate((own["inputs"], own["targets"]))["loss"]
    assert found.points[0].training[1] == pytest.approx(seen, rel=1e-4)
    names = [one.digest for one in read(folder / "curve.jsonl") if one.values["examples"] == 48]
    probabilities = [np.load(folder / "predictions" / f"{name}.npy") for name in names]
    np.testing.assert_allclose(probabilities[1], alone.probabilities(blobs.test["inputs"]), rtol=1e-3, atol=1e-5)
    split, hot = found.points[0].split, np.eye(4)[blobs.test["targets"]]
    brier = [np.square(one - hot).sum(axis=1).mean() for one in probabilities]
    assert split.error == pytest.approx(np.mean(brier), rel=1e-6)
    # Of two runs the unbiased variance is half of the squared difference.
    apart = np.square(probabilities[0] - probabilities[1]).sum(axis=1).mean() / 2
    assert split.variance == pytest.approx(apart, rel=1e-5)


def test_the_printed_table_and_law(learned):
    _, found = learned
    header, rows = found.table()
    assert header == ["examples", "training loss", "test loss", "Brier score", "bias^2", "variance", "seeds"]
    assert [row[0] for row in rows] == ["48", "120"]
    assert float(rows[0][4]) + float(rows[0][5]) == pytest.approx(float(rows[0][3]), rel=1e-3)
    assert "every run has 12 steps" in str(found)
    assert len(to_png(found.picture())) > 5000
    with pytest.raises(UsageError, match="three sizes or more"):
        found.law()
    with pytest.raises(UsageError, match="more of accuracy is better"):
        replace(found, metric="accuracy").law()


def test_runs_in_the_directory_are_not_trained_again(learned, arguments, monkeypatch):
    folder, found = learned
    assert len(list((folder / "predictions").iterdir())) == 4
    asked = []

    def none(waiting, *arguments, **options):
        asked.extend((one.examples, one.experiment.seed) for one in waiting)
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(search, "groups", none)
    again = jaxnets.curve(arguments, examples=SIZES, seeds=SEEDS, directory=folder, progress="none")
    assert str(again) == str(found)
    assert again.points == found.points
    with pytest.raises(KeyboardInterrupt):
        jaxnets.curve(arguments, examples=[*SIZES, 200], seeds=SEEDS, directory=folder, progress="none")
    assert asked == [(200, 3), (200, 5)]
    for path in (folder / "predictions").iterdir():
        if path.name.endswith("-48.npy"):
            path.rename(path.with_suffix(".gone"))
    without = jaxnets.curve(arguments, examples=SIZES, seeds=SEEDS, directory=folder, progress="none")
    assert [bool(one.split) for one in without.points] == [False, True]
    for path in (folder / "predictions").iterdir():
        path.rename(path.with_suffix(".npy"))


@pytest.mark.parametrize(
    ("examples", "over", "why"),
    [
        ([0, 100], None, "from 1 to"),
        ([100, 500], None, "training split \\(203\\), got 500"),
        ([100], None, "two numbers of examples or more"),
        ([], {"task.model.widths": [(8,)]}, "two values"),
        ([50, 100], {"steps": [5, 10]}, "over one thing"),
        ([], {"steps": [5, 10], "batch_size": [8, 9]}, "over one thing"),
        ([], {"data.name": ["a", "b"]}, "measured on the same examples"),
        ([], {"task.model.width": [1, 2]}, "no field 'width'"),
    ],
)
def test_invalid_curves_are_refused(experiment, examples, over, why):
    with pytest.raises(UsageError, match=why):
        planned(experiment, examples, over, [0, 1], total=203)


def test_a_curve_over_a_field_may_have_examples_of_its_own(experiment):
    name, made = planned(experiment, 60, {"task.model.widths": [[4], (8, 8)]}, [0, 1], total=203)
    assert name == "task.model.widths"
    assert [(one.experiment.task.model.widths, one.experiment.seed, one.examples) for one in made] == [
        ((4,), 0, 60),
        ((4,), 1, 60),
        ((8, 8), 0, 60),
        ((8, 8), 1, 60),
    ]


def test_fewer_examples_than_a_batch_are_all_in_each(experiment, blobs):
    name, made = planned(experiment, [10, 60], None, [0], total=203)
    assert [(one.examples, one.experiment.batch_size) for one in made] == [(10, 10), (60, 24)]
    assert curves._about(name, made, blobs)[1] == "runs with fewer examples than a batch (24) have all of them in each"


def test_the_size_over_which_a_law_is_fitted(experiment, blobs):
    def counts(name, values, data=blobs):
        _, made = planned(experiment, (), {name: values}, [0], total=203)
        points = [
            curves.Point(one.values[name], None, 10 * number, (0,), (), (), 0, None) for number, one in enumerate(made)
        ]
        found, what = curves._sized(name, points, made, data)
        return what, [one.size for one in found]

    assert counts("task.model.widths", [(4,), (8,)]) == ("parameters", [0, 10])
    assert counts("steps", [5, 10]) == ("steps", [5, 10])
    texts = SimpleNamespace(target_kind="token", tokens=None, input_shape=(7,), examples={"train": 203})
    assert counts("steps", [5, 10], SimpleNamespace(card=texts)) == ("tokens", [5 * 24 * 7, 10 * 24 * 7])


def test_tasks_without_predictions_have_no_bias_and_variance(pictures, blobs):
    assert scored(bound(Reconstruction(model=Autoencoder()), pictures.card), pictures, "test") is None
    found = scored(bound(Classification(model=MLP()), blobs.card), blobs, "test")
    assert found.name == "Brier score"
    np.testing.assert_array_equal(found.targets.argmax(axis=1), blobs.test["targets"])
    # A model may have more outputs than there are classes: their probabilities are part of the error.
    five = np.tile(np.float32([0, 0, 0, 0, 1]), (2, 61, 1))
    assert found.parts(five).error == pytest.approx(2.0)
    rng = np.random.default_rng(0)
    data = from_arrays(rng.normal(size=(50, 3)), rng.normal(size=50) + 2, name="numbers")
    found = scored(bound(Regression(model=MLP()), data.card), data, "test")
    assert found.name == "squared error"
    targets = (data.test["targets"] - data.train["targets"].mean()) / data.train["targets"].std()
    np.testing.assert_allclose(found.targets[:, 0], targets, rtol=1e-4, atol=1e-5)
    assert found.predictions(None, np.zeros((10, 3), np.float32)) is None


def test_weights_of_examples_count(blobs):
    weights = np.r_[np.full(30, 2.0), np.ones(31)]
    data = replace(blobs, test={**blobs.test, "weights": weights})
    found = scored(bound(Classification(model=MLP()), data.card), data, "test")
    hot = np.eye(4)[blobs.test["targets"]]
    wrong_later = np.stack([np.r_[hot[:30], 1 - hot[30:]]] * 2)
    assert found.parts(wrong_later).error == pytest.approx(4 * 31 / (2 * 30 + 31))


def test_results_of_older_versions_are_read(tmp_path):
    one = Outcome({"seed": 0}, "ab", 3, {"loss": 1.0}, parameters=7, training={"loss": float("nan")})
    older = {key: value for key, value in json.loads(written(one)).items() if key not in ("parameters", "training")}
    (tmp_path / "results.jsonl").write_text(f"{written(one)}\n{json.dumps(older)}\n")
    new, old = read(tmp_path / "results.jsonl")
    assert new.parameters == 7
    assert np.isnan(new.training["loss"])
    assert old.training == {}


def test_the_picture_is_in_the_order_of_the_sizes():
    figure = error_over_size(
        [30.0, 1.0, 4.0],
        ["30", "1", "4"],
        "parameters",
        metric="loss",
        split="test",
        training=[[0.1], [0.5, 0.7], [0.2]],
        held_out=[[0.3], [0.9, 1.1], []],
        halves=[float("nan"), 0.1, float("nan")],
        parts=[(0.2, 0.1), (0.5, 0.2), None],
        error="Brier score",
        law=lambda size: 1 / size,
    )
    loss, parts = figure.axes
    assert loss.get_xscale() == "log"
    (test,) = [line for line in loss.lines if line.get_label() == "test"]
    np.testing.assert_array_equal(test.get_xdata(), [1, 4, 30])
    np.testing.assert_allclose(test.get_ydata(), [1.0, np.nan, 0.3])
    (total,) = [line for line in parts.lines if line.get_label() == "sum"]
    np.testing.assert_allclose(total.get_ydata(), [0.7, np.nan, 0.3])


def test_mistakes_on_the_command_line(tmp_path):
    for flags, why in (
        (["--examples", "100"], "over one thing"),
        (["--examples", "100", "200", "--task.model.widths", "4", "8"], "over one thing"),
        (["--seed", "1", "2"], "--seeds N"),
        (["--examples", "100", "200", "--seeds", "0"], "seeds is at least 1"),
    ):
        done = run_here("curve", "mnist_mlp", *flags, cwd=tmp_path)
        assert done.returncode == 2
        assert why in done.stderr
    assert candidates(["curve", "mnist_mlp", "--exam"]) == ["--examples"]


@pytest.mark.slow
def test_separate_runs_equal_those_in_one_program():
    """Of a regression, whose targets are scaled by all training examples both ways."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 3)).astype(np.float32)
    given = {"model": MLP(widths=(4,)), "data": (x, np.exp(x.sum(axis=1))), "steps": 9, "batch_size": 12}
    both = [jaxnets.curve(given, examples=[12, 40], seeds=2, at_once=n, progress="none") for n in (9, 1)]
    for one, other in zip(both[0].points, both[1].points, strict=True):
        np.testing.assert_allclose(one.held_out, other.held_out, rtol=1e-4)
        np.testing.assert_allclose(one.training, other.training, rtol=1e-4)
        assert one.split.variance == pytest.approx(other.split.variance, rel=1e-3)
        assert one.split.error == pytest.approx(one.mean, rel=1e-5)  # the loss is the squared error


@pytest.mark.slow
def test_runs_with_schedules_in_epochs_are_trained_separately(short, blobs):
    said = []
    counted = replace(short, optimizer=AdamW(1e-2, schedule=WarmupLinear(warmup="1ep")))
    _, made = planned(counted, SIZES, None, [0], total=203)
    list(groups(made, blobs, None, at_once=9, say=said.append))
    assert "their schedules count epochs" in said[0]


@pytest.mark.slow
def test_a_validation_split_is_the_same_for_all_seeds(arguments):
    seen = []
    real = search.outcomes

    def watched(group, seconds, look=None):
        seen.extend(parts.dataset.validation["inputs"] for parts, _ in group.ended())
        return real(group, seconds, look)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "outcomes", watched)
        found = jaxnets.curve(
            {**arguments, "validation": 0.2}, examples=[30, 60], seeds=2, directory=None, progress="none"
        )
    assert found.watched == "validation"
    assert len(seen) == 4
    for one in seen[1:]:
        np.testing.assert_array_equal(one, seen[0])


@pytest.mark.slow
def test_the_command(tmp_path):
    flags = ("--examples", "40", "260", "520", "--seeds", "2", "--steps", "15")
    done = run_here("curve", "digits_softmax", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "4 runs in one program" in done.stderr
    assert "test loss = floor + scale" in done.stdout
    assert (tmp_path / "curves/digits_softmax/curve.png").exists()
    again = run_here("curve", "digits_softmax", *flags, "--json", "--output", "c.png", cwd=tmp_path)
    assert "6 of 6 runs have their results" in again.stderr
    found = json.loads(again.stdout)
    assert [one["value"] for one in found["points"]] == [40, 260, 520]
    assert found["law"]["exponent"] is not None
    assert (tmp_path / "c.png").exists()
