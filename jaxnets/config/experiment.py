"""The experiment: one frozen dataclass with all settings of a run.

It is written as a Python file with a function `config()` (`jaxnets.config.find` reads it) and saved as data
(`jaxnets.config.serialize`).
"""

import dataclasses
from typing import Literal

from jaxnets.checkpoints.retention import Keep, seconds_between_saves
from jaxnets.checkpoints.warm_start import WarmStart
from jaxnets.config.check import check_types
from jaxnets.core.durations import as_length
from jaxnets.core.errors import UsageError
from jaxnets.data.dataset import Source
from jaxnets.data.validation import Validation
from jaxnets.models.layered import Layers
from jaxnets.ops.initialisers import Initialiser
from jaxnets.optim.averaging import EMA, Average
from jaxnets.optim.given import as_optimizer
from jaxnets.optim.gradient import Gradient
from jaxnets.optim.local_sgd import LocalSGD
from jaxnets.optim.optimizers import AdamW, Optimizer
from jaxnets.optim.penalty import Penalty
from jaxnets.optim.plateau import plateau_of
from jaxnets.optim.stochastic_rounding import StochasticRounding
from jaxnets.parallel.mesh import MeshShape
from jaxnets.steps.health import Health
from jaxnets.steps.precision import Precision
from jaxnets.tasks.base import Task
from jaxnets.training.early_stop import EarlyStop
from jaxnets.training.guards import Guard
from jaxnets.training.ramp import Ramp


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """One training run."""

    task: Task
    """The task, which holds the model."""
    data: Source
    """The training, validation and test examples."""
    optimizer: Optimizer = AdamW()
    """The rule that changes the weights by their gradient."""
    gradient: Gradient = Gradient()
    """Changes of the gradient of a batch before the optimizer gets it: clipping, noise."""
    penalty: Penalty = Penalty()
    """Penalties on weights."""
    steps: int | str = 1000
    """Optimizer steps; also the length of the learning-rate schedule. Or a duration such as "10ep", "50k ex" or "2M tok",
    counted when the data are open and kept as the number."""
    batch_size: int = 128
    """Examples in each step, over all devices."""
    micro_batches: int | Literal["auto"] = 1
    """Number of parts in which each batch is processed, to save memory: the same update, except for dropout's draws and batch
    statistics. auto: the fewest with which a step fits into the memory of a device; decided before the first step, and kept as
    the number."""
    seed: int = 0
    """Root of all randomness: initial weights, order of the data, dropout, augmentation."""
    layers: Layers = Layers()
    """Changes of the model's layers: kinds of dropout and batch statistics, kernels, factors."""
    initialiser: Initialiser = Initialiser()
    """How the weights are initialised."""
    average: Average = EMA()
    """Averaging of the weights for evaluation."""
    local: LocalSGD = LocalSGD()
    """Replicas of the model that train separately for some steps and are then averaged (local SGD), for slow networks."""
    precision: Precision = Precision()
    """Number formats in which the layers compute."""
    mesh: MeshShape = MeshShape()
    """How the devices are arranged."""
    selective: float = 1.0
    """Share of each batch that gets a gradient: the examples with the largest loss (selective backpropagation); 1: all."""
    ramp: Ramp = Ramp()
    """Smaller batches, images or sequences at the beginning of the run."""
    log_every: int = 50
    """Steps between lines of the training log."""
    eval_every: int = 0
    """Steps between evaluations, on the validation split if there is one, else on the test split; 0: at the end only."""
    eval_batch_size: int = 512
    """Examples in each evaluation batch; does not change the result."""
    save_every: int | str = "5min"
    """Between checkpoints: a number of steps, or a time such as "10min", "90s" or "2h"; 0 saves at the end only."""
    keep: Keep = Keep()
    """Which checkpoints stay."""
    stop: EarlyStop = EarlyStop(patience=0)
    """Early stopping: end before `steps` if a metric of the validation split no longer improves."""
    validation: Validation = Validation()
    """The training examples to set aside for validation; a number is their share."""
    warm_start: WarmStart = WarmStart()
    """Weights of another run to start from."""
    steps_per_call: int = 0
    """Steps in one dispatch to the device; 0 chooses the number by their size. Does not change the result."""
    placement: Literal["auto", "device", "host"] = "auto"
    """Where the data are: on the device, or streamed from the host; auto takes the device if they are under 1 GiB."""
    on_nonfinite: Literal["halt", "skip", "rollback"] = "halt"
    """The reaction to a NaN or infinite loss: stop the run, skip that step, or roll back to a checkpoint and also leave out
    the batches before it (guard.leave_out)."""
    guard: Guard = Guard()
    """Watch for spikes of the loss."""
    health: Health = Health()
    """Norms by layer, silent units and the spread of attention, measured at every k-th step; off by default."""
    sample_every: int = 0
    """Steps between samples of a generative model: images or a text, in `RUN/samples` and the report; 0: none."""
    peak_flops: float = 0.0
    """FLOP/s that a device can do at most, for `mfu` in the log: the share of it that training reaches. 0: the published peak
    in bfloat16 of the accelerators in `parallel/chips.py`, and no `mfu` elsewhere."""
    deterministic: bool = False
    """On a GPU, use only operations that give the same bits each time, at some cost; CPU and TPU always do."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "optimizer", as_optimizer(self.optimizer))
        if isinstance(self.precision, str):
            object.__setattr__(self, "precision", Precision.named(self.precision))
        if isinstance(self.validation, int | float) and not isinstance(self.validation, bool):
            object.__setattr__(self, "validation", Validation(self.validation))
        check_types(self)
        if isinstance(self.steps, str):
            object.__setattr__(self, "steps", as_length(self.steps))
        for name in ("steps", "batch_size", "micro_batches", "eval_batch_size", "log_every"):
            if not isinstance(getattr(self, name), str) and getattr(self, name) < 1:
                raise UsageError(f"{name} is at least 1, got {getattr(self, name)}")
        seconds_between_saves(self.save_every)
        for name in ("eval_every", "sample_every", "steps_per_call", "seed", "peak_flops"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is at least 0, got {getattr(self, name)}")
        if not 0 < self.selective <= 1:
            raise UsageError(f"selective is a share of the batch in (0, 1], got {self.selective}")
        narrow = self.precision.weights == "bfloat16"
        if narrow != isinstance(self.optimizer, StochasticRounding):
            raise UsageError(
                f"weights in bfloat16 and optim.StochasticRounding need each other; got precision.weights "
                f"{self.precision.weights!r} and {type(self.optimizer).__name__}"
            )
        if narrow and self.average.active:
            raise UsageError(
                "an average of weights in bfloat16 would stand still: it moves by less than such a number can hold; set "
                "precision.weights to float32, or leave average out"
            )
        if self.stop.patience and not self.eval_every:
            raise UsageError("stop looks at evaluations, and eval_every is 0; set eval_every to the steps between them")
        self.local.check(
            batch_size=self.batch_size,
            micro_batches=1 if self.micro_batches == "auto" else self.micro_batches,
            steps=None if isinstance(self.steps, str) else self.steps,
        )
        if self.seed >= 2**32:
            raise UsageError(f"seed is below 2^32, got {self.seed}")

    @property
    def total_steps(self) -> int:
        """`steps` as a number. Raises `UsageError` where it is a duration that was not counted (`runs.lengths.counted`)."""
        if isinstance(self.steps, str):
            raise UsageError(
                f"how many steps {self.steps!r} lasts is not known before the data are opened; give a number"
            )
        return self.steps

    @property
    def micro_batch_count(self) -> int:
        """`micro_batches` as a number. Raises `UsageError` where it is "auto" (`runs.micro_batches` decides it)."""
        if self.micro_batches == "auto":
            raise UsageError("how many micro-batches fit is not known before a step is compiled; give a number")
        return self.micro_batches

    @property
    def chooses(self) -> bool:
        """Whether the run makes choices by evaluations, so that it needs a validation split."""
        return bool(self.stop.patience or self.keep.best or plateau_of(self.optimizer))


@dataclasses.dataclass(frozen=True)
class Expected:
    """The score that a shipped configuration reaches, and its time."""

    metric: str
    """Name of the metric, as an evaluation reports it."""
    at_least: float | None
    """The smallest accepted score, for a metric of which more is better."""
    minutes: float
    """Wall time on two CPU cores, or on `hardware` if it is set."""
    hardware: str = "2 CPU cores"
    """The machine on which `minutes` was measured."""
    at_most: float | None = None
    """The largest accepted score, for a metric of which less is better."""

    @property
    def score(self) -> str:
        """The number, as one writes it."""
        return f"{self.at_least if self.at_least is not None else self.at_most:g}"

    def __str__(self) -> str:
        return f"{self.metric} {'≥' if self.at_least is not None else '≤'} {self.score}"

    def reached(self, score: float) -> bool:
        """Whether a score is as good as expected."""
        return score >= self.at_least if self.at_least is not None else score <= (self.at_most or 0.0)
