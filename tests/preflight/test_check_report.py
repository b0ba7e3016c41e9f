"""The report of the checks: as text, as a table, as a page, from the command line."""

import re

import numpy as np
import pytest
from conftest import run_here

import jaxnets
from jaxnets.core.errors import UsageError
from jaxnets.core.types import Lines
from jaxnets.models import MLP
from jaxnets.preflight import CHECKS, CheckReport, Finding
from jaxnets.preflight.features import Rows, linear, neighbours
from jaxnets.preflight.show import page, print_report

FIGURE = Lines("Loss", np.arange(3), np.ones((1, 1, 3)), ("loss",), ("",), "step", "loss")
REPORT = CheckReport(
    "<net> on [data]",
    (
        Finding("red", "loss 3 <b>", "Lower it.", FIGURE, "overfit", "it learns", 1.5),
        Finding("amber", "half of them", "Look.", None, "units", "units are alive", 0.5),
        Finding("green", "all 6", "", None, "parameters", "every parameter learns", 0.1),
    ),
    2.1,
)


@pytest.mark.smoke
def test_it_reads_as_text_and_as_a_table(capsys):
    assert str(REPORT).splitlines()[0] == "<net> on [data]: 1 red, 1 amber, 1 green, 0 skipped (2.1 s)"
    assert "red      it learns" in str(REPORT)
    assert not REPORT.passed
    assert REPORT["units"].colour == "amber"
    with pytest.raises(KeyError, match="no check 'speed' was made; these were: overfit, units, parameters"):
        _ = REPORT["speed"]
    assert "loss 3 &lt;b&gt;" in REPORT._repr_html_()
    print_report(REPORT)
    out = capsys.readouterr().out
    assert re.search(r"red +it learns +loss 3 <b> *\n +Lower it\.", out)


def test_the_page_holds_everything_and_loads_nothing():
    text = page(REPORT)
    assert text.count("<img") == 1
    assert "&lt;net&gt; on [data]" in text
    assert "http" not in text
    assert re.search(r"red</span>: it learns", text)


def test_names_of_checks_are_unique_and_a_wrong_one_is_refused(blobs):
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names) == 24
    with pytest.raises(UsageError, match="there is no check 'overfitting'. Did you mean 'overfit'"):
        jaxnets.check(MLP(widths=(8,)), blobs, only=["overfitting"], progress="none")
    with pytest.raises(UsageError, match="examples is at least 4, got 2"):
        jaxnets.check(MLP(widths=(8,)), blobs, examples=2, progress="none")


def test_simple_predictors_are_those_of_numpy():
    rng = np.random.default_rng(0)
    x, z, w = rng.normal(size=(60, 5)), rng.normal(size=(9, 5)), rng.normal(size=(5, 2))
    rows = Rows(x, z, x @ w, z @ w, 0)
    nearest, distance = neighbours(rows)
    plain = ((z[:, None, :] - x[None, :, :]) ** 2).sum(axis=-1)
    np.testing.assert_array_equal(nearest, plain.argmin(axis=1))
    np.testing.assert_allclose(distance, plain.min(axis=1), atol=1e-9)  # differences of squares
    inside, _ = neighbours(rows, x)
    assert (inside != np.arange(60)).all()
    y, penalty = x @ w, 0.1 * 60 * 5 / 60 + 1e-3
    solved = np.linalg.solve(x.T @ x + penalty * np.eye(5), x.T @ (y - y.mean(axis=0)))
    np.testing.assert_allclose(linear(rows), z @ solved + y.mean(axis=0), atol=1e-9)


CONFIGURATION = '''"""A small run."""
from jaxnets import Experiment, models, optim, tasks
from jaxnets.data import Digits

def config():
    return Experiment(task=tasks.Classification(model=models.MLP(widths=(64,))), data=Digits(), steps=4)
'''


@pytest.mark.slow
def test_the_command_says_by_its_exit_code_whether_a_check_is_red(tmp_path):
    (tmp_path / "small.py").write_text(CONFIGURATION)
    only = ("--only", "overfit", "parameters")
    done = run_here("check", "small.py", *only, "--report", "found/check.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "0 red, 0 amber, 2 green" in done.stdout
    assert "<img" in (tmp_path / "found" / "check.html").read_text()
    assert not (tmp_path / "runs").exists()
    low = ("--optimizer.learning-rate", "1e-6")
    done = run_here("check", "small.py", *only, *low, cwd=tmp_path)
    assert done.returncode == 1
    assert "far too low" in " ".join(done.stdout.split())
    done = run_here("train", "small.py", "--check", *low, cwd=tmp_path)
    assert done.returncode == 1
    assert "not trained, because a check is red" in done.stderr
    assert not (tmp_path / "runs").exists()
    wrong = run_here("check", "small.py", "--only", "overfitting", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "there is no check 'overfitting'" in wrong.stderr
