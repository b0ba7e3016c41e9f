"""Classes of unequal frequency: the focal loss, logit adjustment and the mean recall of the classes.

Shapes: `B` batch, `C` classes.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import DataError
from jaxnets.core.types import Aux, Batch, Card, Mean, Rows, Variables
from jaxnets.tasks.classification import Classification, accuracy
from jaxnets.tasks.losses import cross_entropy

# The collection in which the labels of training are counted.
COUNTED = "labels"
# The smallest `1 - p` whose power is computed: below it the power has no gradient.
LEAST = 1e-12


def focal_loss(logits: Array, labels: Array, *, gamma: float = 2.0) -> Array:
    """`-(1 - p)^gamma log(p)` with `p` the probability of the label, `[B]` float32 (Lin et al. 2017, equation 4).

    Args:
        logits: `[B, C]` of any float dtype; computed in float32.
        labels: `[B]` integers in `[0, C)`.
        gamma: how much less an example counts if its label already has a high probability; 0 is the cross entropy.
    """
    losses = cross_entropy(logits, labels)
    missing = jnp.maximum(-jnp.expm1(-losses), LEAST)
    return jnp.exp(gamma * jnp.log(missing)) * losses


def class_prior(labels: Any, classes: int) -> tuple[float, ...]:
    """Share of each class among integer labels `[N]`; raises `DataError` for a class without an example."""
    counts = np.bincount(np.asarray(labels).astype(int), minlength=classes)
    if len(counts) != classes or not counts.all():
        raise DataError(
            f"the labels have {counts.tolist()} examples of classes 0 to {len(counts) - 1}; each of "
            f"{classes} classes needs one"
        )
    return tuple((counts / counts.sum()).tolist())


@dataclasses.dataclass(frozen=True)
class Focal:
    """The focal loss as `loss=` of `fit`."""

    gamma: float = 2.0
    """How much less an example counts if its label already has a high probability; 0 is the cross entropy."""

    def __post_init__(self) -> None:
        _check_gamma(self.gamma)

    def __call__(self, outputs: Array, batch: Batch) -> Array:
        """See `focal_loss`."""
        return focal_loss(outputs, batch["targets"], gamma=self.gamma)


@dataclasses.dataclass(frozen=True)
class AdjustedLogits:
    """Cross entropy of `logits + tau log(prior)` as `loss=` of `fit` (Menon et al. 2021, equation 10).

    The unadjusted logits then rank the classes as if all were equally frequent, so predictions use them.
    """

    prior: tuple[float, ...]
    """Share of each class among the training labels; see `class_prior`."""
    tau: float = 1.0
    """Strength; 0 is the cross entropy, 1 is consistent for the mean recall of the classes."""

    def __post_init__(self) -> None:
        _check_prior(self.prior)
        _check_tau(self.tau)

    def __call__(self, outputs: Array, batch: Batch) -> Array:
        """One value for each example, `[B]`."""
        return cross_entropy(outputs + self.tau * jnp.log(jnp.asarray(self.prior))[None, :], batch["targets"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imbalanced(Classification):
    """Classification with rare classes: the losses of `Focal` and `AdjustedLogits`, and `mean_recall`.

    `mean_recall` is the mean over the classes of the share of their examples that are found (balanced accuracy). Evaluation
    measures the plain cross entropy of the logits.
    """

    gamma: float = 0.0
    """The focal loss's exponent; 0 is the cross entropy."""
    tau: float = 1.0
    """Strength of the logit adjustment; 0: none."""
    prior: tuple[float, ...] = ()
    """Share of each class among the training labels (`class_prior`); (): the labels are counted during training."""

    headline = "mean_recall"
    more_is_better: ClassVar[tuple[str, ...]] = ("accuracy",)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_gamma(self.gamma)
        _check_tau(self.tau)
        if self.prior:
            _check_prior(self.prior)
        if self.gamma and self.label_smoothing:
            raise ValueError(
                f"the focal loss is of one label, so gamma {self.gamma} goes without label_smoothing "
                f"{self.label_smoothing}; set one to 0"
            )

    @property
    def counts(self) -> bool:
        """Whether the labels of training are counted."""
        return self.tau > 0 and not self.prior

    def bind(self, card: Card) -> Self:
        """See `Classification`; raises `DataError` unless there is a share for each class."""
        if self.prior and len(self.prior) != len(card.class_names):
            raise DataError(
                f"prior has {len(self.prior)} shares, but {card.name!r} has {len(card.class_names)} classes; give one for each"
            )
        return super().bind(card)

    def init(self, key: Array, batch: Batch) -> Variables:
        """See `Task`; with the counts of labels, which start at one for each class."""
        variables = super().init(key, batch)
        if not self.counts:
            return variables
        classes = jax.eval_shape(self.outputs, variables, batch).shape[-1]
        return {**variables, COUNTED: {"counts": jnp.ones((classes,), jnp.float32)}}

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """The focal loss of the adjusted logits, in nats; in evaluation it is not adjusted."""
        own = {name: tree for name, tree in variables.items() if name != COUNTED}
        logits, state = self.apply(own, batch, key if train else None)
        shift, labels = jnp.zeros((logits.shape[-1],)), batch["targets"]
        if self.counts and train:
            hot = (labels[:, None] == jnp.arange(logits.shape[-1])[None, :]) & (batch["mask"][:, None] > 0)
            counts = variables[COUNTED]["counts"] + hot.sum(axis=0)
            shift, state = jnp.log(counts / counts.sum()), {**state, COUNTED: {"counts": counts}}
        elif self.prior and train:
            shift = jnp.log(jnp.asarray(self.prior))
        adjusted = logits + self.tau * shift[None, :]
        if self.gamma:
            losses = focal_loss(adjusted, labels, gamma=self.gamma)
        else:
            losses = cross_entropy(adjusted, labels, label_smoothing=self.label_smoothing if train else 0.0)
        loss = Mean.of(losses, batch["mask"])
        return loss, Aux({"loss": loss, "accuracy": accuracy(logits, batch)}, state)

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Any]:
        """Cross entropy, accuracy, and the counts for `mean_recall`."""
        logits = self.outputs(variables, batch)
        loss = Mean.of(cross_entropy(logits, batch["targets"]), batch["mask"])
        rows = Rows({"label": batch["targets"], "found": logits.argmax(axis=-1) == batch["targets"]}, batch["mask"])
        return {"loss": loss, "accuracy": accuracy(logits, batch), "mean_recall": rows}

    def derive(self, values: Mapping[str, Any]) -> dict[str, float]:
        """The mean over the classes that occur of the share of their examples that are found."""
        if not isinstance(values.get("mean_recall"), Mapping):
            return dict(values)
        label, found = values["mean_recall"]["label"].astype(int), values["mean_recall"]["found"]
        count = np.bincount(label)
        recall = np.bincount(label, found)[count > 0] / count[count > 0]
        return {**values, "mean_recall": float(recall.mean())}


def _check_gamma(gamma: float) -> None:
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma is at least 0, got {gamma}")


def _check_tau(tau: float) -> None:
    if not 0 <= tau < math.inf:
        raise ValueError(f"tau is at least 0, got {tau}")


def _check_prior(prior: tuple[float, ...]) -> None:
    if len(prior) < 2 or min(prior) <= 0 or abs(sum(prior) - 1) > 1e-3:
        raise ValueError(
            f"prior holds a share above 0 of each class, and their sum is 1; got {prior} (see class_prior)"
        )
