"""Muon: the momentum of each hidden matrix, orthogonalised; all else by AdamW (Jordan et al. 2024)."""

import dataclasses
import fnmatch
from typing import Any

import jax
import optax
from optax import contrib

from jaxnets.ops.roles import role
from jaxnets.optim.optimizers import Optimizer, chained, check_numbers, decaying
from jaxnets.optim.schedules import Schedule, WarmupCosine


@dataclasses.dataclass(frozen=True)
class Muon(Optimizer):
    """Muon for the weights with two dims, AdamW for the rest: biases, scales, convolutions, stacked layers.

    Weights are recognised by their names (`jaxnets.ops.roles`). Embeddings and output layers go to AdamW as well, as Muon's
    authors recommend. An update is scaled by `sqrt(max(1, outputs / inputs))`. As in Optax, AdamW has Nesterov momentum here.
    """

    learning_rate: float = 2e-2
    """Peak learning rate of the matrices."""
    adamw_rate: float = 1e-3
    """Peak learning rate of the rest, with the same schedule."""
    adamw_on: tuple[str, ...] = ("*embed*", "*token*", "output/*", "*/output/*", "head/*", "*/head/*")
    """Paths of weights with two dims that AdamW takes nevertheless, `*` for any text; a pattern may match nothing."""
    momentum: float = 0.95
    """Decay of the momentum of the matrices, in [0, 1)."""
    iterations: int = 5
    """Newton-Schulz iterations of the orthogonalisation."""
    weight_decay: float = 0.0
    """Decay coefficient of the matrices: each step subtracts this times the learning rate times the weight."""
    b1: float = 0.9
    """AdamW's decay of the mean of gradients."""
    b2: float = 0.999
    """AdamW's decay of the mean of squared gradients."""
    clip_norm: float | None = None
    """Clip the global norm of the gradient to this; None: no clipping."""
    schedule: Schedule = WarmupCosine()
    """Shape of the learning rates over the run."""

    def __post_init__(self) -> None:
        shares = {"momentum": self.momentum, "b1": self.b1, "b2": self.b2}
        check_numbers(self.learning_rate, self.clip_norm, self.weight_decay, **shares)
        check_numbers(self.adamw_rate, None, 0.0)
        if self.iterations < 1:
            raise ValueError(f"iterations is at least 1, got {self.iterations}")

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """See `Optimizer`."""
        rule = contrib.muon(
            self.schedule.build(self.learning_rate, total_steps),
            ns_steps=self.iterations,
            beta=self.momentum,
            weight_decay=self.weight_decay,
            weight_decay_mask=decaying(()),
            adam_b1=self.b1,
            adam_b2=self.b2,
            adam_learning_rate=self.schedule.build(self.adamw_rate, total_steps),
            muon_weight_dimension_numbers=self._matrices,
        )
        return chained(self.clip_norm, rule)

    def _matrices(self, params: Any) -> Any:
        """For each parameter the dims that Muon sees as a matrix; None for AdamW's."""

        def dims(path: Any, leaf: Any) -> contrib.MuonDimensionNumbers | None:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            other = any(fnmatch.fnmatchcase(name, pattern) for pattern in self.adamw_on)
            return contrib.MuonDimensionNumbers() if leaf.ndim == 2 and role(path) == "weight" and not other else None

        return jax.tree_util.tree_map_with_path(dims, params)
