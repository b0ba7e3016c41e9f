"""Several targets from one model, each with a head and a weight, fixed or learned (Kendall et al. 2018).

Shapes: `B` batch, `D` features of the trunk, `O` outputs of all heads together.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import DataError
from jaxnets.core.types import Aux, Batch, Card, Mean, Variables
from jaxnets.core.wide import wide
from jaxnets.models.layers import Dense
from jaxnets.tasks.base import Task, with_outputs
from jaxnets.tasks.losses import cross_entropy, squared_error
from jaxnets.tasks.parts import call_part, init_parts

# The parameters with the log variance of each target.
UNCERTAINTY = "log_variances"


@dataclasses.dataclass(frozen=True)
class Head:
    """One target: its array and its kind."""

    array: str = "targets"
    """Name of the array in the data, `[N]`."""
    classes: int = 0
    """Number of classes; 0: a real number, whose loss is the squared error in its own unit."""
    weight: float = 1.0
    """Weight of its loss, if weights are fixed."""

    def __post_init__(self) -> None:
        if self.classes == 1 or self.classes < 0 or not 0 <= self.weight < math.inf:
            raise ValueError(f"a head has 0 or at least 2 classes, and a weight of at least 0; got {self}")

    @property
    def outputs(self) -> int:
        """Numbers that it predicts."""
        return max(1, self.classes)

    def losses(self, outputs: Array, targets: Array) -> Array:
        """Cross entropy or squared error of outputs `[B, outputs]`, `[B]`."""
        return cross_entropy(outputs, targets) if self.classes else squared_error(outputs[:, 0], targets)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiTask(Task):
    """Minimise a weighted sum of the losses of several heads on one model, the trunk.

    The data have the array `targets` and one for each further head (`data.with_targets`). The outputs are those of all heads
    side by side; predictions are those of the first head.

    With `weighing="uncertainty"` the weights are learned: with a log variance `s` of each target the loss is the sum of
    `exp(-s) L + s / 2` over classes and of `(exp(-s) L + s) / 2` over numbers (equations 7 and 10, with `s = log sigma^2`).
    """

    heads: tuple[Head, ...] = (Head(),)
    """The targets; the first one names the run's score."""
    weighing: Literal["fixed", "uncertainty"] = "fixed"
    """Whether the weights are those of the heads, or learned."""
    features: int = 64
    """Number of features from the trunk for the heads, if it has a field `outputs`."""

    more_is_better: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        names = [head.array for head in self.heads]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"heads name an array each, all of them different; got {names}")

    @property
    def headline(self) -> str:  # type: ignore[override]
        """Accuracy or error of the first head."""
        return self._score(self.heads[0])

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        """Whether it is an accuracy."""
        return self.heads[0].classes > 0

    @property
    def directions(self) -> dict[str, Literal["max", "min"]]:
        """See `Task`."""
        return {self._score(head): "max" if head.classes else "min" for head in self.heads} | {"loss": "min"}

    @property
    def reads(self) -> tuple[str, ...]:
        """See `Task`."""
        return (*super().reads, *(head.array for head in self.heads if head.array != "targets"))

    def _score(self, head: Head) -> str:
        return f"{head.array}_{'accuracy' if head.classes else 'error'}"

    def bind(self, card: Card) -> Self:
        """Set the trunk's outputs and the classes of the head for `targets`."""
        found = len(card.class_names) if card.target_kind == "class" else 0
        heads = tuple(
            dataclasses.replace(head, classes=found) if head.array == "targets" and not head.classes else head
            for head in self.heads
        )
        model = with_outputs(
            self.model,
            getattr(self.model, "outputs", None) or self.features,
            exact=True,
            reason="the heads take that many numbers",
        )
        return dataclasses.replace(self, model=model, heads=heads)

    def _module(self, head: Head) -> nn.Module:
        return Dense(head.outputs)

    def init(self, key: Array, batch: Batch) -> Variables:
        """Variables of the trunk under `trunk`, of each head under the name of its array."""
        trunk = {"trunk": (self.model, batch["inputs"])}
        one = init_parts(key, trunk)
        shape = jax.eval_shape(lambda: call_part(self.model, one, "trunk", batch["inputs"], None)[0])
        given = jnp.zeros(shape.shape, shape.dtype)
        variables = init_parts(key, {**trunk, **{head.array: (self._module(head), given) for head in self.heads}})
        if self.weighing == "uncertainty":
            variables["params"][UNCERTAINTY] = {head.array: jnp.zeros(()) for head in self.heads}
        return variables

    def _outputs(self, variables: Variables, batch: Batch, key: Array | None) -> tuple[dict[str, Array], Variables]:
        """Outputs `[B, outputs]` of each head by its array, and the other collections."""
        features, state = call_part(self.model, variables, "trunk", batch["inputs"], key)
        features = jax.nn.relu(features)
        made = {h.array: call_part(self._module(h), variables, h.array, features, None)[0] for h in self.heads}
        return made, state

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """The weighted sum over the heads; the metrics hold each loss and, if they are learned, the weights."""
        outputs, state = self._outputs(variables, batch, key if train else None)
        mask, total, metrics = batch["mask"], jnp.zeros(batch["mask"].shape), dict[str, Mean]()
        for head in self.heads:
            losses = head.losses(outputs[head.array], batch[head.array])
            metrics[f"{head.array}_loss"] = Mean.of(losses, mask)
            if self.weighing == "fixed":
                total = total + head.weight * losses
                continue
            s = wide(variables["params"][UNCERTAINTY][head.array])
            weight = jnp.exp(-s) * (1.0 if head.classes else 0.5)
            total = total + weight * losses + s / 2
            metrics[f"{head.array}_weight"] = Mean.of(jnp.broadcast_to(weight, mask.shape), mask)
        loss = Mean.of(total, mask)
        return loss, Aux({"loss": loss, **metrics}, state)

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """The loss with fixed weights, and the accuracy or squared error of each head."""
        outputs, mask = self._outputs(variables, batch, None)[0], batch["mask"]
        found, total = dict[str, Mean](), jnp.zeros(mask.shape)
        for head in self.heads:
            made, wanted = outputs[head.array], batch[head.array]
            losses = head.losses(made, wanted)
            total = total + head.weight * losses
            right = (made.argmax(axis=-1) == wanted).astype(jnp.float32)
            found[self._score(head)] = Mean.of(right if head.classes else losses, mask)
        return {"loss": Mean.of(total, mask), **found}

    def outputs(self, variables: Variables, batch: Batch) -> Array:
        """The outputs of all heads, `[B, O]`."""
        return jnp.concatenate(list(self._outputs(variables, batch, None)[0].values()), axis=-1)

    def decide(self, outputs: np.ndarray) -> np.ndarray:
        """The first head's class or number, `[B]`."""
        first = outputs[:, : self.heads[0].outputs]
        return first.argmax(axis=-1).astype(np.int32) if self.heads[0].classes else first[:, 0]

    def check_outputs(self, variables: Variables, batch: Batch, card: Card) -> None:
        """Check that the data have every head's array, with one target for each example."""
        for head in self.heads:
            if head.array not in batch:
                raise DataError(f"{card.name!r} has no array {head.array!r}; add it by data.with_targets")
            if len(batch[head.array].shape) != 1:
                raise DataError(
                    f"the array {head.array!r} of {card.name!r} has shape {batch[head.array].shape}; a head has one "
                    f"target for each example"
                )
            whole: Any = jnp.issubdtype(batch[head.array].dtype, jnp.integer)
            if head.classes and not whole:
                raise DataError(f"the head of {head.array!r} has classes, but its targets are no whole numbers")
        jax.eval_shape(self.outputs, variables, batch)

    def derive(self, values: Mapping[str, float]) -> dict[str, float]:
        """The metrics as they are."""
        return dict(values)
