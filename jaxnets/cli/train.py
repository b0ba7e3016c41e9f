"""`jaxnets train`: one experiment, on one process or several."""

import contextlib
import dataclasses
from typing import Any, Literal

from jaxnets.core.errors import UsageError


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Options of the command, beside the experiment's own fields."""

    run_dir: str = ""
    """Where the run is kept; by default runs/CONFIG, or runs/CONFIG-DIGEST if a field is overridden."""
    overwrite: bool = False
    """Replace a run that is there already, instead of continuing it."""
    stop_at: int = 0
    """Stop after this many steps, as if interrupted; the same command without it goes on. 0 trains to the end."""
    progress: Literal["auto", "bar", "lines", "none"] = "auto"
    """What to show while training."""
    loggers: tuple[Literal["csv", "tensorboard", "wandb", "mlflow"], ...] = ()
    """Where the log is repeated, into the run directory or as their environment variables say."""
    coordinator: str = ""
    """host:port of the first process, where several processes train one run together; the same command on each."""
    processes: int = 1
    """How many there are."""
    process_id: int = 0
    """Which one this is, from 0."""

    def __post_init__(self) -> None:
        if self.stop_at < 0:
            raise ValueError(f"stop_at is a step, or 0 for the end; got {self.stop_at}")


def run(loaded: Any, experiment: Any, options: RunOptions) -> int:
    """Train the experiment of a configuration file (`loaded`), with the flags applied."""
    from jaxnets.parallel import hosts

    if options.coordinator:
        hosts.start(options.coordinator, options.processes, options.process_id)
    elif (options.processes, options.process_id) != (1, 0):
        raise UsageError("processes and process_id go with coordinator, host:port of the first process")
    with hosts.together() if options.coordinator else contextlib.nullcontext():
        from jaxnets.runs.directory import default_directory
        from jaxnets.runs.train import train

        train(
            experiment,
            run_dir=options.run_dir or default_directory(loaded.name, experiment, loaded.experiment),
            overwrite=options.overwrite,
            stop_at=options.stop_at or None,
            loggers=options.loggers,
            progress=options.progress,
            title=loaded.name,
            subtitle=loaded.summary,
            expected=loaded.expected if experiment == loaded.experiment else None,
        )
    return 0
