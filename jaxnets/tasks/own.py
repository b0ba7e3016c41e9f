"""The user's own loss, metrics and class weights, on top of a task that fits the data."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import JaxnetsError, UsageError, first_line
from jaxnets.core.types import Aux, Batch, Card, Exhibit, Mean, Rows, Variables
from jaxnets.core.wide import wide
from jaxnets.steps.recipe import Recipe, Step
from jaxnets.steps.sown import METRIC as SOWN
from jaxnets.tasks.base import Task, options_of
from jaxnets.tasks.calls import call_model
from jaxnets.tasks.classification import Classification, hard
from jaxnets.tasks.metrics import Metric

# What a function of the user raises for outputs and batches that it does not fit.
MISTAKES = (TypeError, ValueError, AttributeError, KeyError, IndexError, ZeroDivisionError, AssertionError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Own(Task):
    """Wraps another task with the user's functions: `fit(model, data, loss=..., metrics=..., class_weight=...)` creates it.

    Predictions, their report and everything that is not given here are those of `inner`.
    """

    inner: Task
    """The task that fits the data; `Supervised` chooses it by the kind of the targets."""
    objective: Callable[[Any, Batch], Any] | None = None
    """The loss `(outputs, batch)`: one value for each example, `[B]`, or a `Mean`. None: that of `inner`."""
    measures: tuple[tuple[str, Any], ...] = ()
    """Metrics by name: functions like `objective`, or `tasks.Metric`s."""
    class_weight: tuple[float, ...] = ()
    """Weight of each class in the loss; (): all alike. The loss is divided by the sum of weights. The weight of a distribution
    over the classes is its mean."""

    @property
    def headline(self) -> str:  # type: ignore[override]
        """That of the inner task; with a custom loss, the first metric, else the loss."""
        if self.objective is None:
            return self.inner.headline
        return self.measures[0][0] if self.measures else "loss"

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        """Whether a larger headline is better."""
        return self.directions.get(self.headline, "min") == "max"

    @property
    def directions(self) -> dict[str, Literal["max", "min"]]:
        """Those of the inner task and of the metrics that define theirs."""
        own: dict[str, Literal["max", "min"]] = {
            name: "max" if metric.higher_is_better else "min"
            for name, metric in self.measures
            if isinstance(metric, Metric)
        }
        return {**self.inner.directions, "loss": "min", **own}

    @property
    def reads(self) -> tuple[str, ...]:
        """See `Task`."""
        return self.inner.reads

    @property
    def takes_distributions(self) -> bool:
        """Those of the inner task; a custom loss gets them and may refuse them."""
        return self.objective is not None or self.inner.takes_distributions

    @property
    def players(self) -> tuple[str, ...]:
        """See `Task`."""
        return self.inner.players

    def bind(self, card: Card) -> Self:
        """Bind the inner task; raises `UsageError` unless there is a weight for each class."""
        inner = self.inner.bind(card)
        if self.class_weight and len(self.class_weight) != len(card.class_names):
            raise UsageError(
                f"class_weight has {len(self.class_weight)} weights, but {card.name!r} has {len(card.class_names)} classes; "
                f"give one for each"
            )
        return dataclasses.replace(self, model=inner.model, inner=inner)

    def with_model(self, model: nn.Module) -> Self:
        """See `Task`; the inner task gets it too."""
        return dataclasses.replace(self, model=model, inner=self.inner.with_model(model))

    def encode_targets(self, targets: np.ndarray) -> np.ndarray:
        """See `Task`."""
        return self.inner.encode_targets(targets)

    def about_split(self, arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
        """See `Task`."""
        return self.inner.about_split(arrays)

    def init(self, key: Array, batch: Batch) -> Variables:
        """See `Task`."""
        return self.inner.init(key, batch)

    def inputs_of(self, batch: Batch) -> Any:
        """See `Task`."""
        return self.inner.inputs_of(batch)

    def init_optimizer(self, optimizer: Any, params: Any) -> Any:
        """See `Task`."""
        return self.inner.init_optimizer(optimizer, params)

    def make_step(self, recipe: Recipe) -> Step:
        """The inner task's step, unless the loss is changed here.

        Raises:
            UsageError: the loss is changed, but the inner task has a step of its own, which would not use it.
        """
        if self.objective is None and not self.class_weight:
            return self.inner.make_step(recipe)
        if type(self.inner).make_step is not Task.make_step:
            raise UsageError(
                f"{type(self.inner).__name__} has a training step of its own, which has no place for loss or class_weight; "
                f"leave them out, or write a task with your loss"
            )
        return super().make_step(recipe)

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """The objective, or the inner loss, with the classes weighted; the metrics that are means are measured too."""
        weighted = {**batch, "mask": self._weights(batch)}
        if self.objective is None:
            loss, aux = self.inner.loss(variables, weighted, key, train)
            if self.class_weight:  # the other metrics count every example once
                aux = self.inner.loss(variables, batch, key, train)[1]
            return loss, Aux({**aux.metrics, "loss": loss}, aux.model_state)
        outputs, state = self._structure(variables, batch, key if train else None)
        loss = self._mean("loss", self.objective, outputs, weighted)
        measured = {
            name: self._mean(f"metrics[{name!r}]", measure, outputs, batch)
            for name, measure in self.measures
            if not isinstance(measure, Metric)
        }
        return loss, Aux({**measured, "loss": loss}, state)

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Any]:
        """Those of the inner task and the user's; the loss is the objective."""
        found: dict[str, Any] = {}
        if self.objective is None or self._fits_inner(variables, batch):
            found = {**self.inner.metrics(variables, batch)}
        outputs, _ = self._structure(variables, batch, None)
        if self.objective is not None:
            found["loss"] = self._mean("loss", self.objective, outputs, {**batch, "mask": self._weights(batch)})
        for name, measure in self.measures:
            if isinstance(measure, Metric):
                found[name] = Rows(measure.rows(outputs, self._labelled(batch)), batch["mask"])
            else:
                found[name] = self._mean(f"metrics[{name!r}]", measure, outputs, batch)
        return found

    def derive(self, values: Mapping[str, Any]) -> dict[str, float]:
        """The inner task's, and the value of each `Metric`."""
        own = {name: measure for name, measure in self.measures if isinstance(measure, Metric) and name in values}
        made = {name: m.value(values[name]) if isinstance(values[name], dict) else 0.0 for name, m in own.items()}
        rest = {name: value for name, value in values.items() if name not in own}
        if self.inner.headline not in rest:  # the outputs do not fit the inner task, so nothing of it was measured
            return {name: rest[name] for name in ("loss", SOWN, *dict(self.measures)) if name in rest} | made
        return {**self.inner.derive(rest), **made}

    def outputs(self, variables: Variables, batch: Batch) -> Array:
        """The model's output; the first one if it returns several."""
        return jax.tree.leaves(self._structure(variables, batch, None)[0])[0]

    def check_outputs(self, variables: Variables, batch: Batch, card: Card) -> None:
        """The inner task's check, if its loss is used; and one evaluation of the loss and metrics, by shapes only."""
        if self.objective is None:
            self.inner.check_outputs(variables, batch, card)
        jax.eval_shape(self.metrics, variables, batch)

    def decide(self, outputs: np.ndarray) -> np.ndarray:
        """See `Task`."""
        return self.inner.decide(outputs)

    def probabilities(self, outputs: np.ndarray) -> np.ndarray | None:
        """Those of the inner task, unless the loss is the user's."""
        return None if self.objective is not None else self.inner.probabilities(outputs)

    def exhibit_rows(self, examples: int) -> np.ndarray:
        """See `Task`."""
        return self.inner.exhibit_rows(examples)

    def exhibits(self, outputs: np.ndarray, arrays: Mapping[str, np.ndarray], card: Card) -> Sequence[Exhibit]:
        """Those of the inner task, unless the loss is the user's: then the outputs may have another meaning."""
        return () if self.objective is not None else self.inner.exhibits(outputs, arrays, card)

    def drawn(self, variables: Variables) -> Sequence[Exhibit]:
        """See `Task`."""
        return self.inner.drawn(variables)

    def _weights(self, batch: Batch) -> Array:
        """The mask, times the weight of each example's class."""
        mask: Array = batch["mask"]
        if not self.class_weight:
            return mask
        weights, targets = jnp.asarray(self.class_weight), batch["targets"]
        return mask * (targets @ weights if targets.ndim == 2 else weights[targets])

    def _labelled(self, batch: Batch) -> Batch:
        """The batch with the most probable class as the label, where targets are distributions over the classes."""
        soft = isinstance(self.inner, Classification) and batch["targets"].ndim == 2 and self.inner.takes_distributions
        return {**batch, "targets": hard(batch["targets"])} if soft else batch

    def _structure(self, variables: Variables, batch: Batch, key: Array | None) -> tuple[Any, Variables]:
        """The outputs of the model, in float32, and its other collections."""
        given = {name: batch[name] for name in options_of(self.model) if name in batch}
        outputs, state = call_model(self.model, variables, self.inputs_of(batch), key=key, **given)
        return jax.tree.map(wide, outputs), state

    def _fits_inner(self, variables: Variables, batch: Batch) -> bool:
        """Whether the inner task's metrics can be measured on these outputs."""
        try:
            shape = jax.eval_shape(self.inner.outputs, variables, batch).shape
            jax.eval_shape(self.inner.metrics, variables, batch)
        except (TypeError, ValueError, AssertionError, AttributeError):
            return False
        return len(shape) > 0

    def _mean(self, what: str, function: Callable[[Any, Batch], Any], outputs: Any, batch: Batch) -> Mean:
        """The function's values as a mean over the examples; raises `UsageError` unless there is one for each."""
        try:
            value = function(outputs, batch)
        except JaxnetsError:
            raise
        except MISTAKES as error:
            raise UsageError(_about_function(what, function, outputs, batch, error)) from error
        if isinstance(value, Mean):
            return value
        shape, count = jnp.shape(value), batch["mask"].shape[0]
        # More dims are refused: predictions `[B, 1]` minus targets `[B]` are `[B, B]`, and their mean is another loss.
        if shape != (count,):
            raise UsageError(
                f"{what} returns an array of shape {list(shape)}; return one value for each example, [{count}] (jaxnets takes "
                f"their mean over the examples that count), or a jaxnets.Mean(sum, weight)"
            )
        return Mean.of(jnp.asarray(value), batch["mask"])


def _about_function(what: str, function: Callable[..., Any], outputs: Any, batch: Batch, error: Exception) -> str:
    """The message for a function of the user that raises: its name, its arguments, and what it said."""
    kind = type(error).__name__
    said = f"{kind}: {first_line(error, most=300)}".rstrip(".")
    ranks = (
        " (each pair must have the same dims: outputs[:, 0], or targets[:, None])" if "rank_promotion" in said else ""
    )
    shown = ", ".join(f"{name} {_shapes(array)}" for name, array in batch.items())
    named = getattr(function, "__name__", type(function).__name__)
    return (
        f"{what} is the function {named}(outputs, batch), which raises {said}{ranks}. It was called with outputs "
        f"{_shapes(outputs)} and a batch of {shown}; change the function so that it takes these"
    )


def _shapes(value: Any) -> str:
    """Dtypes and shapes of an array or of a structure of arrays."""
    leaves = [f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}" for leaf in jax.tree.leaves(value)]
    return leaves[0] if len(leaves) == 1 else f"({', '.join(leaves)})"
