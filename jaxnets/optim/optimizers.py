"""Optimizers as dataclasses that build Optax chains, so that a configuration can hold them and flags can override fields.

Learning rates depend on the batch number, which also counts skipped updates; Adam's bias correction counts updates. Weight
decay applies by the role of a parameter (`jaxnets.ops.roles`), not by its number of dims.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnets.core.durations import UnknownLengthError
from jaxnets.core.typecheck import check_choices
from jaxnets.ops.norm import global_norm
from jaxnets.ops.roles import weights
from jaxnets.optim.eight_bit import stored_adam
from jaxnets.optim.schedules import Constant, Schedule, WarmupCosine, rates


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Base of all optimizers."""

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """The Optax transformation for a run of `total_steps` optimizer steps.

        Its schedules (of the learning rate, of weight decay, injected ones) are evaluated at the batch number.
        """
        raise NotImplementedError

    def under(self, name: str) -> "Optimizer":
        """This optimizer for the parameters whose paths begin with `name`; it gets their paths without this prefix."""
        del name
        return self

    def frozen(self, params: Any) -> Any:
        """The parameters that this optimizer never changes, as a tree of bools; the step computes no gradient for them."""
        return jax.tree.map(lambda _: False, params)

    def rate_at(self, total_steps: int) -> optax.Schedule | None:
        """The learning rate as a function of the step, in a run of `total_steps`; None if there is no single one."""
        schedule, peak = getattr(self, "schedule", None), getattr(self, "learning_rate", None)
        if not isinstance(schedule, Schedule) or peak is None:
            return None
        return schedule.build(peak, total_steps)

    def rates(self, total_steps: int, steps: int) -> np.ndarray | None:
        """The learning rates of the first `steps` steps of a run of `total_steps`, float32; None if unknown."""
        try:
            rate = self.rate_at(total_steps)
        except UnknownLengthError:
            return None
        return None if rate is None else rates(rate, steps)


def check_numbers(learning_rate: float, clip_norm: float | None, weight_decay: float, **shares: float) -> None:
    """Raise `ValueError` for numbers that no optimizer takes; `shares` are in [0, 1)."""
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ValueError(f"{name} is in [0, 1), got {share}")
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate is positive, got {learning_rate}")
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"clip_norm is positive, or None for no clipping; got {clip_norm}")
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay is at least 0, got {weight_decay}")


def clip_by_norm(most: float) -> optax.GradientTransformation:
    """Like `optax.clip_by_global_norm`, but correct for gradients whose squares overflow, which Optax turns into 0."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        norm, _ = global_norm(updates)
        clipped = jax.tree.map(lambda g: jnp.where(norm < most, g, g / norm.astype(g.dtype) * most), updates)
        return clipped, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def chained(clip_norm: float | None, *parts: optax.GradientTransformation) -> optax.GradientTransformation:
    """An Optax chain that clips first: it clips the gradient of the whole batch, after accumulation."""
    clip = () if clip_norm is None else (clip_by_norm(clip_norm),)
    return optax.chain(*clip, *parts)


def decaying(patterns: tuple[str, ...]) -> Callable[[Any], Any]:
    """The weight-decay mask for Optax."""
    return functools.partial(weights, patterns=patterns)


@dataclasses.dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum (and Nesterov's correction)."""

    learning_rate: float = 0.1
    """Peak learning rate."""
    momentum: float = 0.9
    """Share of the last update that is kept, in [0, 1)."""
    nesterov: bool = False
    """Use Nesterov momentum (Sutskever et al. 2013)."""
    weight_decay: float = 0.0
    """L2 penalty added to the gradient of weights (coupled, as usual with SGD); see `jaxnets.ops.roles`."""
    weight_decay_on: tuple[str, ...] = ()
    """Paths of the parameters that decay, `*` for any text; (): those that `jaxnets.ops.roles` classifies as weights."""
    clip_norm: float | None = None
    """Clip the global norm of the gradient to this; None: no clipping."""
    schedule: Schedule = WarmupCosine()
    """Shape of the learning rate over the run."""

    def __post_init__(self) -> None:
        check_numbers(self.learning_rate, self.clip_norm, self.weight_decay, momentum=self.momentum)

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """See `Optimizer`."""
        rate = self.schedule.build(self.learning_rate, total_steps)
        decay = (
            (optax.add_decayed_weights(self.weight_decay, mask=decaying(self.weight_decay_on)),)
            if self.weight_decay
            else ()
        )
        return chained(self.clip_norm, *decay, optax.sgd(rate, self.momentum or None, self.nesterov))


@dataclasses.dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015)."""

    learning_rate: float = 1e-3
    """Peak learning rate."""
    b1: float = 0.9
    """Decay of the mean of gradients."""
    b2: float = 0.999
    """Decay of the mean of squared gradients."""
    eps: float = 1e-8
    """Added to the root of the mean square."""
    clip_norm: float | None = None
    """Clip the global norm of the gradient to this; None: no clipping."""
    schedule: Schedule = Constant()
    """Shape of the learning rate over the run."""

    def __post_init__(self) -> None:
        check_numbers(self.learning_rate, self.clip_norm, 0.0, b1=self.b1, b2=self.b2)

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """See `Optimizer`."""
        rate = self.schedule.build(self.learning_rate, total_steps)
        return chained(self.clip_norm, optax.adam(rate, self.b1, self.b2, self.eps))


@dataclasses.dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    learning_rate: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 1e-2
    """Decay coefficient: each step subtracts this times the learning rate times the weight. Biases, scales and positions
    do not decay (`jaxnets.ops.roles`)."""
    weight_decay_on: tuple[str, ...] = ()
    """Paths of the parameters that decay, `*` for any text; (): those that `jaxnets.ops.roles` classifies as weights."""
    b1: float = 0.9
    """Decay of the mean of gradients."""
    b2: float = 0.999
    """Decay of the mean of squared gradients."""
    eps: float = 1e-8
    """Added to the root of the mean square."""
    clip_norm: float | None = None
    """Clip the global norm of the gradient to this; None: no clipping."""
    schedule: Schedule = WarmupCosine()
    """Shape of the learning rate over the run."""
    moments: Literal["float32", "bfloat16", "8-bit"] = "float32"
    """The format of the two moments between steps: 8, 4 or about 2.1 bytes for each parameter (`jaxnets.optim.eight_bit`)."""

    def __post_init__(self) -> None:
        check_choices(self)
        check_numbers(self.learning_rate, self.clip_norm, self.weight_decay, b1=self.b1, b2=self.b2)

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """See `Optimizer`."""
        rate = self.schedule.build(self.learning_rate, total_steps)
        decay = {"weight_decay": self.weight_decay, "mask": decaying(self.weight_decay_on)}
        if self.moments == "float32":
            return chained(self.clip_norm, optax.adamw(rate, self.b1, self.b2, self.eps, **decay))
        adam = stored_adam(self.b1, self.b2, self.eps, self.moments)
        scale = optax.scale_by_learning_rate(rate)
        return chained(self.clip_norm, adam, optax.add_decayed_weights(**decay), scale)
