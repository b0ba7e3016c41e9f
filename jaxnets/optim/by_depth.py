"""Discriminative learning rates: lower layers of a trained model move less (Howard and Ruder 2018, arXiv:1801.06146)."""

import dataclasses
import re
from typing import Any

import jax
import optax

from jaxnets.core.errors import UsageError
from jaxnets.optim.optimizers import Optimizer

# Names of parameters below all numbered layers.
LOWEST = ("embed", "position", "patch", "stem")


@dataclasses.dataclass(frozen=True)
class ByDepth(Optimizer):
    """An optimizer whose updates are multiplied by `decay ** (top - layer)`.

    The layer of a parameter is the first number in its path (`block_3/mlp/kernel`), plus one. Embeddings, positions and a
    stem are layer 0; what else has no number (the head, the last norm) is the top. Layers that are stacked in one array have
    no number, so all of them move alike.
    """

    optimizer: Optimizer
    """Makes the updates."""
    decay: float = 0.8
    """Factor from one layer to the layer below it, in (0, 1]; 2.6 times less from layer to layer is .38."""

    def __post_init__(self) -> None:
        if not 0 < self.decay <= 1:
            raise UsageError(f"ByDepth.decay is in (0, 1], got {self.decay}")

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """See `Optimizer`."""
        scale = optax.stateless(
            lambda updates, params: jax.tree.map(lambda u, f: u * f, updates, self.factors(updates))
        )
        return optax.with_extra_args_support(optax.chain(self.optimizer.build(total_steps), scale))

    def rates(self, total_steps: int, steps: int) -> Any:
        """Those of the top layer."""
        return self.optimizer.rates(total_steps, steps)

    def factors(self, params: Any) -> Any:
        """The factor of each parameter."""
        layers = jax.tree_util.tree_map_with_path(lambda path, _: _layer(path), params)
        top = 1 + max((layer for layer in jax.tree.leaves(layers) if layer >= 0), default=0)
        return jax.tree.map(lambda layer: self.decay ** (top - (top if layer < 0 else layer)), layers)


def _layer(path: Any) -> int:
    """The layer of a parameter; -1 for the top."""
    names = jax.tree_util.keystr(path, simple=True, separator="/")
    number = re.search(r"_(\d+)(/|$)", names)
    if number is None:
        return 0 if any(word in names.lower() for word in LOWEST) else -1
    return int(number.group(1)) + 1
