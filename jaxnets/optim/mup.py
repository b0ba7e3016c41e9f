"""Maximal update parametrisation: learning rates that are right at one width are right at any (Yang et al. 2022, Tensor
Programs V, table 3).

In the standard parametrisation the outputs of a wide layer move more in a step of Adam than those of a narrow one, so the best
learning rate falls with the width. Here the rate of each parameter is divided by how much its fan-in has grown over a base
model, and the initial weights of the last layer are divided by the root of that. So it is enough to tune the small model.
"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
import optax

from jaxnets.core.errors import UsageError
from jaxnets.ops.initialisers import Initialiser, is_kernel
from jaxnets.optim.given import as_optimizer
from jaxnets.optim.optimizers import SGD, AdamW, Optimizer


@dataclasses.dataclass(frozen=True)
class MuP(Optimizer):
    """Another optimizer, whose learning rate is multiplied for each parameter by a factor that depends on its growth over a
    base width.

    Matrices, with Adam and its kin: 1 / (growth of the fan-in); with SGD: (growth of the fan-out) / (growth of the fan-in).
    Vectors, with Adam: 1; with SGD: their growth. The whole update is multiplied, so the part of weight decay is too.
    `mup` makes one.
    """

    optimizer: Any = AdamW()
    """What makes the updates: one of `jaxnets.optim`, an Optax transformation or a name. Only `SGD` counts as SGD."""
    growth: tuple[tuple[str, float, float], ...] = ()
    """(path, growth of the fan-in, growth of the fan-out) of each parameter."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "optimizer", as_optimizer(self.optimizer))

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """See `Optimizer`."""
        inner = optax.with_extra_args_support(self.optimizer.build(total_steps))

        def update(gradients: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
            updates, state = inner.update(gradients, state, params, **extra)
            return jax.tree.map(lambda u, factor: u * factor, updates, self.factors(updates)), state

        return optax.GradientTransformationExtraArgs(inner.init, update)

    def under(self, name: str) -> Optimizer:
        """See `Optimizer`."""
        start = f"{name}/"
        own = tuple((path.removeprefix(start), i, o) for path, i, o in self.growth if path.startswith(start))
        return dataclasses.replace(self, optimizer=self.optimizer.under(name), growth=own)

    def frozen(self, params: Any) -> Any:
        """See `Optimizer`."""
        return self.optimizer.frozen(params)

    def rates(self, total_steps: int, steps: int) -> np.ndarray | None:
        """Those of parameters that do not grow."""
        return self.optimizer.rates(total_steps, steps)

    def factors(self, params: Any) -> Any:
        """The factor of each parameter's learning rate, as a tree of floats.

        Raises:
            UsageError: a parameter is not among those of the models that `mup` compared.
        """
        known = {path: sizes for path, *sizes in self.growth}

        def factor(path: Any, leaf: Any) -> float:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            if name not in known:
                raise UsageError(
                    f"MuP does not know how the parameter {name!r} grows; call optim.mup with the model that is trained"
                )
            inputs, outputs = known[name]
            if isinstance(self.optimizer, SGD):
                return outputs / inputs
            return 1 / inputs

        return jax.tree_util.tree_map_with_path(factor, params)


def mup(optimizer: Any, model: Any, base: Any, *inputs: Any, **options: Any) -> tuple[MuP, Initialiser]:
    """Optimizer and initial weights for a model, such that learning rates tuned on `base` are right for it.

    `optimizer, initialiser = mup(Adam(1e-2), MLP(widths=(1024, 1024)), MLP(widths=(64, 64)), x)`

    A language model gets more heads, with the same `head_dim`, and has an untied embedding: a tied one would need the
    output divided by the growth.

    Args:
        optimizer: an optimizer that trains the base model well.
        model: the model that is trained, a Linen module.
        base: the same with smaller widths.
        inputs: arrays of the shape of a batch; nothing is computed.
        options: keywords of the call.

    Raises:
        UsageError: the two have other parameters, or no kernel of a last layer.
    """
    whole, small = (_shapes(one, inputs, options) for one in (model, base))
    if whole.keys() != small.keys():
        other = sorted(whole.keys() ^ small.keys())
        raise UsageError(
            f"the model and its base differ in more than widths: only one has {', '.join(other[:4])}; give both the "
            f"same fields but for sizes"
        )
    growth, last = [], []
    start = Initialiser("lecun_normal")
    for name, (leaf, kernel) in whole.items():
        old, new = small[name][0], leaf
        matrix = len(new) > 1
        sizes = (math.prod(new[:-1]) / math.prod(old[:-1]) if matrix else 1.0, new[-1] / old[-1] if new else 1.0)
        growth.append((name, *sizes))
        if kernel and start.is_last(name):
            last.append(sizes[0])
    if not last:
        raise UsageError(
            f"mup finds the last layer by {start.last!r}, which none of {', '.join(list(whole)[:6])} matches; name the last "
            f"dense layer 'output' (a language model: embedding='untied')"
        )
    return MuP(optimizer, tuple(growth)), dataclasses.replace(start, last_gain=max(last) ** -0.5)


def _shapes(model: Any, inputs: Any, options: dict[str, Any]) -> dict[str, tuple[tuple[int, ...], bool]]:
    """Shape of each parameter by path, and whether it is a kernel."""
    made = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs, **options))["params"]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (leaf.shape, is_kernel(path, leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(made)
    }
