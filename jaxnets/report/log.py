"""The training log: one JSON object per line in `metrics.jsonl`, and the same records in memory.

    {"step": 200, "split": "train", "loss": 0.31, "accuracy": 0.91, "examples_per_second": 9100}
    {"step": 200, "split": "test", "loss": 0.28, "accuracy": 0.93, "examples": 359}

JSON has no NaN and no infinities: NaN is written as null, infinities as "Infinity" and "-Infinity", and both are converted
back on reading.

A train record covers the steps since the record before it. Its means are sums divided by summed weights, in float64, so they
do not depend on how many steps were dispatched at once.
"""

import json
import math
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from jaxnets.core.errors import RunDirectoryError
from jaxnets.core.files import replacing

Record = dict[str, Any]
INFINITE = {math.inf: "Infinity", -math.inf: "-Infinity"}
# Field of a test record: updates done at the weights that were measured, where that is not the record's own step.
CHOSEN = "weights_of_step"
# Fields of a record that are not metrics.
WORDS = ("step", "split", "what")


class MetricsLog:
    """Appends records to a file, if there is one, and keeps them in memory."""

    def __init__(
        self,
        path: Path | None,
        *,
        resume_at: int = 0,
        rewrite: Collection[str] = (),
        records: Sequence[Record] = (),
        send: Callable[[Record], None] = lambda record: None,
    ) -> None:
        """Open the log and drop the records after step `resume_at`: those steps will run again.

        Records at exactly that step are dropped too, for the splits in `rewrite`. `send` gets each record that is
        appended. Without a file the log begins with `records`.
        """
        self._send = send
        self.path = path
        self.records: list[Record] = list(records)
        if path is None:
            return
        if path.exists():
            self.records = [
                record
                for record in read_records(path)
                if record["step"] < resume_at or (record["step"] == resume_at and record["split"] not in rewrite)
            ]
        self._rewrite()

    def append(self, record: Record) -> None:
        """Add one record and write it to the file, without waiting for the disk (see `sync`)."""
        self.records.append(record)
        if self.path is not None:
            self._write(record)
        self._send(record)

    def _write(self, record: Record) -> None:
        assert self.path is not None
        try:
            with self.path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(_valid(record), allow_nan=False) + "\n")
        except OSError as error:
            raise self._refused(error) from error

    def sync(self) -> None:
        """Wait until every record is on the disk (fsync)."""
        if self.path is None:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise self._refused(error) from error

    def _rewrite(self) -> None:
        assert self.path is not None
        try:
            with replacing(self.path) as file:
                lines = (json.dumps(_valid(record), allow_nan=False) + "\n" for record in self.records)
                file.write("".join(lines).encode())
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> RunDirectoryError:
        return RunDirectoryError(
            f"cannot write the training log {self.path} ({error}). Free some space or give permission, then run the same "
            f"command to resume from the last checkpoint"
        )


def _valid(record: Record) -> Record:
    """The record with values that JSON can represent."""
    return {name: _written(value) if isinstance(value, float) else value for name, value in record.items()}


def _written(value: float) -> float | str | None:
    if math.isfinite(value):
        return value
    return None if math.isnan(value) else INFINITE[value]


def _numbers(record: Record) -> Record:
    """The inverse of `_valid`; fields that are not metrics are unchanged."""
    read: dict[Any, float] = {None: math.nan} | {word: value for value, word in INFINITE.items()}
    return {
        name: read[value]
        if name not in WORDS and (value is None or isinstance(value, str)) and value in read
        else value
        for name, value in record.items()
    }


def _is_record(record: Record) -> bool:
    """Whether the values have the types that `MetricsLog` writes: an integer step, text fields, and numbers otherwise."""
    step = record.get("step")
    return (
        isinstance(step, int)
        and not isinstance(step, bool)
        and step >= 0
        and isinstance(record.get("split"), str)
        and all(
            isinstance(value, str) if name in ("split", "what") else type(value) in (int, float)
            for name, value in record.items()
        )
    )


def read_records(path: Path) -> list[Record]:
    """The records of a log; a last line truncated by a crash is left out."""
    records = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:  # ValueError: not UTF-8
        raise RunDirectoryError(f"the training log {path} cannot be read ({error})") from error
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise RunDirectoryError(
                f"{path}, line {number} is damaged ({error}); remove the line or the run"
            ) from error
        record = _numbers(record) if isinstance(record, dict) else {}
        if not _is_record(record):
            raise RunDirectoryError(f"{path}, line {number} is not a record of a run; remove the line or the run")
        records.append(record)
    return records
