"""A diagnosis of a run: its numbers by hand, what is left out, and its place in the report."""

import dataclasses
import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import replace, run_here
from small_data import small_data

import jaxnets
from jaxnets import config, optim
from jaxnets.core.errors import RunDirectoryError, UsageError
from jaxnets.data import Ring
from jaxnets.models import MLP
from jaxnets.postflight import Diagnosis, Section, of_run, robustness
from jaxnets.postflight import examined as examining
from jaxnets.postflight.of_run import BEGIN, into_report
from jaxnets.report import surface_plots
from jaxnets.report.plots import to_png
from jaxnets.tasks import Adversarial

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(60, 3)) * 3 + 1).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5]) + RNG.normal(size=60)).astype(np.float32)
IMAGES = RNG.integers(0, 255, (64, 4, 6, 1)).astype(np.uint8)
LABELS = (IMAGES[:, :, :3].mean(axis=(1, 2, 3)) > IMAGES[:, :, 3:].mean(axis=(1, 2, 3))).astype(np.int32)


@pytest.fixture(scope="module")
def line():
    options = {"steps": 30, "batch_size": 12, "optimizer": optim.SGD(0.05), "progress": "none"}
    return jaxnets.fit(MLP(widths=()), (X, Y), test=(X[:20], Y[:20]), **options)


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    data = jaxnets.from_arrays(IMAGES, LABELS, test=(IMAGES, LABELS), class_names=["right", "left"])
    return jaxnets.fit(
        MLP(widths=(8,), activation="tanh"),
        data,
        steps=60,
        batch_size=16,
        optimizer=optim.AdamW(0.01),
        run_dir=tmp_path_factory.mktemp("runs") / "halves",
        progress="none",
    )


@pytest.mark.smoke
def test_the_curvature_is_that_of_the_hessian_by_hand(line):
    found = jaxnets.diagnosis(line, only=["curvature"])
    x = np.asarray(line.parts.dataset.preparation.prepare(X))
    y = np.asarray(line.parts.task.encode_targets(Y)).reshape(-1, 1)
    rows = np.concatenate([x, np.ones((60, 1))], axis=1)
    # The loss is the mean of (w x + b - y)^2, so its Hessian is twice the mean of the products of the rows.
    values = np.linalg.eigvalsh(2 * rows.T @ rows / 60)
    assert found["largest_eigenvalue"] == pytest.approx(values[-1], rel=1e-4)
    assert found["smallest_eigenvalue"] == pytest.approx(values[0], rel=1e-3)
    assert found["highest_rate"] == pytest.approx(2 / values[-1], rel=1e-4)
    kernel, bias = (np.asarray(line.params["output"][name]) for name in ("kernel", "bias"))
    errors = x @ kernel + bias[None] - y
    assert found["loss"] == pytest.approx(float(np.square(errors).mean()), rel=1e-4)
    assert found["gradient_norm"] == pytest.approx(np.linalg.norm(2 * rows.T @ errors / 60), rel=1e-3)
    assert [len(section.pictures) for section in found.sections] == [2]


@pytest.mark.slow
def test_few_examples_are_drawn_and_an_expensive_model_gets_fewer(line, monkeypatch):
    some = jaxnets.diagnosis(line, only=["curvature"], examples=8)
    assert "8 training examples" in str(some)
    assert some["loss"] != pytest.approx(jaxnets.diagnosis(line, only=["curvature"], examples=8, seed=1)["loss"])
    monkeypatch.setattr(examining, "BUDGET", 1e4)
    assert "4 training examples" in str(jaxnets.diagnosis(line, only=["curvature"], examples=8))
    monkeypatch.setattr(examining, "BUDGET", 1.0)
    assert "four examples take" in jaxnets.diagnosis(line, only=["curvature"]).notes()[0]


@pytest.mark.nightly
@pytest.mark.slow
def test_a_classifier_of_images_has_every_number_and_picture(halves):
    found = jaxnets.diagnosis(halves, examples=64)
    assert [(section.name, len(section.pictures)) for section in found.sections] == [
        ("curvature", 2),
        ("robustness", 5),
        ("explanation", 5),
    ]
    assert found.notes() == []
    assert found["accuracy_undamaged"] == pytest.approx(halves.evaluate()["accuracy"])
    assert found["accuracy_attacked"] <= found["accuracy_with_noise"]
    assert all(math.isfinite(value) for value in found.numbers.values())
    assert found.numbers == jaxnets.diagnosis(halves, examples=64).numbers  # the same draws
    for section in found.sections:
        assert all(picture.png.startswith(b"\x89PNG") for picture in section.pictures)


@pytest.mark.slow
def test_the_report_of_the_run_holds_the_newest_diagnosis(halves):
    first = jaxnets.diagnosis(halves, only=["curvature"], examples=8)
    page = into_report(first, halves.directory)
    before = page.read_text()
    assert before.count(BEGIN) == 1
    assert before.count("Diagnosis: curvature") == 1
    assert (halves.directory / "plots" / "curvature-2.png").read_bytes() == first.sections[0].pictures[1].png
    second = jaxnets.diagnosis(halves, only=["curvature"], examples=16)
    after = into_report(second, halves.directory).read_text()
    assert after.count("Diagnosis: curvature") == 1
    assert "16 training examples" in after
    assert "8 training examples" in before
    assert "Settings that were chosen" in after
    assert after.rstrip().endswith("</html>")
    assert json.loads(second.as_json())["numbers"].keys() == second.numbers.keys()


@pytest.mark.slow
def test_what_does_not_suit_a_run_is_left_out_with_the_reason(line):
    found = jaxnets.diagnosis(line, only=["robustness"], examples=8)
    assert "the targets are not classes" in found.notes()[0]
    task = Adversarial(model=MLP(widths=(4,)), critic=MLP(widths=(4,)), latent=2)
    players = jaxnets.train(jaxnets.Experiment(data=Ring(), task=task, steps=2, batch_size=8), progress="none")
    notes = jaxnets.diagnosis(players).notes()
    assert len(notes) == 3
    assert "several players" in notes[0]


@pytest.mark.slow
def test_outputs_that_are_not_one_number_a_class_are_left_out():
    def loss(outputs, batch):
        return optax.sigmoid_binary_cross_entropy(outputs[:, 0], batch["targets"])

    above = (Y > 0).astype(np.int32)
    run = jaxnets.fit(nn.Dense(1), (X, above), test=(X, above), loss=loss, steps=5, batch_size=16, progress="none")
    notes = jaxnets.diagnosis(run, skip=["curvature"], examples=40).notes()
    assert all("[40, 1] are not one number for each class" in note for note in notes)
    assert len(notes) == 2


@pytest.mark.slow
def test_weights_that_are_no_numbers_leave_sections_out(line):
    sick = dataclasses.replace(
        line, state=dataclasses.replace(line.state, params=jax.tree.map(lambda a: a * jnp.nan, line.params))
    )
    found = jaxnets.diagnosis(sick, examples=8)
    assert "the loss or its gradient is not a finite number" in found.notes()[0]
    assert math.isnan(found["r2_undamaged"])


@pytest.mark.slow
def test_a_section_that_fails_keeps_the_others(line, monkeypatch):
    def broken(examined):
        raise ValueError("no such thing")

    monkeypatch.setitem(of_run.SECTIONS, "robustness", broken)
    found = jaxnets.diagnosis(line, skip=["explanation"], examples=8)
    assert found["largest_eigenvalue"] > 0
    assert found.notes() == ["robustness: it failed: no such thing"]


def test_of_losses_the_largest_is_the_worst(line, monkeypatch):
    scores = iter(range(1000))
    monkeypatch.setattr(examining.Examined, "score", lambda self, params: float(next(scores)))
    drawn = {}
    monkeypatch.setattr(robustness.surface_plots, "curves", lambda values, **_: drawn.update(values))
    monkeypatch.setattr(robustness.Picture, "of", lambda *_: None)
    for less, worst in ((True, 2.0), (False, 0.0)):
        scores = iter(range(1000))
        monkeypatch.setattr(examining.Examined, "less_is_better", less)
        robustness._flips(examining.Examined(line, 8, 0))
        assert drawn["worst"][0] == worst


@pytest.mark.parametrize("losses", [np.full((3, 3), 2.0), np.full((3, 3), np.nan), np.array([[1, np.inf], [2, 3.0]])])
def test_flat_and_infinite_slices_are_drawn(losses):
    places = np.linspace(-1, 1, len(losses))
    assert to_png(surface_plots.loss_slice(places, losses)).startswith(b"\x89PNG")


def test_a_mark_without_its_end_deletes_nothing(tmp_path):
    (tmp_path / "report.html").write_text(f"<body>before{BEGIN}rest</body>")
    into_report(Diagnosis("a", 1, (Section("curvature"),)), tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert text.startswith("<body>beforerest")
    assert text.count(BEGIN) == 1


def test_mistakes_are_named(line, tmp_path):
    with pytest.raises(UsageError, match="no section 'curvatur'.*curvature"):
        jaxnets.diagnosis(line, only=["curvatur"])
    with pytest.raises(UsageError, match="at least 4"):
        jaxnets.diagnosis(line, examples=3)
    found = jaxnets.diagnosis(line, only=["curvature"], examples=4)
    with pytest.raises(KeyError, match="largest_eigenvalue"):
        found["largest_eigenvalu"]
    with pytest.raises(RunDirectoryError, match="has no report"):
        into_report(found, tmp_path)


def test_inputs_begin_with_noise_where_zeros_have_no_gradient():
    """A network whose ReLU units are all off at 0."""
    run = jaxnets.fit(MLP(widths=(4,)), (X, (Y > 0).astype(np.int32)), steps=1, batch_size=12, progress="none")
    params = jax.tree.map(jnp.asarray, run.params)
    params = {**params, "hidden_0": {**params["hidden_0"], "bias": jnp.full(4, -1e-3)}}
    run.state = dataclasses.replace(run.state, params=params)
    moved = run.explain.maximised_input([0, 1], steps=20)
    assert np.abs(moved[0] - moved[1]).max() > 0.1


@pytest.mark.slow
def test_the_command(tmp_path):
    assert run_here("train", "digits_softmax", "--steps", "40", cwd=tmp_path).returncode == 0
    (directory,) = (tmp_path / "runs").iterdir()
    done = run_here("diagnose", str(directory), "--examples", "32", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "largest_eigenvalue" in done.stdout
    assert "accuracy_corrupted" in done.stdout
    assert "Diagnosis: explanation" in (directory / "report.html").read_text()
    data = run_here("diagnose", str(directory), "--only", "curvature", "--json", cwd=tmp_path)
    assert json.loads(data.stdout)["numbers"]["largest_eigenvalue"] > 0
    assert run_here("diagnose", str(directory), "--only", "curvatur", cwd=tmp_path).returncode == 2
    assert run_here("diagnose", str(tmp_path), cwd=tmp_path).returncode == 1


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "adding_gru",
        "cora_gcn",
        "tabular",
        "iris_adaline",
        "digits_simclr",
        "digits_fixmatch",
        "rings_gin",
        "overlaid_digits",
        "reverse_words",
        "etth1_forecast",
    ],
)
def test_shipped_configurations_of_every_kind(name, tmp_path, monkeypatch):
    monkeypatch.setattr(examining, "BUDGET", 3e10)
    experiment = config.load(name).experiment
    size = min(experiment.batch_size, 16)
    experiment = replace(experiment, steps=2, batch_size=size, micro_batches=1, validation=0, log_every=2, eval_every=0)
    run = jaxnets.train(experiment, dataset=small_data(name, tmp_path), progress="none")
    found = jaxnets.diagnosis(run, examples=8)
    assert [section.name for section in found.sections] == ["curvature", "robustness", "explanation"]
    for section in found.sections:
        assert section.pictures or section.left_out
    assert math.isfinite(found["largest_eigenvalue"])
