"""The notebooks: each runs from its first cell to its last, and is the same lesson as the script beside it."""

import re

import pytest
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
nbformat = pytest.importorskip("nbformat")


def code_of(notebook):
    return [cell.source.strip() for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert NOTEBOOKS
    assert [path.stem for path in NOTEBOOKS] == sorted(path.stem for path in (ROOT / "notebooks").glob("*.py"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_and_its_script_have_the_same_cells(path):
    jupytext = pytest.importorskip("jupytext")
    notebook, script = nbformat.read(path, 4), jupytext.read(path.with_suffix(".py"))
    assert code_of(notebook) == code_of(script)
    text, written = ([c.source.strip() for c in book.cells if c.cell_type == "markdown"] for book in (notebook, script))
    assert text == written
    assert not any(cell.get("outputs") for cell in notebook.cells)
    badge = f"https://colab.research.google.com/github/jaxnets/jaxnets/blob/main/notebooks/{path.name}"
    assert re.search(r"\[!\[Open in Colab\]\(\S+\)\]\((\S+)\)", text[0])[1] == badge
    assert "find_spec" in code_of(notebook)[0]
    assert "assert " in code_of(notebook)[-1]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.slow
def test_a_notebook_runs_to_its_last_assertion(path, tmp_path, monkeypatch):
    nbclient, _ = pytest.importorskip("nbclient"), pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    notebook = nbformat.read(path, 4)
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
