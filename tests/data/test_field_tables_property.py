"""Random tables in random dialects: what is read is what was written, and what pandas reads."""

import contextlib
import csv
import io
import string
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxnets.core.errors import DataError
from jaxnets.data import Tabular
from jaxnets.data.tabular.cells import CellFormat, find_format
from jaxnets.data.tabular.csv_files import read_table

WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")) | st.sampled_from(',;|\t"# é'), max_size=8
)
NUMBERS = st.floats(-1e6, 1e6).map("{:.3f}".format) | st.integers(-(10**6), 10**6).map(str)
MANY = settings(
    max_examples=40,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
PIECES = [
    *"ab1,;\t|\"'#% $-é",
    "y",
    "2.5",
    "1,5",
    "007",
    "\n",
    "\r\n",
    "\r",
    "sep=;",
    "NA",
    "٣",
    "2020-01-01",
    "inf",
    "\u2028",
]


@st.composite
def tables(draw):
    kinds = draw(st.lists(st.sampled_from([NUMBERS, WORDS]), min_size=2, max_size=4))
    header = [f"{draw(st.text(string.ascii_letters, min_size=1, max_size=4))}_{i}" for i in range(len(kinds))]
    body = draw(st.lists(st.tuples(*kinds), min_size=2, max_size=8))
    form = {
        "delimiter": draw(st.sampled_from(",;\t|")),
        "lineterminator": draw(st.sampled_from(["\n", "\r\n", "\r"])),
        "quoting": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
    }
    return header, body, form, draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))


def round_trip(folder, table):
    header, body, form, encoding = table
    text = io.StringIO()
    csv.writer(text, **form).writerows([header, *body])
    path = folder / "t.csv"
    path.write_bytes(text.getvalue().encode(encoding))
    wanted = [row for row in ([cell.strip() for cell in row] for row in body) if any(row)]
    if len(wanted) < 2:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sheet = read_table(path)
    assert list(sheet.columns) == header
    assert [list(row) for row in zip(*sheet.columns.values(), strict=True)] == wanted


SIGNS = st.sampled_from([(".", ""), (",", ""), (".", ","), (",", "."), (",", " "), (".", "'")])


def read_back(values, signs, delimiter, digits):
    """The numbers of a column written with these signs, and whether a note says that they may mean others."""
    marks = str.maketrans({",": signs[1], ".": signs[0]})
    cells = [f"{value:,.{digits}f}".translate(marks) for value in values]
    found, doubt = find_format({"a": cells}, delimiter, decimal="", thousands="", missing=())
    numbers = found.numbers(cells)
    assert numbers is not None
    # "1.250" alone between commas is 1.25, as everywhere that writes commas between cells.
    right = np.allclose(numbers, [round(value, digits) for value in values], rtol=1e-12, atol=0)
    assert right or doubt or (delimiter == "," and signs == (",", ".") and not digits), (cells, found)


def no_other_error(folder, text, encoding):
    path = folder / "t.csv"
    path.write_bytes(text.encode(encoding, "ignore"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(DataError):
            Tabular(str(path), target="y", holdout=0.5).open()


FLOATS = st.lists(st.floats(-1e7, 1e7), min_size=3, max_size=12)
TEXTS = st.lists(st.sampled_from(PIECES), max_size=60).map("".join)


@MANY
@given(table=tables())
def test_a_table_is_read_as_it_was_written(tmp_path, table):
    round_trip(tmp_path, table)


@MANY
@given(FLOATS, SIGNS, st.sampled_from(",;\t"), st.integers(0, 3))
def test_numbers_are_read_as_they_were_written(values, signs, delimiter, digits):
    read_back(values, signs, delimiter, digits)


@MANY
@given(
    head=st.sampled_from(["", "a,b,y\n", "a;y\n"]), text=TEXTS, encoding=st.sampled_from(["utf-8", "cp1252", "utf-16"])
)
def test_any_text_is_read_or_refused(tmp_path, head, text, encoding):
    no_other_error(tmp_path, head + text, encoding)


@pytest.mark.slow
def test_many_tables(tmp_path):
    many = settings(MANY, max_examples=3000)
    many(given(tables())(lambda table: round_trip(tmp_path, table)))()
    many(given(FLOATS, SIGNS, st.sampled_from(",;\t"), st.integers(0, 3))(read_back))()
    many(given(TEXTS)(lambda text: no_other_error(tmp_path, "a,b,y\n" + text, "utf-8")))()


@pytest.mark.slow
def test_a_cell_is_the_same_number_as_in_pandas():
    pandas = pytest.importorskip("pandas")
    plain = CellFormat()

    @settings(MANY, max_examples=5000)
    @given(st.text("0123456789.,eE+-_x naifNIF%$'", min_size=1, max_size=7))
    def check(cell):
        cell = cell.strip()
        if not cell or plain.is_missing(cell):
            return
        column = pandas.read_csv(io.StringIO(f"a;b\n{cell};x\n{cell};x\n"), sep=";")["a"]
        ours = plain.number(cell)
        assert (ours is not None) == (column.dtype.kind in "if"), cell
        if ours is not None:
            np.testing.assert_allclose(ours, column[0], rtol=1e-15)

    check()
