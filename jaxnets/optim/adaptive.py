"""Optimizers that adapt the rate of each number, beside Adam: RMSProp, Adagrad, Adafactor, LAMB and Lion.

Each is Optax's own transformation; what is added is decay by the role of a parameter, clipping and a schedule.
"""

import dataclasses
import math

import optax

from jaxnets.optim.optimizers import Optimizer, chained, check_numbers, decaying
from jaxnets.optim.schedules import Constant, Schedule, WarmupCosine


@dataclasses.dataclass(frozen=True)
class RMSProp(Optimizer):
    """The gradient divided by the root of a running mean of its square (Tieleman and Hinton 2012, lecture 6.5)."""

    learning_rate: float = 1e-3
    """Peak learning rate."""
    decay: float = 0.9
    """Decay of the mean of squared gradients."""
    momentum: float = 0.0
    """Share of the last update that is kept, in [0, 1)."""
    centered: bool = False
    """Divide by the running deviation instead: the mean gradient is subtracted (Graves 2013)."""
    eps: float = 1e-8
    """Added to the mean square."""
    clip_norm: float | None = None
    """Clip the global norm of the gradient to this; None: no clipping."""
    schedule: Schedule = Constant()
    """Shape of the learning rate over the run."""

    def __post_init__(self) -> None:
        check_numbers(self.learning_rate, self.clip_norm, 0.0, decay=self.decay, momentum=self.momentum)

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """See `Optimizer`."""
        rate, momentum = self.schedule.build(self.learning_rate, total_steps), self.momentum or None
        rule = optax.rmsprop(rate, self.decay, self.eps, centered=self.centered, momentum=momentum)
        return chained(self.clip_norm, rule)


@dataclasses.dataclass(frozen=True)
class Adagrad(Optimizer):
    """The gradient divided by the root of the sum of all its squares (Duchi et al. 2011)."""

    learning_rate: float = 1e-2
    """Peak learning rate."""
    initial: float = 0.1
    """The sums at step 0."""
    eps: float = 1e-7
    """Added to the sums."""
    clip_norm: float | None = None
    """Clip the global norm of the gradient to this; None: no clipping."""
    schedule: Schedule = Constant()
    """Shape of the learning rate over the run."""

    def __post_init__(self) -> None:
        check_numbers(self.learning_rate, self.clip_norm, 0.0)
        if not 0 <= self.initial < math.inf:
            raise ValueError(f"initial is at least 0, got {self.initial}")

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """See `Optimizer`."""
        rate = self.schedule.build(self.learning_rate, total_steps)
        return chained(self.clip_norm, optax.adagrad(rate, self.initial, self.eps))


@dataclasses.dataclass(frozen=True)
class Adafactor(Optimizer):
    """Adam with second moments kept as a row and a column for each matrix (Shazeer and Stern 2018).

    An update is scaled by the size of the parameter. Decay is a share of the weight, whatever the learning rate.
    """

    learning_rate: float = 1e-2
    """Peak learning rate, relative to the root mean square of each parameter."""
    decay: float = 0.8
    """The second moments of step t decay by `1 - t ** -decay`."""
    momentum: float = 0.0
    """Decay of a mean of the updates, in [0, 1); 0 keeps none, which saves its memory."""
    factored_from: int = 128
    """Matrices are kept as rows and columns where both of their largest dims are at least this."""
    clip_update: float = 1.0
    """Largest root mean square of the update of a parameter, before the learning rate."""
    weight_decay: float = 0.0
    """Share of each weight removed per step."""
    weight_decay_on: tuple[str, ...] = ()
    """Paths of the parameters that decay, `*` for any text; (): those that `jaxnets.ops.roles` classifies as weights."""
    clip_norm: float | None = None
    """Clip the global norm of the gradient to this; None: no clipping."""
    schedule: Schedule = WarmupCosine()
    """Shape of the learning rate over the run."""

    def __post_init__(self) -> None:
        check_numbers(self.learning_rate, self.clip_norm, self.weight_decay, decay=self.decay, momentum=self.momentum)
        if self.factored_from < 1 or not self.clip_update > 0:
            raise ValueError(
                f"factored_from is at least 1 and clip_update is positive; got {self.factored_from} and {self.clip_update}"
            )

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """See `Optimizer`."""
        rule = optax.adafactor(
            self.schedule.build(self.learning_rate, total_steps),
            min_dim_size_to_factor=self.factored_from,
            decay_rate=self.decay,
            clipping_threshold=self.clip_update,
            momentum=self.momentum or None,
            weight_decay_rate=self.weight_decay or None,
            weight_decay_mask=decaying(self.weight_decay_on),
        )
        return chained(self.clip_norm, rule)


@dataclasses.dataclass(frozen=True)
class LAMB(Optimizer):
    """AdamW whose update of each parameter has the norm of that parameter, for large batches (You et al. 2020)."""

    learning_rate: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 1e-2
    """Decay coefficient, added to the update before its norm is taken."""
    weight_decay_on: tuple[str, ...] = ()
    """Paths of the parameters that decay, `*` for any text; (): those that `jaxnets.ops.roles` classifies as weights."""
    b1: float = 0.9
    """Decay of the mean of gradients."""
    b2: float = 0.999
    """Decay of the mean of squared gradients."""
    eps: float = 1e-6
    """Added to the root of the mean square."""
    clip_norm: float | None = None
    """Clip the global norm of the gradient to this; None: no clipping."""
    schedule: Schedule = WarmupCosine()
    """Shape of the learning rate over the run."""

    def __post_init__(self) -> None:
        check_numbers(self.learning_rate, self.clip_norm, self.weight_decay, b1=self.b1, b2=self.b2)

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """See `Optimizer`."""
        rate, mask = self.schedule.build(self.learning_rate, total_steps), decaying(self.weight_decay_on)
        return chained(
            self.clip_norm, optax.lamb(rate, self.b1, self.b2, self.eps, weight_decay=self.weight_decay, mask=mask)
        )


@dataclasses.dataclass(frozen=True)
class Lion(Optimizer):
    """The sign of an interpolated momentum, with decoupled weight decay (Chen et al. 2023, algorithm 2)."""

    learning_rate: float = 1e-4
    """Peak learning rate; about a third to a tenth of AdamW's, as every number moves by it."""
    weight_decay: float = 0.0
    """Decay coefficient: each step subtracts this times the learning rate times the weight."""
    weight_decay_on: tuple[str, ...] = ()
    """Paths of the parameters that decay, `*` for any text; (): those that `jaxnets.ops.roles` classifies as weights."""
    b1: float = 0.9
    """Share of the momentum in an update."""
    b2: float = 0.99
    """Decay of the momentum."""
    clip_norm: float | None = None
    """Clip the global norm of the gradient to this; None: no clipping."""
    schedule: Schedule = WarmupCosine()
    """Shape of the learning rate over the run."""

    def __post_init__(self) -> None:
        check_numbers(self.learning_rate, self.clip_norm, self.weight_decay, b1=self.b1, b2=self.b2)

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """See `Optimizer`."""
        rate, mask = self.schedule.build(self.learning_rate, total_steps), decaying(self.weight_decay_on)
        return chained(self.clip_norm, optax.lion(rate, self.b1, self.b2, weight_decay=self.weight_decay, mask=mask))
