"""The runs of a sweep: fields of an experiment and the values to try, as a grid or drawn at random."""

import copy
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import numpy as np

from jaxnets.config.experiment import Experiment
from jaxnets.config.serialize import digest, to_data
from jaxnets.core.errors import UsageError, did_you_mean

SEED = "seed"
# Root of the draws of training examples, so that they have nothing in common with other draws of the seed.
EXAMPLES = 0xE8A


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, for a random search; whole numbers where both are whole."""

    low: float
    """The smallest number."""
    high: float
    """The largest number."""
    scale: Literal["linear", "log"] = "linear"
    """log: every factor is as likely as any other, which suits learning rates and penalties."""

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise UsageError(f"a range goes from low to high, low < high; got {self.low} and {self.high}")
        if self.scale == "log" and self.low <= 0:
            raise UsageError(f"a range on a logarithmic scale begins above 0, got {self.low}")

    def draw(self, rng: np.random.Generator) -> float:
        """A number."""
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        if self.scale == "log":
            value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = rng.uniform(self.low, self.high)
        return round(value) if whole else float(f"{value:.4g}")


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    values: Mapping[str, Any]
    """The swept fields by dotted name."""
    experiment: Experiment
    """The experiment with these values."""
    examples: int = 0
    """Training examples that it learns from, drawn by its seed; 0: all."""

    @property
    def name(self) -> str:
        """A digest of what is trained, under which results are kept."""
        return digest(self.experiment) + (f"-{self.examples}" if self.examples else "")

    def rows(self, total: int) -> np.ndarray | None:
        """Numbers of its training examples among `total`, int32 in rising order; None: all.

        They are the first ones of a permutation that the seed draws, so the examples of a smaller run are among those of a
        larger one with the same seed.
        """
        if not self.examples:
            return None
        order = np.random.default_rng((EXAMPLES, self.experiment.seed)).permutation(total)
        return np.sort(order[: self.examples]).astype(np.int32)

    @property
    def setting(self) -> str:
        """The values without the seed, as text: trials of one setting differ by their seed alone."""
        return ", ".join(f"{name}={shown(value)}" for name, value in self.values.items() if name != SEED)


def shown(value: Any) -> str:
    """A value as text: an object by the name of its class."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if dataclasses.is_dataclass(value):
        return type(value).__name__
    return ",".join(map(shown, value)) if isinstance(value, tuple | list) else str(value)


def trials(
    experiment: Experiment, values: Mapping[str, Sequence[Any] | Range], *, random: int = 0, draws: int = 0
) -> list[Trial]:
    """The trials of a sweep.

    Args:
        experiment: what is changed.
        values: by the dotted name of a field, in the order in which they are set: what to try, or a `Range` with `random`.
        random: settings to draw; 0: the grid of all values. Every setting is run with every value of `seed`.
        draws: root of the drawing.

    Raises:
        UsageError: there is no such field, a value does not fit, or there is nothing to try.
    """
    if not values:
        raise UsageError('a sweep needs a field and its values, such as {"optimizer.learning_rate": [1e-3, 1e-2]}')
    listed = {name: _listed(name, given) for name, given in values.items() if not isinstance(given, Range)}
    ranges = [name for name in values if name not in listed]
    if ranges and random < 1:
        raise UsageError(f"{ranges[0]} has a range, which has no grid; say how many settings to draw (random=20)")
    if not random:
        grid = itertools.product(*listed.values())
        return [_trial(experiment, dict(zip(listed, chosen, strict=True))) for chosen in grid]
    if SEED in ranges:
        raise UsageError("seeds are listed and not drawn: every setting is run with every seed")
    rng, seeds, settings = np.random.default_rng(draws), listed.get(SEED, [None]), []
    for _ in range(random):
        drawn = {
            name: given.draw(rng) if isinstance(given, Range) else listed[name][rng.integers(len(listed[name]))]
            for name, given in values.items()
            if name != SEED
        }
        if drawn not in settings:
            settings.append(drawn)
    return [
        _trial(experiment, {**setting, **({} if seed is None else {SEED: seed})})
        for setting in settings
        for seed in seeds
    ]


def _listed(name: str, given: Any) -> list[Any]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise UsageError(f"{name} takes a list of values or a Range, got {given!r}")
    found: list[Any] = []
    for value in given:
        value = value.item() if isinstance(value, np.generic) else value
        if value not in found:
            found.append(value)
    if not found:
        raise UsageError(f"{name} has no value to try")
    return found


def _trial(experiment: Experiment, values: Mapping[str, Any]) -> Trial:
    return Trial(values, functools.reduce(lambda one, item: with_field(one, *item), values.items(), experiment))


def value_at(holder: Any, name: str) -> Any:
    """The value of a field by its dotted name; raises `UsageError` where there is none."""
    for part in name.split("."):
        _check_field(holder, part, name)
        holder = getattr(holder, part)
    return holder


def with_field(holder: Any, name: str, value: Any) -> Any:
    """A frozen object with one field replaced, by its dotted name; the rules of its class are checked.

    Raises:
        UsageError: there is no such field, or the value does not fit.
    """
    part, _, rest = name.partition(".")
    _check_field(holder, part, name)
    new = with_field(getattr(holder, part), rest, value) if rest else value
    if not rest and isinstance(new, int) and isinstance(getattr(holder, part), float) and not isinstance(new, bool):
        new = float(new)
    if not rest and isinstance(new, list):
        new = tuple(new)
    try:
        return (
            holder.clone(**{part: new}) if isinstance(holder, nn.Module) else dataclasses.replace(holder, **{part: new})
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}={value!r}: {error}") from error


def with_numbers(holder: Any, numbers: Mapping[str, Any]) -> Any:
    """A frozen object with fields replaced that are not checked, because they are traced numbers."""
    for name, value in numbers.items():
        holder = _unchecked(holder, name.split("."), value)
    return holder


def _unchecked(holder: Any, path: Sequence[str], value: Any) -> Any:
    new = copy.copy(holder)
    inner = _unchecked(getattr(holder, path[0]), path[1:], value) if len(path) > 1 else value
    object.__setattr__(new, path[0], inner)
    return new


def _check_field(holder: Any, part: str, name: str) -> None:
    known = [field.name for field in dataclasses.fields(holder)] if dataclasses.is_dataclass(holder) else []
    if part not in known:
        where = type(holder).__name__
        raise UsageError(f"{name}: {where} has no field {part!r}. {did_you_mean(part, known)}")


def changed_fields(first: Any, second: Any) -> list[str]:
    """What differs between two experiments beside the seed, one line for each field; another class counts once."""
    return _changed(to_data(first), to_data(second), "")


def _changed(first: Any, second: Any, name: str) -> list[str]:
    if isinstance(first, dict) and isinstance(second, dict) and first.get("type") == second.get("type"):
        keys = [key for key in {**first, **second} if not (key == SEED and not name)]
        return [
            line for key in keys for line in _changed(first.get(key), second.get(key), f"{name}.{key}" if name else key)
        ]
    if first == second:
        return []
    a, b = (one.get("type") if isinstance(one, dict) else one for one in (first, second))
    return [f"{name}: {a} in A, {b} in B"]
