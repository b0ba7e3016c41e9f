"""What the README says, run."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, run_cli

README = (ROOT / "README.md").read_text()


@pytest.mark.smoke
def test_the_readmes_python_runs():
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert blocks
    for block in blocks:
        names = {}
        exec(block.replace("epochs=10", "steps=3, progress='none'"), names)
        assert names["run"].predict(names["data"].test["inputs"][:5]).shape == (5,)


@pytest.mark.slow
def test_the_blocks_of_your_own_run():
    page = (ROOT / "docs" / "your-own.md").read_text()
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.S):
        exec(re.sub(r"epochs=\d+", "steps=20, progress='none'", block), names)
    assert {"f1", "margin", "loss", "accuracy"} <= names["run"].evaluate().keys()
    assert "worst" in names["worst"].evaluate()
    assert names["fine"].state.params["output"]["kernel"].shape == (32, 2)


@pytest.mark.slow
def test_the_blocks_of_the_techniques_run():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "techniques.md").read_text(), flags=re.S):
        few = block.replace('"epochs": 10', '"steps": 2, "progress": "none"').replace(
            "epochs=10", "steps=2, progress='none'"
        )
        exec(few, names)
    assert names["vectors"].shape == (359, 64)
    assert names["mixed"].evaluate().keys() == names["runs"][0].evaluate().keys()


@pytest.mark.slow
def test_the_blocks_about_living_with_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "living-with-a-run.md").read_text(), flags=re.S):
        exec(block.replace("epochs=10)", "epochs=10, progress='none')"), names)
    assert names["run"].evaluate()["accuracy"] > 0.5
    assert int(names["longer"].state.step) > int(names["run"].state.step)
    assert {"predictor.stablehlo", "example.py"} <= {*names["files"]}


@pytest.mark.slow
def test_a_model_added_as_the_page_says_trains_and_passes_its_test(tmp_path):
    configuration, test = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "adding-a-model.md").read_text(), flags=re.S
    )
    (tmp_path / "highway_digits.py").write_text(configuration)
    (tmp_path / "test_highway.py").write_text(test)
    told = run_cli("train", "highway_digits.py", "--help", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert "--task.model.width INT" in told.stdout
    done = run_cli("train", "highway_digits.py", "--run-dir", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "accuracy ≥ 0.93 with the configuration as shipped: reached" in " ".join(done.stdout.split())
    again = run_cli("train", "highway_digits.py", "--run-dir", "run", cwd=tmp_path)
    assert "complete already" in again.stdout
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_highway.py"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    tested = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert tested.returncode == 0, tested.stdout


def follow(page, root):
    """Do what the recipes of a page say in `root`: write or extend the files named before a block, apply the changes."""
    for said, kind, block in re.findall(r"([^\n]*)\n\n```(python|diff)\n(.*?)```", page, flags=re.S):
        if kind == "diff":
            for path, changes in re.findall(r"^--- (\S+)\n(.*?)(?=^--- \S|\Z)", block, flags=re.S | re.M):
                text = (root / path).read_text()
                for change in re.split(r"^---\n", changes, flags=re.M):
                    lines = [(line[:1] or " ", line[1:] + "\n") for line in change.splitlines()]
                    old, new = ("".join(line for sign, line in lines if sign in side) for side in (" -", " +"))
                    assert text.count(old) == 1, f"{path} does not have exactly once\n{old}"
                    text = text.replace(old, new)
                (root / path).write_text(text)
        else:
            (path,) = re.findall(r"`(\S+\.py)`:$", said)
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            before = (root / path).read_text() + "\n\n" if said.startswith("At the end of") else ""
            (root / path).write_text(before + block)


@pytest.mark.slow
def test_the_recipes_for_contributors_work_as_written(tmp_path):
    shutil.copytree(ROOT / "jaxnets", tmp_path / "jaxnets", ignore=shutil.ignore_patterns("__pycache__"))
    follow((ROOT / "CONTRIBUTING.md").read_text(), tmp_path)
    (tmp_path / "tests" / "test_linear.py").write_text(LINEAR)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    tested = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert tested.returncode == 0, tested.stdout
    assert "3 passed" in tested.stdout
    run = ROOT / "tests" / "fixtures" / "before_rooms" / "images"
    shown = run_cli("history", run, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert shown.returncode == 0, shown.stderr
    assert re.match(r"step \d+, .*accuracy 0\.\d+", shown.stdout)
    assert run_cli("history", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}).returncode == 2


# What the page on models shows at length, for its short example.
LINEAR = """
import jax, numpy as np
from jaxnets.models import Linear

def test_linear():
    x = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    variables = Linear(outputs=2).init(jax.random.key(0), x)
    want = x.reshape(1, 6) @ np.asarray(variables["params"]["output"]["kernel"])
    np.testing.assert_allclose(Linear(outputs=2).apply(variables, x), want, rtol=1e-5)
"""


def test_the_table_of_configurations_names_every_shipped_one():
    page = (ROOT / "docs" / "configurations.md").read_text()
    named = re.findall(r"^\| `(\w+)` \|", page, flags=re.M)
    assert sorted(named) == sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


PAGES = [
    *(
        ROOT / name
        for name in (
            "README.md",
            "CONTRIBUTING.md",
            "CHANGELOG.md",
            "SECURITY.md",
            "benchmarks/README.md",
            "tpu/README.md",
        )
    ),
    *sorted((ROOT / "docs").glob("*.md")),
]


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text()):
        if not target.startswith("http"):
            found = page.parent / target if target else page
            assert found.exists(), target
            assert not anchor or anchor in anchors(found), f"{target}#{anchor}"


def test_the_index_names_every_page():
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / target).resolve() for target in re.findall(r"\]\(([^)#]+\.md)\)", index.read_text())}
    assert {page for page in PAGES if page != index and page.parent.name != "benchmarks"} - {
        ROOT / "README.md"
    } <= linked
