"""Whatever road examples come by, a model sees the same numbers: predictions of the rows that were evaluated give the evaluation.

Sources: arrays of every number format, images, tables, series, texts, graphs. Roads: arrays in memory, files, a data frame, the
command line, a reopened run, data kept on the host instead of the device.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jaxnets
from jaxnets.core.errors import DataWarning
from jaxnets.core.types import Tokens
from jaxnets.data import Dataset, Series, Tabular, from_arrays, from_graphs
from jaxnets.data.dataset import TokenIds
from jaxnets.data.text.vocabulary import encode_texts
from jaxnets.ops.tokens import SPECIAL
from jaxnets.runs.open import open_run

pytestmark = pytest.mark.filterwarnings("ignore::jaxnets.core.errors.DataWarning")
FORMATS = [
    "float64", "float32", "float16", "longdouble", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool",
    ">f8", ">f4", ">i4", "object",
]  # fmt: skip
N = 24


def levels(rng, dtype, level):
    """Numbers `[N, 3]` in a format, as far from 0 as it allows and as their spread asks for."""
    kind = np.dtype(dtype).newbyteorder("=") if dtype != "object" else np.dtype(float)
    if kind.kind == "b":
        return rng.random((N, 3)) > 0.5
    spread = rng.normal(size=(N, 3)) * [1, 7, 50]
    if kind.kind in "iu":
        bounds = np.iinfo(kind)
        low, high = max(bounds.min // 2, -(2**40)), min(bounds.max // 2, 2**62)
        centre = int(np.clip(level, low, high))
        whole = np.rint(spread).astype(np.int64)
        return np.clip(whole, bounds.min // 2, bounds.max // 2).astype(kind) + kind.type(
            max(centre, 60 if kind.kind == "u" else low)
        )
    return (spread + min(level, {2: 300.0, 4: 1e5}.get(kind.itemsize, 1e12))).astype(dtype)


def targets(rng, kind):
    half = rng.permutation(N) < N // 2
    if kind == "class":
        return half.astype(int)
    if kind == "words":
        return np.where(half, "yes", "no")
    if kind == "number":
        return 1e9 + 30 * rng.normal(size=N)
    if kind == "numbers":
        return rng.normal(size=(N, 2)) * [1, 40] + [0, 1e7]
    return (rng.random((N, 3)) > 0.4).astype(float)  # labels


def measured(run, outputs, y):
    """The headline of the evaluation, from outputs and raw targets, by its definition."""
    task, said = run.parts.task, run.parts.task.decide(outputs)
    if task.headline == "accuracy":
        names = run.parts.dataset.class_names
        labels = [names.index(v) for v in y.tolist()] if y.dtype.kind == "U" else y
        return {"accuracy": float((said == labels).mean())}
    if task.headline == "micro_f1":
        return {"label_accuracy": float((said == y).mean())}
    residual = (np.asarray(said, float) - y).reshape(len(y), -1)
    return {"mse": float((residual**2).mean()), "mae": float(np.abs(residual).mean())}


def check(run, raw, y, folder, *, command_line=False):
    """All roads give the same bits, and the numbers of the evaluation."""
    here = run.outputs(raw)
    for name, value in measured(run, here, y).items():
        # The evaluation adds up in 32 bits on the device.
        assert run.evaluate()[name] == pytest.approx(value, rel=3e-4, abs=1e-6), name
    again = open_run(folder)
    np.testing.assert_array_equal(again.outputs(raw), here)
    arrays = raw if isinstance(raw, dict) else {"inputs": raw}
    file = Path(folder) / "given.npz"
    if all(np.asarray(a).dtype != object for a in arrays.values()):
        np.savez(file, **{k: np.asarray(a) for k, a in arrays.items()})
        np.testing.assert_array_equal(again.outputs(file), here)
        if command_line:
            out = Path(folder) / "said.npz"
            words = [sys.executable, "-m", "jaxnets", "predict", str(folder), str(file), "--raw", "--output", str(out)]
            subprocess.run(words, check=True, capture_output=True)
            np.testing.assert_array_equal(np.load(out)["predictions"], here)


def train(data, folder, model=None, **options):
    model = model or jaxnets.models.MLP(widths=(4,))
    options = {"steps": 3, "batch_size": 8, "progress": "none", "run_dir": folder, "log_every": 3} | options
    return jaxnets.fit(model, data, **options)


def try_arrays(dtype, kind, level, standardize, placement, seed, command_line=False):
    rng = np.random.default_rng(seed)
    x = levels(rng, dtype, level)
    y = targets(rng, kind)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "run"
        data = from_arrays(x, y, test=(x, y), standardize=standardize, kind="labels" if kind == "labels" else "auto")
        run = train(data, place, placement=placement)
        check(run, x, y, place, command_line=command_line)


@pytest.mark.parametrize(
    ("dtype", "kind", "placement"),
    [
        ("float64", "class", "device"),
        pytest.param("uint8", "words", "host", marks=pytest.mark.slow),
        pytest.param("int64", "number", "device", marks=pytest.mark.slow),
        pytest.param(">f4", "numbers", "host", marks=pytest.mark.slow),
        ("object", "labels", "device"),
    ],
)
def test_arrays_are_predicted_alike_in_every_way(dtype, kind, placement):
    try_arrays(dtype, kind, 1.76e9, True, placement, 0)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    dtype=st.sampled_from(FORMATS),
    kind=st.sampled_from(["class", "words", "number", "numbers", "labels"]),
    level=st.sampled_from([0.0, -50.0, 1e3, 1e6, 1.76e9, 1.76e18]),
    standardize=st.booleans(),
    placement=st.sampled_from(["device", "host"]),
    seed=st.integers(0, 2**31),
)
def test_arrays_of_any_format_are_predicted_alike_in_every_way(dtype, kind, level, standardize, placement, seed):
    # Without a scale, numbers of a high level overflow a network's layers or lose their digits, which is another test's matter.
    try_arrays(dtype, kind, level if standardize else 0.0, standardize, placement, seed)


@pytest.mark.slow
def test_arrays_are_predicted_alike_by_the_command_line():
    for dtype, kind in (("float64", "number"), ("uint8", "class"), ("int32", "labels")):
        try_arrays(dtype, kind, 1.76e9, True, "device", 1, command_line=True)


@pytest.mark.slow
def test_images_are_predicted_alike_in_every_way(tmp_path):
    rng = np.random.default_rng(0)
    for x in (rng.integers(0, 256, (N, 6, 6, 3)).astype(np.uint8), rng.random((N, 6, 6, 1))):
        y = np.arange(N) % 3
        place = tmp_path / x.dtype.name
        run = train(from_arrays(x, y, test=(x, y)), place)
        check(run, x, y, place)
        # The same whole numbers in another format are the same pixels.
        if x.dtype == np.uint8:
            np.testing.assert_array_equal(run.outputs(x.astype(float)), run.outputs(x))
            np.testing.assert_array_equal(run.outputs(x.astype(">i8")), run.outputs(x))


def test_rows_of_a_table_are_predicted_alike_from_file_frame_and_array(tmp_path):
    rng = np.random.default_rng(0)
    rows = [(f"{rng.normal(5e5, 3):.3f}", "ab"[i % 2] if i % 7 else "", f"{10 * i},5") for i in range(40)]
    text = "size;kind;price\n" + "\n".join(f"{a.replace('.', ',')};{b};{c}" for a, b, c in rows)
    (tmp_path / "homes.csv").write_text(text)
    source = Tabular(path=str(tmp_path / "homes.csv"), target="price", kind="number")
    data = source.open()
    run = train(data, tmp_path / "run")
    by_file = run.outputs(tmp_path / "homes.csv")
    frame = {"kind": [b for _, b, _ in rows], "size": [float(a) for a, _, _ in rows]}  # another order, numbers as such
    np.testing.assert_array_equal(run.outputs(frame), by_file)
    again = open_run(tmp_path / "run", dataset=data)
    np.testing.assert_array_equal(again.outputs(tmp_path / "homes.csv"), by_file)
    # The test rows as the data set holds them are among those of the file.
    tested = run.outputs(data.test["inputs"])
    assert {row.tobytes() for row in tested} <= {row.tobytes() for row in by_file}
    residual = run.parts.task.decide(tested) - data.test["targets"]
    assert run.evaluate()["mae"] == pytest.approx(np.abs(residual).mean(), rel=1e-4)


@pytest.mark.slow
def test_a_series_of_a_high_level_is_predicted_alike_in_every_way(tmp_path):
    t = np.arange(160)
    (tmp_path / "s.csv").write_text("v\n" + "\n".join(f"{1.76e9 + 3 * np.sin(t0 / 5):.6f}" for t0 in t))
    data = Series(str(tmp_path / "s.csv"), columns=("v",), history=12, horizon=3, parts=(0.7, 0.0, 0.3)).open()
    run = train(data, tmp_path / "run", batch_size=32)
    said = run.predict(data.test["inputs"])
    assert run.evaluate()["unit_mae"] == pytest.approx(np.abs(said - data.test["targets"]).mean(), rel=1e-3)
    assert len(np.unique(data.prepare(data.train["inputs"]))) > 60  # in 32 bits the whole series would be one number
    again = open_run(tmp_path / "run", dataset=data)
    np.testing.assert_array_equal(again.predict(data.test["inputs"]), said)


@pytest.mark.slow
def test_texts_are_predicted_alike_in_every_way(tmp_path):
    tokens = Tokens((*SPECIAL, "good", "bad", "Film", "it's"), "words")
    texts = ["good Film", "bad Film", "it's good", "it's bad, bad"] * 6
    split = {"inputs": encode_texts(texts, tokens, 5), "targets": np.arange(N) % 2}
    data = Dataset("films", split, split, ("for", "against"), prepare=TokenIds(), tokens=tokens)
    run = train(data, tmp_path / "run", jaxnets.models.TransformerEncoder(layers=1, width=8, heads=2, length=8))
    here = run.outputs(split["inputs"])
    (tmp_path / "t.txt").write_text("\n".join(texts) + "\n")
    for given_texts in (texts, np.array(texts), tmp_path / "t.txt", split["inputs"].astype(np.int64)):
        np.testing.assert_array_equal(run.outputs(given_texts), here)
    np.testing.assert_array_equal(open_run(tmp_path / "run", dataset=data).outputs(texts), here)
    with pytest.warns(DataWarning, match="1 .*word"):
        run.outputs(["good unheard"])


@pytest.mark.slow
def test_graphs_are_predicted_alike_in_every_way(tmp_path):
    rng = np.random.default_rng(0)
    graphs = [
        (rng.normal(size=(n, 2)) + 1000, np.stack([np.arange(n - 1), np.arange(1, n)], 1)) for n in 3 + np.arange(N) % 5
    ]
    data = from_graphs(graphs, np.arange(N) % 2, holdout=0.5)
    task = jaxnets.tasks.GraphClassification(model=jaxnets.models.GIN(widths=(4,)))
    run = train(data, tmp_path / "run", task)
    arrays = {name: a for name, a in data.test.items() if name != "targets"}
    check(run, arrays, data.test["targets"], tmp_path / "run")


def test_a_run_on_arrays_predicts_without_them_but_refuses_to_evaluate(tmp_path):
    rng = np.random.default_rng(0)
    x = levels(rng, "float64", 1e6)
    run = train(from_arrays(x, np.where(x[:, 0] > 1e6, "b", "a")), tmp_path / "run")
    again = open_run(tmp_path / "run")
    assert again.parts.dataset.class_names == ("a", "b")
    np.testing.assert_array_equal(again.predict(x), run.predict(x))
    with pytest.raises(jaxnets.core.errors.UsageError, match="arrays that only its program held.*open_run"):
        again.evaluate()
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), again.state.params, run.state.params))


def test_examples_far_from_training_and_columns_in_another_order_are_noted(tmp_path):
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(rng.normal(size=(N, 2)) * [1, 30], columns=["small", "large"])
    run = train((frame, np.arange(N) % 2), tmp_path / "run")
    with pytest.warns(DataWarning, match="put in the order of training: small, large"):
        turned = run.outputs(frame[["large", "small"]])
    np.testing.assert_array_equal(turned, run.outputs(frame))
    with pytest.raises(
        jaxnets.core.errors.DataError, match="trained with the columns small, large, and the given frame has other"
    ):
        run.outputs(frame.rename(columns={"large": "other"})[["other", "small"]])
    far = frame.to_numpy().copy()
    far[3, 0] = 1e5
    with pytest.warns(DataWarning, match="1 of 24 examples .* far outside .* feature small"):
        run.outputs(far)
