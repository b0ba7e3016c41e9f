"""Forecasting of time series.

Shapes: `B` batch, `T` past steps, `K` future steps, `C` channels.
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
    """Minimise the error of the next steps; compare it with two naive forecasts, which repeat past values.

    A batch holds `inputs` `[B, T, C]` and `targets` `[B, K, C]`, both standardised per channel (see `encode_targets`), and
    `mask` `[B]`. Any model that returns `[B, K * C]`, standardised, will do: an MLP reads the history flat, an RNN step by
    step.
    """

    error: Literal["squared", "absolute", "huber"] = "squared"
    """The loss, in standard deviations (huber: delta 1)."""
    season: int = 1
    """Period of the series in steps. One naive forecast repeats the last season, the other the last value."""
    from_last: bool = True
    """The model sees the series minus its last value and predicts the change from there, so levels outside the training range
    are no problem (NLinear of Zeng et al. 2023). False: it gets and predicts the values themselves."""
    means: tuple[float, ...] = ()
    """Subtracted from the targets, per channel; () takes the means of the training data."""
    stds: tuple[float, ...] = ()
    """Divisors of the targets, per channel; () takes the standard deviations of the training data."""

    headline = "gain"
    higher_is_better = True

    def __post_init__(self) -> None:
        if self.season < 1:
            raise ValueError(f"Forecasting.season is at least 1 step, got {self.season}")

    def bind(self, card: Card) -> Self:
        """Take the scales from the data, and set the model's outputs to future steps times channels."""
        check_kind(card, "series", "forecasting needs windows of a series")
        steps = card.input_shape[0]
        if self.season > steps:
            raise DataError(
                f"season={self.season}, but the windows of {card.name!r} have {steps} steps, too few for a whole "
                f"season; set season to {steps} at most, or data.history to {self.season} at least"
            )
        ahead, channels = card.target_shape
        reason = f"{card.name!r} has {ahead} steps ahead of {channels} channels"
        # A single number applies to all channels.
        means, stds = (
            tuple(np.broadcast_to(v, channels).tolist()) for v in (card.target_means, card.target_deviations)
        )
        for name, own, of_data in (("means", self.means, means), ("stds", self.stds, stds)):
            if own and (len(own) != channels or not np.allclose(own, of_data)):
                raise DataError(
                    f"Forecasting.{name} is {own}, but {card.name!r} is standardised by {of_data}; leave it out to take it "
                    f"from the data"
                )
        return dataclasses.replace(
            self,
            model=with_outputs(self.model, ahead * channels, exact=True, reason=reason),
            means=self.means or means,
            stds=self.stds or stds,
        )

    def inputs_of(self, batch: Batch) -> Any:
        """The past steps `[B, T, C]`; with `from_last`, minus the last value."""
        x = _seen(batch)
        return (x - x[:, -1:] if self.from_last else x).astype(batch["inputs"].dtype)

    def encode_targets(self, targets: np.ndarray) -> np.ndarray:
        """Standardise steps `[N, K, C]`, given in their own units, per channel: float32, same shape."""
        return standardized(targets, self.means or 0.0, self.stds or 1.0)

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """Mean standardised error per step over the unmasked windows."""
        predicted, model_state = self.apply(variables, batch, key if train else None)
        predicted, true = self._forecast(predicted, batch), batch["targets"].astype(jnp.float32)
        loss = Mean.of(self._error(predicted, true), batch["mask"])
        return loss, Aux({"loss": loss, "mse": Mean.of(squared_error(predicted, true), batch["mask"])}, model_state)

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """Loss; squared and absolute error, standardised and in the targets' units; squared errors of the naive forecasts."""
        predicted, true, mask = self.outputs(variables, batch), batch["targets"].astype(jnp.float32), batch["mask"]
        std = jnp.asarray(self.stds, jnp.float32)[None, None]
        seen = _seen(batch)
        return {
            "loss": Mean.of(self._error(predicted, true), mask),
            "mse": Mean.of(squared_error(predicted, true), mask),
            "mae": Mean.of(jnp.abs(predicted - true), mask),
            "unit_mse": Mean.of(squared_error(predicted, true) * std**2, mask),
            "unit_mae": Mean.of(jnp.abs(predicted - true) * std, mask),
            "last_mse": Mean.of(squared_error(repeat_season(seen, 1, true.shape[1]), true), mask),
            "season_mse": Mean.of(squared_error(repeat_season(seen, self.season, true.shape[1]), true), mask),
        }

    def derive(self, values: Mapping[str, float]) -> dict[str, float]:
        """The measured means, and `gain`: the squared error of the better naive forecast divided by the model's."""
        if "season_mse" not in values:
            return dict(values)
        plain = min(values["season_mse"], values["last_mse"])
        return {**values, "gain": plain / values["mse"] if values["mse"] > 0 else math.inf if plain > 0 else math.nan}

    def outputs(self, variables: Variables, batch: Batch) -> Array:
        """The predicted steps, standardised, `[B, K, C]`."""
        return self._forecast(self.apply(variables, batch, None)[0], batch)

    def check_outputs(self, variables: Variables, batch: Batch, card: Card) -> None:
        """Check for one output per future step and channel."""
        shape = jax.eval_shape(lambda v, b: self.apply(v, b, None)[0], variables, batch).shape
        rows, ahead, channels = batch["targets"].shape
        if shape not in ((rows, ahead * channels), (rows, ahead, channels)):
            raise DataError(
                f"{type(self.model).__name__} gives outputs of shape {shape}, but {card.name!r} has {ahead} steps ahead of "
                f"{channels} channels: forecasting needs [batch, {ahead * channels}]; change the model's last layer "
                f"(for an RNN set its answer to `last`)"
            )

    def decide(self, outputs: np.ndarray) -> np.ndarray:
        """The forecast in the targets' units, `[B, K, C]` float32 (float64 if that is too coarse)."""
        return in_units(outputs, np.array(self.means), np.array(self.stds))

    def exhibit_rows(self, examples: int) -> np.ndarray:
        """Six windows."""
        return evenly(examples, 6)

    def exhibits(self, outputs: np.ndarray, arrays: Mapping[str, np.ndarray], card: Card) -> Sequence[Exhibit]:
        """Six forecasts of the last channel, evenly spaced over the test, with the past and the true future."""
        predicted, chosen = self.decide(outputs), evenly(len(outputs), 6)
        seen, true = (np.asarray(arrays[name][chosen, :, -1], np.float64) for name in ("inputs", "targets"))
        (count, steps), ahead = seen.shape, true.shape[1]
        curves = np.full((count, 3, steps + ahead), np.nan)
        curves[:, 0, :steps], curves[:, 1, steps:], curves[:, 2, steps:] = seen, true, predicted[chosen, :, -1]
        curves[:, 1:, steps - 1] = seen[:, -1:]  # the future curves start at the last past value
        captions = tuple(
            f"window {index}" for index in np.asarray(arrays.get("index", np.arange(len(outputs))))[chosen]
        )
        x = np.arange(1 - steps, ahead + 1)
        names = ("past", "true", "predicted")
        return [Lines("Forecasts (test)", x, curves, names, captions, "step", card.target_name)]

    def _forecast(self, predicted: Array, batch: Batch) -> Array:
        predicted = predicted.reshape(batch["inputs"].shape[0], -1, batch["inputs"].shape[2])
        return predicted + _seen(batch)[:, -1:] if self.from_last else predicted

    def _error(self, predicted: Array, true: Array) -> Array:
        if self.error == "absolute":
            return jnp.abs(predicted - true)
        return (huber if self.error == "huber" else squared_error)(predicted, true)


def _seen(batch: Batch) -> Array:
    """The past steps in float32: bfloat16's three digits would lose small changes at a high level."""
    return jnp.asarray(batch.get("exact_inputs", batch["inputs"]), jnp.float32)


def repeat_season(seen: Array, season: int, ahead: int) -> Array:
    """The last `season` steps of `[B, T, C]`, repeated: `[B, ahead, C]`."""
    last = seen[:, seen.shape[1] - season :]
    return jnp.tile(last, (1, -(-ahead // season), 1))[:, :ahead]
