"""Sizes of a model that do not suit an accelerator: widths, channels and vocabularies that leave a part of its units idle.

A TPU multiplies tiles of 128 columns, so a size of 130 takes the time of 256. Tensor cores of a GPU take operands whose rows
begin at multiples of 16 bytes, 8 numbers in bfloat16; for others a slower kernel runs, or a copy is made
(docs.nvidia.com/deeplearning/performance/dl-performance-matrix-multiplication).
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax

from jaxnets.parallel.chips import Chip
from jaxnets.runs.build import Parts

UNITS = {"tpu": 128, "gpu": 8}
# Share of the next better size that is idle, from which on a TPU's padding is worth a line. On a GPU any rest counts.
IDLE = 0.03
# Smaller sizes take little time.
LEAST = 64
# Fields of models that are sizes of matrices.
SIZES = (
    *("width", "widths", "features", "dense", "stem", "maps", "embedding", "mlp_dim", "head_dim", "recurrent_width"),
    *("predictor_width", "outputs", "vocab_size", "source_vocab_size"),
)


@dataclasses.dataclass(frozen=True)
class Size:
    """A size that could be a better one."""

    field: str
    """As a flag names it: task.model.vocab_size."""
    size: int
    better: int
    """The next multiple of the accelerator's unit."""

    @property
    def idle(self) -> float:
        """The share of the better size that this one leaves unused."""
        return 1 - self.size / self.better


def unsuited(parts: Parts, chip: Chip) -> tuple[Size, ...]:
    """The sizes of a run's model that leave a part of such a chip idle, in the order of their fields."""
    unit = UNITS[chip.platform]
    dims = {dim for leaf in jax.tree.leaves(parts.abstract.params) if leaf.ndim > 1 for dim in leaf.shape}
    found: dict[tuple[str, int], Size] = {}
    for field, size in _sizes(parts.task.model, "task.model"):
        one = Size(field, size, -(-size // unit) * unit)
        if size >= LEAST and size in dims and one.idle > (IDLE if chip.platform == "tpu" else 0.0):
            found[field, size] = one
    return tuple(found.values())


def _sizes(module: Any, path: str) -> Iterator[tuple[str, int]]:
    """The numbers in fields that are sizes, of a module and of those in its fields."""
    for field in dataclasses.fields(module):
        value, name = getattr(module, field.name, None), f"{path}.{field.name}"
        if isinstance(value, nn.Module) and field.name != "parent":
            yield from _sizes(value, name)
        elif field.name in SIZES:
            yield from ((name, one) for one in (value if isinstance(value, tuple) else (value,)) if type(one) is int)
