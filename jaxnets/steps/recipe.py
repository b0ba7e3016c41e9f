"""The settings from which a training step is built, except the task, and the types of a step."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import optax
from jax import Array

from jaxnets.core.types import Aux, Batch, Mean, Variables
from jaxnets.ops.initialisers import Initialiser
from jaxnets.ops.random import stream_key
from jaxnets.optim.averaging import EMA, Average
from jaxnets.optim.gradient import Gradient
from jaxnets.optim.local_sgd import LocalSGD
from jaxnets.optim.penalty import Penalty
from jaxnets.steps.health import Health
from jaxnets.steps.precision import Precision
from jaxnets.steps.state import TrainState

Metrics = dict[str, Mean]
# The loss of a task: `(variables, batch, key, train)`.
Loss = Callable[[Variables, Batch, Array, bool], tuple[Mean, Aux]]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
# The metric that is 1 if a step changed the weights, else 0. `with_average` reads and removes it.
TAKEN = "taken"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All settings from which a training step is built, except the task."""

    optimizer: optax.GradientTransformation
    """The optimizer, which gets the gradient of the mean loss over the whole batch."""
    seed: int = 0
    """Root of all randomness."""
    micro_batches: int = 1
    """Number of parts in which a batch is processed, to save memory; the update is that of the whole batch."""
    precision: Precision = Precision()
    """The dtype in which the layers compute."""
    average: Average = EMA()
    """Averaging of the weights, with its durations in steps (`Average.in_run`)."""
    initialiser: Initialiser = Initialiser()
    """How the weights are initialised."""
    local: LocalSGD = LocalSGD()
    """Replicas of the model that train separately for some steps."""
    replica: Any = None
    """Number of the replica that this recipe is for; None without replicas."""
    selective: float = 1.0
    """Share of each batch, of the examples with the largest loss, that get a gradient (`steps/selective.py`); 1: all."""
    frozen: Callable[[Any], Any] | None = None
    """The parameters that the optimizer never changes, as a tree of bools; no gradient is computed for them. None: it changes
    all."""
    players: Mapping[str, tuple[optax.GradientTransformation, Callable[[Any], Any]]] = dataclasses.field(
        default_factory=dict
    )
    """Optimizer and `frozen` of each player, if a task has several; {}: those above for all."""
    gradient: Gradient = Gradient()
    """Changes of the gradient before the optimizer gets it."""
    penalty: Penalty = Penalty()
    """Penalties on weights."""
    rate: Callable[[Array], Any] | None = None
    """The learning rate of a step, if the optimizer has a single one: for the L1 step of the penalty."""
    player: str = ""
    """The player that this recipe is for, if a task has several."""
    turn: Any = None
    """Number of its turn in the step; None without players."""
    gradients: Any = None
    """Shardings of the gradients, as a tree like the parameters. None: the compiler chooses them."""
    sums_whole: bool = False
    """Whether a device holds sums of gradients that `fsdp` does not split."""
    optimizer_home: tuple[Any, Any] | None = None
    """Shardings of the optimizer state between steps, where it is in the memory of the host, and during the update; as trees
    like it. None: it stays where it is."""
    health: Health = Health()
    """Measurements of the network at every k-th step."""
    steps: int = 0
    """Steps of the run, for other settings that change during the run; 0: not known."""
    guard: Literal["skip", "off"] = "skip"
    """skip: a step whose loss or gradient is not finite changes nothing but the counters. off: no check at all."""

    def of(self, who: str, turn: Any = None) -> "Recipe":
        """The recipe of one player in one of its turns."""
        optimizer, frozen = self.players.get(who, (self.optimizer, self.frozen))
        return dataclasses.replace(self, optimizer=optimizer, frozen=frozen, player=who, turn=turn)

    def held(self, params: Any) -> Any:
        """The parameters, of which the frozen ones are constants to a gradient, so that their part is not computed."""
        if self.frozen is None:
            return params
        return jax.tree.map(lambda a, fixed: jax.lax.stop_gradient(a) if fixed else a, params, self.frozen(params))

    def seen(self, params: Any, step: Array) -> Any:
        """The parameters in the forward pass of a step: with frozen ones as constants, and with weight noise if the penalty
        has it."""
        params = self.held(params)
        if not self.penalty.weight_noise:
            return params
        return self.penalty.noisy(params, self.own_key("weight noise", step), self.beginning)

    def penalised(self, params: Any) -> Array:
        """The penalty's terms of the loss; frozen parameters are constants to their gradient."""
        return self.penalty.value(self.held(params), self.beginning)

    def treated(self, gradients: Any, params: Any, step: Array) -> Any:
        """The gradient of the whole batch as the optimizer gets it."""
        if not self.gradient.active:
            return gradients
        return self.gradient.apply(gradients, params, self.own_key("gradient noise", step), step)

    def thresholded(self, params: Any, step: Array) -> Any:
        """The parameters after an update, and after the L1 step where there is one."""
        if not self.penalty.l1 or self.rate is None:
            return params
        return self.penalty.thresholded(params, self.rate(step), self.beginning)

    @property
    def beginning(self) -> str:
        """The prefix of the paths of these parameters in the whole state."""
        return f"{self.player}/" if self.player else ""

    def placed(self, gradients: Any, of: Callable[[Any], Any] = lambda tree: tree) -> Any:
        """The gradients with their shardings; `of` picks these where they are the gradients of a part of the parameters."""
        shardings = self.gradients
        return gradients if shardings is None else jax.lax.with_sharding_constraint(gradients, of(shardings))

    def key(self, stream: str, step: Array) -> Array:
        """The random key of a named stream at a step; in the model each replica has its own."""
        key = stream_key(self.seed, stream, step)
        return key if self.replica is None or stream != "model" else jax.random.fold_in(key, self.replica)

    def own_key(self, stream: str, step: Array) -> Array:
        """The random key of a stream at a step, another one for each player, turn and replica."""
        key = stream_key(self.seed, f"{stream}/{self.player}", step)
        for number in (self.turn, self.replica):
            key = key if number is None else jax.random.fold_in(key, number)
        return key
