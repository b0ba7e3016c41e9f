"""Batches with smaller images or shorter sequences than the data have, made inside the compiled step."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.errors import UsageError
from jaxnets.core.types import Batch
from jaxnets.data.feed import Feed, Payload


@dataclasses.dataclass(frozen=True)
class Shrunk:
    """A feed whose batches are made smaller; 0 leaves them as they are."""

    feed: Feed
    resolution: int = 0
    """Height of the images `[B, H, W, C]` in pixels; the width in proportion. Bilinear, with antialiasing."""
    length: int = 0
    """Positions that are kept of the sequences `[B, T]`, the first ones, in every array that has as many."""

    def load(self, step: int, count: int, capacity: int, left_out: frozenset[int] = frozenset()) -> Payload:
        """See `Feed`."""
        return self.feed.load(step, count, capacity, left_out)

    def describe(self, capacity: int) -> Payload:
        """See `Feed`."""
        return self.feed.describe(capacity)

    def batch(self, payload: Payload, index: Array | int, step: Array) -> Batch:
        """See `Feed`."""
        return self.shrink(self.feed.batch(payload, index, step))

    def shrink(self, batch: Batch) -> Batch:
        """A batch with its images resized and its sequences cut.

        Raises:
            UsageError: the data have no such images or sequences, or their targets have the old size.
        """
        inputs = batch["inputs"]
        if self.resolution:
            _check_images(inputs, batch, self.resolution)
            B, H, W, C = inputs.shape
            size = (B, self.resolution, max(1, round(self.resolution * W / H)), C)
            batch = {**batch, "inputs": jax.image.resize(inputs, size, "bilinear").astype(inputs.dtype)}
        if self.length:
            _check_sequences(inputs, batch, self.length)
            T = inputs.shape[1]
            cut = {name: a[:, : self.length] for name, a in batch.items() if a.ndim > 1 and a.shape[1] == T}
            batch = {**batch, **cut}
        return batch


def _check_images(inputs: Array, batch: Batch, resolution: int) -> None:
    if inputs.ndim != 4 or not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise UsageError(
            f"ramp.resolution is for images [height, width, channels]; each input here is {inputs.dtype}{[*inputs.shape[1:]]}"
        )
    targets = batch.get("targets")
    if targets is not None and targets.ndim > 2:
        raise UsageError(
            f"ramp.resolution would resize the inputs and not the targets, which have the shape {[*targets.shape[1:]]} each"
        )
    if resolution > inputs.shape[1]:
        raise UsageError(
            f"ramp.resolution {resolution} is larger than the images, which are {inputs.shape[1]} pixels high"
        )


def _check_sequences(inputs: Array, batch: Batch, length: int) -> None:
    targets = batch.get("targets")
    if inputs.ndim < 2 or targets is None or targets.ndim < 2 or targets.shape[1] != inputs.shape[1]:
        shape = None if targets is None else [*targets.shape[1:]]
        raise UsageError(
            f"ramp.length is for sequences with a target at each position; each input here has the shape "
            f"{[*inputs.shape[1:]]} and each target {shape}"
        )
    if length > inputs.shape[1]:
        raise UsageError(f"ramp.length {length} is longer than the sequences, which have {inputs.shape[1]} positions")
