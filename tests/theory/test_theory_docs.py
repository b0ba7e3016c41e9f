"""The page about theory: its blocks print what it says, its pictures are those that they draw, its tests exist."""

import contextlib
import importlib
import io
import re

import pytest
from conftest import ROOT

from jaxnets import theory

PAGE = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


@pytest.mark.slow
def test_every_block_of_the_page_prints_what_is_under_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, printed = {}, 0
    for block, _, want in re.findall(r"```python\n(.*?)```(\n```text\n(.*?)```)?", PAGE, flags=re.S):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(block, names)
        got = out.getvalue()
        # The words and the whole numbers are the same; what a training or a library's rounding decides may differ a little.
        assert NUMBER.sub("N", got) == NUMBER.sub("N", want)
        for number, wanted in zip(NUMBER.findall(got), NUMBER.findall(want), strict=True):
            assert number == wanted or (not wanted.isdigit() and float(number) == pytest.approx(float(wanted), rel=0.3))
        printed += bool(want)
    assert printed > 10
    drawn = {path.name for path in tmp_path.glob("*.png")}
    kept = {path.name: path.stat().st_size for path in (ROOT / "docs" / "images" / "theory").iterdir()}
    assert drawn == kept.keys()
    assert max(kept.values()) < 100_000


def test_pictures_and_tests_that_the_page_names_exist():
    pictures = {path.name for path in (ROOT / "docs" / "images" / "theory").glob("*.png")}
    assert set(re.findall(r"\(images/theory/([\w.]+)\)", PAGE)) == pictures
    wording = (ROOT / "tests" / "theory" / "test_wording.py").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+)`", PAGE)
    assert named == re.findall(r"^def (test_\w+)", wording, flags=re.M)
    lines = (ROOT / "jaxnets" / "theory" / "backprop.py").read_text(encoding="utf-8").count("\n")
    assert f"`jaxnets/theory/backprop.py` has {lines} lines" in PAGE


@pytest.mark.smoke
def test_the_room_exports_its_public_names():
    assert sorted(theory.FILES) == sorted(theory.__all__)
    for name, file in theory.FILES.items():
        assert getattr(theory, name) is getattr(importlib.import_module(f"jaxnets.theory.{file}"), name)
        assert name != file  # a module of that name would hide it
    text = (ROOT / "jaxnets" / "theory" / "__init__.py").read_text(encoding="utf-8")
    assert {f"from jaxnets.theory.{file} import {name} as {name}" for name, file in theory.FILES.items()} == {
        line.strip() for line in text.splitlines() if line.strip().startswith("from jaxnets.theory.")
    }
