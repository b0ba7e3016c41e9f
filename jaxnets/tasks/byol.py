"""Bootstrap your own latent (BYOL): embeddings learned by predicting the output of a slowly updated copy for another view.

Grill et al. 2020, "Bootstrap your own latent: A new approach to self-supervised learning" (arXiv:2006.07733).

Shapes: `B` batch, `P` numbers of a projection.
"""

import dataclasses
from typing import Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.errors import DataError
from jaxnets.core.types import Aux, Batch, Card, Mean, Variables
from jaxnets.core.wide import wide
from jaxnets.models.mlp import MLP
from jaxnets.steps.recipe import Recipe, Step
from jaxnets.tasks.contrastive import TwoViews, unit_vectors
from jaxnets.tasks.parts import call_part, init_parts, with_follower

# The collection of the encoder and the projector that follow the trained ones.
TARGET = "target"


def byol_loss(predicted: Array, wanted: Array) -> Array:
    """`2 - 2 cos(predicted, wanted)`, the squared distance of the normalised vectors, `[B]` float32 (equation 2).

    Args:
        predicted: `[B, P]`.
        wanted: `[B, P]`; no gradient goes to them.
    """
    wanted = jax.lax.stop_gradient(wanted)
    cosine = (unit_vectors(wide(predicted)) * unit_vectors(wide(wanted))).sum(axis=-1)
    return 2 - 2 * cosine


def follower_momentum(base: float, step: Array | int, steps: int) -> Array:
    """Momentum of the target in a step: `1 - (1 - base) (cos(pi step / steps) + 1) / 2`, from `base` up to 1.

    Args:
        base: the momentum at step 0.
        step: number of the step, from 0.
        steps: steps of the run; 0: not known, and the momentum stays `base`.
    """
    done = jnp.asarray(step, jnp.float32) / steps if steps else jnp.zeros((), jnp.float32)
    return 1 - (1 - base) * (jnp.cos(jnp.pi * jnp.minimum(done, 1.0)) + 1) / 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class BYOL(TwoViews):
    """Predict the target's projection of one view from the online projection of the other, both ways; no negatives.

    The online network is the encoder, the projector and a predictor (`params/encoder`, `params/projector`,
    `params/predictor`). The target is the collection `target`: an encoder and a projector that are initialised as copies of
    the online ones. No gradient goes to it. After every step it moves towards the online parameters, by a share of the way
    that falls to 0 at the end of the run (`follower_momentum`). In training each uses the batch statistics of its own outputs.
    Evaluation embeds by the online encoder.

    Without a normalisation in projector and predictor embeddings may collapse to one point: check `spread`.
    """

    projector: nn.Module = MLP(widths=(256,), outputs=64, norm="batch")
    """Maps embeddings to the vectors that are predicted; it is not used after training."""
    predictor: nn.Module = MLP(widths=(256,), norm="batch")
    """Maps online projections to those of the target; it is not used after training."""
    momentum: float = 0.99
    """Momentum of the target in the first step (tau_base), in [0, 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is in [0, 1), got {self.momentum}")

    def bind(self, card: Card) -> Self:
        """See `Embedding`; the predictor gets the number of outputs of the projector, if both have this field."""
        bound = super().bind(card)
        numbers, own = getattr(self.projector, "outputs", None), getattr(self.predictor, "outputs", 0)
        predictor = self.predictor.clone(outputs=numbers) if numbers and own is None else self.predictor
        return dataclasses.replace(bound, predictor=predictor)

    def init(self, key: Array, batch: Batch) -> Variables:
        """Variables of encoder, projector and predictor, and the target as a copy."""
        variables = super().init(key, batch)
        target = jax.tree.map(jnp.copy, variables["params"])
        shape = jax.eval_shape(lambda: self.projections(variables, batch, key, False)[0]).shape
        given = jnp.zeros((shape[0], shape[2]), jnp.float32)
        for collection, tree in init_parts(jax.random.fold_in(key, 2), {"predictor": (self.predictor, given)}).items():
            variables[collection] = {**variables.get(collection, {}), **tree}
        predicted = jax.eval_shape(lambda: call_part(self.predictor, variables, "predictor", given, None)[0]).shape
        if predicted != given.shape:
            raise DataError(
                f"the predictor gives outputs of shape {predicted}, and projections have shape {given.shape}; give both as "
                f"many outputs"
            )
        return {**variables, TARGET: target}

    def make_step(self, recipe: Recipe) -> Step:
        """The default step, after which the target moves."""

        def momentum(step: Array) -> Array:
            return follower_momentum(self.momentum, step, recipe.steps)

        return with_follower(super().make_step(recipe), TARGET, _followed, momentum)

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """The mean over the unmasked examples of `byol_loss`, summed over the two ways."""
        own, target = _apart(variables)
        for_views, for_predictor = jax.random.split(key)
        online, state = self.projections(own, batch, for_views, train)
        # With the same key these are the same views.
        wanted = self.projections({**own, "params": target}, batch, for_views, train)[0]
        flat = online.reshape(-1, online.shape[-1])
        kept = {**state, "params": own["params"]}
        predicted, state = call_part(self.predictor, kept, "predictor", flat, for_predictor if train else None)
        # Each view's prediction beside the target's projection of the other view.
        each = byol_loss(predicted, wanted[:, ::-1].reshape(flat.shape)).reshape(-1, 2).sum(axis=1)
        loss = Mean.of(each, batch["mask"])
        return loss, Aux({"loss": loss}, {**state, TARGET: target})

    def embed(self, variables: Variables, batch: Batch) -> Array:
        """See `Embedding`."""
        return super().embed(_apart(variables)[0], batch)

    def own_metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """`alignment` of the online projections; see `TwoViews`."""
        return super().own_metrics(_apart(variables)[0], batch)


def _apart(variables: Variables) -> tuple[Variables, Variables]:
    """The variables of the online network, and the parameters of the target."""
    return {name: tree for name, tree in variables.items() if name != TARGET}, variables[TARGET]


def _followed(variables: Variables) -> Variables:
    """The parameters that the target follows."""
    return {name: variables["params"][name] for name in ("encoder", "projector")}
