"""New examples for a trained run: tables, lines of text, graphs and arrays, from files and from Python."""

import dataclasses

import numpy as np
import pytest
from conftest import run_here

import jaxnets
from jaxnets.core.errors import DataError
from jaxnets.core.types import Tokens
from jaxnets.data import Dataset, Rings, Tabular, from_arrays
from jaxnets.data.dataset import TokenIds
from jaxnets.data.given import check_given, read_given
from jaxnets.data.sources.tables import RATIOS
from jaxnets.data.tabular.columns import Column, Columns
from jaxnets.models import CNN, RNN, TransformerEncoder
from jaxnets.ops.tokens import SPECIAL

TABLE = "size,colour,age,price\n" + "".join(
    f"{i % 7},{'red' if i % 2 else 'blue'},{i % 5},{i % 7 * 3}\n" for i in range(60)
)
WORDS = (*SPECIAL, "good", "bad", "film")


@pytest.fixture(scope="module")
def priced(tmp_path_factory):
    """A folder with a table, and a run trained on it."""
    folder = tmp_path_factory.mktemp("priced")
    (folder / "old.csv").write_text(TABLE)
    flags = (
        "--data.path",
        folder / "old.csv",
        "--data.target",
        "price",
        "--data.kind",
        "number",
        "--steps",
        20,
        "--run-dir",
        "run",
    )
    done = run_here("train", "tabular", *flags, "--task.model.widths", 8, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_rows_of_a_table_are_encoded_as_in_training(priced):
    # Columns in another order, one that the training did not have, none for the target, an empty cell, an unseen word.
    (priced / "new.csv").write_text("note,age,size,colour\nx,1,3,red\ny,,0,green\n")
    said = run_here("predict", "run", "new.csv", cwd=priced)
    assert said.returncode == 0, said.stderr
    dataset = Tabular(str(priced / "old.csv"), target="price", kind="number").open()
    inputs = dataset.columns.encode("new", {"age": ["1", ""], "size": ["3", "0"], "colour": ["red", "green"]})
    wanted = jaxnets.open_run(priced / "run").predict(inputs)
    np.testing.assert_allclose([float(line) for line in said.stdout.split()], wanted, rtol=1e-5)
    np.testing.assert_array_equal(inputs[:, 1:3], [[0, 1], [0, 0]])
    # The features of the training rows are the training inputs themselves.
    rows = [line.split(",") for line in TABLE.split("\n")[1:-1]]
    columns = {name: [row[i] for row in rows] for i, name in enumerate(("size", "colour", "age"))}
    every = {tuple(row) for row in dataset.columns.encode("old", columns)}
    assert {tuple(row) for row in dataset.train["inputs"]} <= every


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size,age\n1,2\n", "has no column 'colour', which the model was trained with"),
        ("size,color,age\n1,red,2\n", "no column 'colour'.*Did you mean 'color'"),
        ("size,colour,age\n1,red,2\nbig,red,3\n", "column 'size' holds numbers, but row 2 has 'big'"),
        ("size,colour,age\ninf,red,2\n", "column 'size' is infinite in row 1"),
        ("size,colour,age\n", "a header and at least one row"),
    ],
)
def test_rows_that_do_not_fit_are_refused(priced, text, message):
    (priced / "wrong.csv").write_text(text)
    dataset = Tabular(str(priced / "old.csv"), target="price", kind="number").open()
    with pytest.raises(DataError, match=message):
        read_given(priced / "wrong.csv", dataset.preparation)


def test_ratios_are_computed_for_new_districts_as_well():
    raw = {"total_rooms": ["10"], "total_bedrooms": ["4"], "population": ["6"], "households": ["2"]}
    columns = Columns((Column("rooms_per_household"), Column("population", mean=1.0, std=5.0)), ratios=RATIOS)
    np.testing.assert_array_equal(columns.encode("new", raw), [[5.0, 1.0]])
    with pytest.raises(DataError, match="no column 'households'"):
        columns.encode("new", {name: cells for name, cells in raw.items() if name != "households"})


def opinions():
    inputs = np.array([[4, 6, 0], [5, 6, 0], [4, 0, 0], [5, 5, 6]] * 4, np.uint16)
    split = {"inputs": inputs, "targets": np.array([1, 0, 1, 0] * 4, np.int32)}
    names = {"class_names": ("against", "in favour"), "tokens": Tokens(WORDS, "words")}
    return Dataset(name="opinions", train=split, test=split, prepare=TokenIds(), **names)


@pytest.mark.slow
@pytest.mark.parametrize("model", [RNN(widths=(8,)), TransformerEncoder(layers=1, width=8, heads=2, length=8)])
def test_lines_of_text_are_read_as_in_training(tmp_path, model):
    run = jaxnets.fit(model, opinions(), steps=3, batch_size=8, progress="none")
    (tmp_path / "new.txt").write_text("Good film\nbad, bad film film film\n")
    arrays = read_given(tmp_path / "new.txt", run.parts.dataset.preparation)
    np.testing.assert_array_equal(arrays["inputs"], [[4, 6, 0, 0, 0, 0], [5, 3, 5, 6, 6, 6]])
    # A text is answered alike alone, among longer ones and however much padding follows it.
    alone = run.outputs([[4, 6]])
    for others in (arrays, [[4, 6, 0]], [[4, 6, 0, 0, 0, 0, 0, 0]]):
        np.testing.assert_allclose(run.outputs(others)[:1], alone, atol=1e-6)
    (tmp_path / "gap.txt").write_text("good\n\nbad\n")
    with pytest.raises(DataError, match=r"gap\.txt, line 2: the text is empty"):
        read_given(tmp_path / "gap.txt", run.parts.dataset.preparation)


@pytest.fixture(scope="module")
def rings():
    return Rings(graphs=20).open()


def changed(arrays, name, place, value):
    copy = {key: np.array(array) for key, array in arrays.items() if key != "targets"}
    copy[name][place] = value
    return copy


def test_a_file_of_graphs_is_read_whole(rings, tmp_path):
    np.savez(tmp_path / "new.npz", **rings.test)
    found = check_given(read_given(tmp_path / "new.npz", rings.preparation), rings.preparation, None)
    assert set(found) == {"inputs", "edges", "node_mask", "edge_mask"}
    np.testing.assert_array_equal(found["edges"], rings.test["edges"])
    # What is padding may say anything.
    check_given(changed(found, "edges", ~found["edge_mask"], -5), rings.preparation, None)


@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        ("edges", (0, 1), (99, 0), "1 edges end at nodes that do not exist.*edge 1 of graph 0, joins 99 and 0"),
        ("edges", (2, 0), (0, -1), "edge 0 of graph 2, joins 0 and -1"),
        ("node_mask", 1, False, "edges end at nodes that do not exist.*of graph 1.*has 0 nodes"),
        ("inputs", (0, 0, 0), np.nan, "inputs hold 1 NaN or infinite values"),
    ],
)
def test_impossible_graphs_are_refused(rings, name, place, value, message):
    with pytest.raises(DataError, match=message):
        check_given(changed(rings.test, name, place, value), rings.preparation, None)


def test_a_graph_without_nodes_or_edges_is_refused(rings):
    empty = changed(changed(rings.test, "node_mask", 0, False), "edge_mask", 0, False)
    with pytest.raises(DataError, match="graph 0 has no nodes"):
        check_given(empty, rings.preparation, None)


PIXELS = np.random.default_rng(0).integers(0, 255, (20, 6, 6, 1)).astype(np.uint8)
IMAGES = from_arrays(PIXELS, np.arange(20) % 2, name="stamps")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            PIXELS / 255.0,
            "inputs were uint8 in training, whole numbers from 0 to .* are float64 here, from 0 to .*neither scaled",
        ),
        (np.full((2, 6, 6, 1), "a"), "inputs hold text .dtype <U1.*give real numbers"),
        (np.full((2, 6, 6, 1), 1j), "inputs have dtype complex128"),
        (np.full((2, 6, 6, 1), np.nan), "inputs hold 72 NaN"),
        ([[1], [2, 3]], "inputs cannot become an array"),
        (np.zeros((0, 6, 6, 1)), "at least one example"),
        (np.zeros((6, 6, 1)), "For a single example, add a dim"),
        ({"x": PIXELS}, "needs the array 'inputs'; the dict holds x"),
    ],
)
def test_arrays_that_differ_from_the_training_arrays_are_refused(given, message):
    with pytest.raises(DataError, match=message):
        check_given(given, IMAGES.preparation, None)
    assert check_given(PIXELS.astype(np.float64), IMAGES.preparation, None)["inputs"].shape == (20, 6, 6, 1)


@pytest.mark.parametrize(("token", "kind"), [(7, np.int32), (-1, np.int32), (4.5, np.float32), (4.0, np.float32)])
def test_tokens_without_a_name_are_refused(token, kind):
    with pytest.raises(DataError, match="there are 7, numbered from 0|whole numbers from 4 to 5"):
        check_given(np.full((2, 3), token, kind), opinions().preparation, 8)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("label", [2, -1])
def test_labels_and_tokens_out_of_range_are_refused_in_a_data_set_made_by_hand(split, label):
    good = opinions()
    bad = {**getattr(good, split), "targets": np.full(16, label, np.int32)}
    with pytest.raises(
        DataError, match=rf"targets hold labels from {label} to {label}, but there are 2, numbered from 0"
    ):
        dataclasses.replace(good, **{split: bad})
    text = {"inputs": np.full((4, 3), label), "targets": np.zeros((4, 3), int)}
    with pytest.raises(DataError, match=rf"inputs hold tokens from {label} to {label}"):
        Dataset("text", text, text, class_names=("a", "b"), target_kind="token", prepare=TokenIds())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npy", b"1,2,3\n", "x.npy is not a .npy file, despite its name"),
        ("x.npz", b"1,2,3\n", "x.npz cannot be read as .npz"),
        ("x.csv", b"a\n1\n", "x.csv is not a file of new examples for 'stamps'; give .npz or .npy$"),
        ("x.txt", b"a\n", "x.txt is not a file of new examples"),
    ],
)
def test_errors_about_other_files_name_their_kind(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_given(tmp_path / name, IMAGES.preparation)
    with pytest.raises(DataError, match="there is no file"):
        read_given(tmp_path / "gone.npy", IMAGES.preparation)


def test_models_for_images_refuse_other_shapes_by_name():
    run = jaxnets.fit(CNN(features=(2,), dense=()), IMAGES, steps=1, batch_size=8, progress="none")
    with pytest.raises(DataError, match=r"inputs of shape \[N, 6, 6, 1\], as in training; got \(2, 8, 8, 1\)"):
        run.predict(np.zeros((2, 8, 8, 1), np.uint8))
