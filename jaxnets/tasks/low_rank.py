"""LoRA: a trained model is fine-tuned by low-rank changes of its kernels (Hu et al. 2021, arXiv:2106.09685).

Beside a kernel `W` lie `lora_a` and `lora_b`, and the model is called with `W + scale * lora_a @ lora_b`. This is a function
of parameters, so it works for every module, in training, generation and export. `lora_b` begins at zero: the first outputs are
exactly those of the model. (The adapters see no input of their own, so there is no dropout on it.)
"""

import dataclasses
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import UsageError, did_you_mean
from jaxnets.core.types import Aux, Batch, Card, Exhibit, Mean, Rows, Variables
from jaxnets.steps.step import Recipe, Step
from jaxnets.tasks.base import Task
from jaxnets.tasks.wrapped import Wrapped

# Parameters that a LoRA run trains, as a pattern for whole paths.
TRAINED = r"(.*/)?lora_[ab]"


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Low-rank adapters for some kernels: `fit(model, data, initial=weights, lora=LoRA(rank=8, at=".*(query|value)"))`."""

    rank: int = 8
    """Columns of `lora_a`, rows of `lora_b`."""
    alpha: float = 16.0
    """The change is scaled by `alpha / rank`."""
    at: str = ".*"
    """Regular expression for the whole paths of the layers, such as `block_0/attention/query`; each that has a `kernel` of two
    or more dims gets adapters. The last two dims of a kernel are the matrix; stacked layers have one each."""

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0:
            raise UsageError(f"LoRA: rank is at least 1 and alpha positive, got {self.rank} and {self.alpha}")

    def with_adapters(self, params: Mapping[str, Any], key: Array) -> dict[str, Any]:
        """Parameters with adapters beside the kernels; raises `UsageError` where none matches."""
        added: list[str] = []
        found = self._added(params, key, "", added)
        if not added:
            layers = [path for path, kernel in kernels(params).items() if kernel.ndim > 1]
            raise UsageError(
                f"LoRA.at is {self.at!r}, which is the whole path of no layer with a kernel. {did_you_mean(self.at, layers)}"
            )
        return found

    def _added(self, params: Mapping[str, Any], key: Array, path: str, added: list[str]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name, value in params.items():
            inside = f"{path}/{name}" if path else name
            made[name] = self._added(value, key, inside, added) if isinstance(value, Mapping) else value
        kernel = params.get("kernel")
        if kernel is not None and not isinstance(kernel, Mapping) and kernel.ndim > 1 and re.fullmatch(self.at, path):
            *lead, rows, columns = kernel.shape
            if self.rank > min(rows, columns):
                raise UsageError(
                    f"LoRA.rank is {self.rank}, but {path}/kernel is {rows} x {columns}; take a smaller rank"
                )
            own = jax.random.fold_in(key, zlib.crc32(path.encode()))
            made["lora_a"] = jax.random.normal(own, (*lead, rows, self.rank), kernel.dtype) / np.sqrt(rows)
            made["lora_b"] = jnp.zeros((*lead, self.rank, columns), kernel.dtype)
            added.append(path)
        return made

    def merged(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The model's own parameters, with the changes added to the kernels; parameters without adapters stay as they are."""
        plain = {
            name: self.merged(value) if isinstance(value, Mapping) else value
            for name, value in params.items()
            if name not in ("lora_a", "lora_b")
        }
        if "lora_a" in params:
            change = params["lora_a"] @ params["lora_b"]
            plain["kernel"] = params["kernel"] + (self.alpha / self.rank) * change
        return plain


def kernels(params: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """The kernels by the path of their layer."""
    found: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            found |= kernels(value, f"{path}/{name}" if path else name)
        elif name == "kernel":
            found[path] = value
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class LowRank(Wrapped):
    """Another task, whose model has adapters; `fit(..., lora=...)` makes it.

    Variables with adapters and merged ones are both taken: the merged ones have nothing to add.
    """

    lora: LoRA

    def for_model(self, variables: Variables) -> Variables:
        """The variables of the model itself: merged."""
        return self.inner.for_model({**variables, "params": self.lora.merged(variables["params"])})

    def init(self, key: Array, batch: Batch) -> Variables:
        """Those of the inner task, with adapters."""
        variables = self.inner.init(key, batch)
        return {**variables, "params": self.lora.with_adapters(variables["params"], jax.random.fold_in(key, 1))}

    def make_step(self, recipe: Recipe) -> Step:
        """The step that minimises the loss; raises `UsageError` for a task with a step of its own."""
        own = type(self.inner.plain).make_step is not Task.make_step
        if own:
            raise UsageError(
                f"{type(self.inner.plain).__name__} has a training step of its own, which knows no adapters"
            )
        return Task.make_step(self, recipe)

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """See `Task`."""
        return self.inner.loss(self._merged(variables), batch, key, train)

    def metrics(self, variables: Variables, batch: Batch) -> Mapping[str, Mean | Rows]:
        """See `Task`."""
        return self.inner.metrics(self._merged(variables), batch)

    def derive(self, values: Mapping[str, Any]) -> dict[str, float]:
        """See `Task`."""
        return self.inner.derive(values)

    def outputs(self, variables: Variables, batch: Batch) -> Array:
        """See `Task`."""
        return self.inner.outputs(self._merged(variables), batch)

    def check_outputs(self, variables: Variables, batch: Batch, card: Card) -> None:
        """See `Task`."""
        self.inner.check_outputs(jax.eval_shape(self._merged, variables), batch, card)

    def drawn(self, variables: Variables) -> Sequence[Exhibit]:
        """See `Task`."""
        return self.inner.drawn(self._merged(variables))

    def _merged(self, variables: Variables) -> Variables:
        return {**variables, "params": self.lora.merged(variables["params"])}
