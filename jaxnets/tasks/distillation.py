"""Knowledge distillation: a student learns the outputs of a trained teacher (Hinton et al. 2015).

Shapes: `B` batch, `C` classes.
"""

import dataclasses
import math
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.errors import DataError
from jaxnets.core.types import Aux, Batch, Card, Mean, Variables
from jaxnets.core.wide import wide
from jaxnets.tasks.base import bound
from jaxnets.tasks.calls import call_model, init_model
from jaxnets.tasks.classification import Classification, accuracy
from jaxnets.tasks.losses import cross_entropy

# The collection that holds the teacher's variables.
TEACHER = "teacher"


def distillation_loss(student: Array, teacher: Array, *, temperature: float = 1.0) -> Array:
    """`T^2` times the cross entropy of `softmax(student / T)` under `softmax(teacher / T)`, `[B]` float32 in nats.

    The factor keeps the size of the gradient if the temperature `T` changes (section 2 of the paper). The smallest value is
    `T^2` times the teacher's entropy.

    Args:
        student: logits `[B, C]`.
        teacher: logits `[B, C]`; no gradient goes to them.
        temperature: `T`, above 0.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"the student's logits have shape {student.shape}, the teacher's {teacher.shape}; make them equal"
        )
    wanted = jax.nn.softmax(wide(jax.lax.stop_gradient(teacher)) / temperature)
    said = jax.nn.log_softmax(wide(student) / temperature)
    return -(temperature**2) * (wanted * said).sum(axis=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation(Classification):
    """Minimise `(1 - share)` cross entropy of the label and `share` of `distillation_loss`.

    The teacher's variables are a collection of the state, `teacher`: they are sharded and saved with it and never change.
    Their initial values are NaN, which stops the first step, unless `initial=` gives them:

        Initial(teacher.variables, renames=(("^", "teacher/"),), fresh=("(?!teacher/).*",))

    The teacher gets the same inputs as the student, also augmented ones (Beyer et al. 2022), without its own dropout.
    """

    teacher: nn.Module
    """The teacher, a module with the same inputs and outputs."""
    temperature: float = 4.0
    """Divides the logits of both; higher values give the teacher's probabilities of the wrong classes more influence."""
    share: float = 0.9
    """Share of the teacher's term in the loss, in [0, 1]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature is above 0, got {self.temperature}")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is in [0, 1], got {self.share}")

    def bind(self, card: Card) -> Self:
        """See `Classification`; the teacher is bound in the same way."""
        teacher = bound(Classification(model=self.teacher), card).model
        return dataclasses.replace(super().bind(card), teacher=teacher)

    def init(self, key: Array, batch: Batch) -> Variables:
        """The student's variables, and the teacher's as NaN."""
        shapes = jax.eval_shape(lambda: init_model(self.teacher, key, self.inputs_of(batch)))
        return {**super().init(key, batch), TEACHER: jax.tree.map(_unknown, shapes)}

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """The mean over the unmasked examples; the metrics hold both terms."""
        own, teacher = _apart(variables)
        logits, state = self.apply(own, batch, key if train else None)
        taught = distillation_loss(logits, self._taught(teacher, batch), temperature=self.temperature)
        smoothing = self.label_smoothing if train else 0.0
        labelled = cross_entropy(logits, batch["targets"], label_smoothing=smoothing)
        loss = Mean.of((1 - self.share) * labelled + self.share * taught, batch["mask"])
        terms = {"label_loss": Mean.of(labelled, batch["mask"]), "teacher_loss": Mean.of(taught, batch["mask"])}
        metrics = {"loss": loss, "accuracy": accuracy(logits, batch), **terms}
        return loss, Aux(metrics, {**state, TEACHER: teacher})

    def _taught(self, teacher: Variables, batch: Batch) -> Array:
        logits: Any = call_model(self.teacher, teacher, self.inputs_of(batch), key=None)[0]
        return wide(logits)

    def outputs(self, variables: Variables, batch: Batch) -> Array:
        """The student's logits."""
        return super().outputs(_apart(variables)[0], batch)

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """Cross entropy and accuracy of the student, `teacher_accuracy`, and `agreement`, the share of equal decisions."""
        logits, taught = self.outputs(variables, batch), self._taught(variables[TEACHER], batch)
        same = (logits.argmax(axis=-1) == taught.argmax(axis=-1)).astype(jnp.float32)
        return {
            "loss": Mean.of(cross_entropy(logits, batch["targets"]), batch["mask"]),
            "accuracy": accuracy(logits, batch),
            "teacher_accuracy": accuracy(taught, batch),
            "agreement": Mean.of(same, batch["mask"]),
        }

    def check_outputs(self, variables: Variables, batch: Batch, card: Card) -> None:
        """See `Classification`; raises `DataError` unless the teacher's outputs have the student's shape."""
        super().check_outputs(variables, batch, card)
        own = jax.eval_shape(self.outputs, variables, batch).shape
        taught = jax.eval_shape(self._taught, variables[TEACHER], batch).shape
        if own != taught:
            raise DataError(
                f"the student gives outputs of shape {own}, the teacher {taught}; "
                f"give both as many outputs as there are classes"
            )


def _unknown(leaf: Any) -> Array:
    """An array of NaN of this shape, which stops a run without the teacher's weights."""
    return jnp.full(leaf.shape, jnp.nan if jnp.issubdtype(leaf.dtype, jnp.inexact) else 0, leaf.dtype)


def _apart(variables: Variables) -> tuple[Variables, Variables]:
    """The student's variables, and the teacher's."""
    return {name: tree for name, tree in variables.items() if name != TEACHER}, variables[TEACHER]
