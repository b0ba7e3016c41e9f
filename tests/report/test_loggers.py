"""Loggers: the same run in each, read back by the real library, equal to metrics.jsonl, also after a cut."""

import csv
import json
import warnings

import numpy as np
import pytest

from jaxnets.callbacks import Samples
from jaxnets.core.errors import DataWarning, UsageError
from jaxnets.report.log import read_records
from jaxnets.report.loggers import CSV, Logger, Loggers, MLflow, TensorBoard, WandB, as_bytes
from jaxnets.runs.train import train

IMAGE = np.linspace(0.0, 1.0, 12).reshape(3, 4)


def numbers(directory):
    """(split/name, step) -> value, of metrics.jsonl."""
    return {
        (f"{record['split']}/{name}", record["step"]): float(value)
        for record in read_records(directory / "metrics.jsonl")
        for name, value in record.items()
        if name not in ("step", "split")
    }


def cut_and_resumed(experiment, blobs, directory, make):
    """A run in three stretches, the loggers made anew for each as a new process does."""
    for stop_at in (6, 13, None):
        hooks = [Samples(lambda run: f"at {run.step}", every=10, name="words"), Samples(lambda run: IMAGE, every=10)]
        train(
            experiment,
            dataset=blobs,
            run_dir=directory,
            stop_at=stop_at,
            progress="none",
            hooks=hooks,
            loggers=[make()],
        )


def test_csv(experiment, blobs, tmp_path):
    cut_and_resumed(experiment, blobs, tmp_path / "run", CSV)
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    found = {(f"{row['split']}/{row['name']}", int(row["step"])): float(row["value"]) for row in rows}
    assert len(rows) == len(found)
    assert found == numbers(tmp_path / "run")


def test_tensorboard(experiment, blobs, tmp_path):
    pytest.importorskip("tensorboardX")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    cut_and_resumed(experiment, blobs, tmp_path / "run", TensorBoard)
    events = accumulator.EventAccumulator(
        str(tmp_path / "run" / "tensorboard"), size_guidance={"tensors": 0, "scalars": 0}
    )
    events.Reload()
    found = [((tag, event.step), event.value) for tag in events.Tags()["scalars"] for event in events.Scalars(tag)]
    assert len(found) == len(dict(found))
    wanted = numbers(tmp_path / "run")
    assert dict(found).keys() == wanted.keys()
    for key, value in found:
        assert value == pytest.approx(wanted[key], rel=1e-6), key
    texts = [tag for tag in events.Tags()["tensors"] if tag.startswith("words")]
    assert [event.tensor_proto.string_val[0] for event in events.Tensors(texts[0])] == [b"at 10", b"at 20"]
    assert [(image.step, image.width, image.height) for image in events.Images("samples")] == [(10, 4, 3), (20, 4, 3)]


@pytest.mark.slow
def test_mlflow(experiment, blobs, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv(
        "MLFLOW_ALLOW_FILE_STORE", "true"
    )  # newer versions want a database, which mlflow-skinny does not bring
    uri = (tmp_path / "mlruns").as_uri()
    cut_and_resumed(experiment, blobs, tmp_path / "run", lambda: MLflow(uri))
    client = mlflow.MlflowClient(uri)
    where = client.get_experiment_by_name("jaxnets").experiment_id
    (run,) = client.search_runs([where])
    found = [
        ((name, entry.step), entry.value)
        for name in run.data.metrics
        for entry in client.get_metric_history(run.info.run_id, name)
    ]
    assert len(found) == len(dict(found))
    assert dict(found) == numbers(tmp_path / "run")
    assert run.info.status == "FINISHED"


def offline_records(path):
    """The records of a `.wandb` file: a log in LevelDB's format (blocks of 32 KiB, each piece with a header of 7 bytes)."""
    content, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        whole += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # the last piece of a record
            yield whole
            whole = b""


@pytest.mark.slow
def test_wandb_offline(experiment, blobs, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_SILENT", "true")
    # A folder for each stretch: wandb names its own by the second.
    places = iter([tmp_path / "first", tmp_path / "second", tmp_path / "third"])

    def make():
        place = next(places)
        place.mkdir()
        return WandB(mode="offline", dir=str(place))

    cut_and_resumed(experiment, blobs, tmp_path / "run", make)
    found = {}
    for path in sorted(tmp_path.glob("*/wandb/offline-run-*/*.wandb")):
        for data in offline_records(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                row = {
                    "/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item
                }
                for name, value in row.items():
                    if name.split("/")[0] in ("train", "test") and isinstance(value, int | float):
                        assert (name, row["step"]) not in found
                        found[name, row["step"]] = value
    assert found == pytest.approx(numbers(tmp_path / "run"))


def test_a_failing_logger_is_disabled_with_a_note(experiment, blobs, tmp_path):
    class Broken(Logger):
        def record(self, step, split, values):
            raise OSError("no network")

    with pytest.warns(DataWarning, match=r"the logger Broken#0 failed .*no network"):
        run = train(experiment, dataset=blobs, progress="none", run_dir=tmp_path / "run", loggers=[Broken(), "csv"])
    assert int(run.state.step) == 20
    assert (tmp_path / "run" / "metrics.csv").exists()


def test_an_invalid_logger_is_refused(experiment, blobs):
    with pytest.raises(UsageError, match="tensorboard"):
        train(experiment, dataset=blobs, progress="none", loggers=["tensorbord"])
    with pytest.raises(UsageError, match="give a run_dir, or CSV"), warnings.catch_warnings():
        train(experiment, dataset=blobs, progress="none", loggers=["csv"])


def test_images_of_any_range_become_bytes():
    assert as_bytes(IMAGE).dtype == np.uint8
    assert as_bytes(IMAGE)[[0, -1], [0, -1]].tolist() == [[0, 0, 0], [255, 255, 255]]
    assert as_bytes(np.full((2, 2, 3), 7, np.uint8)).tolist() == np.full((2, 2, 3), 7).tolist()


def test_after_a_roll_back_the_new_numbers_are_sent():
    class Kept(Logger):
        def __init__(self):
            self.got = []

        def record(self, step, split, values):
            self.got.append((step, values["loss"]))

    kept = Kept()
    loggers = Loggers([kept], None)
    for step, loss in ((1, 1.0), (2, 2.0), (2, 2.0)):
        loggers.record({"step": step, "split": "train", "loss": loss})
    loggers.rewind(1)
    loggers.record({"step": 2, "split": "train", "loss": 0.5})
    assert kept.got == [(1, 1.0), (2, 2.0), (2, 0.5)]
