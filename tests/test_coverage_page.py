"""The coverage page: every test and name it gives exists, and its counts are those of its tables."""

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "coverage.md").read_text(encoding="utf-8")
GRADES, STATES = "CSN", "✓○✗"


def tables():
    """Header and rows of each table under the heading above it; the first is under the title."""
    found = {}
    for part in re.split(r"^#+ ", PAGE, flags=re.M)[1:]:
        lines = [line for line in part.splitlines() if line.startswith("|")]
        if lines:
            header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
            found[part.splitlines()[0]] = header, rows
    return found


def sections():
    """Section -> its rows: what, grade, state, where, test."""
    named = {name: table for name, table in tables().items() if name != "Coverage"}
    assert {tuple(header) for header, _ in named.values()} == {("what", "graded", "state", "where", "test")}
    return {name: rows for name, (_, rows) in named.items()}


def test_tests_and_names_that_the_page_gives_exist():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) == PAGE.count("::") > 50
    for path, name in named:
        assert f"\ndef {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{name}"
    for room in ("theory", "models", "tasks", "data", "optim", "diagnose", "evidence", "callbacks", "interop"):
        offered = (ROOT / "jaxnets" / room / "__init__.py").read_text(encoding="utf-8")
        for name in re.findall(rf"`{room}\.(\w+)[`.(]", PAGE):
            assert f'"{name}"' in offered, f"{room}.{name}"
    for path in re.findall(r"`([a-z_]+/\w+\.(?:py|ipynb))`", PAGE):
        assert (ROOT / path).is_file() or (ROOT / "jaxnets" / path).is_file(), path


def test_rows_are_whole_and_what_is_built_has_a_test():
    for rows in sections().values():
        for what, grade, state, _, test in rows:
            assert (grade == "X") == (state == "–"), what
            assert grade in GRADES + "X", what
            assert state in STATES + "–", what
            assert "::" in test or state in "✗–", what


def test_the_counts_are_those_of_the_tables():
    header, counted = tables()["Coverage"]
    columns = [(grade, state) for grade in GRADES for state in STATES]
    assert header == ["section", *(f"{grade} {state}" for grade, state in columns)]
    by_section = {name: Counter((row[1], row[2]) for row in rows) for name, rows in sections().items()}
    by_section["all"] = sum(by_section.values(), Counter())
    assert counted == [[name, *(str(count[column]) for column in columns)] for name, count in by_section.items()]
    missing = PAGE.split("## Open rows of grade C")[1]
    assert missing.count("\n- ") == by_section["all"]["C", "○"] + by_section["all"]["C", "✗"]
