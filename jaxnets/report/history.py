"""The history of a run: the logged records, ready for plots and tables."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxnets.core.errors import UsageError
from jaxnets.report.log import CHOSEN, Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The split of the records of `steps.health`.
HEALTH = "health"


@dataclasses.dataclass(frozen=True)
class History:
    """Records of a run, oldest first; see `jaxnets.report.log` for their fields."""

    records: Sequence[Record]

    def series(self, metric: str, split: str = "train") -> tuple[list[int], list[float]]:
        """Steps and values of one metric on one split ("train", "validation" or "test")."""
        rows = [r for r in self.records if r["split"] == split and r.get(metric) is not None]
        # A test of the best weights belongs to the step of these weights.
        return [int(r[CHOSEN] if CHOSEN in r else r["step"]) for r in rows], [r[metric] for r in rows]

    def last(self, split: str = "test") -> Record:
        """The newest record of a split; {} if there is none."""
        return next((r for r in reversed(self.records) if r["split"] == split), {})

    def metrics(self) -> list[str]:
        """Names of the metrics to plot, the loss first."""
        hidden = {"step", "split", "seconds", "examples", "examples_per_second", "skipped", CHOSEN, "what"}
        shown = [record for record in self.records if record["split"] != HEALTH]
        names = [name for record in shown for name in record if name not in hidden]
        return sorted(dict.fromkeys(names), key=lambda n: (n != "loss", n == "gradient_norm"))

    def health(self, what: str) -> tuple[list[int], list[str], list[list[float]]]:
        """The measurements of the network (`Experiment.health`): steps, layers, and a row of values for each layer.

        Args:
            what: weight_norm, gradient_norm, update_norm, update_ratio, silent_units, attention_entropy or attention_largest.
        """
        records = [record for record in self.records if record["split"] == HEALTH]
        kinds = dict.fromkeys(name for record in records for name in record if name.startswith(f"{what}/"))
        names = sorted(kinds, key=_natural)
        rows = [[float(record.get(name, math.nan)) for record in records] for name in names]
        return [int(record["step"]) for record in records], [name.partition("/")[2] for name in names], rows

    def plot(self) -> "Figure":
        """A matplotlib figure with the training, validation and test curves of every metric over the steps."""
        from jaxnets.report.plots import curves

        return curves(self)

    def frame(self) -> Any:
        """The records as a pandas data frame, a row for each, a column for each field.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UsageError("history.frame() needs pandas: pip install pandas") from None
        return pandas.DataFrame(list(self.records))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]

    def __repr__(self) -> str:
        last: dict[str, Any] = self.last("test") or self.last("validation") or self.last("train")
        shown = ", ".join(f"{k} {v:.4g}" for k, v in last.items() if isinstance(v, int | float))
        return f"History({len(self.records)} records, last: {shown})"


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts `block_2` before `block_10`."""
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.split(r"(\d+)", name)]
