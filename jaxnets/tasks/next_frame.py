"""Prediction of the next frames of a film.

Shapes: `B` batch, `T` past frames, `K` next frames, `H` height, `W` width, `C` channels.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxnets.core.errors import DataError
from jaxnets.core.types import Aux, Batch, Card, Exhibit, Gallery, Mean, Variables
from jaxnets.tasks.base import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextFrame(Task):
    """Minimise the error of every pixel of the next frames; compare it with the error of repeating the last frame.

    A batch holds `inputs` `[B, T, H, W, C]` in [0, 1], `targets` `[B, K, H, W, C]` in [0, white] and `mask` `[B]`; the model
    returns `[B, K, H, W, C]`: logits of the pixels, or with `squared` the pixels themselves.
    """

    error: Literal["cross_entropy", "squared"] = "cross_entropy"
    """The loss: cross entropy with each pixel as a probability (Shi et al. 2015), or the squared error."""
    white: float = 255.0
    """Divisor of the stored targets, which brings them to the range of the inputs."""

    headline = "gain"
    higher_is_better = True

    def __post_init__(self) -> None:
        if not self.white > 0:
            raise ValueError(f"white is above 0, got {self.white}")

    def bind(self, card: Card) -> Self:
        """Raise `DataError` for data that are not films."""
        if card.target_kind != "number" or len(card.input_shape) != 4:
            raise DataError(
                f"the next frame needs films [time, height, width, channels] and frames as targets, but the inputs of "
                f"{card.name!r} have shape {card.input_shape} and its targets are "
                f"{'classes' if card.target_kind == 'class' else 'numbers'}; see MovingDigits for the form"
            )
        return self

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """The mean error per pixel: in nats, or squared."""
        outputs, model_state = self.apply(variables, batch, key if train else None)
        true = self._true(batch)
        error = optax.sigmoid_binary_cross_entropy(outputs, true) if self._logits else jnp.square(outputs - true)
        loss = Mean.of(error, batch["mask"])
        return loss, Aux({"loss": loss, **self._errors(self._frames(outputs), batch)}, model_state)

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """Loss, and two mean squared errors per pixel: the model's, and that of repeating the last frame."""
        loss, aux = self.loss(variables, batch, jax.random.key(0), False)
        return {**aux.metrics, "loss": loss}

    def derive(self, values: Mapping[str, float]) -> dict[str, float]:
        """`mse`, `copy_mse`, and `gain`, which is `copy_mse / mse`."""
        if "copy_mse" not in values:
            return dict(values)
        return {**values, "gain": values["copy_mse"] / values["mse"] if values["mse"] > 0 else float("inf")}

    def outputs(self, variables: Variables, batch: Batch) -> Array:
        """The predicted frames, `[B, K, H, W, C]` in [0, 1]."""
        return self._frames(self.apply(variables, batch, None)[0])

    def roll_out(self, variables: Variables, films: Array, count: int) -> Array:
        """Predict `count` frames after films `[B, T, H, W, C]`, each from the frames before it; pure.

        Returns:
            `[B, count, H, W, C]` in [0, 1].
        """
        length = films.shape[1]

        def step(seen: Array, _: None) -> tuple[Array, Array]:
            new = self.outputs(variables, {"inputs": seen}).astype(seen.dtype)
            return jnp.concatenate([seen, new], axis=1)[:, -length:], new

        ahead = jax.eval_shape(self.outputs, variables, {"inputs": films}).shape[1]
        _, new = jax.lax.scan(step, films, length=-(-count // ahead))
        return jnp.moveaxis(new, 0, 1).reshape(len(films), -1, *films.shape[2:])[:, :count]

    def check_outputs(self, variables: Variables, batch: Batch, card: Card) -> None:
        """Check that the predicted frames have the shape of the targets."""
        shape, wanted = jax.eval_shape(self.outputs, variables, batch).shape, batch["targets"].shape
        if shape != wanted:
            raise DataError(
                f"{type(self.model).__name__} gives frames of shape {shape}, but {card.name!r} has {wanted}; "
                f"set the model's `ahead` to that of the data, {wanted[1]}"
            )

    def exhibit_rows(self, examples: int) -> np.ndarray:
        """Four films."""
        return np.arange(min(4, examples))

    def exhibits(self, outputs: np.ndarray, arrays: Mapping[str, np.ndarray], card: Card) -> Sequence[Exhibit]:
        """For some films: the last input frame, the next frame, and the predicted one."""
        images, captions = [], []
        for index in range(min(4, len(outputs))):
            seen, true = arrays["inputs"][index, -1] / self.white, arrays["targets"][index, 0] / self.white
            images += [seen, true, np.clip(outputs[index, 0], 0, 1)]
            captions += [f"film {index}\nlast input", "next", "predicted"]
        return [Gallery("The next frame (test)", np.stack(images), tuple(captions))]

    @property
    def _logits(self) -> bool:
        return self.error == "cross_entropy"

    def _frames(self, outputs: Array) -> Array:
        return jax.nn.sigmoid(outputs) if self._logits else outputs

    def _true(self, batch: Batch) -> Array:
        return batch["targets"].astype(jnp.float32) / self.white

    def _errors(self, frames: Array, batch: Batch) -> dict[str, Mean]:
        true, last = self._true(batch), batch["inputs"][:, -1:].astype(jnp.float32)
        return {
            "mse": Mean.of(jnp.square(frames - true), batch["mask"]),
            "copy_mse": Mean.of(jnp.square(last - true), batch["mask"]),
        }
