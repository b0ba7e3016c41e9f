"""The report page: what is chosen apart, curves one by one, tables as CSV, calibration and thresholds."""

import base64
import csv
import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import replace

from jaxnets.config.serialize import apart, to_data
from jaxnets.core.types import Lines, Table
from jaxnets.optim import AdamW
from jaxnets.report import plots
from jaxnets.report.history import History
from jaxnets.report.page import rounded
from jaxnets.runs import exhibits
from jaxnets.runs.train import train
from jaxnets.tasks.classification import confidence_curves


@pytest.fixture(scope="module")
def probabilities():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(400, 2)) * 2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return p, (rng.random(400) < p[:, 1] ** 1.5).astype(int)


def test_chosen_settings_are_separated_from_defaults(experiment):
    saved = to_data(replace(experiment, optimizer=AdamW(3e-3), steps=77))
    chosen, default = apart(saved)
    assert chosen["steps"] == 77
    assert chosen["optimizer.learning_rate"] == 3e-3
    assert chosen["task"] == "Classification"
    assert chosen["task.model.widths"] == [32, 16]
    assert default["optimizer.weight_decay"] == saved["optimizer"]["weight_decay"]
    assert default["seed"] == 0
    assert not chosen.keys() & default.keys()
    # Together they are the whole configuration.
    assert {name for name in chosen | default if "." not in name} == saved.keys() - {"type"}


def test_settings_are_shown_with_six_digits_and_whole_numbers_entire():
    given = {"a": 6.283185307179586, "b": [[1e-16 / 3, 0.5], [True, None]], "c": {"d": 16777217.0}, "e": "0.123456789"}
    assert rounded(given) == {
        "a": 6.28319,
        "b": [[3.33333e-17, 0.5], [True, None]],
        "c": {"d": 16777217.0},
        "e": given["e"],
    }


def test_the_page_has_a_picture_for_each_curve_and_its_numbers_as_csv(experiment, blobs, tmp_path):
    chosen = replace(experiment, optimizer=AdamW(0.0031415926))
    run = train(chosen, dataset=blobs, run_dir=tmp_path / "run", progress="none")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<code>0.00314159</code>" in page
    assert '"learning_rate": 0.0031415926' in (tmp_path / "run" / "config.json").read_text()
    panels = page.split("class='panels'")[1].split("</section>")[0]
    assert re.findall(r"alt='([^']+)'", panels) == run.history.metrics()  # each has values at several steps
    assert "prefers-color-scheme: dark" in page
    assert "test accuracy" in page
    assert "Where the time went" in page
    assert "Learning rate" in page
    assert "<td>resident memory of the process</td>" in page
    link = re.search(r"download='metrics.csv' href='data:text/csv;base64,([^']+)'", page)[1]
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(link).decode())))
    assert len(rows) == len(run.history)
    last = [row for row in rows if row["split"] == "test"][-1]
    assert float(last["accuracy"]) == run.history.last()["accuracy"]
    assert "http" not in re.sub(r"data:[^']+|Source: [^<]+", "", page)  # nothing is loaded from elsewhere


def test_memory_is_that_of_the_devices_that_count_it_else_that_of_the_process():
    counts = {"peak_bytes_in_use": 2_500_000, "bytes_in_use": 1_000_000, "bytes_limit": 8_000_000_000}
    gpus = [
        SimpleNamespace(
            device_kind="A card", platform="gpu", id=n, memory_stats=lambda n=n: counts | {"bytes_in_use": n}
        )
        for n in (7_000_000, 1_000)
    ]
    (table,) = exhibits.memory(gpus)
    assert table.rows[0] == ("A card, gpu 7000000", "2.5 MB", "7.0 MB", "8,000.0 MB")
    assert table.rows[1][2] == "0.0 MB"
    (table,) = exhibits.memory([SimpleNamespace(memory_stats=lambda: None)])
    ((label, peak, now, _),) = table.rows
    assert label == "resident memory of the process"
    if sys.platform.startswith("linux"):
        status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if "kB" in line)
        kept = float(status["VmRSS"].split()[0]) * 1024 / 1e6
        assert float(now.replace(",", "").split()[0]) == pytest.approx(kept, rel=0.1)
        assert float(peak.replace(",", "").split()[0]) >= kept * 0.9


def test_thresholds_equal_those_of_scikit_learn(probabilities):
    metrics = pytest.importorskip("sklearn.metrics")
    p, labels = probabilities
    table, lines = confidence_curves(p, labels, "test")
    assert isinstance(lines, Lines)
    for place in (10, 50, 80):
        taken = p[:, 1] >= lines.x[place]
        precision, recall = (
            metrics.precision_score(labels, taken),
            metrics.recall_score(labels, taken),
        )
        np.testing.assert_allclose(lines.curves[0, :, place], (precision, recall), rtol=1e-12)
    assert isinstance(table, Table)


def test_calibration_is_the_error_of_its_definition(probabilities):
    p, labels = probabilities
    table, _ = confidence_curves(p, labels, "test")
    surest, right = p.max(1), p.argmax(1) == labels
    error = 0.0
    for low in np.arange(0, 1, 0.1):
        inside = (surest >= low) & ((surest < low + 0.1) | (low > 0.85))
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - surest[inside].mean())
    assert table.title.endswith(f"expected error {error:.3f}")
    assert sum(int(row[1]) for row in table.rows) == 400


def test_confidence_curves_of_several_classes(probabilities):
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(4) * 0.5, 200)
    labels = p.argmax(1)
    labels[:20] = (labels[:20] + 1) % 4
    _, lines = confidence_curves(p, labels, "test")
    accuracy, kept = lines.curves[0]
    assert accuracy[0] == pytest.approx(0.9)
    assert kept[0] == 1
    assert (np.diff(kept) <= 0).all()


def test_a_run_with_one_record_has_a_point_in_its_curve():
    records = [{"step": 40, "split": split, "loss": 2.0} for split in ("train", "test")]
    assert [line.get_marker() for line in plots.curve(History(records), "loss").axes[0].lines] == ["o", "o"]
    longer = [{"step": step, "split": "train", "loss": 2.0} for step in (20, 40)]
    assert [line.get_marker() for line in plots.curve(History(longer), "loss").axes[0].lines] == ["None"]
