"""What a table predicts, and new rows for a model that was trained on one: from files and from memory."""

import dataclasses
import datetime
import json
import warnings

import numpy as np
import pytest

from jaxnets.core.errors import DataError, DataWarning
from jaxnets.data import Tabular
from jaxnets.data.given import read_given


def with_targets(folder, labels, rows=60):
    path = folder / "t.csv"
    cells = [labels[i % len(labels)] if isinstance(labels, list) else labels(i) for i in range(rows)]
    path.write_text("x,y\n" + "".join(f'{i * 7 % 11 + 0.5},"{cell}"\n' for i, cell in enumerate(cells)))
    return str(path)


# Labels, the kind that is asked for, and the names of the classes as they are in the file.
CLASSES = {
    "ids": (["1000001", "1000002", "1000003"], "class", ("1000001", "1000002", "1000003")),
    "ids past 2**53": (["9007199254740993", "9007199254740992"], "class", ("9007199254740992", "9007199254740993")),
    "in order": (["10", "9", "100"], "class", ("9", "10", "100")),
    "zeros in front": (["007", "7"], "class", ("007", "7")),
    "two spellings": (["1", "1.0", "2"], "class", ("1", "2")),
    "fractions": (["0.25", "0.5"], "class", ("0.25", "0.5")),
    "thousands": (["1,000", "2,000"], "class", ("1,000", "2,000")),
    "underscores": (["1_0", "1_1"], "auto", ("1_0", "1_1")),
    "plus and minus": (["+", "-"], "auto", ("+", "-")),
    "digits": (["0", "1"], "auto", ("0", "1")),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_classes_keep_the_names_that_they_have(tmp_path, kind):
    labels, asked, wanted = CLASSES[kind]
    data = Tabular(with_targets(tmp_path, labels), target="y", kind=asked).open()
    assert data.class_names == wanted
    assert all(type(name) is str for name in data.class_names)
    targets = np.concatenate([data.train["targets"], data.test["targets"]])
    assert np.bincount(targets).min() >= 60 // len(labels)


def test_numbers_to_predict_are_read_as_they_are_written(tmp_path):
    data = Tabular(with_targets(tmp_path, lambda i: f"{1000 + 37 * i:,}"), target="y").open()
    assert data.card.target_kind == "number"
    assert data.card.target_mean == pytest.approx(np.mean(data.train["targets"]))
    assert set(np.concatenate([data.train["targets"], data.test["targets"]])) == {1000 + 37 * i for i in range(60)}
    data = Tabular(with_targets(tmp_path, ["007", "12"]), target="y", kind="number").open()
    assert set(np.unique(data.train["targets"])) == {7, 12}


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (["a", "?"], {}, r"empty \(or NaN\) in 30 rows, the first in row 2 \(line 3\), which has '\?'"),
        (["Low", "None"], {}, "if 'None' is a class, name the markers of missing cells"),
        (["1.5", "#N/A", "2.5"], {}, "in 20 rows, the first in row 2"),
        ([f"name {i}" for i in range(60)], {}, "every row would be its own class"),
        ([f"{i}%" for i in range(60)], {}, "writes '%' next to its numbers"),
        (["1.5", "many"], {"kind": "number"}, r"has words, e.g. 'many' in row 2 \(line 3\)"),
        (["1.5", "inf", "2.5"], {}, "infinite in row 2"),
        ([f"{i}.5" for i in range(60)], {"only": ("0.5",)}, "only names classes"),
    ],
)
def test_targets_without_information_are_refused(tmp_path, labels, options, message):
    with pytest.raises(DataError, match=message):
        Tabular(with_targets(tmp_path, labels), target="y", **options).open()


def test_decisions_about_targets_are_noted(tmp_path):
    for labels, options, message in (
        (["3", "5", "8"], {}, "3 different whole numbers .* taken as classes; choose kind='number' for a regression"),
        (["007", "008"], {}, "begins with 0"),
        (["Yes", "yes", "No"], {}, "'Yes' and 'yes', which differ only in capitals"),
        (["1", "1.0", "2"], {"kind": "class"}, "'1.0' and '1', which are taken as one class"),
        (["a"], {}, "'a' in every row"),
        (["Low", "None"], {"missing": ("",)}, None),
        (["3", "5", "8"], {"kind": "class"}, None),
    ):
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always")
            Tabular(with_targets(tmp_path, labels), target="y", **options).open()
        said = " ".join(str(one.message) for one in notes)
        if message is None:
            assert said == ""
        else:
            with pytest.warns(DataWarning, match=message):
                Tabular(with_targets(tmp_path, labels), target="y", **options).open()


@pytest.mark.parametrize(
    ("labels", "kind", "wanted"),
    [
        (1000001 + np.arange(60) % 3, "class", ("1000001", "1000002", "1000003")),
        (1000001.0 + np.arange(60) % 2, "class", ("1000001", "1000002")),
        (np.float32([0.1, 0.2] * 30), "class", ("0.1", "0.2")),
        (np.arange(60)[:, None] % 2, "auto", ("0", "1")),
        (np.array([b"a", b"b"] * 30), "auto", ("a", "b")),
        (np.array([10, 9] * 30), "class", ("9", "10")),
        (np.arange(60), "number", ()),
    ],
)
def test_labels_of_arrays_keep_their_names(tmp_path, labels, kind, wanted):
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).normal(size=(60, 2)), y=labels)
    assert Tabular(str(tmp_path / "a.npz"), kind=kind).open().class_names == wanted


def test_names_of_classes_beside_an_array_are_for_its_numbers(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 2))
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(60) % 2 - 1, target_names=np.array(["a", "b"]))
    with pytest.raises(DataError, match="run from -1 to 0, but target_names has 2 names"):
        Tabular(str(tmp_path / "a.npz")).open()
    np.savez(tmp_path / "a.npz", x=x, y=np.where(np.arange(60) == 3, np.nan, 1.0))
    with pytest.raises(DataError, match="row 4 is nan"):
        Tabular(str(tmp_path / "a.npz"), kind="class").open()


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A table of all kinds of column, as a dict of columns in memory, and the data set of its file."""
    rng, rows = np.random.default_rng(0), 80
    start = datetime.datetime(2024, 1, 1)
    columns = {
        "age": [int(age) for age in rng.integers(18, 90, rows)],
        "height": [round(float(height), 1) for height in rng.normal(170, 10, rows)],
        "city": [str(city) for city in rng.choice(["Bern", "Rom"], rows)],
        "member": [bool(one) for one in rng.integers(0, 2, rows)],
        "since": [start + datetime.timedelta(hours=7 * i) for i in range(rows)],
        "code": [int(code) for code in rng.integers(1, 4, rows)],
    }
    columns["height"][3] = columns["city"][5] = None
    path = tmp_path_factory.mktemp("people") / "people.csv"
    lines = [",".join("" if cell is None else str(cell) for cell in row) for row in zip(*columns.values(), strict=True)]
    path.write_text(
        ",".join((*columns, "y")) + "\n" + "".join(f"{line},{'ab'[i % 2]}\n" for i, line in enumerate(lines))
    )
    return columns, Tabular(str(path), target="y", words=("code",)).open(), path


def as_text(columns):
    return {name: ["" if cell is None else f" {cell} " for cell in cells] for name, cells in columns.items()}


def as_rows(columns):
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def as_arrays(columns):
    arrays = {name: np.array(cells, object) for name, cells in columns.items()}
    arrays["age"] = np.array(columns["age"], np.int16)
    arrays["height"] = np.array([np.nan if cell is None else cell for cell in columns["height"]])
    arrays["since"] = np.array(columns["since"], "datetime64[s]")
    arrays["code"] = np.array(columns["code"], float)
    return dict(reversed(arrays.items()))


def as_frame(columns):
    return pytest.importorskip("pandas").DataFrame(columns, index=range(100, 100 + len(columns["age"])))


def as_nullable_frame(columns):
    return as_frame(columns).convert_dtypes()


@pytest.mark.parametrize("road", [dict, as_text, as_rows, as_arrays, as_frame, as_nullable_frame])
def test_a_table_in_memory_gives_the_features_of_its_file(people, road):
    columns, data, path = people
    wanted = read_given(path, data)["inputs"]
    # Numbers in float64 by the definition, from the training rows alone.
    trained = {tuple(row) for row in data.train["inputs"]}
    picked = [tuple(row) in trained for row in wanted]
    ages = np.array(columns["age"], float)
    np.testing.assert_allclose(wanted[:, 0], (ages - ages[picked].mean()) / ages[picked].std(), rtol=1e-6)
    np.testing.assert_array_equal(data.columns.encode("memory", road(columns)), wanted)


def test_a_file_of_another_country_gives_the_same_features(people, tmp_path):
    _, data, path = people
    lines = path.read_text().splitlines()
    (tmp_path / "new.txt").write_bytes(
        "\n".join(line.replace(",", ";").replace(".", ",") for line in lines).encode("utf-16")
    )
    with pytest.warns(DataWarning, match="decimal sign ','; the training file had decimal sign '.'"):
        new = read_given(tmp_path / "new.txt", data)["inputs"]
    np.testing.assert_array_equal(new, read_given(path, data)["inputs"])


def test_cells_unknown_to_training_are_counted_in_one_note(people):
    _, data, _ = people
    new = {
        "age": [200, 30, None],
        "height": ["170", "", "170.0"],
        "city": ["Genf", "Bern", "Lyon"],
        "member": [True, "", "false"],
        "since": ["2024-01-02", "2024-01-02 12:30", None],
        "code": [1, 2.0, "03"],
    }
    with pytest.warns(DataWarning) as notes:
        features = data.columns.encode("new", new)
    (said,) = [str(one.message) for one in notes]
    for part in (
        "1 of 3 rows: column 'age' is outside the",
        "1 of 3 rows: column 'age' is missing, but in no training row",
        "1 of 3 rows: column 'height' is missing; the median",
        "2 of 3 rows: column 'city' has words that training did not see ('Genf', 'Lyon')",
        "1 of 3 rows: column 'member' is missing, but in no training row",
        "column 'code' has words that training did not see ('03')",
    ):
        assert part in said
    words = np.cumsum([0, *(len(column.words or "x") for column in data.columns.columns)])
    city, member, code = (features[:, words[i] : words[i + 1]] for i in (2, 3, 5))
    np.testing.assert_array_equal(city, [[0, 0], [1, 0], [0, 0]])  # Bern, Rom
    np.testing.assert_array_equal(member, [[0, 1], [0, 0], [1, 0]])
    np.testing.assert_array_equal(code, [[1, 0, 0], [0, 1, 0], [0, 0, 0]])
    assert np.isfinite(features).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"age": 3}, "column 'age' is the single value 3; give one cell for each row"),
        ({"age": ["x"]}, "column 'age' holds numbers, but row 1 has 'x'"),
        ({"age": [np.inf]}, "infinite in row 1"),
        ({"since": ["soon"]}, "column 'since' holds dates, but row 1 has 'soon'"),
        ({"age": [1, 2]}, "different lengths"),
    ],
)
def test_rows_that_do_not_fit_are_refused(people, change, message):
    columns, data, _ = people
    with pytest.raises(DataError, match=message):
        data.columns.encode("new", {name: cells[:1] for name, cells in columns.items()} | change)
    with pytest.raises(DataError, match="list, not a table"):
        data.columns.encode("new", [1, 2])


def test_columns_are_plain_data_that_people_can_look_at(people):
    _, data, _ = people
    json.dumps(dataclasses.asdict(data.columns), allow_nan=False)
    table = data.columns.table()
    rows = {row[0]: row[1:] for row in table.rows}
    assert "commas between cells, utf-8, decimal sign '.'" in table.title
    assert rows["height"][0] == "numbers"
    assert rows["city"][0] == "words"
    assert "Bern, Rom" in rows["city"][2]
    assert rows["since"][2].startswith("2024-01-01")
    assert rows["y"][0] == "target"


def test_a_file_without_a_header_is_read_again_without_its_target(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("".join(f"{i * 7 % 11},{i % 5},{'ab'[i % 2]}\n" for i in range(40)))
    data = Tabular(str(path), target="y", names=("u", "v", "y")).open()
    (tmp_path / "new.csv").write_text("3,4\n5,1\n")
    new = read_given(tmp_path / "new.csv", data)["inputs"]
    np.testing.assert_array_equal(new, data.columns.encode("new", {"u": [3, 5], "v": [4, 1]}))
