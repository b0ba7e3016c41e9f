"""The `Task`: the interface between the objective and the training loop.

A task is a frozen dataclass that holds a model and defines the initial variables (`init`), the loss (`loss`), the metrics
(`metrics`), the predictions (`outputs`, `decide`) and the figures of the report (`exhibits`). Two more methods have
defaults: `bind` fills in fields that depend on the data, and `make_step` makes the training step; a task overrides it if
its step is not one gradient of one loss with one optimizer.
"""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import flax.linen as nn
import numpy as np
from jax import Array

from jaxnets.core.errors import DataError
from jaxnets.core.types import Aux, Batch, Card, Exhibit, Mean, Rows, Variables
from jaxnets.core.wide import wide
from jaxnets.models.wrapper import Wrapper, without_wrappers
from jaxnets.ops.tokens import PAD
from jaxnets.steps.recipe import Recipe, Step
from jaxnets.steps.step import make_train_step
from jaxnets.tasks.calls import call_model, init_model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """Base of all tasks; see the module's docstring."""

    model: nn.Module
    """The network, a Linen module called as `model(inputs_of(batch))`, with `train=` or another of `calls.MODES`."""

    headline = "loss"
    """The main metric of a run."""
    higher_is_better = False
    """Whether a larger headline is better."""
    given_targets = "auto"
    """How this task reads targets given as plain arrays: the `kind` of `data.from_arrays`."""
    more_is_better: ClassVar[tuple[str, ...]] = ()
    """Other metrics that improve upwards, if their names do not show it."""
    less_is_better: ClassVar[tuple[str, ...]] = ()
    """Other metrics that improve downwards, if their names do not show it."""

    @property
    def directions(self) -> dict[str, Literal["max", "min"]]:
        """Direction of improvement by metric name, for the metrics that the task declares."""
        own: dict[str, Literal["max", "min"]] = {self.headline: "max" if self.higher_is_better else "min"}
        return own | dict.fromkeys(self.more_is_better, "max") | dict.fromkeys(self.less_is_better, "min")

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the batch arrays that the task or its model reads besides inputs, targets and weights."""
        return options_of(self.model)

    @property
    def takes_distributions(self) -> bool:
        """Whether targets that are classes may also be distributions over the classes, `[B, C]` (soft targets)."""
        return False

    @property
    def players(self) -> tuple[str, ...]:
        """Names of the parts of the parameters that are trained in turns, each by its own optimizer; () for one part."""
        return ()

    def encode_targets(self, targets: np.ndarray) -> np.ndarray:
        """Raw targets `[N, ...]` of any real dtype to those of `loss` and `metrics`, in 32 bits; the inverse of `decide`.

        It runs on the host before the cast to 32 bits, so that means of large numbers are subtracted without loss.
        """
        return targets

    def about_split(self, arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Statistics of a whole split for `derive`, computed once on the host from its raw arrays."""
        del arrays
        return {}

    def bind(self, card: Card) -> Self:
        """This task with the fields that depend on the data filled in; raises `DataError` if a given field is inconsistent."""
        del card
        return self

    def with_model(self, model: nn.Module) -> Self:
        """This task with another model."""
        return dataclasses.replace(self, model=model)

    def inputs_of(self, batch: Batch) -> Any:
        """The argument of the model: `batch["inputs"]`, or a structure of several arrays if the model takes one."""
        return batch["inputs"]

    def init(self, key: Array, batch: Batch) -> Variables:
        """Initial variables for batches shaped like `batch` (its values are not used): `{"params": ..., ...}`."""
        return init_model(self.model, key, self.inputs_of(batch))

    def init_optimizer(self, optimizer: Any, params: Any) -> Any:
        """The optimizer's state at step 0; with `players`, `optimizer` is a dict of theirs, or one for all."""
        return optimizer.init(params)

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """The training loss, as a (sum, weight) pair over the unmasked examples."""
        raise NotImplementedError

    def metrics(self, variables: Variables, batch: Batch) -> Mapping[str, Mean | Rows]:
        """The evaluation metrics of one batch, as (sum, weight) pairs; `Rows` for `derive` if a metric is not a mean."""
        raise NotImplementedError

    def derive(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Final metrics from the divided means of `metrics` (R2, for example, needs three of them), and from the rows."""
        return dict(values)

    def outputs(self, variables: Variables, batch: Batch) -> Array:
        """The model's output for each example, `[B, ...]` float32."""
        return self.apply(variables, batch, None)[0]

    def check_outputs(self, variables: Variables, batch: Batch, card: Card) -> None:
        """Raise `DataError` unless the shape of the outputs fits the data; called with shapes only, before compilation."""
        del variables, batch, card

    def decide(self, outputs: np.ndarray) -> np.ndarray:
        """Predictions from `outputs`, in the form of the raw targets (a class, a value in its unit)."""
        return outputs

    def probabilities(self, outputs: np.ndarray) -> np.ndarray | None:
        """Probabilities of classes or labels, float32 of the shape of `outputs`; None if a task has none."""
        del outputs
        return None

    def exhibit_rows(self, examples: int) -> np.ndarray:
        """Row numbers `[R]` of the test examples that `exhibits` uses, of `examples` in all; by default all of them."""
        return np.arange(examples)

    def exhibits(self, outputs: np.ndarray, arrays: Mapping[str, np.ndarray], card: Card) -> Sequence[Exhibit]:
        """Figures and tables for the report.

        Args:
            outputs: model outputs for the rows of `exhibit_rows`.
            arrays: those rows of the split's arrays; in a report also `index`, their row numbers.
            card: description of the data.
        """
        del outputs, arrays, card
        return ()

    def drawn(self, variables: Variables) -> Sequence[Exhibit]:
        """Figures that need only the variables, e.g. samples of a generative model; deterministic."""
        del variables
        return ()

    def make_step(self, recipe: Recipe) -> Step:
        """The training step `(state, batch) -> (state, metrics)`; the default minimises `loss`."""
        return make_train_step(self.loss, recipe)

    def apply(
        self, variables: Variables, batch: Batch, key: Array | None, *, sown: Sequence[str] = ()
    ) -> tuple[Array, Variables]:
        """Call the model, with `train=True` if there is a key.

        Args:
            variables: variables of the model.
            batch: a batch for `inputs_of`.
            key: random key of this call (dropout and so on); None in evaluation.
            sown: collections that the model fills at each call; they are returned too.

        Returns:
            The outputs in float32, and the other collections after the call.
        """
        given = {name: batch[name] for name in options_of(self.model) if name in batch}
        outputs, new = call_model(self.model, variables, self.inputs_of(batch), key=key, sown=sown, **given)
        return wide(outputs), new


def bound(task: Task, card: Card) -> Task:
    """`task.bind(card)` with the model without its wrappers; they are added again afterwards."""
    if not isinstance(task.model, Wrapper):
        return task.bind(card)
    done = bound(task.with_model(task.model.model), card)
    changes: Any = {"model": done.model}
    return done.with_model(task.model.clone(**changes))


# Batch arrays besides the inputs that a model may take as keyword arguments of its call.
OPTIONS = ("lengths",)


def options_of(model: nn.Module) -> tuple[str, ...]:
    """The names in `OPTIONS` that are arguments of the model's call."""
    call = type(without_wrappers(model)).__call__
    return tuple(name for name in OPTIONS if name in inspect.signature(call).parameters)


def evenly(examples: int, count: int) -> np.ndarray:
    """At most `count` row numbers, evenly spaced over `examples` rows."""
    return np.linspace(0, examples - 1, min(count, examples)).astype(int)


# Description of each kind of targets, and the task for it.
KINDS = {
    "any": ("of any form", "a loss of your own"),
    "class": ("one label for each example", "Classification"),
    "distribution": ("a distribution over the classes for each example", "Classification"),
    "labels": ("several labels for each example, 0 or 1 each", "MultiLabel"),
    "number": ("real numbers", "Regression"),
    "series": ("the next steps of a series", "Forecasting"),
    "token": ("tokens", "NextToken"),
    "sequence": ("sequences", "SequenceToSequence"),
}


def check_kind(card: Card, kind: str, needs: str) -> None:
    """Raise `DataError` unless the targets are of this kind; `needs` states the requirement in the message."""
    if card.target_kind != kind:
        what, task = KINDS.get(card.target_kind, (f"of the kind {card.target_kind!r}", "a task for them"))
        raise DataError(f"{needs}, but the targets of {card.name!r} are {what}; use {task}, or change the targets")


def with_outputs(model: nn.Module, needed: int, *, exact: bool, reason: str) -> nn.Module:
    """The model with `outputs` filled in; raises `DataError` if the given number contradicts the data."""
    fields: Any = {field.name for field in dataclasses.fields(model)}
    if "outputs" not in fields:
        return model
    given = model.outputs
    if given is None:
        return model.clone(outputs=needed)
    if given < needed or (exact and given != needed):
        raise DataError(
            f"{type(model).__name__} has outputs={given}, but {reason}; "
            f"set outputs={needed}, or leave it out to take it from the data"
        )
    return model


def with_vocabulary(model: nn.Module, data: str, **needed: int) -> nn.Module:
    """The model with its vocabulary fields filled in; raises `DataError` if a given size is too small for the data."""
    own: Any = {field.name: getattr(model, field.name) for field in dataclasses.fields(model) if field.name in needed}
    if not own:
        raise DataError(
            f"the inputs of {data!r} are tokens, which {type(model).__name__} would treat as quantities; use a model that "
            f"embeds them (TransformerEncoder, RNN, or your own model with a field `vocab_size`)"
        )
    for field, given in own.items():
        if given is not None and given < needed[field]:
            raise DataError(
                f"{type(model).__name__} has {field}={given}, but {data!r} has {needed[field]} tokens; set it to "
                f"{needed[field]}, or leave it out to take it from the data"
            )
    filled: Any = {field: given or needed[field] for field, given in own.items()}
    return model.clone(**filled)


def with_padding(model: nn.Module) -> nn.Module:
    """The model with its `padding` token set, if it has that field."""
    fields: Any = {field.name for field in dataclasses.fields(model)}
    return model.clone(padding=PAD) if "padding" in fields and model.padding is None else model
