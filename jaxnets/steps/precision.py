"""One policy for number formats: parameters, statistics and reductions in float32, the layers' arithmetic as chosen.

Casting the parameters and inputs is enough: Linen's layers compute in the dtype they are given, its norms keep their
statistics in float32, and every task takes the model's outputs back to float32 before a loss.
"""

import dataclasses
import re
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxnets.core.types import Batch, Variables

# These are not cast: rounding a regression target or a weight to bfloat16 would change the problem.
_KEPT = ("targets", "mask")
# Parameters whose last digits matter: how slowly a recurrence forgets (128 decays would become 65), the choice of a router.
_KEPT_PARAMETERS = re.compile(r"(^|/)(decay|router/kernel)$")


# Names of the number formats in other libraries.
_NAMES = {
    "32": "float32", "32-true": "float32", "fp32": "float32", "bf16": "bfloat16", "bf16-mixed": "bfloat16",
    "mixed_bfloat16": "bfloat16", "16": "float16", "16-mixed": "float16", "fp16": "float16", "mixed_float16": "float16",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Precision:
    """The dtype in which the layers compute."""

    compute: Literal["float32", "bfloat16", "float16"] = "float32"
    """bfloat16 on TPUs and recent GPUs; float16 (with dynamic loss scaling) on older GPUs; float32 anywhere."""
    weights: Literal["float32", "bfloat16"] = "float32"
    """The dtype of the parameters between steps. bfloat16 halves their memory; then the optimizer must be
    `optim.StochasticRounding`, because rounding to the nearest loses small updates."""

    @classmethod
    def named(cls, name: str) -> "Precision":
        """The policy by its name, here or in another library ("bfloat16", "bf16-mixed", "mixed_float16")."""
        compute: Any = _NAMES.get(name, name)
        return cls(compute)

    @property
    def scales_loss(self) -> bool:
        """Whether gradients would underflow without a loss scale."""
        return self.compute == "float16"

    def stored(self, params: Any) -> Any:
        """Parameters in their dtype between steps; the few parameters that `params` keeps in float32 are float32 here too."""
        return params if self.weights == "float32" else Precision("bfloat16").params(params)

    def cast(self, variables: Variables, batch: Batch) -> tuple[Variables, Batch]:
        """The arguments of a task's loss, metrics or outputs: see `params` and `batch`; other collections are unchanged."""
        return {**variables, "params": self.params(variables["params"])}, self.batch(batch)

    def params(self, params: Any) -> Any:
        """Parameters in the compute dtype, but for a few that are computed with in float32 (`decay`, `router/kernel`)."""

        def cast(path: Any, leaf: Any) -> Any:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return leaf if _KEPT_PARAMETERS.search(name) else self._cast(leaf)

        return jax.tree_util.tree_map_with_path(cast, params)

    def batch(self, batch: Batch) -> Batch:
        """A batch with its real inputs in the compute dtype; targets and mask are kept.

        If inputs are rounded, the original ones are in `exact_inputs`, for a task that adds them to the model's outputs.
        """
        given = {name: value if name in _KEPT else self._cast(value) for name, value in batch.items()}
        return given if given["inputs"] is batch["inputs"] else {**given, "exact_inputs": batch["inputs"]}

    def _cast(self, tree: Any) -> Any:
        if self.compute == "float32":
            return tree
        dtype = jnp.dtype(self.compute)
        return jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)
