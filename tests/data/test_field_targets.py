"""Targets mean what they say: classes keep their identity, missing labels are no class, real numbers keep their digits."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnets
from jaxnets.core.errors import DataError, DataWarning
from jaxnets.data import from_arrays, from_graphs
from jaxnets.data.targets import encode_targets
from jaxnets.models import MLP
from jaxnets.tasks import MultiLabel, Regression

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))


def classes(y, **options):
    data = from_arrays(X[: len(y)], y, test=(X[: len(y)], y), **options)
    return data.class_names, data.train["targets"].tolist()


@pytest.mark.parametrize(
    ("y", "names"),
    [
        (np.array([b"cat", b"dog"])[np.arange(60) % 2], ("cat", "dog")),
        (np.array(["10", "9", "x1"])[np.arange(60) % 3], ("9", "10", "x1")),
        (np.array(["007", "7", "7.0"])[np.arange(60) % 3], ("007", "7", "7.0")),
        (np.array(["1000000000000000001", "1000000000000000002"])[np.arange(60) % 2], None),
        (np.array(["ä", "z", "a"])[np.arange(60) % 3], ("a", "z", "ä")),
        ((np.arange(60) % 3)[:, None], ("0", "1", "2")),
        (np.arange(60) % 2 == 1, ("0", "1")),
        ((np.arange(60) % 3).astype(">i8"), ("0", "1", "2")),
        ((np.arange(60) % 3).astype(object), ("0", "1", "2")),
        ((np.arange(60) % 3).tolist(), ("0", "1", "2")),
    ],
)
def test_classes_keep_their_names_and_their_number(y, names):
    found, encoded = classes(y)
    flat = [
        v.decode() if isinstance(v, bytes) else str(int(v)) if not isinstance(v, str) else v
        for v in np.ravel(np.array(y, object))
    ]
    assert [found[i] for i in encoded] == flat
    assert names is None or found == names


@pytest.mark.filterwarnings("ignore::jaxnets.core.errors.DataWarning")
def test_the_order_of_classes_does_not_depend_on_the_process():
    code = (
        "import numpy as np; from jaxnets.data.targets import natural_order; "
        "print(sorted({'nan', 'NaN', 'inf', '10', '2', '1_0', '-3', 'x', '٣', '1e5', 'infinity'}, key=natural_order))"
    )
    orders = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True
        ).stdout
        for seed in "123"
    }
    assert orders == {"['-3', '2', '10', '1_0', '1e5', 'NaN', 'inf', 'infinity', 'nan', 'x', '٣']\n"}


@pytest.mark.parametrize("missing", [None, np.nan, float("nan")])
def test_a_missing_label_is_refused_with_its_place(missing):
    for words in (["ham", "spam", missing], [b"ham", missing, b"spam"]):
        with pytest.raises(DataError, match=r"20 of 60 are missing .*leave those rows out"):
            from_arrays(X, np.array(words * 20, object))
        with pytest.raises(DataError, match="are missing"):
            from_arrays(X, list(words * 20))  # numpy would write "nan" for it
    with pytest.raises(DataError, match="NaN"):
        from_arrays(X, np.array([0, 1, missing] * 20, object))
    with pytest.raises(DataError, match="masked"):
        from_arrays(X, np.ma.masked_equal(np.arange(60) % 3, 2))


def test_targets_that_may_not_be_classes_are_noted():
    for labels, message in (
        (["nan", "roti"], "'nan' is taken as a class"),
        (["", "a"], "'' is taken as a class"),
        (["cat", "cat ", "dog"], "'cat' and 'cat ' are different classes"),
        (["Cat", "cat"], "'Cat' and 'cat' are different"),
        (["e\u0301", "\u00e9"], "are different classes"),
    ):
        with pytest.warns(DataWarning, match=message):
            from_arrays(X, np.array(labels * 60)[:60])
    with pytest.warns(DataWarning, match="run from 0 to 9, and 8 of these classes have no training example"):
        from_arrays(X, np.array([0, 9] * 30))
    with pytest.warns(DataWarning, match="1 classes are in the test and not in the training data .'c'"):
        from_arrays(X, np.array(["a", "b"] * 30), test=(X[:3], np.array(["a", "b", "c"])))
    with pytest.warns(DataWarning, match="floats with 3 distinct whole values and are treated as numbers"):
        from_arrays(X, (np.arange(60) % 3).astype(float))
    with pytest.raises(
        DataError, match="60 different labels for 60 examples are too many for classes.*astype\\(float\\)"
    ):
        from_arrays(X, RNG.normal(size=60).astype(str))


def test_kind_decides_about_targets_with_ambiguous_dtypes():
    whole = (np.arange(60) % 3).astype(float)
    assert classes(whole, kind="class")[0] == ("0", "1", "2")
    assert from_arrays(X, np.arange(60) % 3, kind="number").card.target_kind == "number"
    with pytest.raises(DataError, match="not a whole number"):
        from_arrays(X, whole + 0.5, kind="class")
    with pytest.raises(DataError, match="the targets are text"):
        from_arrays(X, whole.astype(str), kind="number")
    with pytest.raises(DataError, match="kind='labels' needs"):
        from_arrays(X, whole, kind="labels")
    with pytest.raises(DataError, match="class_names are given, but the targets are real numbers"):
        from_arrays(X, whole + 0.5, class_names=("a", "b"))


@pytest.mark.parametrize("dtype", [float, int, bool, np.float16])
def test_one_hot_rows_are_classes_that_exclude_each_other(dtype):
    y = np.eye(4)[np.arange(60) % 4].astype(dtype)
    with pytest.warns(DataWarning, match="single 1, so they are taken as one-hot: one of 4 classes.*kind='labels'"):
        data = from_arrays(X, y, test=(X, y), class_names=("a", "b", "c", "d"))
    assert data.card.target_kind == "class"
    assert data.train["targets"].tolist() == (np.arange(60) % 4).tolist()
    assert from_arrays(X, y, kind="labels").card.target_kind == "labels"
    with pytest.raises(DataError, match="single 1 in each row; the targets .48, 2. are not one-hot"):
        from_arrays(X, np.ones((60, 2)), kind="class")


def test_several_real_targets_are_learned_and_measured_each_in_its_unit():
    y = np.stack([3 * X[:, 0] + 20, 1e9 + 30 * X[:, 1]], axis=1)
    run = jaxnets.fit(
        MLP(widths=()),
        (X, y),
        test=(X, y),
        steps=300,
        progress="none",
        optimizer=jaxnets.optim.Adam(learning_rate=0.05),
    )
    said = run.predict(X)
    assert said.shape == (60, 2)
    values, residual = run.evaluate(), said - y
    r2 = 1 - (residual**2).sum(0) / ((y - y.mean(0)) ** 2).sum(0)
    assert values["r2"] == pytest.approx(r2.mean(), abs=1e-4)
    assert values["mse"] == pytest.approx((residual**2).mean(), rel=2e-2, abs=1e-6)
    assert values["rmse"] == pytest.approx(np.sqrt((residual**2).mean(0)).mean(), rel=2e-2, abs=1e-4)
    assert values["mae"] == pytest.approx(np.abs(residual).mean(), rel=2e-2, abs=1e-4)
    assert values["r2"] > 0.99


def test_one_target_of_several_that_never_varies_is_refused():
    with pytest.raises(DataError, match="targets number 1 of 'arrays' have standard deviation 0"):
        jaxnets.fit(MLP(), (X, np.stack([X[:, 0], np.full(60, 0.1)], axis=1)), steps=1, progress="none")


def test_a_target_with_a_large_mean_keeps_its_digits_in_predictions():
    y = 1_760_000_000 + 30 * X[:, 0]
    run = jaxnets.fit(
        MLP(widths=()),
        (X, y),
        test=(X, y),
        steps=300,
        progress="none",
        optimizer=jaxnets.optim.Adam(learning_rate=0.05),
    )
    said = run.predict(X)
    assert said.dtype == np.float64  # steps of 128 seconds would be all that 32 bits know
    assert np.abs(said - y).max() < 1
    assert run.evaluate()["mae"] == pytest.approx(np.abs(said - y).mean(), abs=1e-3)


@pytest.mark.parametrize(
    ("targets", "weights", "r2"),
    [
        ([20.7] * 10, None, np.nan),
        ([20.7], None, np.nan),
        ([0.1 + 0.2, 0.3], None, np.nan),
        ([1e9, 1e9 + 1], None, -3.0),
        ([1.0, 2.0, 3.0], [1, 0, 1], None),
        ([1.0, 2.0, 3.0], [0, 1, 0], np.nan),
    ],
)
def test_r2_equals_its_definition_or_is_undefined(targets, weights, r2):
    task = Regression(model=MLP(widths=(), outputs=1), target_mean=0.0, target_std=1.0)
    targets, weights = np.array(targets), np.ones(len(targets)) if weights is None else np.array(weights, float)
    about = task.about_split({"targets": targets, "weights": weights})
    mean = np.average(targets, weights=weights)
    squared = np.average((targets - mean) ** 2, weights=weights) * 4
    got = task.derive({"loss": 0.0, "squared_0": squared, "absolute_0": 0.0, **about})["r2"]
    expected = -3.0 if r2 is None else r2  # four times the variance
    assert got == pytest.approx(expected, nan_ok=True)


def test_an_unknown_label_does_not_count():
    y = (RNG.random((60, 4)) > 0.5).astype(float)
    y[RNG.random((60, 4)) < 0.3] = np.nan
    y[0] = np.nan
    data = from_arrays(X, y, test=(X, y))
    task = MultiLabel(model=MLP(widths=())).bind(data.card)
    batch = {"inputs": jnp.asarray(X, jnp.float32), "targets": jnp.asarray(data.train["targets"]), "mask": jnp.ones(60)}
    variables = task.init(jax.random.key(0), batch)
    logits = np.asarray(task.outputs(variables, batch), np.float64)
    got = task.derive({k: float(v.value) for k, v in task.metrics(variables, batch).items()})
    known = ~np.isnan(y)
    losses = np.where(y == 1, np.logaddexp(0, -logits), np.logaddexp(0, logits))
    assert got["loss"] == pytest.approx(losses[known].mean(), rel=1e-5)
    assert got["label_accuracy"] == pytest.approx(((logits >= 0) == (y == 1))[known].mean(), rel=1e-5)
    right = (((logits >= 0) == (y == 1)) | ~known).all(axis=1)[known.any(axis=1)]
    assert got["accuracy"] == pytest.approx(right.mean(), rel=1e-5)
    hits, alarms = ((logits >= 0) & (y == 1)).sum(), ((logits >= 0) & (y == 0)).sum()
    misses = ((logits < 0) & (y == 1)).sum()
    assert got["micro_f1"] == pytest.approx(2 * hits / (2 * hits + alarms + misses), rel=1e-5)


def test_targets_of_whole_graphs_are_read_by_the_same_rules():
    graphs = [(np.eye(3), [[0, 1]])] * 20
    assert from_graphs(graphs, np.array([b"ring", b"line"] * 10)).class_names == ("line", "ring")
    several = RNG.integers(0, 2, (20, 3))
    assert from_graphs(graphs, several).card.target_kind == "labels"
    with pytest.raises(DataError, match="are missing"):
        from_graphs(graphs, np.array(["a", None] * 10, object))


def test_targets_of_two_splits_have_one_kind():
    assert encode_targets("d", np.arange(6.0), np.arange(2.0)).kind == "number"
    for y, y_test, message in (
        (np.arange(6) % 2, np.array([0.5]), "integers, the test targets real numbers"),
        (np.arange(6) % 2, np.array(["a"]), "integers, the test targets text"),
        (np.eye(2), np.array([0, 1]), "make them equal"),
        (np.array([[0, 1], [1, 1]]), np.array([[0.0, 0.5]]), "each 0 or 1, but the test target"),
        (np.zeros((4, 2, 2)), np.zeros((4, 2, 2)), r"shape \(4, 2, 2\); give \[examples\]"),
    ):
        with pytest.raises(DataError, match=message):
            encode_targets("d", y, y_test)
