"""When checkpoints are saved, and which are kept."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

from jaxnets.core.errors import UsageError

# Seconds in the units of a time between saves.
UNITS = {"s": 1, "min": 60, "h": 3600}


def seconds_between_saves(every: int | str) -> float:
    """The seconds of a `save_every` that is a time; 0 for a number of steps."""
    if isinstance(every, int):
        if every < 0:
            raise UsageError(f"save_every is at least 0, got {every}")
        return 0.0
    number = every.rstrip("sminh ")
    unit = every[len(number) :].strip()
    try:
        seconds = float(number) * UNITS[unit]
    except (ValueError, KeyError):
        seconds = -1.0
    if not 0 < seconds < math.inf:
        raise UsageError(f'save_every is a number of steps, or a time such as "10min", "90s" or "2h"; got {every!r}')
    return seconds


@dataclasses.dataclass(frozen=True)
class Keep:
    """Checkpoints that are kept; the newest always is, and nothing is removed before a newer one is complete."""

    last: int = 3
    """Number of the newest checkpoints to keep."""
    every: int = 0
    """Checkpoints whose step is a multiple of this are kept permanently; 0: none."""
    best: str = ""
    """Name of a metric (`accuracy`, say): every evaluation that is better than those before it is saved and stays until a
    better one comes. Evaluations are on the validation split. With `stop`, its metric if this is empty."""
    mode: Literal["auto", "max", "min"] = "auto"
    """Whether more or less of it is better; auto: as usual for a metric of this name, or as defined by the task."""

    def __post_init__(self) -> None:
        if self.last < 1:
            raise UsageError(f"keep.last is at least 1, got {self.last}")
        if self.every < 0:
            raise UsageError(f"keep.every is a number of steps, or 0 for none; got {self.every}")

    def choose(self, steps: Mapping[int, Mapping[str, float]]) -> set[int]:
        """The steps to keep, of complete checkpoints with the metrics measured at them."""
        kept = set(sorted(steps)[-self.last :])
        if self.every:
            kept |= {step for step in steps if step % self.every == 0}
        best = self.best_of(steps)
        return kept | ({best} if best is not None else set())

    def best_of(self, steps: Mapping[int, Mapping[str, float]]) -> int | None:
        """The step with the best value of the metric; None if none was measured, or if `best` is not set."""
        if not any(self.best in metrics for metrics in steps.values()):
            return None
        return best_step(steps, self.best, self.direction)

    @property
    def direction(self) -> Literal["max", "min"]:
        """The mode, "max" or "min"; raises `UsageError` if it is auto and the metric's name is unknown."""
        found = direction(self.best) if self.mode == "auto" else self.mode
        if found is None:
            raise UsageError(
                f"keep.best is {self.best!r}, and nothing says whether more or less of it is better; set keep.mode to 'max' "
                f"or 'min'"
            )
        return found

    def resolved(self, known: Mapping[str, Literal["max", "min"]]) -> "Keep":
        """The same with its mode set, by the task or by the name of the metric; raises as `direction` does."""
        if not self.best or self.mode != "auto":
            return self
        return dataclasses.replace(self, mode=known.get(self.best) or self.direction)


# Words of a metric's name. The last known one decides: `top5_error` is an error, `loss_gain` a gain.
BETTER_HIGHER = frozenset((
    "accuracy", "acc", "r2", "f1", "precision", "recall", "auc", "auroc", "ap", "map", "iou", "dice", "bleu", "rouge", "exact",
    "elbo", "explained", "gain", "psnr", "ssim", "score", "likelihood", "correlation", "similarity", "kappa", "mcc",
    "coverage", "near", "modes", "margin", "specificity", "sensitivity", "preferred", "reward", "knn", "probe",
))  # fmt: skip
BETTER_LOWER = frozenset((
    "loss", "mse", "mae", "rmse", "mape", "smape", "nll", "perplexity", "ppl", "error", "errors", "entropy", "kl",
    "divergence", "distance", "fid", "reconstruction", "mistakes", "cost", "regret", "penalty", "dropped", "bpc", "bpd",
    "wer", "cer", "ece", "brier", "bits", "energy", "deviation",
))  # fmt: skip


def direction(metric: str) -> Literal["max", "min"] | None:
    """Whether more ("max") or less of a metric is better, by its name; None if the name is unknown."""
    for word in reversed(metric.lower().replace("-", "_").replace("/", "_").split("_")):
        if word in BETTER_LOWER or word in BETTER_HIGHER:
            if word == "likelihood" and "negative" in metric.lower():
                return "min"
            return "max" if word in BETTER_HIGHER else "min"
    return None


def better(value: float, than: float | None, mode: str) -> bool:
    """Whether a value is strictly better than the best so far (None: there is none); NaN never is."""
    if math.isnan(value):
        return False
    return than is None or (value > than if mode == "max" else value < than)


def best_step(steps: Mapping[int, Mapping[str, float]], metric: str, mode: str) -> int | None:
    """The step with the best value of a metric, the first of equals; None if none has it."""
    best: tuple[int, float] | None = None
    for step in sorted(steps):
        value = steps[step].get(metric, math.nan)
        if better(value, best[1] if best else None, mode):
            best = step, value
    return best[0] if best else None
