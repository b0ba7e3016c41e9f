"""The seam between what is learned and how training runs: the `Task`.

A task is a frozen dataclass that holds a model and answers five questions: how the variables start (`init`), what is
minimised (`loss`), what is measured (`metrics`), what the model says (`outputs`, `decide`) and what a person would want
to look at afterwards (`exhibits`). Two more have defaults: `bind`, which fills in what only the data can tell, and
`make_step`, which a task overrides when its training step is not "gradient of one loss, one optimizer".
"""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import flax.linen as nn
import jax
import numpy as np
from jax import Array

from jaxnets.core.errors import DataError
from jaxnets.core.types import Aux, Batch, Card, Exhibit, Mean, Variables
from jaxnets.ops.tokens import PAD
from jaxnets.steps.step import Recipe, Step, make_train_step
from jaxnets.tasks.calls import call_model, init_model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """Base of all tasks; see the module's docstring."""

    model: nn.Module
    """The network, a Linen module called as `model(inputs_of(batch), train=...)`."""

    headline = "loss"
    """The one metric to name a run by."""
    higher_is_better = False
    """Which way the headline improves."""
    given_targets = "auto"
    """What targets are that come as bare arrays, where the task leaves no doubt: `kind` of `data.from_arrays`."""
    more_is_better: ClassVar[tuple[str, ...]] = ()
    """Further metrics of which more is better, where it does not follow from their names."""
    less_is_better: ClassVar[tuple[str, ...]] = ()
    """And those of which less is better."""

    @property
    def directions(self) -> dict[str, Literal["max", "min"]]:
        """Which way metrics improve, by name, as far as the task itself says it."""
        own: dict[str, Literal["max", "min"]] = {self.headline: "max" if self.higher_is_better else "min"}
        return own | dict.fromkeys(self.more_is_better, "max") | dict.fromkeys(self.less_is_better, "min")

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the arrays beside inputs, targets and weights that the task or its model reads from a batch."""
        return options_of(self.model)

    def encode_targets(self, targets: np.ndarray) -> np.ndarray:
        """Raw targets `[N, ...]` of any real dtype as `loss` and `metrics` take them, in 32 bits; the inverse of `decide`.

        It runs on the host, before anything is narrowed: what must be subtracted from large numbers is subtracted here.
        """
        return targets

    def about_split(self, arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Numbers about a split that `derive` needs and no batch can give, computed once on the host from its raw arrays."""
        del arrays
        return {}

    def bind(self, card: Card) -> Self:
        """This task with everything filled in that only the data can tell; raises `DataError` on a contradiction."""
        del card
        return self

    def inputs_of(self, batch: Batch) -> Any:
        """What the model is called with: the batch's `inputs`; a task whose model takes several arrays puts them together."""
        return batch["inputs"]

    def init(self, key: Array, batch: Batch) -> Variables:
        """Fresh variables for a batch like `batch` (its values are not used): `{"params": ..., ...}`."""
        return init_model(self.model, key, self.inputs_of(batch))

    def init_optimizer(self, optimizer: Any, params: Any) -> Any:
        """The optimizer's state at step 0."""
        return optimizer.init(params)

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """What is minimised, as an undivided mean over the unmasked examples."""
        raise NotImplementedError

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """What an evaluation measures on one batch."""
        raise NotImplementedError

    def derive(self, values: Mapping[str, float]) -> dict[str, float]:
        """The final numbers, from the divided means of `metrics`; R2, say, needs three of them at once."""
        return dict(values)

    def outputs(self, variables: Variables, batch: Batch) -> Array:
        """The model's output for each example, `[B, ...]` float32."""
        return self.apply(variables, batch, None)[0]

    def check_outputs(self, variables: Variables, batch: Batch, card: Card) -> None:
        """Raise `DataError` unless the outputs' shape fits the data; called with shapes only, before anything is compiled."""
        del variables, batch, card

    def decide(self, outputs: np.ndarray) -> np.ndarray:
        """The prediction in the targets' own terms (a class, a value in its unit) from `outputs`."""
        return outputs

    def exhibit_rows(self, examples: int) -> np.ndarray:
        """Which of so many test examples `exhibits` looks at, as row numbers `[R]`; all, unless a task says otherwise."""
        return np.arange(examples)

    def exhibits(self, outputs: np.ndarray, arrays: Mapping[str, np.ndarray], card: Card) -> Sequence[Exhibit]:
        """What to look at in the report.

        Args:
            outputs: the model's, for the rows of `exhibit_rows`.
            arrays: those rows of the split's arrays; in a report also `index`, their numbers.
            card: of the data.
        """
        del outputs, arrays, card
        return ()

    def drawn(self, variables: Variables) -> Sequence[Exhibit]:
        """What only the weights can show: samples of a generative model, say; the same at every call."""
        del variables
        return ()

    def make_step(self, recipe: Recipe) -> Step:
        """The training step `(state, batch) -> (state, metrics)`; the default minimises `loss`."""
        return make_train_step(self.loss, recipe)

    def apply(
        self, variables: Variables, batch: Batch, key: Array | None, *, sown: Sequence[str] = ()
    ) -> tuple[Array, Variables]:
        """Call the model: in training where there is a key (for dropout), else in evaluation.

        Args:
            variables: the model's.
            batch: what `inputs_of` reads.
            key: of this call's draws.
            sown: collections that the model sows into at each call; they are returned as well.

        Returns:
            The outputs in float32, and the module's other collections after the call.
        """
        given = {name: batch[name] for name in options_of(self.model) if name in batch}
        outputs, new = call_model(self.model, variables, self.inputs_of(batch), key=key, sown=sown, **given)
        return jax.numpy.asarray(outputs, jax.numpy.float32), new


# Arrays beside the inputs that a model may take as an argument of its call, by name.
OPTIONS = ("lengths",)


def options_of(model: nn.Module) -> tuple[str, ...]:
    """Which of `OPTIONS` the call of a model takes."""
    return tuple(name for name in OPTIONS if name in inspect.signature(type(model).__call__).parameters)


def evenly(examples: int, count: int) -> np.ndarray:
    """At most `count` row numbers, evenly spread over so many examples."""
    return np.linspace(0, examples - 1, min(count, examples)).astype(int)


# What the targets of a kind are, and the task for them.
KINDS = {
    "class": ("one label for each example", "Classification"),
    "labels": ("several labels for each example, 0 or 1 each", "MultiLabel"),
    "number": ("real numbers", "Regression"),
    "series": ("what follows in a series", "Forecasting"),
    "token": ("tokens", "NextToken"),
    "sequence": ("sequences", "SequenceToSequence"),
}


def check_kind(card: Card, kind: str, needs: str) -> None:
    """Raise `DataError` unless the targets are of this kind; `needs` says in words who needs what."""
    if card.target_kind != kind:
        what, task = KINDS.get(card.target_kind, (f"of the kind {card.target_kind!r}", "a task for them"))
        raise DataError(f"{needs}, but the targets of {card.name!r} are {what}; use {task}, or change the targets")


def with_outputs(model: nn.Module, needed: int, *, exact: bool, reason: str) -> nn.Module:
    """The model with `outputs` filled in, or an error where the number given contradicts the data."""
    fields: Any = {field.name for field in dataclasses.fields(model)}
    if "outputs" not in fields:
        return model
    given = model.outputs
    if given is None:
        return model.clone(outputs=needed)
    if given < needed or (exact and given != needed):
        raise DataError(
            f"{type(model).__name__} has outputs={given}, but {reason}; "
            f"set outputs={needed}, or leave it out and the data decide"
        )
    return model


def with_vocabulary(model: nn.Module, data: str, **needed: int) -> nn.Module:
    """The model with its vocabularies filled in, by field, or an error where one given is too small for the data."""
    own: Any = {field.name: getattr(model, field.name) for field in dataclasses.fields(model) if field.name in needed}
    if not own:
        raise DataError(
            f"the inputs of {data!r} are tokens, which {type(model).__name__} would take for quantities; use a model that "
            f"embeds them (TransformerEncoder, RNN, or one of yours with a field `vocab_size`)"
        )
    for field, given in own.items():
        if given is not None and given < needed[field]:
            raise DataError(
                f"{type(model).__name__} has {field}={given}, but {data!r} has {needed[field]} tokens; set it to "
                f"{needed[field]}, or leave it out and the data decide"
            )
    filled: Any = {field: given or needed[field] for field, given in own.items()}
    return model.clone(**filled)


def with_padding(model: nn.Module) -> nn.Module:
    """The model with its `padding` token set, where it has a field for it."""
    fields: Any = {field.name for field in dataclasses.fields(model)}
    return model.clone(padding=PAD) if "padding" in fields and model.padding is None else model
