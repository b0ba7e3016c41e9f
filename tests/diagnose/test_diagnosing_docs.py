"""The page about diagnosing: its blocks print what it says; the room offers what it lists."""

import contextlib
import importlib
import io
import re

import pytest
from conftest import ROOT

from jaxnets import diagnose


@pytest.mark.slow
def test_every_block_of_the_page_prints_what_is_under_it():
    page = (ROOT / "docs" / "diagnosing.md").read_text(encoding="utf-8")
    names, printed = {}, 0
    for block, _, want in re.findall(r"```python\n(.*?)```(\n```text\n(.*?)```)?", page, flags=re.S):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(block, names)
        assert out.getvalue() == want
        printed += bool(want)
    assert printed == 14


@pytest.mark.smoke
def test_the_room_exports_the_names_it_lists():
    assert sorted(diagnose.FILES) == sorted(diagnose.__all__)
    for name, file in diagnose.FILES.items():
        assert getattr(diagnose, name) is getattr(importlib.import_module(f"jaxnets.diagnose.{file}"), name)
