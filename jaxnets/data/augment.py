"""Random changes to training images, inside the compiled step. Shapes: `B` batch, `H` height, `W` width, `C` channels."""

import dataclasses
import hashlib
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.errors import UsageError
from jaxnets.ops.random import example_keys


@dataclasses.dataclass(frozen=True)
class Augment:
    """Which changes, and how strong; the defaults change nothing. Each image has its own key, derived from the step and the
    row number in the data."""

    shift: int = 0
    """Shift by up to this many pixels in each direction, with zero padding (a random crop after padding)."""
    flip: bool = False
    """Flip left to right with probability 1/2."""
    cutout: int = 0
    """Zero out a square with sides of this many pixels at a random place (DeVries and Taylor, 2017)."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise added to prepared inputs."""

    def __post_init__(self) -> None:
        if self.shift < 0 or self.cutout < 0 or self.noise < 0:
            raise ValueError(f"augment: shift, cutout and noise are at least 0, got {self}")

    @property
    def active(self) -> bool:
        """Whether it changes anything."""
        return self != Augment()

    def __call__(self, images: Array, key: Array, index: Array | None = None) -> Array:
        """Augment images `[B, H, W, C]` float32 (noise alone: any inputs `[B, ...]`); the shape stays the same.

        `index` `[B]` holds their row numbers in the data; None uses their positions in the batch.
        """
        if not self.active:
            return images
        return jax.vmap(self._one)(images, example_keys(key, images.shape[0] if index is None else index))

    def _one(self, image: Array, key: Array) -> Array:
        shift_key, flip_key, cut_key, noise_key = jax.random.split(key, 4)
        if self.shift:
            s = self.shift
            offsets = jax.random.randint(shift_key, (2,), 0, 2 * s + 1)
            padded = jnp.pad(image, ((s, s), (s, s), (0, 0)))
            image = jax.lax.dynamic_slice(padded, (offsets[0], offsets[1], 0), image.shape)
        if self.flip:
            image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
        if self.cutout:
            H, W, _ = image.shape
            row, column = jax.random.randint(cut_key, (2,), 0, jnp.array([H, W]))
            rows, columns = jnp.arange(H)[:, None, None], jnp.arange(W)[None, :, None]
            half = self.cutout / 2
            inside = (abs(rows - row + 0.5) < half) & (abs(columns - column + 0.5) < half)
            image = jnp.where(inside, 0.0, image)
        if self.noise:
            image = image + self.noise * jax.random.normal(noise_key, image.shape)
        return image


@dataclasses.dataclass(frozen=True)
class OwnAugment:
    """Random changes by a function of the caller's, inside the compiled step.

    The function is called as `function(key, inputs)` with a key of `jax.random` and the prepared inputs of one example, and
    returns inputs of the same shape. It is vectorised over the batch. The key is a pure function of (seed, step, row).
    """

    function: Callable[[Array, Array], Array]
    """`(key, inputs) -> inputs`, for one example."""
    active = True

    def __call__(self, inputs: Array, key: Array, index: Array | None = None) -> Array:
        """Augment inputs `[B, ...]`; `index` `[B]` holds their row numbers in the data."""
        made = jax.vmap(self.function)(example_keys(key, inputs.shape[0] if index is None else index), inputs)
        if jnp.shape(made) != inputs.shape:
            raise UsageError(
                f"augment: {_name(self.function)} makes inputs of shape {jnp.shape(made)[1:]} from {inputs.shape[1:]}; it has "
                f"to keep the shape, because evaluation and prediction have inputs without augmentation"
            )
        return made.astype(inputs.dtype)

    def __repr__(self) -> str:
        """The name of the function and a digest of its text, which are the same in every process."""
        return f"OwnAugment({named(self.function)})"


def named(function: Any) -> str:
    """The name of a function of the caller's and a digest of its text, if that can be found."""
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):
        text = ""
    return f"{_name(function)}, {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", type(function).__name__)


def as_augment(given: Any) -> Augment | OwnAugment:
    """An `Augment`, a function `(key, inputs) -> inputs`, or None for no changes; raises `UsageError` for anything else."""
    if given is None:
        return Augment()
    if isinstance(given, Augment | OwnAugment):
        return given
    if not callable(given):
        raise UsageError(f"augment is an Augment or a function (key, inputs) -> inputs of one example, got {given!r}")
    return OwnAugment(given)
