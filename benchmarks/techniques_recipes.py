"""The recipes of `benchmarks.techniques`, and the usual changes of a recipe, as functions from experiment to experiment."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from jaxnets.config.experiment import Experiment
from jaxnets.data import Augment, California, Dataset, FashionMNIST, Text
from jaxnets.models import CNN, MLP, LanguageModel
from jaxnets.models.layered import Layers
from jaxnets.optim import (
    AdamW,
    Optimizer,
    Schedule,
)  # fmt: skip
from jaxnets.tasks import Classification, NextToken, Regression
from jaxnets.training.ramp import Ramp

Change = Callable[[Experiment], Experiment]
BASELINE = "baseline"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A fixed configuration, and the number by which a run of it is judged."""

    name: str
    """Its name on the command line and in the results."""
    what: str
    """Data and model, in words."""
    experiment: Experiment
    """The baseline; the seed is set for each run."""
    metric: str
    """The metric of the test split."""
    better: Literal["higher", "lower"]
    """Which values of the metric are good."""
    unit: str
    """The unit in tables, in words."""
    scale: float = 1.0
    """What the metric is multiplied by to be in that unit."""


@dataclasses.dataclass(frozen=True)
class Technique:
    """One change of a recipe."""

    name: str
    """Its name in the table, on the command line and in the results."""
    change: Change
    """From a recipe's experiment to the one with the technique."""
    recipes: tuple[str, ...] = ("images", "text", "table")
    """Names of the recipes to which it applies."""
    against: str = BASELINE
    """Name of the technique that it is compared with."""


@dataclasses.dataclass(frozen=True)
class FashionSubset(FashionMNIST):
    """The first images of Fashion-MNIST, with the whole test split."""

    examples: int = 5000
    """Training images."""

    def open(self) -> Dataset:
        """As of `FashionMNIST`, with fewer training images."""
        dataset = super().open()
        return dataclasses.replace(dataset, train={k: array[: self.examples] for k, array in dataset.train.items()})


RECIPES = (
    Recipe(
        name="images",
        what="5,000 images of Fashion-MNIST, a CNN with 106,000 parameters, 8 epochs with batches of 64",
        experiment=Experiment(
            task=Classification(model=CNN(features=(16, 32), dense=(64,))),
            data=FashionSubset(),
            optimizer=AdamW(learning_rate=3e-3),
            steps=624,
            batch_size=64,
        ),
        metric="accuracy",
        better="higher",
        unit="points of accuracy",
        scale=100.0,
    ),
    Recipe(
        name="text",
        what="characters of Shakespeare, a transformer with 104,000 parameters, 700 batches of 8 windows of 64",
        experiment=Experiment(
            task=NextToken(model=LanguageModel(layers=2, heads=2, width=64, length=64, positions="rotary")),
            data=Text(length=64),
            optimizer=AdamW(learning_rate=5e-3),
            steps=700,
            batch_size=8,
        ),
        metric="loss",
        better="lower",
        unit="nats a character",
    ),
    Recipe(
        name="table",
        what="California housing, an MLP with 70,000 parameters, 30 epochs with batches of 128",
        experiment=Experiment(
            task=Regression(model=MLP(widths=(256, 256))),
            data=California(),
            optimizer=AdamW(learning_rate=2e-3),
            steps=3870,
            batch_size=128,
        ),
        metric="rmse",
        better="lower",
        unit="$1,000 of RMSE",
        scale=1e-3,
    ),
)


def unchanged(experiment: Experiment) -> Experiment:
    """The recipe as it is."""
    return experiment


def run(**fields: Any) -> Change:
    """Other fields of the experiment."""
    return lambda experiment: dataclasses.replace(experiment, **fields)


def task(**fields: Any) -> Change:
    """Other fields of the task."""
    return lambda one: dataclasses.replace(one, task=dataclasses.replace(one.task, **fields))


def model(**fields: Any) -> Change:
    """Other fields of the model."""
    return lambda one: task(model=dataclasses.replace(one.task.model, **fields))(one)


def optimizer(**fields: Any) -> Change:
    """Other fields of the recipe's optimizer."""
    return lambda one: dataclasses.replace(one, optimizer=dataclasses.replace(one.optimizer, **fields))


def instead(other: Optimizer) -> Change:
    """Another optimizer, at its own learning rate."""
    return run(optimizer=other)


def learning_rate(factor: float) -> Change:
    """A multiple of the recipe's learning rate."""
    return lambda one: optimizer(learning_rate=factor * one.optimizer.learning_rate)(one)


def augment(**fields: Any) -> Change:
    """Random changes to the training examples."""
    return lambda one: dataclasses.replace(one, data=dataclasses.replace(one.data, augment=Augment(**fields)))


def batch(factor: float) -> Change:
    """Larger or smaller batches, for as many examples in all."""
    return lambda one: dataclasses.replace(
        one, batch_size=round(factor * one.batch_size), steps=round(one.steps / factor)
    )


def longer(factor: float) -> Change:
    """More or fewer steps, with a schedule of that length."""
    return lambda one: dataclasses.replace(one, steps=round(factor * one.steps))


def around(wrapper: Any, schedule: Schedule | None = None, **fields: Any) -> Change:
    """The recipe's optimizer inside another one, with a schedule of its own where one is given."""

    def changed(one: Experiment) -> Experiment:
        inner = one.optimizer if schedule is None else dataclasses.replace(one.optimizer, schedule=schedule)
        return dataclasses.replace(one, optimizer=wrapper(optimizer=inner, **fields))

    return changed


def smaller_batches_first(one: Experiment) -> Experiment:
    """A quarter and a half of the batch in the first half of the run."""
    return run(ramp=Ramp(batch_size=(one.batch_size // 4, one.batch_size // 2)))(one)


def dropout(kind: Any) -> Change:
    """Dropout of another kind at a rate of 0.1."""
    return both(model(dropout=0.1), run(layers=Layers(dropout=kind)))


def normed(**fields: Any) -> Change:
    """Batch norm, and other fields of `Layers`."""
    return both(model(batch_norm=True), run(layers=Layers(**fields)))


def both(first: Change, second: Change) -> Change:
    """One change after the other."""
    return lambda experiment: second(first(experiment))


IMAGES, TEXT, TABLE = ("images",), ("text",), ("table",)
VECTORS = (*IMAGES, *TABLE)  # models without embeddings
