"""Regression of one or several real numbers per example. Shapes: `B` batch, `K` numbers."""

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
    """Minimise the error of real targets; measure R2, MSE, RMSE and MAE (averaged over several targets).

    The model predicts standardised targets, `(target - target_mean) / target_std`; `bind` takes both from the training data,
    `encode_targets` standardises and `decide` inverts it. A batch holds `inputs` `[B, ...]`, encoded `targets` `[B]` or
    `[B, K]`, and `mask` `[B]`; the model returns `[B, K]`.
    """

    error: Literal["squared", "huber"] = "squared"
    """The loss; huber (delta 1, in standard deviations) is less sensitive to outliers."""
    target_mean: float | tuple[float, ...] | None = None
    """Subtracted from the targets, one number or one for each; None takes the means of the training data."""
    target_std: float | tuple[float, ...] | None = None
    """Divisor of the targets, one number or one for each; None takes the standard deviations of the training data."""

    headline = "r2"
    higher_is_better = True
    given_targets = "number"

    def bind(self, card: Card) -> Self:
        """Take the targets' means and standard deviations from the data, and set the number of model outputs."""
        check_kind(card, "number", "regression needs real numbers for each example")
        means = card.target_means if self.target_mean is None else self.target_mean
        deviations = card.target_deviations if self.target_std is None else self.target_std
        count = int(np.prod(card.target_shape))
        for name, values in (("target_mean", means), ("target_std", deviations)):
            if np.size(values) not in (1, count):
                raise DataError(
                    f"Regression.{name} has {np.size(values)} numbers, but {card.name!r} has {count} targets; give one or "
                    f"{count}"
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
        """Standardise targets `[N]` or `[N, K]` given in their own unit: float32, same shape."""
        return standardized(targets, self._mean, self._std)

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """Mean error in standardised units over the unmasked examples."""
        outputs, model_state = self.apply(variables, batch, key if train else None)
        loss = Mean.of(ERRORS[self.error](outputs, _columns(batch)), batch["mask"])
        return loss, Aux({"loss": loss}, model_state)

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """Standardised errors of each target; `derive` turns them into R2, MSE, RMSE and MAE."""
        outputs, targets, mask = self.outputs(variables, batch), _columns(batch), batch["mask"]
        found = {"loss": Mean.of(ERRORS[self.error](outputs, targets), mask)}
        for k in range(targets.shape[1]):
            found[f"squared_{k}"] = Mean.of(squared_error(outputs[:, k], targets[:, k]), mask)
            found[f"absolute_{k}"] = Mean.of(jnp.abs(outputs[:, k] - targets[:, k]), mask)
        return found

    def about_split(self, arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The standard deviation of each target, in its unit, in float64; NaN if it is 0 or there is one example."""
        targets = np.asarray(arrays["targets"]).reshape(len(arrays["targets"]), -1)
        weights = np.ones(len(targets))
        for name in ("weights", "mask"):
            weights = weights * arrays[name] if name in arrays else weights
        kept, weights = targets[weights > 0], weights[weights > 0]
        near = differences(kept, kept[0].astype(np.float64))
        unit = np.where(
            np.abs(near).max(axis=0) > 0, np.abs(near).max(axis=0), 1.0
        )  # scaled, so that no square overflows
        shares = near / unit
        spread = unit * np.sqrt(
            np.average(np.square(shares - np.average(shares, axis=0, weights=weights)), axis=0, weights=weights)
        )
        # R2 is undefined for equal targets or a single one; rounding errors would make it an arbitrary number.
        rounding = 1e-14 * np.abs(kept.astype(np.float64)).max(axis=0) if kept.dtype.kind == "f" else 0.0
        defined = (len(kept) > 1) & (spread > rounding)
        return {
            f"deviation_{k}": float(v) if ok else float("nan")
            for k, (v, ok) in enumerate(zip(spread, defined, strict=True))
        }

    def derive(self, values: Mapping[str, float]) -> dict[str, float]:
        """R2 (1: perfect, 0: as good as the mean), MSE in the squared unit of the targets, RMSE and MAE in their unit.

        R2 is NaN if the targets of the split do not vary. Each metric is averaged over several targets.
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
        """Check for one output per target."""
        shape, count = jax.eval_shape(self.outputs, variables, batch).shape, int(np.prod(card.target_shape))
        if len(shape) != 2 or shape[1] != count:
            raise DataError(
                f"{type(self.model).__name__} gives outputs of shape {shape}, but regression needs [batch, {count}]; change "
                f"the model's last layer"
            )

    def decide(self, outputs: np.ndarray) -> np.ndarray:
        """Predictions in the targets' unit: `[B]`, or `[B, K]` for several; float32 (float64 if that is too coarse)."""
        values = in_units(outputs, self._mean, self._std)
        return values[:, 0] if values.shape[1] == 1 else values

    def exhibits(self, outputs: np.ndarray, arrays: Mapping[str, np.ndarray], card: Card) -> Sequence[Exhibit]:
        """Scatter plots of predicted against true values and of the residuals, for up to four targets."""
        true = np.asarray(arrays["targets"], np.float64).reshape(len(outputs), -1)
        predicted = self.decide(outputs).reshape(len(outputs), -1)
        shown = []
        for k in range(min(true.shape[1], 4)):
            name = card.target_name if true.shape[1] == 1 else f"{card.target_name} {k}"
            title = (
                "Predicted against true (test)" if true.shape[1] == 1 else f"Predicted against true (test), target {k}"
            )
            shown.append(Scatter(title, true[:, k], predicted[:, k], f"true {name}", f"predicted {name}"))
            residuals = true[:, k] - predicted[:, k]
            title = title.replace("Predicted against true", "Residuals")
            shown.append(Scatter(title, predicted[:, k], residuals, f"predicted {name}", "true - predicted", "zero"))
        return shown


def _columns(batch: Batch) -> Array:
    """The targets as `[B, K]`."""
    targets = batch["targets"].astype(jnp.float32)
    return targets.reshape(targets.shape[0], -1)


def _plain(values: float | tuple[float, ...]) -> float | tuple[float, ...]:
    """A float for a single number, else a tuple of floats, so that a configuration shows a single number as one."""
    return float(np.ravel(values)[0]) if np.size(values) == 1 else tuple(float(v) for v in np.ravel(values))
