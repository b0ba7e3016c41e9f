"""One update: the training state, the recipe of a step, number formats, the gradient step. Independent of tasks and data."""

from jaxnets.steps.health import Health as Health
from jaxnets.steps.precision import Precision as Precision
from jaxnets.steps.recipe import Recipe as Recipe
from jaxnets.steps.state import TrainState as TrainState
from jaxnets.steps.step import make_train_step as make_train_step

__all__ = ["Health", "Precision", "Recipe", "TrainState", "make_train_step"]
