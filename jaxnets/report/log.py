"""The training log: one JSON object a line in `metrics.jsonl`, and the same records in memory.

    {"step": 200, "split": "train", "loss": 0.31, "accuracy": 0.91, "examples_per_second": 9100}
    {"step": 200, "split": "test", "loss": 0.28, "accuracy": 0.93, "examples": 359}

A train record covers the steps since the record before it: sums over sums, in float64, so it does not depend on how many
steps were dispatched at once.
"""

import json
import os
from pathlib import Path
from typing import Any

from jaxnets.errors import RunDirectoryError

Record = dict[str, Any]


class MetricsLog:
    """Appends records to a file (if it has one) and keeps them."""

    def __init__(self, path: Path | None, *, resume_at: int = 0) -> None:
        """Open the log; records past step `resume_at` belong to work that was lost and is about to be done again."""
        self.path = path
        self.records: list[Record] = []
        if path is None:
            return
        if path.exists():
            self.records = [record for record in read_records(path) if record["step"] <= resume_at]
        self._rewrite()

    def append(self, record: Record) -> None:
        """Add one record; it is on its way to the disk when this returns."""
        self.records.append(record)
        if self.path is None:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise self._refused(error) from error

    def _rewrite(self) -> None:
        assert self.path is not None
        partial = self.path.with_name(f".{self.path.name}.partial")
        try:
            partial.write_text("".join(json.dumps(record) + "\n" for record in self.records), encoding="utf-8")
            os.replace(partial, self.path)
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> RunDirectoryError:
        return RunDirectoryError(
            f"cannot write the training log {self.path} ({error}). Free some space or give permission, then run the same "
            f"command to resume from the last checkpoint"
        )


def read_records(path: Path) -> list[Record]:
    """The records of a log; a last line that a crash cut short is left out."""
    records = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise RunDirectoryError(
                f"{path}, line {number} is damaged ({error}); remove the line or the run"
            ) from error
        records.append(record)
    return records
