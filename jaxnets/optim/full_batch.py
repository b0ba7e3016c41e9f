"""L-BFGS, for gradients without noise: batches that are the whole of the data."""

import dataclasses

import optax

from jaxnets.optim.given import with_its_keywords
from jaxnets.optim.optimizers import Optimizer


@dataclasses.dataclass(frozen=True)
class LBFGS(Optimizer):
    """L-BFGS with a zoom line search (Liu and Nocedal 1989; Nocedal and Wright, algorithms 7.4, 3.5 and 3.6).

    The line search evaluates the batch's loss several times in a step, with the same random draws. The method supposes that
    the batch is the same in each step: set `batch_size` to the number of training examples.
    """

    memory: int = 10
    """Updates that the curvature is estimated from."""
    line_search_steps: int = 20
    """Most evaluations of the loss in one step."""

    def __post_init__(self) -> None:
        for name in ("memory", "line_search_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, got {getattr(self, name)}")

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """See `Optimizer`."""
        del total_steps
        search = optax.scale_by_zoom_linesearch(self.line_search_steps, initial_guess_strategy="one")
        return with_its_keywords(optax.lbfgs(memory_size=self.memory, linesearch=search))
