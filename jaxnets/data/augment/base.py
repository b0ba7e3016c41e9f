"""Base of all augmentations: random changes to training batches, inside the compiled step. Shapes: `B` batch.

An augmentation has two parts. `change` gets each example alone: its draws come from a key that is a pure function of (seed,
step, row number), so they do not depend on devices, on batches around it, or on where a run was cut. `mix` gets the whole
batch, before it is split into micro-batches or between replicas.
"""

import dataclasses
import hashlib
import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import DataError, UsageError
from jaxnets.core.types import Batch
from jaxnets.ops.random import example_keys, stream_key


@dataclasses.dataclass(frozen=True)
class Pixels:
    """How prepared inputs relate to pixels in [0, 1]: `(prepared * std + mean - low) / (high - low)`, for each channel."""

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    low: float = 0.0
    """The raw value that is black."""
    high: float = 1.0
    """The raw value that is white."""

    def of(self, prepared: Array) -> Array:
        """Pixels of prepared inputs `[..., C]`."""
        shift, scale = self._scales(prepared)
        return (prepared + shift) * scale

    def undo(self, pixels: Array) -> Array:
        """Prepared inputs of pixels `[..., C]`; the inverse of `of`."""
        shift, scale = self._scales(pixels)
        return (pixels - shift * scale) * (1 / scale)

    def _scales(self, images: Array) -> tuple[Array, Array]:
        """What is added to prepared inputs, and then multiplied. In this order no compiler fuses the two into one rounding in
        one program and not in another."""
        mean, std = np.array(self.mean), np.array(self.std)
        shape = (1,) * (images.ndim - 1) + (-1,)
        shift, scale = (mean - self.low) / std, std / (self.high - self.low)
        return jnp.asarray(shift, jnp.float32).reshape(shape), jnp.asarray(scale, jnp.float32).reshape(shape)


@dataclasses.dataclass(frozen=True)
class Facts:
    """The properties of the data that an augmentation needs."""

    name: str = "data"
    """Name for messages."""
    shape: tuple[int, ...] = ()
    """Shape of one example's inputs."""
    tokens: bool = False
    """Whether inputs are token numbers."""
    arrays: tuple[str, ...] = ("inputs", "targets")
    """Names of the arrays of a batch."""
    kind: str = "class"
    """Kind of the targets (`Card.target_kind`)."""
    classes: int = 0
    """Number of classes, if the targets are classes."""
    pixels: Pixels = Pixels()
    """How prepared images relate to pixels."""
    several: bool = False
    """Whether the model takes several inputs."""
    vocabulary: int = 0
    """Number of tokens, if inputs are tokens and their number is known."""


class Augmentation:
    """Base of all augmentations; subclasses are frozen dataclasses whose defaults change nothing."""

    @property
    def active(self) -> bool:
        """Whether it changes single examples."""
        return self != type(self)()

    @property
    def mixes(self) -> bool:
        """Whether it changes examples by others of the batch."""
        return False

    @property
    def alternates(self) -> bool:
        """Whether what it does to an example depends on the epoch; batches then hold `TURNED`."""
        return False

    @property
    def softens(self) -> bool:
        """Whether it averages targets, so that classes become distributions."""
        return self.mixes

    def check(self, facts: Facts) -> None:
        """Raise `DataError` if it does not fit the inputs."""

    def change(self, batch: Batch, key: Array, facts: Facts) -> Batch:
        """The batch with changed examples. `batch["inputs"]` `[B, ...]` are prepared; `index` `[B]` are row numbers."""
        raise NotImplementedError

    def mix(self, batch: Batch, key: Array, facts: Facts) -> Batch:
        """The batch with examples mixed; `mask` `[B]` holds weights, and 0 for rows that do not count."""
        del key, facts
        return batch


# The array of a training batch `[B]` bool that marks the examples that are flipped in this epoch, if flips alternate.
TURNED = "turned"


def turned(seed: int, epoch: Array | int, rows: Array) -> Array:
    """Which examples are flipped in an epoch, `[B]` bool: a random orientation for each row, which alternates from epoch to
    epoch.

    Args:
        seed: that of the run.
        epoch: its number, from 0; may be traced.
        rows: row numbers `[B]` in the data.
    """
    coins = jax.vmap(jax.random.bernoulli)(example_keys(stream_key(seed, "flip", 0), rows))
    return coins ^ (jnp.asarray(epoch) % 2 == 1)


def keys_of(batch: Batch, key: Array) -> Array:
    """A key for each example of a batch, `[B]`, from its row number."""
    return example_keys(key, batch.get("index", batch["inputs"].shape[0]))


def wrong_inputs(what: str, needs: str, facts: Facts, remedy: str) -> DataError:
    """The error for inputs that a field does not support."""
    kind = "token numbers" if facts.tokens else "numbers"
    return DataError(f"{facts.name}: {what} needs {needs}; inputs are {kind} of shape {facts.shape}. {remedy}")


def check_at_least_0(owner: Any, *names: str) -> None:
    """Raise `ValueError` unless these fields are finite and at least 0."""
    for name in names:
        value = getattr(owner, name)
        if not (0 <= value < math.inf):
            raise ValueError(f"{type(owner).__name__}.{name} is at least 0, got {value}")


def check_shares(owner: Any, *names: str) -> None:
    """Raise `ValueError` unless these fields are in [0, 1]."""
    for name in names:
        value = getattr(owner, name)
        if not 0 <= value <= 1:
            raise ValueError(f"{type(owner).__name__}.{name} is a share or probability in [0, 1], got {value}")


@dataclasses.dataclass(frozen=True)
class Chain(Augmentation):
    """Several augmentations, one after the other."""

    parts: tuple[Augmentation, ...] = ()

    @property
    def active(self) -> bool:
        """Whether one of them is."""
        return any(part.active for part in self.parts)

    @property
    def mixes(self) -> bool:
        """Whether one of them does."""
        return any(part.mixes for part in self.parts)

    @property
    def alternates(self) -> bool:
        """Whether one of them does."""
        return any(part.alternates for part in self.parts)

    @property
    def softens(self) -> bool:
        """Whether one of them does."""
        return any(part.softens for part in self.parts)

    def check(self, facts: Facts) -> None:
        """See `Augmentation`."""
        if sum(part.mixes for part in self.parts) > 1:
            raise UsageError("augment: two of the augmentations mix examples; set mixup, cutmix or swap in one of them")
        for part in self.parts:
            part.check(facts)

    def change(self, batch: Batch, key: Array, facts: Facts) -> Batch:
        """See `Augmentation`; each part has its own keys."""
        for i, part in enumerate(self.parts):
            batch = part.change(batch, jax.random.fold_in(key, i), facts) if part.active else batch
        return batch

    def mix(self, batch: Batch, key: Array, facts: Facts) -> Batch:
        """See `Augmentation`."""
        for part in self.parts:
            batch = part.mix(batch, key, facts)
        return batch


@dataclasses.dataclass(frozen=True)
class OwnAugment(Augmentation):
    """Random changes by the caller's function, inside the compiled step.

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

    def change(self, batch: Batch, key: Array, facts: Facts) -> Batch:
        """See `Augmentation`."""
        return {**batch, "inputs": self(batch["inputs"], key, batch.get("index"))}

    def __repr__(self) -> str:
        """The name of the function and a digest of its text, which are the same in every process."""
        return f"OwnAugment({named(self.function)})"


def named(function: Any) -> str:
    """The name of the caller's function and a digest of its source, if that can be found."""
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):
        text = ""
    return f"{_name(function)}, {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", type(function).__name__)
