"""The command line.

What can be answered without JAX (help, lists, mistakes) is answered before it is imported; see `jaxnets.cli.fast_parse`.
Exit codes are an interface: 0 done, 1 error, 2 usage, 75 stopped by a signal after saving (run the command again).
"""

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from jaxnets.cli import fast_parse, machine
from jaxnets.cli.help import DETAILS, HELP, VERBS
from jaxnets.core import streams
from jaxnets.core.errors import (
    ConfigFileError,
    DataWarning,
    HungError,
    JaxnetsError,
    LostProcessError,
    PreemptedError,
    RunDirectoryError,
    UsageError,
    did_you_mean,
)
from jaxnets.core.files import user_path

PREEMPTED = 75
# As any error for those who look from outside, but an orderly end would wait for a thread or a process that is no more.
HUNG = -1


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
    coordinator: str = ""
    """host:port of the first process, where several processes train one run together; the same command on each."""
    processes: int = 1
    """How many there are."""
    process_id: int = 0
    """Which one this is, from 0."""


@dataclasses.dataclass(frozen=True)
class SummaryOptions:
    """Options of `jaxnets summary`."""

    compile: bool = False
    """Compile the training step as well, and show what the compiler says of its memory."""


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; errors go to stderr as one message each."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _Notes()
            return _dispatch(list(arguments))
    except UsageError as error:
        _complain(str(error))
        return 2
    except PreemptedError as error:
        _complain(str(error))
        return PREEMPTED
    except (HungError, LostProcessError) as error:
        _complain(str(error))
        return HUNG
    except JaxnetsError as error:
        _complain(str(error))
        return 1
    except (RuntimeError, ValueError) as error:
        said = str(error)
        if "nable to initialize backend" in said:
            _complain(f"{said}; check JAX_PLATFORMS, and see `jaxnets doctor`")
        elif "for JAX flag" in said:
            _complain(f"{said}; correct or unset the environment variable of that name")
        else:
            raise
        return 1
    except BrokenPipeError:
        raise  # whoever read the output has left; see `jaxnets.__main__`
    except OSError as error:
        _complain(f"the operating system refuses: {error}")
        return 1
    except KeyboardInterrupt:
        _complain("interrupted; the same command goes on from the last checkpoint")
        return 130


class _Notes:
    """Warnings as lines: ours one each, another library's of a cache one in all, the rest as Python shows them."""

    def __init__(self) -> None:
        self._cache = False

    def __call__(
        self, message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any
    ) -> None:
        """See `warnings.showwarning`."""
        if issubclass(category, DataWarning):
            _complain(f"note: {message}")
        elif machine.is_about_the_cache(message):
            if not self._cache:
                _complain(
                    f"note: {str(message).splitlines()[0][:300]}. Programs that are not found there are compiled anew"
                )
            self._cache = True
        else:
            streams.say(warnings.formatwarning(message, category, filename, lineno).rstrip())


def _complain(text: str) -> None:
    streams.say(f"jaxnets: {text}")  # the exit code counts, whether or not anyone reads this


def _dispatch(arguments: list[str]) -> int:
    machine.check_here()
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    if arguments[0] in ("--version", "version"):
        from jaxnets import __version__

        print(f"jaxnets {__version__}")
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        raise UsageError(f"there is no command {verb!r}. {did_you_mean(verb, VERBS)}")
    if verb in DETAILS and {"-h", "--help"} & set(rest[: 1 if verb == "generate" else None]):
        print(DETAILS[verb])
        return 0
    if rest and rest[0] in ("-h", "--help") and verb != "ckpt":
        print(HELP)
        return 0
    if verb == "list":
        from jaxnets.cli import listing

        return listing.run(rest)
    if verb == "doctor":
        from jaxnets.cli.doctor import run as doctor

        return doctor(rest)
    if verb == "ckpt":
        from jaxnets.cli.checkpoints import run as ckpt

        return ckpt(rest)
    if not rest:
        what = (
            "the directory of a run"
            if verb in ("evaluate", "predict", "generate", "export")
            else "the name of a configuration"
        )
        raise UsageError(f"`jaxnets {verb}` needs {what}; see `jaxnets --help`")
    if verb == "evaluate":
        return _evaluate(rest)
    if verb in ("predict", "generate", "export"):
        from jaxnets.cli import predict as inference

        _check_run(rest[0])
        _prepare_jax()
        return getattr(inference, verb)(rest)
    act, kind = (_train, RunOptions) if verb == "train" else (_summary, SummaryOptions)
    return _with_experiment(verb, rest, act, kind)


def _with_experiment(verb: str, arguments: list[str], act: Callable[[Any, Any, Any], int], kind: type) -> int:
    """Read configuration and flags, first without JAX and then in earnest, and act on them."""
    name, *flags = arguments
    if name.startswith("-"):
        raise UsageError(f"`jaxnets {verb}` takes the configuration first, then flags; got {name!r}")
    import tyro  # noqa: F401 (before the stand-ins, which take away whatever is first imported among them)

    complaint: str | None = None
    with fast_parse.stand_ins():
        # Final here is what the parser or a check of ours says; what the file itself raises may be the stand-ins' doing.
        try:
            _read(verb, name, flags, kind)
        except ConfigFileError:
            pass
        except JaxnetsError as error:
            complaint = str(error)
        except Exception as error:
            del error  # judged again below, by the real packages
    if complaint is not None:
        raise UsageError(complaint)
    loaded, experiment, options = _read(verb, name, flags, kind)
    return act(loaded, experiment, options)


def _read(verb: str, name: str, flags: list[str], kind: type) -> tuple[Any, Any, Any]:
    """The configuration of a name, the experiment with flags applied, and the options of the command."""
    import tyro

    from jaxnets import config

    loaded = config.load(name)
    # An empty name takes "experiment." off the flags; AvoidSubcommands lets a field keep the class that the
    # configuration chose, so that its fields become plain flags.
    unnamed = tyro.conf.arg(name="")
    spec = dataclasses.make_dataclass(
        "Command",
        [
            ("experiment", Annotated[type(loaded.experiment), unnamed], loaded.experiment),
            ("options", Annotated[kind, unnamed], kind()),
        ],
        frozen=True,
    )
    try:
        parsed = tyro.cli(
            tyro.conf.AvoidSubcommands[spec],  # type: ignore[valid-type, misc]
            args=flags,
            prog=f"jaxnets {verb} {name}",
            description=loaded.summary,
        )
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
    return loaded, parsed.experiment, parsed.options


def _train(loaded: Any, experiment: Any, options: RunOptions) -> int:
    if options.stop_at < 0:
        raise UsageError(f"stop_at is a step, or 0 for the end; got {options.stop_at}")
    _prepare_jax()
    from jaxnets.parallel import hosts

    if options.coordinator:
        hosts.start(options.coordinator, options.processes, options.process_id)
    elif (options.processes, options.process_id) != (1, 0):
        raise UsageError("processes and process_id go with coordinator, host:port of the first process")
    with hosts.together() if options.coordinator else contextlib.nullcontext():
        _train_here(loaded, experiment, options)
    return 0


def _train_here(loaded: Any, experiment: Any, options: RunOptions) -> None:
    from jaxnets.runs.directory import default_directory
    from jaxnets.runs.train import train

    train(
        experiment,
        run_dir=options.run_dir or default_directory(loaded.name, experiment, loaded.experiment),
        overwrite=options.overwrite,
        stop_at=options.stop_at or None,
        progress=options.progress,
        title=loaded.name,
        subtitle=loaded.summary,
        expected=loaded.expected if experiment == loaded.experiment else None,
    )


def _evaluate(arguments: list[str]) -> int:
    if len(arguments) != 1:
        raise UsageError(f"`jaxnets evaluate` takes one run directory, got {' '.join(arguments)}")
    _check_run(arguments[0])
    _prepare_jax()
    from jaxnets.runs.train import open_run

    run = open_run(arguments[0])
    for name, value in {"step": int(run.state.step), **run.evaluate()}.items():
        print(f"{name} {value:.6g}")
    return 0


def _check_run(directory: str) -> None:
    if not os.path.isfile(user_path(directory) / "config.json"):
        raise RunDirectoryError(f"{directory!r} holds no run (no config.json); give the directory of a run")


def _summary(loaded: Any, experiment: Any, options: SummaryOptions) -> int:
    _prepare_jax()
    from jaxnets.cli.summary import summarize

    summarize(loaded.name, experiment, compiled=options.compile)
    return 0


def _prepare_jax() -> None:
    if why := machine.prepare_jax():
        _complain(f"note: {why}")
