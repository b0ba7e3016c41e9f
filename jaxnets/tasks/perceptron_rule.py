"""The perceptron's own learning rule (Rosenblatt, 1958): no gradient, no optimizer, the same loop."""

import dataclasses
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.contracts import Aux, Batch, Card, Mean, Variables
from jaxnets.errors import DataError
from jaxnets.tasks.base import Recipe, with_outputs
from jaxnets.tasks.classification import Classification


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerceptronRule(Classification):
    """Two classes, one threshold unit; each example on the wrong side turns the line toward itself.

    `w <- w + rate * y * x` for a misclassified example with `y` in {-1, +1}, one example after the other in batch order.
    On separable data with margin `g` and `|x| <= R` it errs at most `(R / g)^2` times in all (Novikoff, 1962).
    """

    rate: float = 1.0
    """How far a mistake moves the weights; it scales the weights and changes nothing else."""

    def bind(self, card: Card) -> Self:
        """Give the model its one output; refuse data without exactly two classes."""
        if len(card.class_names) != 2:
            raise DataError(
                f"the perceptron rule separates two classes, but {card.name!r} has {len(card.class_names)}; "
                f"use Classification, or data with two classes"
            )
        model = with_outputs(self.model, 1, exact=True, reason="the perceptron rule trains one unit")
        return dataclasses.replace(self, model=model)

    def init_optimizer(self, optimizer: Any, params: Any) -> Any:
        """The rule has no optimizer."""
        return ()

    def outputs(self, variables: Variables, batch: Batch) -> Array:
        """Logits of two classes `[B, 2]`: 0 and the inner potential, so that the larger one is the unit's answer."""
        potential = self.apply(variables, batch, None)[0][:, 0]
        # A potential of exactly 0 fires, as the unit step does; argmax would prefer class 0 on a tie.
        return jnp.stack(
            [jnp.zeros_like(potential), jnp.where(potential == 0, jnp.finfo(jnp.float32).tiny, potential)], -1
        )

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """The perceptron criterion `max(0, -y * potential)`: what the rule descends, example by example."""
        logits = self.outputs(variables, batch)
        sign = jnp.where(batch["targets"] == 1, 1.0, -1.0)
        loss = Mean.of(jnp.maximum(0.0, -sign * logits[:, 1]), batch["mask"])
        metrics = {"loss": loss, "accuracy": Mean.of((logits.argmax(-1) == batch["targets"]) * 1.0, batch["mask"])}
        return loss, Aux(metrics, {})

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """The perceptron criterion and accuracy."""
        return self.loss(variables, batch, jax.random.key(0), False)[1].metrics

    def make_step(self, recipe: Recipe) -> Callable[..., Any]:
        """One pass of the rule over the batch; metrics are of the weights before it."""
        del recipe

        def step(state: Any, batch: Batch) -> tuple[Any, dict[str, Mean]]:
            _, aux = self.loss({"params": state.params}, batch, jax.random.key(0), True)

            def correct(params: Any, example: tuple[Array, Array, Array]) -> tuple[Any, Array]:
                x, label, mask = example
                answer = self.outputs({"params": params}, {"inputs": x[None]})[0].argmax()
                move = self.rate * mask * (answer != label) * jnp.where(label == 1, 1.0, -1.0)
                neuron = params["neuron"]
                neuron = {
                    "kernel": neuron["kernel"] + move * x.reshape(-1, 1),
                    "bias": neuron["bias"] + move,
                }
                return {**params, "neuron": neuron}, move != 0

            examples = (batch["inputs"].astype(jnp.float32), batch["targets"], batch["mask"])
            params, moved = jax.lax.scan(correct, state.params, examples)
            metrics = {**aux.metrics, "mistakes": Mean.of(moved * 1.0, batch["mask"])}
            return dataclasses.replace(state, step=state.step + 1, params=params), metrics

        return step
