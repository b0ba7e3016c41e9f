"""Real numbers, one or several for each example. Shapes: `B` batch, `K` numbers."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import DataError
from jaxnets.core.types import Aux, Batch, Card, Exhibit, Mean, Scatter, Variables
from jaxnets.tasks.base import Task, check_kind, with_outputs
from jaxnets.tasks.losses import huber, squared_error
from jaxnets.tasks.scales import differences, in_units, standardized

ERRORS = {"squared": squared_error, "huber": huber}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regression(Task):
    """Minimise the error of real targets; measure R2, MSE, RMSE and MAE (of several targets, the mean of each one's).

    The model works on standardised targets, `(target - target_mean) / target_std`, both taken from the training data by
    `bind`; `encode_targets` makes them, `decide` undoes it. A batch holds `inputs` `[B, ...]`, `targets` `[B]` or `[B, K]` as
    `encode_targets` gives them, and `mask` `[B]`; the model returns `[B, K]`.
    """

    error: Literal["squared", "huber"] = "squared"
    """What is minimised; huber (delta 1, in standard deviations) is less moved by outliers."""
    target_mean: float | tuple[float, ...] | None = None
    """Subtracted from the targets, one number or one for each; None takes the training data's means."""
    target_std: float | tuple[float, ...] | None = None
    """Divides the targets, one number or one for each; None takes the training data's standard deviations."""

    headline = "r2"
    higher_is_better = True
    given_targets = "number"

    def bind(self, card: Card) -> Self:
        """Take the targets' means and standard deviations from the data, and give the model an output for each."""
        check_kind(card, "number", "regression needs real numbers for each example")
        means = card.target_means if self.target_mean is None else self.target_mean
        deviations = card.target_deviations if self.target_std is None else self.target_std
        count = int(np.prod(card.target_shape))
        for name, values in (("target_mean", means), ("target_std", deviations)):
            if np.size(values) not in (1, count):
                raise DataError(
                    f"Regression.{name} has {np.size(values)} numbers, and {card.name!r} has {count} targets"
                )
        if np.min(deviations) <= 0:
            which = f" number {int(np.argmin(deviations))}" if count > 1 else ""
            raise DataError(
                f"the targets{which} of {card.name!r} have standard deviation {np.min(deviations):g}; there is nothing to "
                f"predict"
            )
        what = "one number" if count == 1 else f"{count} numbers"
        return dataclasses.replace(
            self,
            model=with_outputs(self.model, count, exact=True, reason=f"regression predicts {what}"),
            target_mean=_plain(means),
            target_std=_plain(deviations),
        )

    @property
    def _mean(self) -> np.ndarray:
        return np.asarray(0.0 if self.target_mean is None else self.target_mean, np.float64)

    @property
    def _std(self) -> np.ndarray:
        return np.asarray(1.0 if self.target_std is None else self.target_std, np.float64)

    def encode_targets(self, targets: np.ndarray) -> np.ndarray:
        """Targets `[N]` or `[N, K]` in their own unit, standardised: float32, of the same shape."""
        return standardized(targets, self._mean, self._std)

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """Mean error in standardised units over the unmasked examples."""
        outputs, model_state = self.apply(variables, batch, key if train else None)
        loss = Mean.of(ERRORS[self.error](outputs, _columns(batch)), batch["mask"])
        return loss, Aux({"loss": loss}, model_state)

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """Standardised errors of each target, from which `derive` makes R2, MSE, RMSE and MAE."""
        outputs, targets, mask = self.outputs(variables, batch), _columns(batch), batch["mask"]
        found = {"loss": Mean.of(ERRORS[self.error](outputs, targets), mask)}
        for k in range(targets.shape[1]):
            found[f"squared_{k}"] = Mean.of(squared_error(outputs[:, k], targets[:, k]), mask)
            found[f"absolute_{k}"] = Mean.of(jnp.abs(outputs[:, k] - targets[:, k]), mask)
        return found

    def about_split(self, arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The standard deviation of each target, in its unit, in float64; NaN where it is 0 or of one example."""
        targets = np.asarray(arrays["targets"]).reshape(len(arrays["targets"]), -1)
        weights = np.ones(len(targets))
        for name in ("weights", "mask"):
            weights = weights * arrays[name] if name in arrays else weights
        kept, weights = targets[weights > 0], weights[weights > 0]
        near = differences(kept, kept[0].astype(np.float64))
        unit = np.where(np.abs(near).max(axis=0) > 0, np.abs(near).max(axis=0), 1.0)  # whose square floats may not hold
        shares = near / unit
        spread = unit * np.sqrt(
            np.average(np.square(shares - np.average(shares, axis=0, weights=weights)), axis=0, weights=weights)
        )
        # R2 of equal targets, or of a single one, divides by nothing; by rounding errors it would be any number.
        rounding = 1e-14 * np.abs(kept.astype(np.float64)).max(axis=0) if kept.dtype.kind == "f" else 0.0
        defined = (len(kept) > 1) & (spread > rounding)
        return {
            f"deviation_{k}": float(v) if ok else float("nan")
            for k, (v, ok) in enumerate(zip(spread, defined, strict=True))
        }

    def derive(self, values: Mapping[str, float]) -> dict[str, float]:
        """R2 (1 is perfect, 0 the mean), MSE in the square of the targets' unit, RMSE and MAE in it.

        R2 is NaN where the targets of the split do not vary. Of several targets each is the mean over them.
        """
        count = sum(name.startswith("squared_") for name in values)
        if not count:
            return dict(values)
        std = np.broadcast_to(self._std, count)
        squared, absolute, deviation = (
            np.array([values.get(f"{name}_{k}", np.nan) for k in range(count)])
            for name in ("squared", "absolute", "deviation")
        )
        mse = squared * std**2
        return {
            "loss": values["loss"],
            "r2": float(np.mean(1 - squared * (std / deviation) ** 2)),
            "mse": float(np.mean(mse)),
            "rmse": float(np.mean(np.sqrt(squared) * std)),
            "mae": float(np.mean(absolute * std)),
        }

    def check_outputs(self, variables: Variables, batch: Batch, card: Card) -> None:
        """A number for each target."""
        shape, count = jax.eval_shape(self.outputs, variables, batch).shape, int(np.prod(card.target_shape))
        if len(shape) != 2 or shape[1] != count:
            raise DataError(
                f"{type(self.model).__name__} gives outputs of shape {shape}, but regression needs [batch, {count}]; change "
                f"the model's last layer"
            )

    def decide(self, outputs: np.ndarray) -> np.ndarray:
        """The predicted values in the targets' unit: `[B]`, or `[B, K]` of several; float32 (float64 where that is too
        coarse)."""
        values = in_units(outputs, self._mean, self._std)
        return values[:, 0] if values.shape[1] == 1 else values

    def exhibits(self, outputs: np.ndarray, arrays: Mapping[str, np.ndarray], card: Card) -> Sequence[Exhibit]:
        """Predicted against true, for each of the first four targets."""
        true = np.asarray(arrays["targets"], np.float64).reshape(len(outputs), -1)
        said = self.decide(outputs).reshape(len(outputs), -1)
        shown = []
        for k in range(min(true.shape[1], 4)):
            name = card.target_name if true.shape[1] == 1 else f"{card.target_name} {k}"
            title = (
                "Predicted against true (test)" if true.shape[1] == 1 else f"Predicted against true (test), target {k}"
            )
            shown.append(Scatter(title, true[:, k], said[:, k], f"true {name}", f"predicted {name}"))
        return shown


def _columns(batch: Batch) -> Array:
    """The targets as `[B, K]`."""
    targets = batch["targets"].astype(jnp.float32)
    return targets.reshape(targets.shape[0], -1)


def _plain(values: float | tuple[float, ...]) -> float | tuple[float, ...]:
    """A single number as such, so that a configuration shows it as one."""
    return float(np.ravel(values)[0]) if np.size(values) == 1 else tuple(float(v) for v in np.ravel(values))
