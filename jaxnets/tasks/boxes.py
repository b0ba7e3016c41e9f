"""Calls of modules whose `nn.DenseGeneral` layers have boxes of `nn.with_partitioning` around their parameters.

Flax checks the shape of a parameter in every call by running its initialiser abstractly. `nn.DenseGeneral` removes the box
there, to reshape the kernel, and then looks up the names of the box in the mesh. These names are not used here (see
`parallel/partition.py`), so they may not be names of the mesh.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

INITIALISERS = ("kernel_init", "bias_init")


def without_boxes(call: Callable[[], Any]) -> Any:
    """Run a call of a module; if it fails because of names in boxes, run it again without the boxes.

    Raises:
        ValueError: as the call does, if it fails for another reason.
    """
    met: list[nn.Partitioned[Any]] = []
    try:
        return call()
    except ValueError as error:
        first = error
    try:
        with nn.intercept_methods(_unboxing(met)):
            return call()
    except ValueError as error:
        raise (error if met else first) from None


def _unboxing(met: list[nn.Partitioned[Any]]) -> Callable[..., Any]:
    """An interceptor that removes the boxes in the initialisers of `nn.DenseGeneral`, and adds them to `met`."""

    def bare(initialiser: Callable[..., Any]) -> Callable[..., Any]:
        def initialised(*args: Any, **kwargs: Any) -> Any:
            made = initialiser(*args, **kwargs)
            if not isinstance(made, nn.Partitioned):
                return made
            met.append(made)
            return made.value

        return initialised

    def intercepted(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        if context.method_name != "__call__" or not isinstance(layer, nn.DenseGeneral):
            return call(*args, **kwargs)
        own = {name: getattr(layer, name) for name in INITIALISERS}
        try:
            for name, initialiser in own.items():
                object.__setattr__(layer, name, bare(initialiser))  # a bound module is frozen; this lasts for the call
            return call(*args, **kwargs)
        finally:
            for name, initialiser in own.items():
                object.__setattr__(layer, name, initialiser)

    return intercepted
