"""`jaxnets find-batch`: the largest batch size that fits, the fastest one, and the one above which larger batches save few
steps."""

import dataclasses
import json
import math
from typing import Any

from jaxnets.cli.units import show_memory


@dataclasses.dataclass(frozen=True)
class FindBatchOptions:
    """Options of `jaxnets find-batch`."""

    on: str = ""
    """Accelerators, which need not be present: v5e:8, h100:8; without it the devices of this machine."""
    most: int = 0
    """The largest batch to try; 0: the number of training examples."""
    seconds: float = 10.0
    """Time for measuring the speed on this machine's devices; 0: only the compiler's analysis."""
    noise_steps: int = 60
    """Steps of training in which the noise of the gradient is measured, on this machine; 0: none."""
    output: str = ""
    """A .png file for the plot."""
    json: bool = False
    """Print one JSON object instead of the tables."""

    def __post_init__(self) -> None:
        if self.most < 0:
            raise ValueError(f"most is a batch size, or 0 for all examples; got {self.most}")
        if not 0 <= self.seconds < math.inf:
            raise ValueError(f"seconds is a time, at least 0; got {self.seconds}")
        if self.noise_steps and self.noise_steps < 12:
            raise ValueError(f"noise_steps is at least 12, or 0 for none; got {self.noise_steps}")
        if self.output and not self.output.endswith(".png"):
            raise ValueError(f"output is a .png file, got {self.output!r}")


def run(loaded: Any, experiment: Any, options: FindBatchOptions) -> int:
    """Print the batch sizes that fit and, on the present devices, their speed and the noise of the gradient."""
    from jaxnets.runs.micro_batches import undivided

    experiment = undivided(experiment)
    found, where = _fitting(experiment, options)
    speeds, noise = {}, None
    if not options.on:
        from jaxnets.runs.batch_trials import measure_noise, throughput

        dataset = experiment.data.open()
        if options.seconds and found.largest.size:
            speeds = throughput(experiment, _sizes(found), dataset, seconds=options.seconds)
        if options.noise_steps:
            noise = measure_noise(experiment, dataset, steps=options.noise_steps)
    if options.output:
        from jaxnets.core.files import replacing, user_path
        from jaxnets.report.instrument_plots import batch_sizes
        from jaxnets.report.plots import to_png

        critical = noise.batch if noise is not None else None
        figure = batch_sizes(
            found.largest.memory, found.largest.line, found.largest.limit, throughput=speeds, critical=critical
        )
        with replacing(user_path(options.output)) as file:
            file.write(to_png(figure))
    data = as_data(loaded.name, where, found, speeds, noise)
    if options.json:
        print(json.dumps(data))
    else:
        show(data)
    return 0


def _fitting(experiment: Any, options: FindBatchOptions) -> tuple[Any, str]:
    """What fits, and where."""
    if options.on:
        from jaxnets.accelerators.topology import asked_for, note_stand_in

        topology, devices, stand_in = asked_for(options.on, "--on")
        if stand_in:
            note_stand_in(topology)
        limit, where = topology.chip.memory, topology.name
    import jax

    from jaxnets.accelerators.batch import fitting
    from jaxnets.runs.memory import memory_here

    if not options.on:
        devices = jax.devices()
        limit, where = memory_here(), f"{len(devices)} x {devices[0].device_kind}"
    return fitting(experiment, devices, limit, most=options.most), where


def _sizes(found: Any) -> list[int]:
    """Up to seven batches to time: the experiment's own, and others by factors of 2 around it, as far as they fit."""
    own, most = found.wanted, found.largest.size
    sizes = {size for power in range(-3, 4) if 1 <= (size := int(own * 2.0**power)) <= most}
    return sorted(sizes) or [most]


def as_data(name: str, where: str, found: Any, speeds: dict[int, float], noise: Any) -> dict[str, Any]:
    """A result as plain data."""
    from jaxnets.diagnose.batch_size import knee

    fixed, each = found.largest.line
    data = {
        "configuration": name,
        "on": where,
        "batch": found.wanted,
        "micro_batches": found.micro_batches,
        "largest": found.largest.size,
        "bounded_by_memory": found.largest.bounded,
        "limit_bytes": found.largest.limit,
        "fixed_bytes": round(fixed),
        "bytes_per_example": round(each),
        "measured_bytes": {str(size): peak for size, peak in found.largest.memory.items()},
        "compilations": found.compilations,
    }
    if speeds:
        data |= {"examples_per_second": {str(k): round(v, 1) for k, v in speeds.items()}, "fast_from": knee(speeds)}
    if noise is not None:
        error = noise.error if math.isfinite(noise.error) else None
        data |= {"noise_scale": noise.batch, "noise_scale_error": error if noise.batch is not None else None}
    return data


def show(data: dict[str, Any]) -> None:
    """Print a result."""
    from jaxnets.cli.runs import print_table

    speeds = data.get("examples_per_second", {})
    measured = data["measured_bytes"]
    sizes = sorted({int(size) for size in (*measured, *speeds)})
    rows = []
    for size in sizes:
        predicted = data["fixed_bytes"] + size * data["bytes_per_example"]
        memory = show_memory(measured[str(size)]) if str(size) in measured else f"~ {show_memory(predicted)}"
        fits = measured.get(str(size), predicted) <= data["limit_bytes"]
        rate = f"{speeds[str(size)]:,.0f}" if str(size) in speeds else ""
        rows.append([f"{size:,}", memory, "yes" if fits else "no", rate])
    print(f"{data['configuration']} on {data['on']}: {show_memory(data['limit_bytes'])} may be filled on each device\n")
    print_table(["batch", "memory of a device", "fits", "examples a second"], rows)
    line = f"{show_memory(data['fixed_bytes'])} and {show_memory(data['bytes_per_example'])} for each example"
    print(f"memory is about {line} ({data['compilations']} compilations, nothing run)")
    if not data["largest"]:
        print("no batch fits; take more devices, mesh.fsdp, or a smaller model")
    else:
        why = "memory ends it" if data["bounded_by_memory"] else "there are no more examples, or --most ends it"
        print(f"the largest batch that fits is {data['largest']:,} ({why})")
    if data["micro_batches"] is None:
        print(f"a batch of {data['batch']:,} does not fit in any number of micro-batches")
    else:
        print(
            f"a batch of {data['batch']:,} fits with --batch-size {data['batch']} --micro-batches {data['micro_batches']}"
        )
    if "fast_from" in data:
        print(f"from a batch of {data['fast_from']:,} on, the speed is within 10 % of the best one measured")
    if data.get("noise_scale") is not None:
        error = f" ± {data['noise_scale_error']:,.0f}" if data["noise_scale_error"] is not None else ""
        print(
            f"the gradient noise scale of the first steps is {data['noise_scale']:,.0f}{error} examples: batches far above it "
            f"save few steps; it grows while the network trains"
        )
    elif "noise_scale" in data:
        print("the gradient is smaller than its noise: the noise scale is above the measured batch sizes")
