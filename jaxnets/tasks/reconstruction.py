"""Reconstruction of the inputs: autoencoders and denoising autoencoders."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import DataError
from jaxnets.core.types import Aux, Batch, Card, Exhibit, Gallery, Mean, Variables
from jaxnets.ops.random import batch_keys
from jaxnets.tasks.base import Task

# Number of images in the report.
SHOWN = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstruction(Task):
    """Minimise the squared error of the reconstructed inputs, in the unit of the prepared inputs.

    With `noise` or `masked` it is a denoising autoencoder (Vincent et al. 2008): the model sees a corrupted input and
    predicts the clean one, in evaluation too. A batch holds `inputs` `[B, ...]` and `mask` `[B]`; the model returns the
    shape of the inputs.
    """

    noise: float = 0.0
    """Standard deviation of Gaussian noise on the model's input."""
    masked: float = 0.0
    """Probability that a number of the model's input is replaced by 0, in [0, 1)."""
    centre: float = 0.0
    """Subtracted before the inputs' variance is computed, which loses digits far from 0; taken from the data."""

    headline = "explained"
    higher_is_better = True

    def __post_init__(self) -> None:
        if self.noise < 0:
            raise ValueError(f"noise is a standard deviation, at least 0; got {self.noise}")
        if not 0 <= self.masked < 1:
            raise ValueError(f"masked is a probability in [0, 1), got {self.masked}")

    def bind(self, card: Card) -> Self:
        """Set the model's example shape, and take the middle of the inputs' range as centre."""
        low, high = card.input_range
        centre = (low + high) / 2 if math.isfinite(low + high) else self.centre
        return dataclasses.replace(self, model=with_shape(self.model, card), centre=centre)

    def spoil(self, inputs: Array, keys: Array) -> Array:
        """Corrupt inputs `[B, ...]` with `noise` and `masked`; one key `[B]` per example."""
        if not self.noise and not self.masked:
            return inputs

        def one(key: Array, x: Array) -> Array:
            for_noise, for_mask = jax.random.split(key)
            x = x + self.noise * jax.random.normal(for_noise, x.shape, x.dtype)
            return jnp.where(jax.random.bernoulli(for_mask, self.masked, x.shape), 0.0, x)

        return jax.vmap(one)(keys, inputs)

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """Mean squared error per number over the unmasked examples."""
        for_noise, for_model = jax.random.split(key)
        seen = self.spoil(batch["inputs"], batch_keys(for_noise, batch, "spoil"))
        outputs, model_state = self.apply(variables, {**batch, "inputs": seen}, for_model if train else None)
        loss = Mean.of(jnp.square(outputs - batch["inputs"].astype(jnp.float32)), batch["mask"])
        return loss, Aux({"loss": loss}, model_state)

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """The loss, with noise that depends only on the row number, and two moments of the inputs for `derive`."""
        inputs, mask = batch["inputs"].astype(jnp.float32), batch["mask"]
        loss, _ = self.loss(variables, batch, jax.random.key(0), False)
        return {"loss": loss, **self.moments(inputs, mask)}

    def moments(self, inputs: Array, mask: Array) -> dict[str, Mean]:
        """Mean and mean square of the inputs minus `centre`."""
        away = inputs - self.centre
        return {"first": Mean.of(away, mask), "second": Mean.of(jnp.square(away), mask)}

    def derive(self, values: Mapping[str, float]) -> dict[str, float]:
        """`explained`: the share of the inputs' variance (around the mean of all numbers) that is reconstructed."""
        if "second" not in values:
            return dict(values)
        variance = values["second"] - values["first"] ** 2
        return {"loss": values["loss"], "explained": 1 - values["loss"] / variance if variance > 0 else float("nan")}

    def check_outputs(self, variables: Variables, batch: Batch, card: Card) -> None:
        """Check that the outputs have the shape of the inputs."""
        check_same_shape(self, jax.eval_shape(self.outputs, variables, batch).shape, batch, card)

    def exhibit_rows(self, examples: int) -> np.ndarray:
        """The first images."""
        return np.arange(min(SHOWN, examples))

    def exhibits(self, outputs: np.ndarray, arrays: Mapping[str, np.ndarray], card: Card) -> Sequence[Exhibit]:
        """Test images, each next to its reconstruction."""
        return reconstructions(arrays["inputs"], outputs)


def with_shape(model: nn.Module, card: Card) -> nn.Module:
    """The model with `shape` filled in; raises `DataError` if the given shape contradicts the data."""
    fields: Any = {field.name for field in dataclasses.fields(model)}
    if "shape" not in fields:
        return model
    given = model.shape
    if given and given != card.input_shape:
        raise DataError(
            f"{type(model).__name__} has shape={given}, but an example of {card.name!r} has shape {card.input_shape}; "
            f"set that, or leave it out to take it from the data"
        )
    return model.clone(shape=card.input_shape)


def check_same_shape(task: Task, shape: tuple[int, ...], batch: Batch, card: Card) -> None:
    """Raise `DataError` unless this output shape equals that of the inputs."""
    if shape != batch["inputs"].shape:
        raise DataError(
            f"{type(task.model).__name__} gives outputs of shape {shape}, but {type(task).__name__} on {card.name!r} "
            f"compares them with the inputs, {batch['inputs'].shape}; use a model that returns its input's shape"
        )


def reconstructions(inputs: np.ndarray, outputs: np.ndarray, count: int = SHOWN) -> list[Exhibit]:
    """The first `count` images, each next to its reconstruction; [] if the inputs are not images."""
    if inputs.ndim != 4 or inputs.shape[-1] not in (1, 3):
        return []
    pairs = [image for pair in zip(inputs[:count], outputs[:count], strict=True) for image in pair]
    captions = tuple(word for _ in range(len(pairs) // 2) for word in ("input", "reconstruction"))
    return [Gallery("Reconstructions (test)", np.stack(pairs).astype(np.float32), captions)]
