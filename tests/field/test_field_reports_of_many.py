"""Reports of many classes: their memory does not grow with the square of the classes, nor with examples times classes."""

import numpy as np

from jaxnets.core.types import Card, ConfusionMatrix
from jaxnets.models import MLP
from jaxnets.tasks import Classification, MultiLabel


def card(names, examples, kind="class"):
    return Card("d", (3,), kind, {"train": 10, "test": examples}, class_names=names)


def test_twenty_thousand_classes_make_a_table_and_no_matrix():
    names = tuple(f"c{i}" for i in range(20_000))
    task = Classification(model=MLP()).bind(card(names, 400_000))
    rows = task.exhibit_rows(400_000)
    assert len(rows) * len(names) <= 25_000_000
    assert rows[-1] == 399_999
    labels = np.random.default_rng(0).integers(0, 50, len(rows))
    outputs = np.zeros((len(rows), 20_000), np.float32)
    outputs[np.arange(len(rows)), labels] = 1
    outputs[0, 70], outputs[0, labels[0]] = 1, 0  # a mistake, in favour of a class that no example has
    table, calibration, _ = task.exhibits(outputs, {"targets": labels, "index": rows}, card(names, 400_000))
    assert calibration.title.startswith("Calibration")
    assert "100 most frequent of 20,000 (1,250 of 400,000 test examples)" in table.title
    assert len(table.rows) == 100
    assert table.rows[0][1:] == (str(np.bincount(labels).max()), "1.000", "1.000")


def test_an_undefined_metric_is_not_0():
    names = ("a", "b", "c")
    outputs = np.eye(3, dtype=np.float32)[[0, 0, 1]]
    matrix, table = Classification(model=MLP()).exhibits(outputs, {"targets": np.array([0, 1, 1])}, card(names, 3))
    assert isinstance(matrix, ConfusionMatrix)
    assert matrix.counts.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert table.rows[2] == ("c", "0", "–", "–")
    said = np.array([[9.0, -9.0, -9.0]] * 2, np.float32)
    (labels,) = MultiLabel(model=MLP()).exhibits(said, {"targets": np.array([[1, 1, 0]] * 2)}, card(names, 2, "labels"))
    assert labels.rows == (
        ("a", "2", "1.000", "1.000", "1.000"),
        ("b", "2", "–", "0.000", "0.000"),
        ("c", "0", "–", "–", "–"),
    )
