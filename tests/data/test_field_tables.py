"""Files of tables as people have them: what is between cells, what numbers look like, which words mean missing."""

import csv
import gzip
import warnings

import numpy as np
import pytest

from jaxnets.core.errors import DataError, DataWarning
from jaxnets.data import Series, Tabular
from jaxnets.data.tabular.cells import CellFormat
from jaxnets.data.tabular.csv_files import Reading, read_table

ROWS = 40
VALUES = np.random.default_rng(0).normal(size=ROWS).round(2)


def written(folder, cells, *, name="t.csv", delimiter=",", y="ab", encoding="utf-8"):
    """A file with a column `c` of these cells, one of numbers and a target."""
    path = folder / name
    with open(path, "w", encoding=encoding, newline="") as file:
        rows = csv.writer(file, delimiter=delimiter)
        rows.writerow(["c", "x", "y"])
        for i in range(ROWS):
            number = str(VALUES[i]).replace(".", "," if delimiter == ";" else ".")
            rows.writerow([cells[i % len(cells)], number, y[i % len(y)]])
    return str(path)


def column(path, **options):
    return Tabular(path, target="y", **options).open().columns.columns[0]


def text(folder, content, **options):
    path = folder / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path, Reading(**options))


# Cells, and the numbers that pandas.read_csv makes of them (with thousands and decimal where it must be told).
NUMBERS = {
    "thousands": (["1,250", "950", "1,000,000"], ",", [1250, 950, 1_000_000]),
    "lakhs": (["1,25,000", "50,000"], ",", [125_000, 50_000]),
    "decimal comma": (["3,14", "-2,7"], ";", [3.14, -2.7]),
    "comma and points": (["1.250,5", "950,25"], ";", [1250.5, 950.25]),
    "spaces": (["1 250,5", "1\u202f000,25"], ";", [1250.5, 1000.25]),
    "apostrophes": (["1'250.5", "950.25"], ",", [1250.5, 950.25]),
    "tabs": (["1.5", "2"], "\t", [1.5, 2]),
    "bars": (["1.5", "2"], "|", [1.5, 2]),
    "forms": (["+5", "5.", ".5", " 5 ", "1e5", "2E-3"], ",", [5, 5, 0.5, 5, 1e5, 2e-3]),
    "minus sign": (["−5", "3"], ",", [-5, 3]),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_cells_with_numbers_are_parsed_by_their_value(tmp_path, kind):
    cells, delimiter, wanted = NUMBERS[kind]
    found = column(written(tmp_path, cells, delimiter=delimiter))
    assert found.words is None
    assert (found.least, found.most) == (min(wanted), max(wanted))


@pytest.mark.parametrize("cells", [["12_5", "12_6"], ["٣", "٤"], ["0x10", "0x11"], ["1d5", "x"], ["yes", "no"]])
def test_cells_that_only_python_parses_as_numbers_are_words(tmp_path, cells):
    assert column(written(tmp_path, cells)).words == tuple(sorted(cells))


@pytest.mark.parametrize(
    "word",
    ["#N/A", "<NA>", "#NA", "1.#IND", "-1.#QNAN", "#N/A N/A", "NULL", "n/a", "-nan", "NaN", "None", "", "#DIV/0!"],
)
def test_words_for_missing_cells_do_not_change_a_column_of_numbers(tmp_path, word):
    found = column(written(tmp_path, ["1", "2.5", word, "3"]))
    assert found.words is None
    assert (found.least, found.most) == (1, 3)
    assert found.missing > 0


def test_words_for_missing_cells_can_be_set(tmp_path):
    path = written(tmp_path, ["1", "-999", "2"])
    assert column(path).least == -999
    assert column(path, missing=("-999",)).least == 1
    kept = column(written(tmp_path, ["NA", "DE"]), missing=("unknown",))
    assert kept.words == ("DE", "NA")


def test_codes_keep_leading_zeros_unless_numbers_are_requested(tmp_path):
    path = written(tmp_path, ["01234", "10001"])
    with pytest.warns(DataWarning, match="'01234' in row 1 .line 2. begins with 0"):
        assert column(path).words == ("01234", "10001")
    assert column(path, numbers=("c",)).least == 1234
    assert column(written(tmp_path, ["1", "2"]), words=("c",)).words == ("1", "2")


def test_truth_values_spelled_in_two_ways_are_one(tmp_path):
    assert column(written(tmp_path, ["TRUE", "true", "False", ""])).words == ("", "False", "True")


@pytest.mark.parametrize("cells", [["5%", "7.5%"], ["$1,250", "$5"], ["5 €", "6 €"], ["(5)", "3"]])
def test_signs_beside_numbers_are_refused(tmp_path, cells):
    with pytest.raises(DataError, match="column 'c' writes .* next to its numbers"):
        column(written(tmp_path, cells))


def test_a_mix_of_numbers_and_words_is_noted(tmp_path):
    cells = [str(i) for i in range(19)] + ["broken"]
    path = written(tmp_path, cells)
    with pytest.warns(DataWarning, match=r"38 cells are numbers and 2 are not, row 20 \(line 21\) has 'broken'"):
        assert column(path).words is not None
    with pytest.raises(DataError, match=r"named in numbers, but row 20 \(line 21\) has 'broken'.*missing"):
        column(path, numbers=("c",))
    assert column(path, missing=("broken",)).words is None


def test_dates_become_days_and_other_date_formats_are_noted(tmp_path):
    days = ["2024-02-28", "2024-03-01", "2024-02-29 12:00"]
    with pytest.warns(DataWarning, match="has dates"):
        found = column(written(tmp_path, days))
    # From numpy's own calendar.
    wanted = [np.datetime64(day.replace(" ", "T"), "h").astype(float) / 24 for day in days]
    assert (found.least, found.most) == (min(wanted), max(wanted))
    with pytest.warns(DataWarning, match="if '01/02/2024' is a date"):
        assert column(written(tmp_path, ["01/02/2024", "11/02/2024"])).words is not None


def test_doubtful_numbers_are_noted(tmp_path):
    (tmp_path / "t.csv").write_text("c;y\n" + "".join(f"{i % 9 + 1},250;{'ab'[i % 2]}\n" for i in range(40)))
    path = str(tmp_path / "t.csv")
    with pytest.warns(DataWarning, match="',250|,250' in column 'c' are read with decimal sign ','"):
        assert column(path).most == 9.25
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        assert column(path, thousands=",").most == 9250
        assert column(path, decimal=",").most == 9.25
    mixed = written(tmp_path, ["3.14", "2.7"], delimiter=";")
    with pytest.raises(DataError, match="column '.' has numbers with decimal sign"):
        column(mixed)


SHEETS = {
    "semicolons": ('"a";"b"\n1;2\n3;4\n', {}),
    "blank lines": ("a,b\n1,2\n\n   \n3,4\n\n\n", {}),
    "rows of empty cells": ("a,b\n1,2\n,\n3,4\n,\n", {}),
    "CRLF": ("a,b\r\n1,2\r\n3,4\r\n", {}),
    "CR": ("a,b\r1,2\r3,4", {}),
    "byte order mark": ("\ufeffa,b\n1,2\n3,4\n", {}),
    "UTF-16": ("a,b\n1,2\n3,4\n".encode("utf-16"), {}),
    "UTF-16 without a mark": ("a,b\n1,2\n3,4\n".encode("utf-16-le"), {"encoding": "utf-16-le"}),
    "gzip by content": (gzip.compress(b"a,b\n1,2\n3,4\n"), {}),
    "spaces around": (' a , "b" \n 1, 2\n "3" ,4 \n', {}),
    "delimiter at the end": ("a,b,\n1,2,\n3,4,\n", {}),
    "delimiter at the end of rows": ("a,b\n1,2,\n3,4,\n", {}),
    "index of pandas": (",a,b\n0,1,2\n1,3,4\n", {}),
    "index of R": ("a,b\nx,1,2\ny,3,4\n", {}),
    "Unnamed: 0": ("Unnamed: 0,a,b\n0,1,2\n1,3,4\n", {}),
    "sep=": ("sep=|\na|b\n1|2\n3|4\n", {}),
    "comments": ("# made by hand\na,b\n1,2\n# half\n3,4\n", {}),
    "comments said": ("% made by hand\na,b\n1,2\n3,4\n", {"comment": "%"}),
    "header in a comment": ("# a b\n1 2\n3 4\n", {}),
    "title": ("Report, of May\n\na,b\n1,2\n3,4\n", {"skip": 1}),
    "no header": ("1,2\n3,4\n", {"names": ("a", "b")}),
    "aligned by spaces": ("a   b\n1   2\n 3  4 \n", {}),
    "single quotes": ("'a','b'\n'1','2'\n'3','4'\n", {}),
}


@pytest.mark.parametrize("kind", SHEETS)
def test_a_file_is_read_in_any_format(tmp_path, kind):
    content, options = SHEETS[kind]
    assert text(tmp_path, content, **options).columns == {"a": ["1", "3"], "b": ["2", "4"]}


def test_letters_in_windows_1252_are_read_with_a_note(tmp_path):
    with pytest.warns(DataWarning, match=r"not UTF-8; it is read as Windows-1252 .* 'Köln' of a word in line 2"):
        assert text(tmp_path, "a,b\nKöln,2\nRom,4\n".encode("cp1252")).columns["a"] == ["Köln", "Rom"]
    assert text(tmp_path, "a,b\nŁódź,2\nx,4\n".encode("cp1250"), encoding="cp1250").columns["a"][0] == "Łódź"


REFUSED = {
    "ragged": ("a,b\n1,2\n3,4,5\n", "line 3 has 3 cells, the header 2"),
    "ragged after a cell of two lines": ('a,b\n"1\n2",2\n3\n5,6\n', "line 4 has 1 cells"),
    "title": ("Report\n\na,b\n1,2\n3,4\n", "line 3 has 2 cells, the header 1.*skip"),
    "no end of a quote": ('a,b\n1,2\n"3,4\n5,6\n', "row that begins in line 3"),
    "NUL": (b"a,b\n1,2\n3,\0\n", "line 3 has NUL"),
    "empty": ("", "0 lines"),
    "header alone": ("a,b\n", "has 1 lines"),
    "twice": ("a,b,a\n1,2,3\n4,5,6\n", "'a' occur more than once"),
    "no name": ("a,,b\n1,2,3\n4,5,6\n", "name every column once"),
    "no header": ("5.1,3.5\n4.9,3.0\n4.7,3.2\n", "not names.*names"),
    "workbook": (b"PK\x03\x04rest", "a workbook"),
    "web page": ("<!DOCTYPE html>\n<html></html>", "a web page"),
    "damaged gzip": (gzip.compress(b"a,b\n1,2\n3,4\n")[:-6], "cannot be read as CSV"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_unreadable_files_are_refused_with_the_line(tmp_path, kind):
    content, message = REFUSED[kind]
    with pytest.raises(DataError, match=message):
        text(tmp_path, content)


def test_cells_have_no_limit_of_length(tmp_path):
    limit = csv.field_size_limit()
    assert text(tmp_path, "a,b\n1," + "w" * 140_000 + "\n2,x\n").columns["b"][0] == "w" * 140_000
    assert csv.field_size_limit() == limit


def test_a_gz_file_that_is_not_compressed_is_read_with_a_note(tmp_path):
    path = written(tmp_path, ["1", "2"], name="t.csv.gz")
    with pytest.warns(DataWarning, match="is not compressed"):
        assert column(path).most == 2
    assert column(written(tmp_path, ["1", "2"], name="t.TSV", delimiter="\t")).most == 2


def test_a_constant_column_is_only_centred(tmp_path):
    path = written(tmp_path, ["0.1"])
    data = Tabular(path, target="y", holdout=0.25).open()
    new = data.columns.encode("new", {"c": ["0.2"], "x": ["0"]})
    # The deviation of .1, .1, ... is a rounding error of 1e-17.
    np.testing.assert_allclose(new[0, 0], 0.1, rtol=1e-6)


def test_empty_columns_and_row_numbers_are_noted(tmp_path):
    with pytest.warns(DataWarning, match="column 'c' is missing in all training rows"):
        assert column(written(tmp_path, ["", "NA"])).name == "x"
    with pytest.warns(DataWarning, match="column 'c' counts the rows"):
        column(written(tmp_path, [str(i) for i in range(ROWS)]))
    with pytest.warns(DataWarning, match="a different word in every row"):
        column(written(tmp_path, [f"name {i}" for i in range(ROWS)]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"numbers": ("d",)}, "no column 'd' for numbers"),
        ({"numbers": ("c",), "ignore": ("c",)}, "'c' is named in numbers and in ignore"),
        ({"words": ("y",)}, "'y' in words is the target"),
        ({"delimiter": "::"}, "delimiter='::' is not one character"),
        ({"decimal": "x"}, "decimal='x'"),
        ({"thousands": ";"}, "thousands=';'"),
        ({"encoding": "utf-9"}, "encoding='utf-9' is unknown"),
        ({"skip": -1}, "skip is 0 or more"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        column(written(tmp_path, ["1", "2"]), **options)


def test_numbers_of_a_series_are_read_like_those_of_a_table(tmp_path):
    path = tmp_path / "s.csv"
    rows = [f"2024-01-{i + 1:02d};{i},5" for i in range(30)]
    path.write_text("day;v\n" + "\n".join(rows))
    series = Series(str(path), columns=("v",), history=3, horizon=1)
    assert series.open().train["inputs"][0, :, 0].tolist() == [0.5, 1.5, 2.5]
    path.write_text("day;v\n" + "\n".join(rows[::-1]))
    with pytest.raises(DataError, match="dates in 'day' go back"):
        series.open()
    path.write_text("v\n" + "\n".join("" if i == 7 else f"{i}_5" if i == 3 else str(i) for i in range(30)))
    with pytest.raises(DataError, match=r"text, e.g. '3_5' in row 4"):
        series.open()
    path.write_text("v\n" + "\n".join("" if i == 7 else str(i) for i in range(30)))
    with pytest.raises(DataError, match=r"the first is row 8"):
        series.open()
    path.write_text("v\n" + "\n".join("#N/A" if i == 7 else str(i) for i in range(30)))
    with pytest.raises(DataError, match=r"empty or infinite in 1 rows, the first is row 8"):
        series.open()


def test_a_number_is_read_to_its_last_digit():
    plain = CellFormat()
    for cell in ("0.1", "123456789.123456789", "1e-300", "-0", "9007199254740993"):
        assert plain.number(cell) == float(cell)
    assert CellFormat(",", ".").number("1.234.567,89") == 1234567.89
    assert CellFormat(".", ",").number("12,34") is None
    # A cell of two lines is no number, and not two.
    assert plain.numbers(["1\n2", "3"]) is None
