"""The figures and tables of a report beside its curves: those of the task, and those of the run itself."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from jaxnets.callbacks.profile import FOLDER, TABLE
from jaxnets.config.extension import read_extensions
from jaxnets.core.files import physical_memory
from jaxnets.core.types import Exhibit, Gallery, HeatMap, Lines, Table
from jaxnets.data.large import shown as rows_shown
from jaxnets.optim.schedules import with_clock
from jaxnets.parallel.host_memory import resident_memory
from jaxnets.report.images import read_images
from jaxnets.runs.attention import attention_of
from jaxnets.runs.build import clock_of
from jaxnets.training.loop import Timing

# Points of the curve of the learning rate.
MOST_RATES = 500


def of_task(run: Any) -> list[Exhibit]:
    """The exhibits of the task; computed on every process, although only one writes."""
    parts, task, preparation = run.parts, run.parts.task, run.parts.dataset.preparation
    with jax.set_mesh(parts.mesh):
        seen = task.exhibit_rows(parts.dataset.card.examples["test"])
        shown = rows_shown(parts.dataset.test, seen) | {"index": seen}
        asked = {name: array for name, array in shown.items() if name in preparation.names}
        outputs = parts.predictor(run.variables, asked) if len(seen) else np.zeros(0)
        drawn = task.drawn(run.variables)
        looked = attention_of(run) if len(seen) else []
    columns = [preparation.columns.table()] if preparation.columns is not None else []
    return [*(task.exhibits(outputs, shown, parts.dataset.card) if len(seen) else ()), *drawn, *looked, *columns]


def times(seconds: float, timing: Timing) -> Table:
    """How the time of a run was spent."""
    parts = {
        "compiling": timing.compiling,
        "waiting for data": timing.waiting_for_data,
        "logging and evaluating": timing.in_hooks,
        "copying states for checkpoints": timing.saving,
    }
    parts["training steps, opening the data and the rest"] = max(0.0, seconds - sum(parts.values()))
    rows = [(name, f"{value:.1f}", f"{value / max(seconds, 1e-9):.0%}") for name, value in parts.items()]
    return Table("Where the time went", ("part", "seconds", "share"), (*rows, ("all", f"{seconds:.1f}", "100%")))


def memory(devices: Sequence[Any] | None = None) -> list[Exhibit]:
    """Memory of the devices of this process if they report it (GPU and TPU do), else that of the process. A peak is the
    largest value since the process started.
    """
    rows = []
    for device in jax.local_devices() if devices is None else devices:
        stats = device.memory_stats() or {}
        if "bytes_in_use" in stats:
            counted = (stats.get(name) for name in ("peak_bytes_in_use", "bytes_in_use", "bytes_limit"))
            rows.append((f"{device.device_kind}, {device.platform} {device.id}", *map(_bytes, counted)))
    if not rows and (resident := resident_memory()) is not None:
        rows.append(("resident memory of the process", *map(_bytes, (*resident, physical_memory()))))
    return [Table("Memory", ("device", "peak", "in use at the end", "limit"), tuple(rows))] if rows else []


def _bytes(count: int | None) -> str:
    return f"{count / 1e6:,.1f} MB" if count else ""


def operations(directory: Path) -> list[Exhibit]:
    """The most expensive operations, if steps were profiled."""
    path = directory / FOLDER / TABLE
    try:
        rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        cells = tuple(
            (str(r["operation"]), f"{r['calls']}", f"{r['milliseconds']:.2f}", f"{r['share']:.1%}") for r in rows
        )
    except (OSError, ValueError, TypeError, KeyError):  # an error in this table must not prevent the report
        return []
    return [Table("The costliest operations", ("operation", "calls", "ms", "share"), cells)] if cells else []


def rates_of(run: Any) -> list[Exhibit]:
    """The learning rate over the steps, if it is known."""
    steps = int(run.state.step)
    if run.directory is not None and read_extensions(run.directory):
        return []  # its earlier steps had the rates of another run length
    optimizer = with_clock(run.experiment.optimizer, clock_of(run.experiment, run.parts.dataset))
    rates = optimizer.rates(run.experiment.total_steps, steps) if steps > 1 else None
    if rates is None:
        return []
    at = np.unique(np.linspace(0, steps - 1, MOST_RATES).astype(int))
    return [Lines("Learning rate", at, rates[at][None, None], ("learning rate",), ("",), "step", "learning rate")]


# The measurements of `Experiment.health`: title in a report and scale of the colours.
HEALTH: dict[str, tuple[str, Literal["logarithmic", "share", "linear"]]] = {
    "update_ratio": ("Norm of the update over the norm of the weights, by layer", "logarithmic"),
    "gradient_norm": ("Norm of the gradient, by layer", "logarithmic"),
    "weight_norm": ("Norm of the weights, by layer", "logarithmic"),
    "silent_units": ("Share of units that are above 0 for no example, by layer", "share"),
    "attention_entropy": ("Entropy of attention in nats, by layer", "linear"),
    "attention_largest": ("Largest attention weight, by layer", "share"),
}


def health_of(run: Any) -> list[Exhibit]:
    """The measurements of the network during training, over depth and time."""
    found: list[Exhibit] = []
    for what, (title, scale) in HEALTH.items():
        steps, layers, rows = run.history.health(what)
        if rows:
            at = np.unique(np.linspace(0, len(steps) - 1, MOST_RATES).astype(int))
            shown = tuple(steps[i] for i in at)
            found.append(HeatMap(title, np.asarray(rows)[:, at], tuple(layers), shown, scale))
    return found


def shown_samples(directory: Path) -> list[Exhibit]:
    """Pictures and texts that callbacks showed during training (`Progress.show`): up to eight of each name, over time."""
    shown: list[Exhibit] = []
    folder = directory / "samples"
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        title = f"{place.name[:1].upper()}{place.name[1:]} over time"
        files = sorted((file for file in place.iterdir() if file.stem.isdigit()), key=lambda file: int(file.stem))
        few = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, 8).astype(int))] if files else []
        texts = [(file.stem, file.read_text(encoding="utf-8")) for file in few if file.suffix == ".txt"]
        if texts:
            shown.append(Table(title, ("step", "text"), tuple(texts)))
        pictures = [file for file in few if file.suffix == ".png"]
        if pictures:
            images = read_images(pictures)
            if len({image.shape for image in images}) == 1:
                captions = tuple(f"step {file.stem}" for file in pictures)
                shown.append(Gallery(title, np.stack(images), captions))
    return shown
