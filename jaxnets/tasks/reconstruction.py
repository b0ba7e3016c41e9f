"""Inputs that are their own targets: autoencoders, and denoising ones."""

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

# Images in the report.
SHOWN = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstruction(Task):
    """Minimise the squared error of the input itself, in the unit of the prepared inputs.

    With `noise` or `masked` it is a denoising autoencoder (Vincent et al. 2008): the model sees a spoilt input and is
    asked for the clean one, in evaluation too. A batch holds `inputs` `[B, ...]` and `mask` `[B]`; the model returns the
    inputs' shape.
    """

    noise: float = 0.0
    """Standard deviation of Gaussian noise on what the model sees."""
    masked: float = 0.0
    """Probability that a number of what the model sees is replaced by 0, in [0, 1)."""
    centre: float = 0.0
    """Taken from the inputs before their variance is measured, which would lose its digits far from 0; the data decide."""

    headline = "explained"
    higher_is_better = True

    def __post_init__(self) -> None:
        if self.noise < 0:
            raise ValueError(f"noise is a standard deviation, at least 0; got {self.noise}")
        if not 0 <= self.masked < 1:
            raise ValueError(f"masked is a probability in [0, 1), got {self.masked}")

    def bind(self, card: Card) -> Self:
        """Give the model the shape of an example, and take the middle of the inputs' range."""
        low, high = card.input_range
        centre = (low + high) / 2 if math.isfinite(low + high) else self.centre
        return dataclasses.replace(self, model=with_shape(self.model, card), centre=centre)

    def spoil(self, inputs: Array, keys: Array) -> Array:
        """Inputs `[B, ...]` as the model sees them, with a key `[B]` for each."""
        if not self.noise and not self.masked:
            return inputs

        def one(key: Array, x: Array) -> Array:
            for_noise, for_mask = jax.random.split(key)
            x = x + self.noise * jax.random.normal(for_noise, x.shape, x.dtype)
            return jnp.where(jax.random.bernoulli(for_mask, self.masked, x.shape), 0.0, x)

        return jax.vmap(one)(keys, inputs)

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """Mean squared error of each number over the unmasked examples."""
        for_noise, for_model = jax.random.split(key)
        seen = self.spoil(batch["inputs"], batch_keys(for_noise, batch, "spoil"))
        outputs, model_state = self.apply(variables, {**batch, "inputs": seen}, for_model if train else None)
        loss = Mean.of(jnp.square(outputs - batch["inputs"].astype(jnp.float32)), batch["mask"])
        return loss, Aux({"loss": loss}, model_state)

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """The loss, with noise that depends on the example's row alone, and two moments of the inputs for `derive`."""
        inputs, mask = batch["inputs"].astype(jnp.float32), batch["mask"]
        loss, _ = self.loss(variables, batch, jax.random.key(0), False)
        return {"loss": loss, **self.moments(inputs, mask)}

    def moments(self, inputs: Array, mask: Array) -> dict[str, Mean]:
        """Mean and mean square of the inputs, from the centre on."""
        away = inputs - self.centre
        return {"first": Mean.of(away, mask), "second": Mean.of(jnp.square(away), mask)}

    def derive(self, values: Mapping[str, float]) -> dict[str, float]:
        """`explained`: the share of the inputs' variance (about the mean of all their numbers) that is said again."""
        if "second" not in values:
            return dict(values)
        variance = values["second"] - values["first"] ** 2
        return {"loss": values["loss"], "explained": 1 - values["loss"] / variance if variance > 0 else float("nan")}

    def check_outputs(self, variables: Variables, batch: Batch, card: Card) -> None:
        """One number for each of the input's."""
        check_same_shape(self, jax.eval_shape(self.outputs, variables, batch).shape, batch, card)

    def exhibit_rows(self, examples: int) -> np.ndarray:
        """The first images."""
        return np.arange(min(SHOWN, examples))

    def exhibits(self, outputs: np.ndarray, arrays: Mapping[str, np.ndarray], card: Card) -> Sequence[Exhibit]:
        """Test images, each beside what the model made of it."""
        return reconstructions(arrays["inputs"], outputs)


def with_shape(model: nn.Module, card: Card) -> nn.Module:
    """The model with `shape` filled in, or an error where the shape given contradicts the data."""
    fields: Any = {field.name for field in dataclasses.fields(model)}
    if "shape" not in fields:
        return model
    given = model.shape
    if given and given != card.input_shape:
        raise DataError(
            f"{type(model).__name__} has shape={given}, but an example of {card.name!r} has shape {card.input_shape}; "
            f"set that, or leave it out and the data decide"
        )
    return model.clone(shape=card.input_shape)


def check_same_shape(task: Task, shape: tuple[int, ...], batch: Batch, card: Card) -> None:
    """Raise `DataError` unless outputs of this shape can be compared with the inputs number by number."""
    if shape != batch["inputs"].shape:
        raise DataError(
            f"{type(task.model).__name__} gives outputs of shape {shape}, but {type(task).__name__} on {card.name!r} "
            f"compares them with the inputs, {batch['inputs'].shape}; use a model that returns its input's shape"
        )


def reconstructions(inputs: np.ndarray, outputs: np.ndarray, count: int = SHOWN) -> list[Exhibit]:
    """The first `count` images, each with its reconstruction beside it; nothing where they are no images."""
    if inputs.ndim != 4 or inputs.shape[-1] not in (1, 3):
        return []
    pairs = [image for pair in zip(inputs[:count], outputs[:count], strict=True) for image in pair]
    captions = tuple(word for _ in range(len(pairs) // 2) for word in ("seen", "made of it"))
    return [Gallery("Reconstructions (test)", np.stack(pairs).astype(np.float32), captions)]
