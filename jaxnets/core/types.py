"""The few types that pass between the rooms of jaxnets: means, batches, placements, the card of a data set, exhibits.

They are plain data. A room that produces one and a room that consumes it do not depend on each other.
"""

import dataclasses
import math
import unicodedata
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Sharding

from jaxnets.core.wide import wide

# A batch: arrays with a leading example dim; "mask" [B] float32, which is 0 for padding and 1 for real examples; and
# "index" [B] int32, each example's row number in its split, from which its random draws are made.
Batch = dict[str, Any]
# How many tokens every vocabulary of sentences begins with (`jaxnets.ops.tokens`), which no text spells.
SPECIAL_TOKENS = 4
# What a module's `init` returns: {"params": ..., and perhaps "batch_stats": ...}.
Variables = dict[str, Any]
# The collection in which an output layer that is also an embedding finds its table where the two uses have gradients of
# their own (`steps/second_use.py`).
SECOND_USE = "second_use"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean that is not divided yet: the weighted sum and the total weight, both float32 scalars.

    Losses and metrics stay in this form through micro-batches, devices and evaluation batches; adding two of them
    merges the means exactly. They are divided once, at the end, so there is never a mean of means.
    """

    sum: Any
    """The sum of values times weights."""
    weight: Any
    """The sum of the weights."""

    @classmethod
    def of(cls, values: Array, mask: Array) -> "Mean":
        """The mean of `values` `[B, ...]` over the examples whose `mask` `[B]` is not 0 (a weight, usually 0 or 1)."""
        per_example = wide(values).reshape(values.shape[0], -1).mean(axis=-1)
        # The value of a masked row may be anything, also NaN, which would remain after multiplication by 0. (Its gradient may
        # not be: rows that fill up a batch repeat real ones.)
        kept = jnp.where(mask > 0, per_example * mask, 0.0)
        return cls(kept.sum(), wide(mask).sum())

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.sum + other.sum, self.weight + other.weight)

    @property
    def value(self) -> Any:
        """The mean itself; NaN if nothing was counted."""
        return self.sum / self.weight


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """Arrays of each example that a metric needs if it is not a mean over examples (for example, a metric of ranks)."""

    values: dict[str, Any]
    """Arrays `[B, ...]`."""
    mask: Any
    """`[B]`: 0 for rows that fill up a batch."""


class Aux(NamedTuple):
    """The second result of a loss."""

    metrics: dict[str, Mean]
    """Training metrics by name."""
    model_state: Variables
    """The module's other collections after the call (running batch statistics); {} where it has none."""


@dataclasses.dataclass(frozen=True)
class Placement:
    """The shardings of the arrays of a batch; `jaxnets.parallel.placement` builds them from a mesh."""

    whole: Sharding
    """For arrays that are replicated on every device."""
    rows: Sharding
    """For a batch: the leading dim is spread over the devices."""
    stacked_rows: Sharding
    """For a stack of batches `[steps, batch, ...]`: the second dim is spread."""


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The meaning of the tokens of a data set's inputs, and how a text is converted to them (`data.vocabulary.split_text`).
    Plain data: it is saved with a run, so that new texts are read in the same way as the training texts.
    """

    names: tuple[str, ...]
    """The name of each token, in the order of their numbers; the first four are those of `jaxnets.ops.tokens`."""
    unit: Literal["characters", "words"]
    """The unit of a token, in the inputs and, if those are sequences too, in the targets."""
    split: Literal["", "characters", "words", "blanks"] = ""
    """Where a text is cut: at every character (blanks at its ends left out), at words and signs of punctuation, or at white
    space alone. "": as `unit` says."""
    case: Literal["", "lower", "kept"] = ""
    """Whether a text is read in lower case. "": lower, unless a name has a capital."""
    form: Literal["", "NFC", "kept"] = ""
    """Whether letters and the accents after them are combined first (Unicode's NFC). "": unless a name has them separately."""
    longer: Literal["cut", "kept"] = "kept"
    """Whether texts longer than the rows of the training data were truncated."""

    def __post_init__(self) -> None:
        capital = any(name != name.lower() for name in self.names[SPECIAL_TOKENS:])
        apart = any(not unicodedata.is_normalized("NFC", name) for name in self.names)
        object.__setattr__(self, "split", self.split or self.unit)
        object.__setattr__(self, "case", self.case or ("kept" if capital else "lower"))
        object.__setattr__(self, "form", self.form or ("kept" if apart else "NFC"))


@dataclasses.dataclass(frozen=True)
class Card:
    """The description of a data set that a task is bound to: shapes, ranges and names, no data."""

    name: str
    input_shape: tuple[int, ...]
    """Shape of one example's inputs."""
    target_kind: str
    """"class" for integer labels, "distribution" for a probability of each class, "labels" for several yes or no, "number" for
    one or several real values, "series" for what follows in a series, "token" for text, "sequence" for tokens filled up with
    0."""
    examples: Mapping[str, int]
    """Examples in each split."""
    class_names: tuple[str, ...] = ()
    """Names of the classes, in label order; empty for numbers."""
    target_name: str = "target"
    """The name of the predicted quantity, for axis labels."""
    input_range: tuple[float, float] = (-math.inf, math.inf)
    """The range of all prepared inputs, in training and test; infinite if it was not measured."""
    target_shape: tuple[int, ...] = ()
    """Shape of one example's target."""
    tokens: Tokens | None = None
    """What the inputs are made of, where they are tokens filled up with 0."""
    target_means: tuple[float, ...] = ()
    """Mean of the training targets in their own unit: one for each number or each channel of a series; () for classes."""
    target_deviations: tuple[float, ...] = ()
    """Standard deviation of each, 0 where they are all equal; () for classes."""
    separator: int | None = None
    """The token that ends each document, if a window may hold several and attention does not cross it."""

    @property
    def target_mean(self) -> float:
        """Mean of the first target; 0 for classes."""
        return self.target_means[0] if self.target_means else 0.0

    @property
    def target_std(self) -> float:
        """Standard deviation of the first target; 1 for classes."""
        return self.target_deviations[0] if self.target_deviations else 1.0


@dataclasses.dataclass(frozen=True)
class ConfusionMatrix:
    """Counts `[C, C]`: row = true class, column = predicted class."""

    title: str
    counts: np.ndarray
    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Images `[N, H, W, C]`, any real range, with a caption each."""

    title: str
    images: np.ndarray
    captions: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Scatter:
    """Points `x`, `y`, both `[N]`, with a line for comparison."""

    title: str
    x: np.ndarray
    y: np.ndarray
    x_label: str
    y_label: str
    line: Literal["diagonal", "zero"] = "diagonal"
    """The line that the points would lie on: x = y, or y = 0."""


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """A value for each of several layers at each of some steps, as colours."""

    title: str
    values: np.ndarray
    """`[layers, T]`; NaN or infinite where there is none."""
    layers: tuple[str, ...]
    """From the input up."""
    steps: tuple[int, ...]
    """`[T]`."""
    scale: Literal["logarithmic", "share", "linear"]
    """share: from 0 to 1."""


@dataclasses.dataclass(frozen=True)
class Lines:
    """Panels of curves over a common axis: `curves` is `[panels, len(names), T]`, NaN where a curve has no value."""

    title: str
    x: np.ndarray
    """`[T]`."""
    curves: np.ndarray
    names: tuple[str, ...]
    """Of the curves, the same in every panel."""
    captions: tuple[str, ...]
    """One for each panel."""
    x_label: str
    y_label: str


@dataclasses.dataclass(frozen=True)
class AttentionMap:
    """Attention weights `[H, T, S]` of heads for one example: how much each of T positions attends to each of S."""

    title: str
    weights: np.ndarray
    rows: tuple[str, ...]
    """Names of the T positions."""
    columns: tuple[str, ...]
    """Names of the S positions."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text under a header."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


# The contents of a report of a finished run beside its curves.
Exhibit = AttentionMap | ConfusionMatrix | Gallery | HeatMap | Lines | Scatter | Table
