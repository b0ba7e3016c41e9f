"""A run whose batches change their shape: one compiled program for each stage, with the interface of one program."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from flax.errors import FlaxError
from jax import Array

from jaxnets.core.errors import UsageError
from jaxnets.core.types import Batch
from jaxnets.data.feed import Feed, Payload
from jaxnets.steps.recipe import Metrics
from jaxnets.training.guards import StepMetrics
from jaxnets.training.plan import Moment
from jaxnets.training.program import Program
from jaxnets.training.ramp import Stage


class StagedPayload(NamedTuple):
    """A payload and the number of the stage that it is for."""

    stage: int
    payload: Payload


class StagedFeed:
    """The feeds of all stages as one."""

    def __init__(self, stages: Sequence[Stage], feeds: Sequence[Feed]) -> None:
        self._stages, self._feeds = stages, feeds

    def load(self, step: int, count: int, capacity: int, left_out: frozenset[int] = frozenset()) -> StagedPayload:
        """The payload of the stage that `step` is in; all `count` steps are in it, because `StageHook` ends a call at the end
        of a stage."""
        number = stage_of(self._stages, step)
        return StagedPayload(number, self._feeds[number].load(step, count, capacity, left_out))

    def describe(self, capacity: int) -> Payload:
        """Of the last stage."""
        return self._feeds[-1].describe(capacity)

    def batch(self, payload: StagedPayload, index: Array | int, step: Array) -> Batch:
        """See `Feed`."""
        return self._feeds[payload.stage].batch(payload.payload, index, step)


class StagedProgram:
    """The programs of all stages, each compiled at its first step; used like a `Program`."""

    def __init__(self, stages: Sequence[Stage], programs: Sequence[Program]) -> None:
        self._programs = programs
        self.stages = tuple(stages)
        self.capacity = programs[-1].capacity
        self.feed = StagedFeed(stages, [program.feed for program in programs])

    @property
    def traces(self) -> int:
        """Compilations so far: at most one for each stage."""
        return sum(program.traces for program in self._programs)

    @property
    def leaves(self) -> tuple[str, ...]:
        """Paths of the parameters in the order of their leaves; known once a program is compiled."""
        return next((program.leaves for program in self._programs if program.leaves), ())

    def __call__(self, state: Any, payload: StagedPayload, count: int) -> tuple[Any, Metrics]:
        """Run `count` steps by the program of the payload's stage."""
        return self._programs[payload.stage](state, payload.payload, count)

    def lower(self, state: Any) -> Any:
        """The program of the last stage, which has the full sizes; see `Program.lower`."""
        return self._programs[-1].lower(state)

    def adopt(self, state: Any) -> Any:
        """See `Program.adopt`."""
        return self._programs[-1].adopt(state)


class StageHook:
    """Ends a call at the end of a stage, and prints the next sizes."""

    name = "stage"

    def __init__(self, stages: Sequence[Stage], say: Callable[[str], None], *, stop: int | None = None) -> None:
        # The stage that begins where the run ends has no step, as with `Ramp(until=1.0)`.
        self._stages = [stage for stage in stages if stop is None or stage.first < stop]
        self._say = say

    def next_after(self, step: int) -> int | None:
        """See `Hook`."""
        return next((stage.first for stage in self._stages if stage.first > step), None)

    def observe(self, first_step: int, metrics: StepMetrics) -> None:
        """See `Hook`."""

    def run(self, moment: Moment) -> None:
        """See `Hook`."""
        self._say(f"from step {moment.step} on {self._stages[stage_of(self._stages, moment.step)]}")


def stage_of(stages: Sequence[Stage], step: int) -> int:
    """The number of the stage that a step is in."""
    return max(number for number, stage in enumerate(stages) if stage.first <= step)


def check_stage(stage: Stage, make: Callable[[], Any]) -> Any:
    """The result of `make` for a stage; raises `UsageError` if its sizes do not fit the model or the data."""
    try:
        return make()
    except UsageError:
        raise
    except (TypeError, ValueError, AssertionError, IndexError, ZeroDivisionError, FlaxError) as error:
        raise UsageError(
            f"the model cannot be trained on {stage}: {error}. A ramp of sizes needs a model whose parameters do not depend "
            f"on the size of its inputs (one that pools over all pixels, for example)"
        ) from error
