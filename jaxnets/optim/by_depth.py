"""Learning rates that fall with the distance from a model's output (ULMFiT, Howard and Ruder 2018, arXiv:1801.06146)."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnets.core.errors import UsageError
from jaxnets.optim.given import as_optimizer, check_pattern
from jaxnets.optim.optimizers import AdamW, Optimizer


@dataclasses.dataclass(frozen=True)
class ByDepth(Optimizer):
    """Another optimizer, whose learning rate at level l is multiplied by `decay ** (depth - l)`; the highest level is `depth`.

    Parameters with the same numbers in their paths are a level (`block_3/query/kernel`). Those without a number are the lowest
    level if `lowest` matches, else the highest (heads and final norms). Levels are counted among the parameters that it gets.
    The whole update is multiplied, so the part of weight decay is too.
    """

    optimizer: Any = AdamW()
    """What makes the updates: one of `jaxnets.optim`, an Optax transformation or a name."""
    decay: float = 1 / 2.6
    """Factor from one level to the next lower one, in (0, 1]; the default is ULMFiT's."""
    layers: str = ""
    """Where the numbers are: a regular expression for whole paths, such as `encoder_0/block_(\\d+)/.*`, whose groups are the
    numbers. Empty: all numbers in the first part of a path that has some (`stage_1_block_0/conv_1/kernel`: 1 and 0)."""
    lowest: str = r".*(embed|position|token|stem|patch).*"
    """Which paths without a number are the lowest level: a regular expression for whole paths."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "optimizer", as_optimizer(self.optimizer))
        if not 0 < self.decay <= 1:
            raise UsageError(f"ByDepth.decay is in (0, 1], got {self.decay}")
        for name in ("layers", "lowest"):
            check_pattern(getattr(self, name))

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """See `Optimizer`."""
        inner = optax.with_extra_args_support(self.optimizer.build(total_steps))

        def update(gradients: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
            updates, state = inner.update(gradients, state, params, **extra)
            return jax.tree.map(
                lambda u, factor: u * jnp.asarray(factor, u.dtype), updates, self.factors(updates)
            ), state

        return optax.GradientTransformationExtraArgs(inner.init, update)

    def under(self, name: str) -> Optimizer:
        """See `Optimizer`."""
        return dataclasses.replace(self, optimizer=self.optimizer.under(name))

    def frozen(self, params: Any) -> Any:
        """See `Optimizer`."""
        return self.optimizer.frozen(params)

    def rates(self, total_steps: int, steps: int) -> np.ndarray | None:
        """Those of the highest level."""
        return self.optimizer.rates(total_steps, steps)

    def factors(self, params: Any) -> Any:
        """The factor of each parameter's learning rate, as a tree of floats.

        Raises:
            UsageError: no path has a number, as where all layers are stacked in one array (`blocks="scanned"`).
        """
        paths = [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        places = {path: self._place(path) for path in paths}
        if not any(numbers for _, numbers in places.values()):
            raise UsageError(
                f"ByDepth finds layers by the numbers in the paths of parameters, and there are none in "
                f"{', '.join(paths[:6])}; number the layers (block_0, block_1), or give an optimizer for each path"
            )
        levels = sorted(set(places.values()))
        return jax.tree_util.tree_map_with_path(
            lambda path, _: self.decay ** (len(levels) - 1 - levels.index(places[_name(path)])), params
        )

    def _place(self, path: str) -> tuple[int, tuple[int, ...]]:
        """What levels are sorted by: (0, ()) for the lowest one, (1, the numbers of a layer), (2, ()) for the highest one."""
        if self.layers:
            match = re.fullmatch(self.layers, path)
            found = match.groups() if match else ()
        else:
            # The last part is the parameter's own name; a number in it is not that of a layer.
            found = next((n for part in path.split("/")[:-1] if (n := tuple(re.findall(r"\d+", part)))), ())
        if found:
            return 1, tuple(map(int, found))
        return (0 if re.fullmatch(self.lowest, path) else 2), ()


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
