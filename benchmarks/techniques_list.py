"""What `benchmarks.techniques` measures, as data: three recipes, and techniques that each change one thing of a recipe.

To add a technique, add one line to its group below. Its change is a function from an experiment to an experiment; the helpers
at the top make the usual ones. `recipes` says where it applies, and `against` names the technique that it is compared with,
where that is not the recipe as it is.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from jaxnets.config.experiment import Experiment
from jaxnets.data import Augment, California, Dataset, FashionMNIST, Text
from jaxnets.models import CNN, MLP, LanguageModel
from jaxnets.optim import EMA, SGD, Adam, AdamW, Constant, Named, Optimizer, WarmupLinear
from jaxnets.steps.precision import Precision
from jaxnets.tasks import Classification, NextToken, Regression

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


def both(first: Change, second: Change) -> Change:
    """One change after the other."""
    return lambda experiment: second(first(experiment))


IMAGES, TEXT, TABLE = ("images",), ("text",), ("table",)

# Not techniques: how far the result moves by what anyone can do, to compare the others with.
YARDSTICKS = (
    Technique(BASELINE, unchanged),
    Technique("twice the steps", longer(2)),
    Technique("half the steps", longer(0.5)),
    Technique("learning rate x 3", learning_rate(3)),
    Technique("learning rate / 3", learning_rate(1 / 3)),
)

OPTIMIZERS = (
    Technique("schedule: constant", optimizer(schedule=Constant())),
    Technique("schedule: linear", optimizer(schedule=WarmupLinear())),
    Technique("Adam", lambda one: instead(Adam(one.optimizer.learning_rate, schedule=one.optimizer.schedule))(one)),
    Technique("8-bit moments", optimizer(moments="8-bit")),
    Technique("bfloat16 moments", optimizer(moments="bfloat16")),
    Technique("SGD", instead(SGD(0.05))),
    Technique("SGD: no momentum", instead(SGD(0.05, momentum=0.0)), against="SGD"),
    Technique("SGD: Nesterov", instead(SGD(0.05, nesterov=True)), against="SGD"),
    Technique("Lion", instead(Named("lion"))),
    Technique("RMSProp", instead(Named("rmsprop"))),
    Technique("Adafactor", instead(Named("adafactor"))),
    Technique("Muon", instead(Named("muon"))),
    Technique("LAMB", instead(Named("lamb"))),
)

GRADIENTS = (
    Technique("no weight decay", optimizer(weight_decay=0.0)),
    Technique("weight decay 0.1", optimizer(weight_decay=0.1)),
    Technique("weight decay 1", optimizer(weight_decay=1.0)),
    Technique("clip norm 1", optimizer(clip_norm=1.0)),
    Technique("clip norm 0.1", optimizer(clip_norm=0.1)),
)

AVERAGES = (
    Technique("EMA 0.99", run(average=EMA(decay=0.99))),
    Technique(
        "constant rate, EMA 0.99",
        both(optimizer(schedule=Constant()), run(average=EMA(decay=0.99))),
        against="schedule: constant",
    ),
)

BATCHES = (
    Technique("batch x 2", batch(2)),
    Technique("batch / 2", batch(0.5)),
    Technique("4 micro-batches", run(micro_batches=4)),
)

AUGMENTATION = (
    Technique("flip", augment(flip=True), IMAGES),
    Technique("shift 2", augment(shift=2), IMAGES),
    Technique("flip and shift 1", augment(flip=True, shift=1), IMAGES),
    Technique("cutout 8", augment(cutout=8), IMAGES),
    Technique("input noise 0.1", augment(noise=0.1), IMAGES),
)

LAYERS = (
    Technique("dropout 0.1", model(dropout=0.1)),
    Technique("dropout 0.3", model(dropout=0.3)),
    Technique("input dropout 0.1", model(input_dropout=0.1), TABLE),
    Technique("batch norm", model(batch_norm=True), IMAGES),
    Technique("batch norm", model(norm="batch"), TABLE),
    Technique("layer norm", model(norm="layer"), TABLE),
    Technique("GELU", model(activation="gelu"), TABLE),
    Technique("SiLU", model(activation="silu"), TABLE),
    Technique("tanh", model(activation="tanh"), TABLE),
    Technique("leaky ReLU", model(activation="leaky_relu"), TABLE),
    Technique("PReLU", model(activation="prelu"), TABLE),
    Technique("learned positions", model(positions="learned"), TEXT),
    Technique("no positions", model(positions="none"), TEXT),
    Technique("RMSNorm", model(norm="rms"), TEXT),
    Technique("norm after the sum", model(norm_place="post"), TEXT),
    Technique("query and key norm", model(qk_norm="rms"), TEXT),
    Technique("SwiGLU, as large", model(mlp="swiglu", mlp_dim=171), TEXT),
    Technique("no biases", model(biases="none"), TEXT),
    Technique("untied embedding", model(embedding="untied"), TEXT),
)

REGIMES = (
    Technique("label smoothing 0.1", task(label_smoothing=0.1), IMAGES),
    Technique("Huber loss", task(error="huber"), TABLE),
    Technique("bfloat16", run(precision=Precision("bfloat16"))),
    Technique("float16", run(precision=Precision("float16"))),
)

# By the sections of docs/techniques.md.
GROUPS = {
    "Yardsticks": YARDSTICKS,
    "Optimizers and schedules": OPTIMIZERS,
    "Gradients and penalties": GRADIENTS,
    "Averages of weights": AVERAGES,
    "Batches, sizes and lengths": BATCHES,
    "Augmentation and mixing": AUGMENTATION,
    "Activations, initialisers and layers": LAYERS,
    "Regimes": REGIMES,
}


def pairs() -> list[tuple[Recipe, Technique]]:
    """All recipes, each with the techniques that apply to it."""
    listed = [technique for group in GROUPS.values() for technique in group]
    return [(recipe, technique) for recipe in RECIPES for technique in listed if recipe.name in technique.recipes]
