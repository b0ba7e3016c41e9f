"""`jaxnets estimate`: memory, communication and the fastest possible step of a configuration on accelerators that need not be
present."""

import collections
import dataclasses
import json
from typing import Any

from jaxnets.cli.units import show_memory, show_seconds


@dataclasses.dataclass(frozen=True)
class EstimateOptions:
    """Options of `jaxnets estimate`."""

    on: str = ""
    """The accelerators: v5e:2x4 (kind and shape), v5p:64 (kind and number of chips), h100:8."""
    price: float = 0.0
    """Price of one device for one hour, in any currency; with it, the cost of the whole run is shown."""
    compile: bool = True
    """Use the compiler; without it, arithmetic only, in seconds."""
    json: bool = False
    """Print one JSON object instead of the tables."""

    def __post_init__(self) -> None:
        if not self.price >= 0:
            raise ValueError(f"price is at least 0, got {self.price}")


def run(loaded: Any, experiment: Any, options: EstimateOptions) -> int:
    """Print the estimate: memory of a device, communication, lower bounds of the time."""
    from jaxnets.accelerators.topology import asked_for, note_stand_in

    topology, devices, stand_in = asked_for(options.on, "--on")
    from jaxnets.accelerators.estimate import estimate, prepare

    parts = prepare(experiment, devices, memory=topology.chip.memory)
    if options.compile and stand_in:
        note_stand_in(topology)
    found = estimate(parts, topology, compile=options.compile)
    if options.json:
        print(json.dumps(as_data(loaded.name, found, options.price)))
    else:
        show(loaded.name, found, options.price)
    return 0


def as_data(name: str, found: Any, price: float = 0.0) -> dict[str, Any]:
    """An estimate as plain data."""
    compiled = found.compiled
    data = {
        "configuration": name,
        "on": found.topology.name,
        "mesh": dict(found.mesh),
        "batch": found.batch,
        "parameters": found.parameters,
        "fits": found.fits,
        "peak_bytes": found.peak,
        "memory_bytes": found.topology.chip.memory,
        "account": {**dataclasses.asdict(found.account), "peak": found.account.peak},
        "flops": found.flops,
        "model_flops": found.model_flops,
        "floors_seconds": found.floors,
        "step_seconds": found.step_seconds,
        "mfu": found.mfu,
        "compiler": None if compiled is None else compiled.compiler,
    }
    data["sizes"] = [{**dataclasses.asdict(one), "idle": round(one.idle, 4)} for one in found.sizes]
    if compiled is not None:
        data |= {"arguments_bytes": compiled.arguments, "temporary_bytes": compiled.temporary}
        data["compile_seconds"] = round(compiled.seconds, 1)
        data["collectives"] = [
            {"kind": kind, "axes": list(axes), "count": count, "sent_bytes": sent}
            for (kind, axes), (count, sent) in _together(compiled.collectives).items()
        ]
    return data | ({"cost": found.cost(price)} if price else {})


def show(name: str, found: Any, price: float = 0.0) -> None:
    """Print an estimate as tables."""
    from jaxnets.cli.runs import print_table

    topology, compiled, account = found.topology, found.compiled, found.account
    mesh = ", ".join(f"{axis} {size}" for axis, size in found.mesh.items() if size > 1) or "one device"
    devices = "chip" if topology.chip.platform == "tpu" else "GPU"
    hosts = f" on {topology.hosts} hosts" if topology.hosts > 1 else ""
    print(
        f"{name} on {topology.name}: {topology.count:,} {devices}{'s' if topology.count > 1 else ''}{hosts}, {mesh}; "
        f"{found.parameters:,} parameters, batch of {found.batch}\n"
    )
    rows = [[label, show_memory(getattr(account, field)), ""] for label, field in ACCOUNT]
    by_compiler = "" if compiled is None else show_memory(compiled.peak)
    rows.append(["at the height of a step", show_memory(account.peak), by_compiler])
    if account.host:
        rows.append(["in the memory of its host", show_memory(account.host), ""])
    print_table(["memory of a device", "by arithmetic", "compiled" if compiled is not None else ""], rows)
    share = found.peak / topology.chip.memory
    much = "less than 1%" if share < 0.01 else f"{share:.0%}"
    by = "" if compiled is None else f" ({compiled.compiler} compiler, {compiled.seconds:.0f} s)"
    of = f"{much} of the {show_memory(topology.chip.memory)} of a {topology.chip.name}"
    print(f"{'it fits' if found.fits else 'IT DOES NOT FIT'}: {of}{by}\n")
    if compiled is not None and compiled.collectives:
        moved = [
            [kind, " x ".join(axes), str(count), show_memory(sent)]
            for (kind, axes), (count, sent) in _together(compiled.collectives).items()
        ]
        print_table(["exchange in a step", "over", "times", "sent by a device"], moved)
        print()
    floors = ", ".join(f"{what} {show_seconds(value)}" for what, value in found.floors.items())
    rate = found.batch * found.tokens / found.step_seconds
    print(f"a step takes at least {show_seconds(found.step_seconds)} ({floors})")
    print(
        f"at most {rate:,.0f} {'tokens' if found.tokens > 1 else 'examples'} a second, model FLOPs utilisation {found.mfu:.0%}"
    )
    if price:
        hours = found.step_seconds * found.steps / 3600
        print(
            f"the run of {found.steps:,} steps takes at least {hours:,.2f} hours and costs at least {found.cost(price):,.2f}"
        )
    for one in found.sizes:
        if topology.chip.platform == "tpu":
            print(f"size: {one.field} {one.size:,} takes the time of {one.better:,}; {one.idle:.0%} of that is padding")
        else:
            more = one.better / one.size - 1
            print(
                f"size: {one.field} {one.size:,} is no multiple of 8; {one.better:,} ({more:.1%} more) suits tensor cores"
            )
    chip = topology.chip
    print(f"peaks: {chip.flops / 1e12:,.0f} TFLOP/s, {chip.bandwidth / 1e9:,.0f} GB/s, by {chip.source}")


ACCOUNT = (
    ("parameters", "parameters"),
    ("optimizer", "optimizer"),
    ("averages, statistics, counters", "other"),
    ("data and batches", "data"),
    ("gradients of a micro-batch", "gradients"),
    ("their sum, parameters in the layers' dtype", "sums"),
    ("parameters gathered for two layers", "gathered"),
    ("kept for the backward pass", "saved"),
    ("gradient of the largest of these", "largest"),
)


def _together(moved: Any) -> dict[tuple[str, tuple[str, ...]], tuple[int, float]]:
    """Collectives of one kind over the same axes: how many, and the bytes that a device sends."""
    counts: dict[Any, int] = collections.defaultdict(int)
    sent: dict[Any, float] = collections.defaultdict(float)
    for one in moved:
        counts[one.kind, one.axes] += one.repeats
        sent[one.kind, one.axes] += one.sent
    return {key: (counts[key], sent[key]) for key in sorted(sent, key=lambda key: -sent[key])}
