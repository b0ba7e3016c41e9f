"""One optimizer for each player of a game, as the two time scales of a GAN (Heusel et al. 2017, arXiv:1706.08500)."""

import dataclasses
from typing import Any, NamedTuple

import optax

from jaxnets.core.errors import UsageError
from jaxnets.optim.optimizers import Optimizer

# The players of a GAN, by the names of their parts of the parameters.
PLAYERS = ("critic", "generator")


class ForPlayers(NamedTuple):
    """What `ByPlayer` builds: an optimizer for each player. It is no optimizer by itself: `init` raises `UsageError`."""

    init: Any
    update: Any
    of: dict[str, optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class ByPlayer(Optimizer):
    """An optimizer for each player: `{"generator": optax.adam(1e-4), "critic": optax.adam(4e-4)}`, wherever one goes."""

    critic: Optimizer
    generator: Optimizer

    def build(self, total_steps: int) -> Any:
        """See `Optimizer`; the result is for tasks with players."""

        def refuse(*_: Any, **__: Any) -> Any:
            raise UsageError(
                "these optimizers are for the players of a GAN, and this task has none; give one optimizer"
            )

        return ForPlayers(refuse, refuse, {who: getattr(self, who).build(total_steps) for who in PLAYERS})


def optimizer_of(optimizer: Any, who: str) -> optax.GradientTransformation:
    """The optimizer of one player; the same for both unless `ByPlayer` built it."""
    found: optax.GradientTransformation = optimizer.of[who] if isinstance(optimizer, ForPlayers) else optimizer
    return found
