"""One real number for each example."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.contracts import Aux, Batch, Card, Exhibit, Mean, Scatter, Variables
from jaxnets.errors import DataError
from jaxnets.tasks.base import Task, check_kind, with_outputs
from jaxnets.tasks.losses import huber, squared_error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regression(Task):
    """Minimise the error of a real target; measure R2, MSE, RMSE and MAE.

    A batch holds `inputs` `[B, ...]`, `targets` `[B]` in their own unit and `mask` `[B]`. The model works on standardised
    targets: its output is `(target - target_mean) / target_std`, both taken from the training data by `bind`.
    """

    error: Literal["squared", "huber"] = "squared"
    """What is minimised; huber (delta 1, in standard deviations) is less moved by outliers."""
    target_mean: float | None = None
    """Subtracted from the targets; None takes the training data's mean."""
    target_std: float | None = None
    """Divides the targets; None takes the training data's standard deviation."""

    headline = "r2"
    higher_is_better = True

    def bind(self, card: Card) -> Self:
        """Take the targets' mean and standard deviation from the data, and give the model one output."""
        check_kind(card, "number", "regression needs one real number for each example")
        std = card.target_std if self.target_std is None else self.target_std
        if std <= 0:
            raise DataError(f"the targets of {card.name!r} have standard deviation {std}; there is nothing to predict")
        return dataclasses.replace(
            self,
            model=with_outputs(self.model, 1, exact=True, reason="regression predicts one number"),
            target_mean=card.target_mean if self.target_mean is None else self.target_mean,
            target_std=std,
        )

    @property
    def _mean(self) -> float:
        return self.target_mean or 0.0

    @property
    def _std(self) -> float:
        return self.target_std or 1.0

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """Mean error in standardised units over the unmasked examples."""
        outputs, model_state = self.apply(variables, batch, key if train else None)
        targets = (batch["targets"].astype(jnp.float32) - self._mean) / self._std
        error = {"squared": squared_error, "huber": huber}[self.error]
        loss = Mean.of(error(outputs[:, 0], targets), batch["mask"])
        return loss, Aux({"loss": loss}, model_state)

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """Standardised moments, from which `derive` makes R2, MSE, RMSE and MAE."""
        outputs = self.outputs(variables, batch)[:, 0]
        targets = (batch["targets"].astype(jnp.float32) - self._mean) / self._std
        mask = batch["mask"]
        return {
            "loss": Mean.of({"squared": squared_error, "huber": huber}[self.error](outputs, targets), mask),
            "squared": Mean.of(squared_error(outputs, targets), mask),
            "absolute": Mean.of(jnp.abs(outputs - targets), mask),
            "first": Mean.of(targets, mask),
            "second": Mean.of(jnp.square(targets), mask),
        }

    def derive(self, values: Mapping[str, float]) -> dict[str, float]:
        """R2 (1 is perfect, 0 the mean), MSE in the square of the targets' unit, RMSE and MAE in it."""
        if "squared" not in values:
            return dict(values)
        variance = values["second"] - values["first"] ** 2
        return {
            "loss": values["loss"],
            "r2": 1 - values["squared"] / variance if variance > 0 else float("nan"),
            "mse": values["squared"] * self._std**2,
            "rmse": values["squared"] ** 0.5 * self._std,
            "mae": values["absolute"] * self._std,
        }

    def check_outputs(self, variables: Variables, batch: Batch, card: Card) -> None:
        """One number for each example."""
        shape = jax.eval_shape(self.outputs, variables, batch).shape
        if len(shape) != 2 or shape[1] != 1:
            raise DataError(
                f"{type(self.model).__name__} gives outputs of shape {shape}, but regression needs [batch, 1]; change the "
                f"model's last layer"
            )

    def decide(self, outputs: np.ndarray) -> np.ndarray:
        """The predicted value in the targets' unit, `[B]` float32."""
        return (outputs[:, 0] * self._std + self._mean).astype(np.float32)

    def exhibits(self, outputs: np.ndarray, arrays: Mapping[str, np.ndarray], card: Card) -> Sequence[Exhibit]:
        """Predicted against true."""
        true = np.asarray(arrays["targets"], np.float32)
        name = card.target_name
        return [
            Scatter("Predicted against true (test)", true, self.decide(outputs), f"true {name}", f"predicted {name}")
        ]
