"""What the README says, run."""

import os
import re
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
        "docs/adding-a-model.md",
        "docs/your-data.md",
        "docs/your-text.md",
        "docs/training-rules.md",
        "SECURITY.md",
        "benchmarks/README.md",
    ],
)
def test_links_lead_somewhere(page):
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target
