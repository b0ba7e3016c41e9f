"""Embeddings from hidden patches: masked autoencoding (He et al. 2022) and joint-embedding prediction (Assran et al. 2023).

Shapes: `B` batch, `T` patches of an image, `K` visible ones, `D` width of the encoder.
"""

import dataclasses
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.errors import DataError
from jaxnets.core.types import Aux, Batch, Card, Mean, Variables
from jaxnets.core.wide import wide
from jaxnets.models.patch_predictor import PatchPredictor
from jaxnets.ops.random import batch_keys
from jaxnets.steps.recipe import Recipe, Step
from jaxnets.tasks.base import with_outputs
from jaxnets.tasks.calls import call_model, init_model
from jaxnets.tasks.embedding import Embedding
from jaxnets.tasks.parts import with_follower

# The collection of the slowly updated copy of the encoder.
TARGET = "target"


@dataclasses.dataclass(frozen=True, kw_only=True)
class HiddenPatches(Embedding):
    """Base of tasks that hide patches of each image and predict properties of them from the others.

    The model is a `PatchPredictor`. The embedding of an image is the mean of the features of all its patches.
    """

    hidden: float = 0.75
    """Share of the patches that are hidden, in (0, 1); at least one is visible and one hidden."""

    def __post_init__(self) -> None:
        self._check_neighbours()
        if not 0 < self.hidden < 1:
            raise ValueError(f"hidden is a share in (0, 1), got {self.hidden}")
        if not isinstance(self.model, PatchPredictor):
            raise DataError(f"{type(self).__name__} trains a PatchPredictor, got {type(self.model).__name__}")

    def with_predictions(self, card: Card, count: int) -> Self:
        """This task for the data, with this many predicted numbers for each patch."""
        reason = f"{type(self).__name__} predicts {count} numbers for each patch of {card.name!r}"
        model = with_outputs(self.model, count, exact=True, reason=reason)
        return dataclasses.replace(super().bind(card), model=model)

    def visible(self, batch: Batch, key: Array) -> tuple[Array, Array]:
        """Numbers of the visible patches `[B, K]`, and which are hidden, `[B, T]` bool; drawn for each example."""
        model: Any = self.model
        _, H, W, _ = batch["inputs"].shape
        count = (H // model.patch) * (W // model.patch)
        seen = min(max(1, round(count * (1 - self.hidden))), count - 1)
        if seen < 1:
            raise DataError(
                f"an image of {H}x{W} pixels has a single patch, so none can be hidden; use a smaller patch"
            )
        keys = batch_keys(key, batch, "patches")
        visible = jax.vmap(lambda one: jax.random.permutation(one, count)[:seen])(keys)
        shown = (visible[:, :, None] == jnp.arange(count)[None, None, :]).any(axis=1)
        return visible, ~shown

    def init(self, key: Array, batch: Batch) -> Variables:
        """Variables of the model."""
        return init_model(self.model, key, batch["inputs"], self.visible(batch, key)[0])

    def embed(self, variables: Variables, batch: Batch) -> Array:
        """See `Embedding`."""
        return call_model(self.model, variables, batch["inputs"], key=None, method="encode")[0].mean(axis=1)

    def predicted(self, variables: Variables, batch: Batch, visible: Array) -> Array:
        """Predictions for every patch, `[B, T, numbers]` float32."""
        return wide(call_model(self.model, variables, batch["inputs"], visible, key=None)[0])

    def own_metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """The loss, with patches hidden by the row number alone."""
        return {"loss": self.loss(variables, batch, jax.random.key(0), False)[0]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedAutoencoder(HiddenPatches):
    """Minimise the squared error of the pixels of hidden patches, which the encoder does not get."""

    targets: Literal["pixels", "normalised"] = "normalised"
    """normalised: each patch with mean 0 and variance 1 (section 4 of the paper). pixels: as prepared."""

    def bind(self, card: Card) -> Self:
        """See `Embedding`; a prediction has the pixels of a patch."""
        model: Any = self.model
        return self.with_predictions(card, model.patch**2 * card.input_shape[-1])

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """Mean squared error over the hidden patches."""
        model: Any = self.model
        visible, hidden = self.visible(batch, key)
        wanted = model.patches(batch["inputs"]).astype(jnp.float32)
        if self.targets == "normalised":
            wanted = _normalised(wanted)
        loss = Mean.of(_over_hidden(self.predicted(variables, batch, visible), wanted, hidden), batch["mask"])
        return loss, Aux({"loss": loss}, {})


@dataclasses.dataclass(frozen=True, kw_only=True)
class JEPA(HiddenPatches):
    """Predict the features of the hidden patches, as computed by a slowly updated encoder, from the visible ones.

    The follower sees the whole image; no gradient goes to it. Its parameters are the collection `target` and move after every
    step by `1 - momentum` of their distance to the encoder's. Its features are normalised before they are compared. Patches
    are hidden one by one, not in blocks as in the paper. Evaluation embeds by the trained encoder.
    """

    momentum: float = 0.99
    """Momentum of the follower, in [0, 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is in [0, 1), got {self.momentum}")

    def bind(self, card: Card) -> Self:
        """See `Embedding`; a prediction has as many numbers as a feature."""
        model: Any = self.model
        return self.with_predictions(card, model.width)

    def init(self, key: Array, batch: Batch) -> Variables:
        """Variables of the model, and the follower as a copy of the encoder."""
        variables = super().init(key, batch)
        return {**variables, TARGET: jax.tree.map(jnp.copy, _encoder(variables))}

    def make_step(self, recipe: Recipe) -> Step:
        """The default step, after which the follower moves."""
        return with_follower(super().make_step(recipe), TARGET, _encoder, self.momentum)

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """Mean squared error over the hidden patches."""
        own = {"params": variables["params"]}
        visible, hidden = self.visible(batch, key)
        follower = {"params": variables[TARGET]}
        wanted = call_model(self.model, follower, batch["inputs"], key=None, method="encode")[0]
        wanted = jax.lax.stop_gradient(_normalised(wanted.astype(jnp.float32)))
        loss = Mean.of(_over_hidden(self.predicted(own, batch, visible), wanted, hidden), batch["mask"])
        return loss, Aux({"loss": loss}, {TARGET: variables[TARGET]})

    def embed(self, variables: Variables, batch: Batch) -> Array:
        """See `Embedding`."""
        return super().embed({"params": variables["params"]}, batch)


def _encoder(variables: Variables) -> Variables:
    """The encoder's parameters."""
    return {"encoder": variables["params"]["encoder"]}


def _normalised(x: Array) -> Array:
    """The same with mean 0 and variance 1 over the last dim."""
    away = x - x.mean(axis=-1, keepdims=True)
    return away * jax.lax.rsqrt(jnp.square(away).mean(axis=-1, keepdims=True) + 1e-6)


def _over_hidden(predicted: Array, wanted: Array, hidden: Array) -> Array:
    """Squared errors `[B, T, numbers]` averaged over the hidden patches of each example, `[B]`."""
    each = jnp.square(predicted - wanted).mean(axis=-1)
    return jnp.where(hidden, each, 0.0).sum(axis=1) / hidden.sum(axis=1)
