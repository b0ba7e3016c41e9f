"""What a configuration's training takes on accelerators that need not be there: memory, collectives, a floor of the time.

The program is the one that `jaxnets train` dispatches, compiled for the topology with abstract data and an abstract state. A
floor is a time that no execution can be faster than: the work divided by a published peak.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxnets.accelerators.account import Account, account
from jaxnets.accelerators.hlo import Collective, collectives
from jaxnets.accelerators.sizes import Size, unsuited
from jaxnets.accelerators.topology import Topology
from jaxnets.config.experiment import Experiment
from jaxnets.parallel.mesh import make_mesh
from jaxnets.runs.build import Parts, assemble
from jaxnets.runs.flops import forward_flops, step_flops
from jaxnets.runs.memory import step_memory


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What a compiler says of the program, for one device."""

    compiler: str
    """Of the accelerator, or "cpu" where devices of the CPU stood for it."""
    seconds: float
    """Time that the compilation took."""
    arguments: int
    """Bytes of the state, the data and the batches."""
    temporary: int
    """Bytes of activations, gradients and copies."""
    peak: int
    """Bytes at the height; more than the device has where the program does not fit."""
    collectives: tuple[Collective, ...]
    text: str = dataclasses.field(repr=False, default="")
    """The optimised program, as HLO."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What one configuration takes on one topology."""

    topology: Topology
    mesh: Mapping[str, int]
    steps: int
    batch: int
    """Examples in a batch."""
    tokens: int
    """Tokens of an example; 1 where an example is not a sequence of tokens."""
    parameters: int
    flops: float
    """FLOPs of a step's matrix products and convolutions, on all devices together, what is computed twice included."""
    model_flops: float
    """Three times those of the forward pass: what MFU counts."""
    account: Account
    """By arithmetic."""
    compiled: Compiled | None = None
    """By a compiler; None if none was asked."""
    sizes: tuple[Size, ...] = ()
    """Sizes of the model that leave a part of such an accelerator idle."""

    @property
    def devices(self) -> int:
        """Devices of the mesh; it may leave some of the topology out."""
        return math.prod(self.mesh.values())

    @property
    def peak(self) -> int:
        """Bytes at the height of a step, on one device."""
        return self.compiled.peak if self.compiled is not None else self.account.peak

    @property
    def fits(self) -> bool:
        """Whether that is in the device's memory."""
        return self.peak <= self.topology.chip.memory

    @property
    def floors(self) -> dict[str, float]:
        """Seconds that a step takes at least, for each resource."""
        chip = self.topology.chip
        temporary = self.compiled.temporary if self.compiled is not None else self.account.saved
        floors = {
            "compute": self.flops / self.devices / chip.flops,
            # What is in memory at the height was written once and is read once; the state is read and written.
            "memory": 2 * (self.account.state + temporary) / chip.bandwidth,
        }
        if self.compiled is not None:
            floors |= self._exchange(self.compiled.collectives)
        return floors

    def _exchange(self, moved: Sequence[Collective]) -> dict[str, float]:
        chip = self.topology.chip
        near = sum(one.sent for one in moved if one.reach < chip.group)
        far = sum(one.sent for one in moved) - near
        found = {"interconnect": near / chip.link}
        return found | ({"network": far / chip.network} if far else {})

    @property
    def step_seconds(self) -> float:
        """The floor of a step: the largest of `floors`, as if all else were done at the same time."""
        return max(self.floors.values())

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation at this floor, the most that can be reached."""
        return self.model_flops / (self.step_seconds * self.devices * self.topology.chip.flops)

    def cost(self, price: float) -> float:
        """Price of the whole run at the floor, for a price of one device for one hour."""
        return price * self.topology.count * self.step_seconds * self.steps / 3600


def prepare(experiment: Experiment, devices: Sequence[Any], *, memory: int | None = None) -> Parts:
    """The parts of a run on devices that need not be there; data of the right shapes stand for the real ones.

    `memory` are the bytes that each has, by which `micro_batches="auto"` is decided.
    """
    mesh = make_mesh(experiment.mesh, devices=devices)
    return assemble(experiment, experiment.data.outline(), mesh=mesh, memory=memory)


def estimate(parts: Parts, topology: Topology, *, compile: bool = True) -> Estimate:
    """The estimate of a run whose parts `prepare` made.

    Args:
        parts: on devices of this topology, or on ones of the CPU that stand for them.
        topology: the accelerators.
        compile: ask the compiler of the mesh's devices; otherwise arithmetic alone.
    """
    experiment = parts.experiment
    inputs = parts.batch_spec["inputs"]
    tokens = inputs.shape[1] if inputs.ndim == 2 and jax.numpy.issubdtype(inputs.dtype, jax.numpy.integer) else 1
    step, forward = step_flops(parts), forward_flops(parts)
    found = Estimate(
        topology,
        {axis: int(size) for axis, size in parts.mesh.shape.items()},
        experiment.total_steps,
        experiment.batch_size,
        tokens,
        parts.parameters,
        step,
        3 * forward,
        account(parts, topology.chip),
        sizes=unsuited(parts, topology.chip),
    )
    return dataclasses.replace(found, compiled=compile_step(parts)) if compile else found


def compile_step(parts: Parts) -> Compiled:
    """Compile the program; one that does not fit is an answer, not an error."""
    platform = parts.mesh.devices.flat[0].platform
    found = step_memory(parts)
    text = found.program.as_text() if found.program is not None else ""
    moved = tuple(collectives(text, parts.mesh)) if text else ()
    return Compiled(platform, found.seconds, found.arguments, found.temporary, found.peak, moved, text)
