"""The perceptron learning rule (Rosenblatt, 1958): the usual training loop without gradient and optimizer."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.errors import DataError, UsageError
from jaxnets.core.types import Aux, Batch, Card, Mean, Variables
from jaxnets.models import Perceptron
from jaxnets.steps.recipe import Metrics, Recipe, Step
from jaxnets.steps.state import TrainState
from jaxnets.tasks.base import with_outputs
from jaxnets.tasks.classification import Classification


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerceptronRule(Classification):
    """Two classes, one threshold unit; each misclassified example moves the separating line towards itself.

    `w <- w + rate * y * x` for a misclassified example with `y` in {-1, +1}, one example at a time in batch order. On
    separable data with margin `g` and `|x| <= R` there are at most `(R / g)^2` mistakes in total (Novikoff, 1962).

    Besides loss and accuracy an evaluation reports `updates`, the number of mistakes so far; `converged`, 1 if every
    training example has been classified correctly since the last mistake, else 0; and, once converged, `bound`,
    `(R / g)^2` with the margin of the separator found, which `updates` cannot exceed. On data that are not separable, such
    as XOR, `converged` stays 0.
    """

    has_probabilities = False

    rate: float = 1.0
    """Step size of a correction, above 0; it only scales the weights."""
    examples: int | None = None
    """Number of training examples; None takes it from the data."""

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf or not (self.examples is None or self.examples > 0):
            raise ValueError(f"rate is above 0 and examples at least 1, got {self.rate} and {self.examples}")

    @property
    def takes_distributions(self) -> bool:
        """No: the rule corrects by one label."""
        return False

    def bind(self, card: Card) -> Self:
        """Set the model's single output; raise `DataError` unless the data have two classes."""
        if len(card.class_names) != 2:
            raise DataError(
                f"the perceptron rule separates two classes, but {card.name!r} has {len(card.class_names)}; "
                f"use Classification, or data with two classes"
            )
        if not isinstance(self.model, Perceptron):
            raise DataError(
                f"the perceptron rule trains a Perceptron, whose weights it updates directly, not a "
                f"{type(self.model).__name__}; use Classification for that"
            )
        model = with_outputs(self.model, 1, exact=True, reason="the perceptron rule trains one unit")
        return dataclasses.replace(self, model=model, examples=self.examples or card.examples["train"])

    def init(self, key: Array, batch: Batch) -> Variables:
        """The module's variables, and the collection `progress` with the counters of the rule."""
        progress = {name: jnp.zeros((), jnp.float32) for name in ("updates", "streak", "margin", "radius", "whole")}
        return {**super().init(key, batch), "progress": progress}

    def init_optimizer(self, optimizer: Any, params: Any) -> Any:
        """The rule has no optimizer."""
        return ()

    def outputs(self, variables: Variables, batch: Batch) -> Array:
        """Logits of two classes `[B, 2]`: 0 and the potential; the larger one is the prediction."""
        potential = self.apply(variables, batch, None)[0][:, 0]
        # A potential of exactly 0 means class 1, as in the unit step; argmax would take class 0 on a tie.
        return jnp.stack(
            [jnp.zeros_like(potential), jnp.where(potential == 0, jnp.finfo(jnp.float32).tiny, potential)], -1
        )

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """The perceptron criterion `max(0, -y * potential)`, which the rule descends one example at a time."""
        logits = self.outputs(variables, batch)
        sign = jnp.where(batch["targets"] == 1, 1.0, -1.0)
        loss = Mean.of(jnp.maximum(0.0, -sign * logits[:, 1]), batch["mask"])
        metrics = {"loss": loss, "accuracy": Mean.of((logits.argmax(-1) == batch["targets"]) * 1.0, batch["mask"])}
        return loss, Aux(metrics, {})

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """The perceptron criterion, accuracy and the rule's progress."""
        progress = variables["progress"]
        account = {
            "updates": progress["updates"],
            # Each epoch has every example once, so 2n - 1 correct ones in a row contain a whole epoch.
            "converged": (progress["streak"] >= 2 * (self.examples or 1) - 1) * 1.0,
            "margin": progress["margin"],
            "radius": progress["radius"],
            "whole": progress["whole"],
        }
        mask = batch["mask"]
        means = {name: Mean.of(jnp.broadcast_to(value, mask.shape), mask) for name, value in account.items()}
        return {**self.loss(variables, batch, jax.random.key(0), False)[1].metrics, **means}

    def derive(self, values: Mapping[str, float]) -> dict[str, float]:
        """The measured metrics, with Novikoff's bound if it is known."""
        kept = {name: value for name, value in values.items() if name not in ("margin", "radius", "whole")}
        if not values.get("whole"):
            kept.pop("converged", None)
        if kept.get("converged") == 1 and values["margin"] > 0:
            kept["bound"] = (values["radius"] / values["margin"]) ** 2
        return kept

    def make_step(self, recipe: Recipe) -> Step:
        """One pass of the rule over the batch; the metrics are those of the weights before it."""
        if recipe.gradient.active or recipe.penalty.active:
            raise UsageError("the perceptron rule has no gradient; leave out the fields of `gradient` and `penalty`")

        def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            _, aux = self.loss({"params": state.params}, batch, jax.random.key(0), True)

            def correct(carry: tuple[Any, Any], example: tuple[Array, Array, Array, Array]) -> tuple[Any, Array]:
                params, progress = carry
                raw, x, label, mask = example
                potential = self.outputs({"params": params}, {"inputs": raw[None]})[0]
                side = jnp.where(label == 1, 1.0, -1.0)
                wrong = mask * (potential.argmax() != label)
                neuron = params["neuron"]
                progress = _account(progress, neuron, x, side * potential[1], wrong, mask)
                neuron = {
                    "kernel": neuron["kernel"] + self.rate * wrong * side * x.reshape(-1, 1),
                    "bias": neuron["bias"] + self.rate * wrong * side,
                }
                return ({**params, "neuron": neuron}, progress), wrong != 0

            model: Any = self.model
            inputs = batch["inputs"].astype(jnp.float32)
            # The rule adds the features that the weights multiply: the inputs, or their basis functions.
            examples = (inputs, model.expand(inputs), batch["targets"], batch["mask"])
            start = (state.params, state.model_state["progress"])
            (params, progress), moved = jax.lax.scan(correct, start, examples)
            metrics = {**aux.metrics, "mistakes": Mean.of(moved * 1.0, batch["mask"])}
            whole = jnp.asarray((self.examples or 1) % len(batch["mask"]) == 0, jnp.float32)
            model_state = {**state.model_state, "progress": {**progress, "whole": whole}}
            return dataclasses.replace(state, step=state.step + 1, params=params, model_state=model_state), metrics

        return step


def _account(progress: Any, neuron: Any, x: Array, potential: Array, wrong: Array, mask: Array) -> Any:
    """Progress after one example; `potential` is positive if it is correct. The radius includes the constant input 1."""
    norm = jnp.sqrt(jnp.square(neuron["kernel"]).sum() + jnp.square(neuron["bias"]).sum())
    distance = jnp.where(norm > 0, potential / jnp.maximum(norm, 1e-30), 0.0)
    # Between mistakes the weights are constant, so all distances since the last one refer to the same line.
    least = jnp.where(progress["streak"] > 0, jnp.minimum(progress["margin"], distance), distance)
    real = mask > 0
    return progress | {
        "updates": progress["updates"] + (wrong > 0),
        "streak": jnp.where(wrong > 0, 0.0, progress["streak"] + real),
        "margin": jnp.where(wrong > 0, 0.0, jnp.where(real, least, progress["margin"])),
        "radius": jnp.where(
            real, jnp.maximum(progress["radius"], jnp.sqrt(jnp.square(x).sum() + 1)), progress["radius"]
        ),
    }
