"""Embeddings in which two views of an example agree: SimCLR (Chen et al. 2020) and VICReg (Bardes et al. 2022).

Shapes: `B` batch, `D` numbers of an embedding, `P` numbers of its projection.
"""

import dataclasses
import math
from typing import Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.types import Aux, Batch, Card, Mean, Variables
from jaxnets.core.wide import wide
from jaxnets.models.mlp import MLP
from jaxnets.tasks.base import with_outputs
from jaxnets.tasks.embedding import Embedding, two_views
from jaxnets.tasks.parts import call_part, init_parts
from jaxnets.tasks.views import Views


def nt_xent(pairs: Array, mask: Array, *, temperature: float = 0.5) -> Array:
    """The normalised temperature-scaled cross entropy of identifying, among all other views in the batch, the one of the same
    example.

    Equation 1 of Chen et al. 2020, the mean over the two views of an example. With rows split over devices the other views are
    those of the whole batch: the product of all with all is one operation, which the compiler splits.

    Args:
        pairs: two vectors for each example, `[B, 2, P]`; they are divided by their norms.
        mask: `[B]`; rows with 0 are not negatives for other rows, and their own value is meaningless.
        temperature: divides the cosines, above 0.

    Returns:
        `[B]` float32, in nats.
    """
    count, _, size = pairs.shape
    unit = unit_vectors(wide(pairs))
    flat = unit.reshape(2 * count, size)
    scores = flat @ flat.T / temperature
    left_out = jnp.eye(2 * count, dtype=bool) | (jnp.repeat(mask, 2) == 0)[None, :]
    total = jax.nn.logsumexp(jnp.where(left_out, -1e9, scores), axis=1).reshape(count, 2).mean(axis=1)
    return total - (unit[:, 0] * unit[:, 1]).sum(axis=-1) / temperature


def vicreg_terms(pairs: Array, mask: Array) -> tuple[Array, Array, Array]:
    """The invariance, variance and covariance terms of Bardes et al. 2022 (equations 5, 1 and 4): three scalars.

    Args:
        pairs: two vectors for each example, `[B, 2, P]`.
        mask: `[B]` weights; statistics are over the rows that count.
    """
    z, weight = wide(pairs), wide(mask)
    total = jnp.maximum(weight.sum(), 1.0)
    degrees = jnp.maximum(total - 1, 1.0)
    invariance = (weight[:, None] * jnp.square(z[:, 0] - z[:, 1])).sum() / (total * z.shape[-1])
    away = (z - (weight[:, None, None] * z).sum(axis=0, keepdims=True) / total) * weight[:, None, None]
    covariance = jnp.einsum("bvp,bvq->vpq", away, away) / degrees
    diagonal = jnp.diagonal(covariance, axis1=1, axis2=2)
    variance = jax.nn.relu(1 - jnp.sqrt(diagonal + 1e-4)).mean(axis=-1).sum() / 2
    return invariance, variance, (jnp.square(covariance).sum() - jnp.square(diagonal).sum()) / z.shape[-1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoViews(Embedding):
    """Base of tasks that embed two views of each example and compare their projections.

    The model is the encoder; its outputs are the embedding. The projector is not used after training: only the loss uses it.
    Its parameters are under `params/projector`, the model's under `params/encoder`.
    """

    embedding: int = 64
    """Numbers of an embedding, if the model has a field `outputs`."""
    projector: nn.Module = MLP(widths=(128,), outputs=64)
    """Maps embeddings to the vectors that the loss compares."""
    views: Views = Views()
    """How a view is drawn."""

    def __post_init__(self) -> None:
        self._check_neighbours()
        if self.embedding < 1:
            raise ValueError(f"embedding is at least 1, got {self.embedding}")

    def bind(self, card: Card) -> Self:
        """See `Embedding`; sets the model's outputs."""
        given = getattr(self.model, "outputs", None) or self.embedding
        model = with_outputs(self.model, given, exact=True, reason="an embedding has that many numbers")
        return dataclasses.replace(super().bind(card), model=model)

    def init(self, key: Array, batch: Batch) -> Variables:
        """Variables of the encoder and the projector."""
        one = init_parts(key, {"encoder": (self.model, batch["inputs"])})
        shape = jax.eval_shape(lambda: call_part(self.model, one, "encoder", batch["inputs"], None)[0])
        given = jnp.zeros(shape.shape, shape.dtype)
        return init_parts(key, {"encoder": (self.model, batch["inputs"]), "projector": (self.projector, given)})

    def embed(self, variables: Variables, batch: Batch) -> Array:
        """See `Embedding`."""
        return call_part(self.model, variables, "encoder", batch["inputs"], None)[0]

    def projections(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Array, Variables]:
        """Projections of two views, `[B, 2, P]`, and the other collections."""
        for_views, for_encoder, for_projector = jax.random.split(key, 3)
        seen = two_views(self.views, batch, for_views)
        embedded, state = call_part(self.model, variables, "encoder", seen, for_encoder if train else None)
        variables = {**state, "params": variables["params"]}
        made, state = call_part(self.projector, variables, "projector", embedded, for_projector if train else None)
        return made.reshape(-1, 2, made.shape[-1]), state

    def own_metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """`alignment`: the mean squared distance of two normalised projections (Wang and Isola 2020); 0 where they agree."""
        unit = unit_vectors(self.projections(variables, batch, jax.random.key(0), False)[0])
        return {"alignment": Mean.of(jnp.square(unit[:, 0] - unit[:, 1]).sum(axis=-1), batch["mask"])}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimCLR(TwoViews):
    """Distinguish the other view of an example from all views of the other examples in the batch; see `nt_xent`.

    Each micro-batch compares its own examples only, so micro-batches change the loss: take a larger batch instead.
    """

    temperature: float = 0.5
    """Divides the cosines."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature is above 0, got {self.temperature}")

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """The mean of `nt_xent` over the unmasked examples."""
        pairs, state = self.projections(variables, batch, key, train)
        loss = Mean.of(nt_xent(pairs, batch["mask"], temperature=self.temperature), batch["mask"])
        return loss, Aux({"loss": loss}, state)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VICReg(TwoViews):
    """Make two views agree while each number of the projection keeps its variance and is uncorrelated with the others.

    There are no negatives. Variance and covariance are those of the batch (of each micro-batch).
    """

    projector: nn.Module = MLP(widths=(256,), outputs=256, norm="batch")
    """Maps embeddings to the vectors that the loss compares; it is not used after training."""
    invariance: float = 25.0
    """Weight of the squared distance of the views."""
    variance: float = 25.0
    """Weight of the amount by which each number's standard deviation is below 1."""
    covariance: float = 1.0
    """Weight of the squared covariances of different numbers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.invariance, self.variance, self.covariance) < 0:
            raise ValueError(
                f"the weights are at least 0, got {self.invariance}, {self.variance} and {self.covariance}"
            )

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """The weighted sum of `vicreg_terms`; the metrics hold the terms."""
        pairs, state = self.projections(variables, batch, key, train)
        terms = vicreg_terms(pairs, batch["mask"])
        total = self.invariance * terms[0] + self.variance * terms[1] + self.covariance * terms[2]
        weight = batch["mask"].astype(jnp.float32).sum()
        names = ("invariance", "variance", "covariance")
        named = {name: Mean(term * weight, weight) for name, term in zip(names, terms, strict=True)}
        loss = Mean(total * weight, weight)
        return loss, Aux({"loss": loss, **named}, state)


def unit_vectors(vectors: Array) -> Array:
    """Vectors divided by their norms; the gradient at 0 is finite."""
    return vectors * jax.lax.rsqrt(jnp.square(vectors).sum(axis=-1, keepdims=True) + 1e-12)
