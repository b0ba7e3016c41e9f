"""Several labels an example, and forecasts: metrics against their definitions, data without leaks, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import replace

import jaxnets
from jaxnets.core.errors import DataError
from jaxnets.core.types import Lines, Mean
from jaxnets.data import Dataset, OverlaidDigits, Series, from_arrays
from jaxnets.models import CNN, MLP, RNN
from jaxnets.report import plots
from jaxnets.runs.build import assemble
from jaxnets.steps.precision import Precision
from jaxnets.tasks import Classification, Forecasting, MultiLabel, Regression, Supervised
from jaxnets.tasks.losses import binary_cross_entropy
from jaxnets.training.loop import fit


def labelled(rows=90, labels=5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 7)).astype(np.float32)
    y = (x @ rng.normal(size=(7, labels)) > 0.7).astype(np.uint8)
    y[:, 3] = 0  # a label that is never there
    return x, y


def test_binary_cross_entropy_by_its_definition_and_where_naive_forms_overflow():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(4, 3)) * 3, rng.integers(0, 2, (4, 3))
    p = 1 / (1 + np.exp(-z))
    expected = -2.5 * y * np.log(p) - (1 - y) * np.log(1 - p)
    got = binary_cross_entropy(jnp.asarray(z, jnp.float32), jnp.asarray(y), positive_weight=2.5)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda z: binary_cross_entropy(z, jnp.asarray(y), positive_weight=2.5).sum())(
        jnp.asarray(z, jnp.float32)
    )
    np.testing.assert_allclose(gradient, 2.5 * y * (p - 1) + (1 - y) * p, rtol=1e-5, atol=1e-6)
    far, slope = jax.value_and_grad(lambda z: binary_cross_entropy(z, jnp.array([1, 0])).sum())(jnp.array([-1e4, 1e4]))
    assert float(far) == 2e4
    np.testing.assert_array_equal(slope, [-1.0, 1.0])


@pytest.mark.parametrize("cuts", [(90,), (1, 32, 90)])
def test_f1_is_that_of_the_whole_split_for_any_batch_size(cuts):
    x, y = labelled()
    task = MultiLabel(model=MLP(widths=(6,), outputs=5), threshold=0.3)
    batch = {"inputs": jnp.asarray(x), "targets": jnp.asarray(y), "mask": jnp.ones(90)}
    variables = jax.jit(task.init)(jax.random.key(1), batch)
    sums, measure = {}, jax.jit(task.metrics)
    for start, stop in zip((0, *cuts[:-1]), cuts, strict=True):
        part = {name: array[start:stop] for name, array in batch.items()}
        # Rows that are masked may hold anything.
        part = {name: jnp.concatenate([array, array[:1] * 0 + 1]) for name, array in part.items()}
        part["mask"] = part["mask"].at[-1].set(0)
        for name, mean in measure(variables, part).items():
            sums[name] = sums.get(name, Mean(0.0, 0.0)) + mean
    got = task.derive({name: float(mean.value) for name, mean in sums.items()})
    logits = np.asarray(jax.jit(task.outputs)(variables, batch), np.float64)
    said = 1 / (1 + np.exp(-logits)) >= 0.3
    np.testing.assert_array_equal(task.decide(logits), said)
    pairs = [(said[:, k], y[:, k] > 0) for k in range(5)]

    def score(said, true):
        hits = (said & true).sum()
        precision, recall = hits / max(said.sum(), 1), hits / max(true.sum(), 1)
        return 2 * precision * recall / (precision + recall) if hits else 0.0

    assert got["macro_f1"] == pytest.approx(np.mean([score(*pair) for pair in pairs]), abs=1e-5)
    assert got["micro_f1"] == pytest.approx(score(said.ravel(), y.ravel() > 0), abs=1e-5)
    assert got["accuracy"] == pytest.approx((said == y).all(1).mean(), abs=1e-5)
    assert got["label_accuracy"] == pytest.approx((said == y).mean(), abs=1e-5)
    p = 1 / (1 + np.exp(-logits))
    assert got["loss"] == pytest.approx(-np.where(y > 0, np.log(p), np.log(1 - p)).mean(), rel=1e-4)
    assert set(got) == {"loss", "accuracy", "label_accuracy", "micro_f1", "macro_f1"}


def test_several_labels_are_learned_and_shown(experiment, one_device):
    x, y = labelled(400, 4)
    dataset = from_arrays(x, y[:, :4], name="many", class_names=("a", "b", "c", "d"))
    assert dataset.card.target_kind == "labels"
    run = replace(experiment, task=Supervised(model=MLP(widths=(16,))), steps=400, batch_size=32)
    parts = assemble(run, dataset, mesh=one_device)
    assert isinstance(parts.task, MultiLabel)
    with jax.set_mesh(one_device):
        state = fit(parts.program, parts.fresh_state(), start=0, stop=400)
        values = parts.evaluator.metrics(state.variables)
        outputs = parts.predictor(state.variables, dataset.test)
    assert values["micro_f1"] > 0.85
    table = parts.task.exhibits(outputs, dataset.test, dataset.card)[0]
    assert [row[0] for row in table.rows] == ["a", "b", "c", "d"]
    assert sum(int(row[1]) for row in table.rows) == dataset.test["targets"].sum()


def test_a_positive_weight_counts_in_training_alone():
    x, y = labelled()
    batch = {"inputs": jnp.asarray(x), "targets": jnp.asarray(y), "mask": jnp.ones(90)}
    plain, weighted = (MultiLabel(model=MLP(widths=(), outputs=5), positive_weight=w) for w in (1.0, 3.0))
    variables = jax.jit(plain.init)(jax.random.key(0), batch)
    losses = [
        [
            float(jax.jit(task.loss, static_argnums=3)(variables, batch, jax.random.key(0), train)[0].value)
            for task in (plain, weighted)
        ]
        for train in (True, False)
    ]
    assert losses[0][1] > losses[0][0]
    assert losses[1][0] == losses[1][1] == float(jax.jit(weighted.metrics)(variables, batch)["loss"].value)


def test_tasks_refuse_targets_of_another_kind(experiment, blobs, one_device):
    x, y = labelled()
    many, series = from_arrays(x, y).card, Series("sunspots").open().card
    with pytest.raises(DataError, match="several labels for each example, 0 or 1 each; use MultiLabel"):
        Classification(model=MLP()).bind(many)
    with pytest.raises(DataError, match="use MultiLabel"):
        Regression(model=MLP()).bind(many)
    with pytest.raises(DataError, match=r"needs targets \[examples, labels\].*one label for each example; use Class"):
        MultiLabel(model=MLP()).bind(blobs.card)
    with pytest.raises(DataError, match="use Forecasting"):
        Regression(model=MLP()).bind(series)
    with pytest.raises(DataError, match="needs windows of a series.*use Classification"):
        Forecasting(model=MLP()).bind(blobs.card)
    with pytest.raises(DataError, match="outputs=3.*has 5 labels; set outputs=5"):
        MultiLabel(model=MLP(outputs=3)).bind(many)
    sequences = from_arrays(np.zeros((90, 6, 2), np.float32), y)
    run = replace(experiment, task=MultiLabel(model=RNN(answer="every")))
    with pytest.raises(DataError, match=r"gives outputs of shape \(24, 6, 5\)"):
        assemble(run, sequences, mesh=one_device)
    for make, message in (
        (lambda: MultiLabel(model=MLP(), threshold=1.0), "in \\(0, 1\\), got 1.0"),
        (lambda: MultiLabel(model=MLP(), positive_weight=0.0), "above 0, got 0.0"),
        (lambda: Forecasting(model=MLP(), season=0), "at least 1 step, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_labels_may_come_in_any_dtype_but_hold_0_and_1_alone(dtype):
    x, y = labelled()
    data = from_arrays(x, y.astype(dtype))
    assert data.train["targets"].dtype == np.uint8
    assert data.card.class_names == ("0", "1", "2", "3", "4")
    assert data.card.target_shape == (5,)
    if dtype is not bool:
        wrong = y.astype(dtype)
        wrong[7, 2] = 3
        with pytest.raises(DataError, match="each 0 or 1, but the test target at .* is 3"):
            from_arrays(x, y, test=(x, wrong))
    with pytest.raises(DataError, match="make them equal"):
        from_arrays(x, y[:, 0], test=(x, y))
    assert from_arrays(x, y[:, :1].astype(int)).card.target_kind == "class"  # a column is one label for each
    with pytest.raises(DataError, match=r"shape \(72, 5\), expected \[examples, 2\]"):
        from_arrays(x, y, class_names=("a", "b"))


def test_overlaid_digits_show_the_digits_they_are_labelled_with():
    data = OverlaidDigits(least=1, most=3, size=11, train=300, test=40, seed=2).open()
    x, y = data.train["inputs"], data.train["targets"]
    assert x.shape == (300, 11, 11, 1)
    assert y.shape == (300, 10)
    assert x.dtype == y.dtype == np.uint8
    assert set(y.sum(1)) == {1, 2, 3}
    assert x.max() == 16
    alone = OverlaidDigits(most=1, size=8, train=500, test=5).open()
    digits = jaxnets.load("digits")
    assert (alone.train["targets"].sum(1) == 1).all()
    known = {
        image.tobytes(): label for image, label in zip(digits.train["inputs"], digits.train["targets"], strict=True)
    }
    for image, label in zip(alone.train["inputs"], alone.train["targets"].argmax(1), strict=True):
        assert known[image.tobytes()] == label
    # The test split's handwriting is in no training image.
    assert not any(image.tobytes() in known for image in alone.test["inputs"])
    with pytest.raises(DataError, match="least=3, most=2"):
        OverlaidDigits(least=3).open()
    with pytest.raises(DataError, match="size is at least 8, got 7"):
        OverlaidDigits(size=7).open()
    batch = {"inputs": data.prepare(jnp.asarray(x[:4])), "targets": jnp.asarray(y[:4]), "mask": jnp.ones(4)}
    task = MultiLabel(model=CNN(features=(4,), dense=())).bind(data.card)
    outputs = np.array(jax.jit(task.outputs)(jax.jit(task.init)(jax.random.key(0), batch), batch))
    gallery = task.exhibits(outputs, {"inputs": x[:4], "targets": y[:4]}, data.card)[1]
    assert len(gallery.images) == len(gallery.captions) > 0


@pytest.fixture
def counting(tmp_path):
    """A series that tells its rows: row i holds i and -10 i."""
    lines = ["time,up,down"] + [f"2020-{i},{i},{-10 * i}" for i in range(100)]
    (tmp_path / "counting.csv").write_text("\n".join(lines))
    return str(tmp_path / "counting.csv")


@pytest.mark.parametrize("parts", [(0.6, 0.1, 0.3), (60, 10, 30)])
def test_no_test_window_overlaps_the_training_targets(counting, parts):
    source = Series(counting, columns=("up", "down"), history=7, horizon=3, parts=parts)
    data = source.open()
    for split, (first, last), (low, high) in (("train", (0, 60), (7, 59)), ("test", (63, 100), (70, 99))):
        x, y = data.train if split == "train" else data.test, None
        x, y = x["inputs"][..., 0], x["targets"][..., 0]
        # A window is consecutive rows, and the targets follow the history at once.
        rows = np.concatenate([x, y], axis=1)
        np.testing.assert_array_equal(np.diff(rows, axis=1), 1)
        assert (y.min(), y.max()) == (low, high)
        assert x.min() == first
        assert rows.max() < last
        # Every row is a target of the part, each as often as windows reach it.
        assert set(y.ravel()) == set(range(low, high + 1))
    # No test target is a row that training has seen, in its histories or its targets.
    trained = set(data.train["inputs"][..., 0].ravel()) | set(data.train["targets"][..., 0].ravel())
    assert not trained & set(data.test["targets"][..., 0].ravel())
    np.testing.assert_allclose(data.prepare.mean, [29.5, -295.0])
    np.testing.assert_allclose(data.prepare.std, [np.arange(60).std(), 10 * np.arange(60).std()])
    assert (data.card.target_means, data.card.target_deviations) == (data.prepare.mean, data.prepare.std)
    check = replace(source, measure="validation").open()
    assert set(check.test["targets"][..., 0].ravel()) == set(range(60, 70))
    assert not trained & set(check.test["targets"][..., 0].ravel())


def test_errors_about_a_series_name_the_fault(counting, tmp_path):
    (tmp_path / "gaps.csv").write_text("t,a,b\nx,1,2\ny,,3\nz,4,u\n")
    for source, message in (
        (Series(counting), "name the columns to predict in columns; there are time, up, down"),
        (Series(counting, columns=("upp",)), "no column 'upp'. Did you mean 'up'"),
        (Series(counting, columns=("time",)), "has text, e.g. '2020-0'"),
        (Series(str(tmp_path / "gaps.csv"), columns=("a",)), "empty or infinite in 1 rows, the first is row 2"),
        (Series("sunspot"), "no file 'sunspot'. Did you mean 'sunspots'"),
        (Series(counting, columns=("up",), horizon=0), "horizon is at least 1, got 0"),
        (Series(counting, columns=("up",), history=60), "rows 0 to 70 hold no window"),
        (Series(counting, columns=("up",), parts=(0.9, 0.2, 0.2)), "three shares that add up to 1"),
        (Series(counting, columns=("up",), parts=(0.7, 0.2, 0.2)), "three shares that add up to 1"),
        (Series(counting, columns=("up",), parts=(90, 20, 20)), "add up to 100 at most"),
        (Series(counting, columns=("up",), parts=(0.5, 20, 20)), "three shares"),
    ):
        with pytest.raises(DataError, match=message):
            source.open()


def test_the_bundled_series_match_their_descriptions():
    air = Series("airline_passengers").open()
    assert air.train["inputs"].shape[1:] == (24, 1)
    assert air.train["inputs"][0, :3, 0].tolist() == [112, 118, 132]
    assert air.test["targets"][-1, -1, 0] == 432
    assert jaxnets.load("sunspots").train["inputs"][0, 0, 0] == 5


@pytest.mark.parametrize("season", [1, 3])
@pytest.mark.parametrize("from_last", [False, True])
def test_forecasts_are_measured_by_their_definitions_in_both_units(counting, season, from_last):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 5, 2)), rng.normal(size=(6, 4, 2)) * [2, 30] + [1, -7]
    means, stds = (1.0, -7.0), (2.0, 30.0)
    model = MLP(widths=(), outputs=8)
    task = Forecasting(model=model, season=season, from_last=from_last, means=means, stds=stds)
    batch = {"inputs": jnp.asarray(x, jnp.float32), "targets": jnp.asarray(task.encode_targets(y))}
    batch["mask"] = jnp.array([1.0] * 5 + [0.0])
    variables = jax.jit(task.init)(jax.random.key(0), batch)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"]["output"])
    level = x[:, -1:] if from_last else 0
    said = ((x - level).reshape(6, -1) @ p["kernel"] + p["bias"]).reshape(6, 4, 2) + level
    np.testing.assert_allclose(task.outputs(variables, batch), said, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(task.decide(said), said * stds + means, rtol=1e-5)
    true = (y - means) / stds
    naive = np.stack([x[:, 5 - season + k % season] for k in range(4)], axis=1)
    wanted = {
        "loss": ((said - true) ** 2)[:5].mean(),
        "mse": ((said - true) ** 2)[:5].mean(),
        "mae": np.abs(said - true)[:5].mean(),
        "unit_mse": ((said * stds + means - y) ** 2)[:5].mean(),
        "unit_mae": np.abs(said * stds + means - y)[:5].mean(),
        "last_mse": ((x[:, -1:] - true) ** 2)[:5].mean(),
        "season_mse": ((naive - true) ** 2)[:5].mean(),
    }
    wanted["gain"] = min(wanted["season_mse"], wanted["last_mse"]) / wanted["mse"]
    got = task.derive({name: float(mean.value) for name, mean in jax.jit(task.metrics)(variables, batch).items()})
    assert got == pytest.approx(wanted, rel=1e-4)
    loss, aux = jax.jit(task.loss, static_argnames="train")(variables, batch, jax.random.key(0), train=True)
    assert float(loss.value) == pytest.approx(wanted["mse"], rel=1e-4)
    assert float(aux.metrics["mse"].value) == pytest.approx(wanted["mse"], rel=1e-4)
    shown = task.exhibits(said, {"inputs": x, "targets": y}, Series(counting, ("up",)).open().card)[0]
    assert isinstance(shown, Lines)
    np.testing.assert_allclose(shown.curves[-1, 2, 5:], (said * stds + means)[-1, :, -1], rtol=1e-5)
    assert len(plots.lines(shown).axes) == 6


@pytest.mark.parametrize("model", [RNN(cell="gru", widths=(8,)), MLP(widths=(16,))])
def test_a_series_is_predicted_better_than_by_repeating_it(experiment, one_device, model, tmp_path):
    t = np.arange(400)
    wave = np.sin(2 * np.pi * t / 12) + 0.5 * np.sin(2 * np.pi * t / 7) + 0.02 * t
    (tmp_path / "wave.csv").write_text("a,b\n" + "\n".join(f"{v},{2 * v + 3}" for v in wave))
    data = Series(str(tmp_path / "wave.csv"), columns=("a", "b"), history=24, horizon=6).open()
    run = replace(experiment, task=Forecasting(model=model, season=12), steps=300, batch_size=32)
    parts = assemble(run, data, mesh=one_device)
    assert parts.task.model.outputs == 12
    with jax.set_mesh(one_device):
        state = fit(parts.program, parts.fresh_state(), start=0, stop=300)
        values = parts.evaluator.metrics(state.variables)
    # The level of the test part lies outside that of the training part.
    assert values["gain"] > 2


def test_a_forecaster_refuses_unsupported_data(experiment, one_device):
    data = Series("airline_passengers", history=10).open()
    with pytest.raises(DataError, match="season=12.*have 10 steps.*data.history to 12"):
        Forecasting(model=MLP(), season=12).bind(data.card)
    with pytest.raises(DataError, match="outputs=5.*12 steps ahead of 1 channels; set outputs=12"):
        Forecasting(model=MLP(outputs=5)).bind(data.card)
    with pytest.raises(DataError, match=r"Forecasting.means is \(0.0,\), but 'airline_passengers' is standardised by"):
        Forecasting(model=MLP(), season=1, means=(0.0,)).bind(data.card)
    run = replace(experiment, task=Forecasting(model=RNN(answer="every")))
    with pytest.raises(DataError, match="for an RNN set its answer to `last`"):
        assemble(run, data, mesh=one_device)


def test_in_bfloat16_a_small_change_of_a_large_value_is_not_rounded_away():
    x = 500 + np.linspace(0, 0.3, 40).reshape(4, 10, 1)  # bfloat16 knows 500 and 502, and nothing between
    batch = {"inputs": jnp.asarray(x, jnp.float32), "targets": jnp.zeros((4, 3, 1)), "mask": jnp.ones(4)}
    low, task = Precision("bfloat16"), Forecasting(model=MLP(widths=(), outputs=3), means=(0.0,), stds=(1.0,))
    variables = jax.jit(task.init)(jax.random.key(0), batch)
    given = low.batch(batch)
    assert task.inputs_of(given).dtype == jnp.bfloat16
    said = task.outputs({"params": low.params(variables["params"])}, given)
    # A move of .1 in three digits: half a thousandth.
    np.testing.assert_allclose(said, task.outputs(variables, batch), atol=2e-3)
    want = task.metrics(variables, batch)["last_mse"]
    np.testing.assert_array_equal(task.metrics(variables, given)["last_mse"].sum, want.sum)


@pytest.mark.slow
def test_a_report_draws_the_forecasts(experiment, tmp_path):
    data = Series("sunspots").open()
    assert isinstance(data, Dataset)
    run = jaxnets.fit(
        Forecasting(model=MLP(widths=(4,))), data, steps=3, batch_size=16, run_dir=tmp_path / "run", progress="none"
    )
    assert run.predict(data.test["inputs"][:5]).shape == (5, 12, 1)
    assert (tmp_path / "run" / "plots" / "forecasts.png").stat().st_size > 5000
