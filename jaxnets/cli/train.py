"""`jaxnets train`: one experiment, on one process or several."""

import contextlib
import dataclasses
import math
from typing import Any, Literal

from jaxnets.core import streams


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Options of the command, in addition to the fields of the experiment."""

    run_dir: str = ""
    """Directory of the run; by default runs/CONFIG, or runs/CONFIG-DIGEST if a field is overridden."""
    overwrite: bool = False
    """Replace a run that is there already, instead of continuing it."""
    extend: int = 0
    """Train this many steps more than the configuration has, in its run directory; the changes of the schedule are printed."""
    epochs: float = 0.0
    """Train for this many passes over the training data, instead of --steps."""
    check: bool = False
    """Run the checks of `jaxnets check` first, and do not train if one is red."""
    smoke: bool = False
    """Two steps, an evaluation, a checkpoint and a report on a small part of the test data; then all files are deleted."""
    stop_at: int = 0
    """Stop after this many steps, as if interrupted; the same command without this flag continues. 0 trains to the end."""
    progress: Literal["auto", "bar", "lines", "none"] = "auto"
    """What to show during training."""
    profile: str = ""
    """Steps to trace with JAX's profiler, such as 20:30; the trace is in RUN/profile, a table of it in the report."""
    loggers: tuple[Literal["csv", "tensorboard", "wandb", "mlflow"], ...] = ()
    """Loggers that repeat the log, in the run directory or as set by their environment variables."""
    coordinator: str = ""
    """host:port of the first process, if several processes train one run together; run the same command on each."""
    processes: int = 0
    """Number of processes. 0: from SLURM, Open MPI, Cloud TPU or Kubernetes; 1: this one only."""
    process_id: int = 0
    """Number of this process, from 0."""
    wait_seconds: float = 60.0
    """Time to wait for the other processes at the start; then an error names the missing ones."""

    def __post_init__(self) -> None:
        if self.stop_at < 0:
            raise ValueError(f"stop_at is a step, or 0 for the end; got {self.stop_at}")
        if self.extend < 0:
            raise ValueError(f"extend is a number of steps, at least 0; got {self.extend}")
        if not 0 <= self.epochs < math.inf:
            raise ValueError(f"epochs is a number of passes, above 0; got {self.epochs}")
        if not 0 < self.wait_seconds < math.inf:
            raise ValueError(f"wait_seconds is a number of seconds above 0; got {self.wait_seconds}")
        if self.smoke and self.coordinator:
            raise ValueError("smoke is for one process; leave coordinator out")
        if self.smoke and (self.run_dir or self.overwrite or self.extend or self.stop_at or self.epochs):
            raise ValueError("smoke keeps nothing and has two steps; leave the other options of the run out")


def run(loaded: Any, experiment: Any, options: RunOptions, *, initial: Any = None) -> int:
    """Train the experiment of a configuration file (`loaded`), with the flags applied, from weights in memory if given."""
    from jaxnets.parallel import hosts

    launch = None if options.smoke else hosts.requested(options.coordinator, options.processes, options.process_id)
    if launch is not None:
        hosts.start(launch, wait_seconds=options.wait_seconds)
    with hosts.together() if launch is not None else contextlib.nullcontext():
        from jaxnets.callbacks.profile import Profile
        from jaxnets.runs.directory import default_directory
        from jaxnets.runs.lengths import counted, in_epochs
        from jaxnets.runs.smoke import smoke
        from jaxnets.runs.train import train

        if options.smoke:
            smoke(experiment, initial=initial, hooks=loaded.hooks(), progress=options.progress, title=loaded.name)
            return 0
        dataset = None
        if options.epochs:
            experiment, dataset = in_epochs(experiment, options.epochs)
        if options.check:
            from jaxnets.cli import check

            if check.run(loaded, experiment, check.CheckOptions(), initial=initial, dataset=dataset):
                streams.say("jaxnets: not trained, because a check is red; train without --check to train all the same")
                return 1
        run_dir = options.run_dir or loaded.directory or default_directory(loaded.name, experiment, loaded.experiment)
        if options.extend:
            experiment = counted(experiment, dataset)
            experiment = dataclasses.replace(experiment, steps=experiment.total_steps + options.extend)
        train(
            experiment,
            dataset=dataset,
            run_dir=run_dir,
            overwrite=options.overwrite,
            extend=bool(options.extend),
            initial=initial,
            hooks=[*loaded.hooks(), *([Profile(options.profile)] if options.profile else [])],
            stop_at=options.stop_at or None,
            loggers=options.loggers,
            progress=options.progress,
            title=loaded.name,
            subtitle=loaded.summary,
            expected=loaded.expected if experiment == loaded.experiment else None,
        )
    return 0
