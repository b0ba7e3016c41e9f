"""What the README says, run."""

import re

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text()


@pytest.mark.smoke
def test_the_readmes_python_runs():
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert blocks
    for block in blocks:
        names = {}
        exec(block.replace("epochs=10", "steps=3, progress='none'"), names)
        assert names["run"].predict(names["data"].test["inputs"][:5]).shape == (5,)


def test_the_readmes_table_names_every_shipped_configuration():
    named = set(re.findall(r"^\| `(\w+)` \|", README, flags=re.M))
    assert named == {path.stem for path in (ROOT / "configs").glob("*.py")}


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/architecture.md",
        "docs/performance.md",
        "docs/reliability.md",
        "docs/results.md",
        "SECURITY.md",
        "benchmarks/README.md",
    ],
)
def test_links_lead_somewhere(page):
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_the_map_names_every_room():
    text = (ROOT / "docs" / "architecture.md").read_text()
    for path in (ROOT / "jaxnets").iterdir():
        if path.is_dir() and (path / "__init__.py").exists():
            assert f"`{path.name}/`" in text
        elif path.suffix == ".py" and not path.name.startswith("__"):
            assert f"`{path.name}`" in text, path.name
