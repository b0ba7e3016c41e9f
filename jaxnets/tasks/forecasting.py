"""What follows in a series.

Shapes: `B` batch, `T` steps seen, `K` steps ahead, `C` channels.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import DataError
from jaxnets.core.types import Aux, Batch, Card, Exhibit, Lines, Mean, Variables
from jaxnets.tasks.base import Task, check_kind, evenly, with_outputs
from jaxnets.tasks.losses import huber, squared_error
from jaxnets.tasks.scales import in_units, standardized


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forecasting(Task):
    """Minimise the error of the next steps; measure it beside that of repeating what was seen.

    A batch holds `inputs` `[B, T, C]` and `targets` `[B, K, C]`, both standardised for each channel (see `encode_targets`),
    and `mask` `[B]`; the model returns `[B, K * C]`, standardised, whatever it is: an MLP reads the history flat, an RNN step
    by step.
    """

    error: Literal["squared", "absolute", "huber"] = "squared"
    """What is minimised, in standard deviations (huber: delta 1)."""
    season: int = 1
    """Steps after which the series roughly repeats: one of the two plain forecasts to beat repeats the last season seen, the
    other the last value."""
    from_last: bool = True
    """The model sees the series minus its last value, and says how far it moves from there: so a level that the training
    part never had does no harm (NLinear of Zeng et al. 2023). False: the model deals in the values themselves."""
    means: tuple[float, ...] = ()
    """Subtracted from the targets, for each channel; () takes the training data's."""
    stds: tuple[float, ...] = ()
    """Divide the targets, for each channel; () takes the training data's."""

    headline = "gain"
    higher_is_better = True

    def __post_init__(self) -> None:
        if self.season < 1:
            raise ValueError(f"Forecasting.season is at least 1 step, got {self.season}")

    def bind(self, card: Card) -> Self:
        """Take the scales from the data, and give the model an output for each step ahead of each channel."""
        check_kind(card, "series", "forecasting needs windows of a series")
        steps = card.input_shape[0]
        if self.season > steps:
            raise DataError(
                f"season={self.season}, but the windows of {card.name!r} show {steps} steps, so the last season is not in "
                f"them; set season to {steps} at most, or data.history to {self.season} at least"
            )
        ahead, channels = card.target_shape
        reason = f"{card.name!r} has {ahead} steps ahead of {channels} channels"
        # One number stands for all channels.
        means, stds = (
            tuple(np.broadcast_to(v, channels).tolist()) for v in (card.target_means, card.target_deviations)
        )
        for name, own, of_data in (("means", self.means, means), ("stds", self.stds, stds)):
            if own and (len(own) != channels or not np.allclose(own, of_data)):
                raise DataError(
                    f"Forecasting.{name} is {own}, but {card.name!r} is standardised by {of_data}; leave it out, and the data "
                    f"decide"
                )
        return dataclasses.replace(
            self,
            model=with_outputs(self.model, ahead * channels, exact=True, reason=reason),
            means=self.means or means,
            stds=self.stds or stds,
        )

    def inputs_of(self, batch: Batch) -> Any:
        """What was seen, relative to its last value where `from_last` says so."""
        x = _seen(batch)
        return (x - x[:, -1:] if self.from_last else x).astype(batch["inputs"].dtype)

    def encode_targets(self, targets: np.ndarray) -> np.ndarray:
        """Steps `[N, K, C]` in their own units, standardised for each channel: float32, same shape."""
        return standardized(targets, self.means or 0.0, self.stds or 1.0)

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """Mean error of a step, standardised, over the unmasked windows."""
        said, model_state = self.apply(variables, batch, key if train else None)
        said, true = self._forecast(said, batch), batch["targets"].astype(jnp.float32)
        loss = Mean.of(self._error(said, true), batch["mask"])
        return loss, Aux({"loss": loss, "mse": Mean.of(squared_error(said, true), batch["mask"])}, model_state)

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """Loss; squared and absolute error, standardised and in the targets' units; squared errors of the plain forecasts."""
        said, true, mask = self.outputs(variables, batch), batch["targets"].astype(jnp.float32), batch["mask"]
        std = jnp.asarray(self.stds, jnp.float32)[None, None]
        seen = _seen(batch)
        return {
            "loss": Mean.of(self._error(said, true), mask),
            "mse": Mean.of(squared_error(said, true), mask),
            "mae": Mean.of(jnp.abs(said - true), mask),
            "unit_mse": Mean.of(squared_error(said, true) * std**2, mask),
            "unit_mae": Mean.of(jnp.abs(said - true) * std, mask),
            "last_mse": Mean.of(squared_error(repeat_season(seen, 1, true.shape[1]), true), mask),
            "season_mse": Mean.of(squared_error(repeat_season(seen, self.season, true.shape[1]), true), mask),
        }

    def derive(self, values: Mapping[str, float]) -> dict[str, float]:
        """The means measured, and `gain`: how many times ours the squared error of the better plain forecast is."""
        if "season_mse" not in values:
            return dict(values)
        plain = min(values["season_mse"], values["last_mse"])
        return {**values, "gain": plain / values["mse"] if values["mse"] > 0 else math.inf if plain > 0 else math.nan}

    def outputs(self, variables: Variables, batch: Batch) -> Array:
        """The steps foretold, standardised, `[B, K, C]`."""
        return self._forecast(self.apply(variables, batch, None)[0], batch)

    def check_outputs(self, variables: Variables, batch: Batch, card: Card) -> None:
        """A number for each step ahead of each channel."""
        said = jax.eval_shape(lambda v, b: self.apply(v, b, None)[0], variables, batch).shape
        rows, ahead, channels = batch["targets"].shape
        if said not in ((rows, ahead * channels), (rows, ahead, channels)):
            raise DataError(
                f"{type(self.model).__name__} gives outputs of shape {said}, but {card.name!r} has {ahead} steps ahead of "
                f"{channels} channels: forecasting needs [batch, {ahead * channels}]; change the model's last layer "
                f"(an RNN's answer is `last`)"
            )

    def decide(self, outputs: np.ndarray) -> np.ndarray:
        """The forecast in the targets' units, `[B, K, C]` float32 (float64 where that is too coarse)."""
        return in_units(outputs, np.array(self.means), np.array(self.stds))

    def exhibit_rows(self, examples: int) -> np.ndarray:
        """Six windows."""
        return evenly(examples, 6)

    def exhibits(self, outputs: np.ndarray, arrays: Mapping[str, np.ndarray], card: Card) -> Sequence[Exhibit]:
        """Six forecasts of the last channel, evenly spread over the test, beside what was seen and what came."""
        said, chosen = self.decide(outputs), evenly(len(outputs), 6)
        seen, true = (np.asarray(arrays[name][chosen, :, -1], np.float64) for name in ("inputs", "targets"))
        (count, steps), ahead = seen.shape, true.shape[1]
        curves = np.full((count, 3, steps + ahead), np.nan)
        curves[:, 0, :steps], curves[:, 1, steps:], curves[:, 2, steps:] = seen, true, said[chosen, :, -1]
        curves[:, 1:, steps - 1] = seen[:, -1:]  # the curves begin where the seen one ends
        captions = tuple(
            f"window {index}" for index in np.asarray(arrays.get("index", np.arange(len(outputs))))[chosen]
        )
        x = np.arange(1 - steps, ahead + 1)
        names = ("seen", "what came", "foretold")
        return [Lines("Forecasts (test)", x, curves, names, captions, "step", card.target_name)]

    def _forecast(self, said: Array, batch: Batch) -> Array:
        said = said.reshape(batch["inputs"].shape[0], -1, batch["inputs"].shape[2])
        return said + _seen(batch)[:, -1:] if self.from_last else said

    def _error(self, said: Array, true: Array) -> Array:
        if self.error == "absolute":
            return jnp.abs(said - true)
        return (huber if self.error == "huber" else squared_error)(said, true)


def _seen(batch: Batch) -> Array:
    """What was seen, in float32: small moves of a high level would be lost in bfloat16's three digits."""
    return jnp.asarray(batch.get("exact_inputs", batch["inputs"]), jnp.float32)


def repeat_season(seen: Array, season: int, ahead: int) -> Array:
    """The last `season` steps of `[B, T, C]`, again and again: `[B, ahead, C]`."""
    last = seen[:, seen.shape[1] - season :]
    return jnp.tile(last, (1, -(-ahead // season), 1))[:, :ahead]
