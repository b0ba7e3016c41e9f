"""`jaxnets plan`: the best mesh, micro-batches and rematerialisation for a configuration on given accelerators."""

import dataclasses
from typing import Any

from jaxnets.cli.units import show_memory, show_seconds

SHOWN = 8


@dataclasses.dataclass(frozen=True)
class PlanOptions:
    """Options of `jaxnets plan`."""

    chips: str = ""
    """The accelerators: v5e:16, v5p:4x4x4, h100:64."""
    compile: int = 3
    """Number of the best candidates to compile; 0: arithmetic only."""

    def __post_init__(self) -> None:
        if self.compile < 0:
            raise ValueError(f"compile is a number of ways, at least 0; got {self.compile}")


def run(loaded: Any, experiment: Any, options: PlanOptions) -> int:
    """Print the candidates that fit, the best first, with its flags, and the reasons against the others."""
    from jaxnets.accelerators.topology import asked_for, note_stand_in

    topology, devices, stand_in = asked_for(options.chips, "--chips")
    from jaxnets.accelerators.plan import others, plan

    if stand_in and options.compile:
        note_stand_in(topology)
    ways = plan(experiment, topology, devices, compile=options.compile)
    show(loaded.name, experiment, topology, ways, others(ways, experiment, topology))
    return 0


def show(name: str, experiment: Any, topology: Any, ways: Any, left: Any) -> None:
    """Print the result of a search, and the reasons against the axes that the best candidate does not use."""
    from jaxnets.cli.runs import print_table

    fitting = [way for way in ways if not way.reason]
    print_table(
        ["mesh", "micro-batches", "remat", "memory", "step at least", "compute", "exchange", "by"],
        [_row(way) for way in fitting[:SHOWN]],
    )
    best, out = fitting[0], [way for way in ways if way.reason]
    print(
        f"{len(ways):,} ways to run {name} (batch of {experiment.batch_size}) on {topology.name}: {len(fitting):,} fit into "
        f"{show_memory(topology.chip.memory)} a device, {len(out):,} do not"
    )
    slower = [way for way in fitting[1:] if way.seconds > 1.02 * best.seconds]
    if slower:
        worst = max(slower, key=lambda way: way.seconds)
        print(
            f"{len(slower):,} that fit are slower, most of all {worst.name} with {worst.micro_batches} micro-batches: "
            f"{show_seconds(worst.seconds)}, {worst.why(best)}"
        )
    if out:
        near = min(out, key=lambda way: way.account.peak)
        print(f"of those that do not fit, the smallest is {near.flags()}: {near.reason}")
    if left.ways:
        print()
        rows = [[axis, *_row(way)[:5], way.why(best)] for axis, way in left.ways.items()]
        print_table(
            ["not used", "best way with it", "micro-batches", "remat", "memory", "step at least", "why not"], rows
        )
    if left.untried:
        print("not tried: " + "; ".join(f"{axis}, since {why}" for axis, why in left.untried.items()))
    print(f"\njaxnets train {name} {best.flags()}")


def _row(way: Any) -> list[str]:
    """A candidate as a row of the table."""
    peak, moved = way.account.peak, way.exchange
    if (compiled := way.compiled) is not None:
        peak = compiled.peak
        moved = sum(compiled.floors[what] for what in ("interconnect", "network") if what in compiled.floors)
    return [
        way.name,
        str(way.micro_batches),
        way.remat or "-",
        show_memory(peak),
        show_seconds(way.seconds),
        show_seconds(way.compute),
        show_seconds(moved),
        "arithmetic" if compiled is None else f"{compiled.compiled.compiler} compiler",
    ]
