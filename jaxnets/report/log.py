"""The training log: one JSON object a line in `metrics.jsonl`, and the same records in memory.

    {"step": 200, "split": "train", "loss": 0.31, "accuracy": 0.91, "examples_per_second": 9100}
    {"step": 200, "split": "test", "loss": 0.28, "accuracy": 0.93, "examples": 359}

NaN is written as null and infinities as "Infinity" and "-Infinity", for which JSON has no numbers, and they are read back as
what they were.

A train record covers the steps since the record before it: sums over sums, in float64, so it does not depend on how many
steps were dispatched at once.
"""

import json
import math
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from jaxnets.core.errors import RunDirectoryError
from jaxnets.core.files import replacing

Record = dict[str, Any]
INFINITE = {math.inf: "Infinity", -math.inf: "-Infinity"}
# Fields of a record that are no metrics.
WORDS = ("step", "split", "what")


class MetricsLog:
    """Appends records to a file (if it has one) and keeps them."""

    def __init__(self, path: Path | None, *, resume_at: int = 0, rewrite: Collection[str] = ()) -> None:
        """Open the log; records past step `resume_at` belong to work that was lost and is about to be done again.

        So do the records at that very step of the splits that are `rewrite`.
        """
        self.path = path
        self.records: list[Record] = []
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
        """Add one record; it is on its way to the disk when this returns."""
        self.records.append(record)
        if self.path is None:
            return
        try:
            with self.path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(_valid(record), allow_nan=False) + "\n")
        except OSError as error:
            raise self._refused(error) from error

    def sync(self) -> None:
        """Return when every record is on the disk."""
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
    """The record in what JSON has."""
    return {name: _written(value) if isinstance(value, float) else value for name, value in record.items()}


def _written(value: float) -> float | str | None:
    if math.isfinite(value):
        return value
    return None if math.isnan(value) else INFINITE[value]


def _numbers(record: Record) -> Record:
    """The inverse of `_valid`; what is no metric (the words of an event) stays as it is."""
    read: dict[Any, float] = {None: math.nan} | {word: value for value, word in INFINITE.items()}
    return {
        name: read[value]
        if name not in WORDS and (value is None or isinstance(value, str)) and value in read
        else value
        for name, value in record.items()
    }


def _is_record(record: Record) -> bool:
    """Whether the values have the types that `MetricsLog` writes: a step, words, and numbers for everything else."""
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
    """The records of a log; a last line that a crash cut short is left out."""
    records = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:  # ValueError: bytes that are no text
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
            raise RunDirectoryError(f"{path}, line {number} is no record of a run; remove the line or the run")
        records.append(record)
    return records
