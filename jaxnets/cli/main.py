"""The command line.

What can be answered without JAX (help, lists, mistakes) is answered before it is imported; see `jaxnets.cli.fast_parse`.
Exit codes are an interface: 0 done, 1 error, 2 usage, 75 stopped by a signal after saving (run the command again).
"""

import dataclasses
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

from jaxnets.cli import (
    check,
    compare_seeds,
    curve,
    estimate,
    fast_parse,
    find_batch,
    find_lr,
    machine,
    plan,
    shard,
    sweep,
    train,
)
from jaxnets.cli.help import DETAILS, HELP, VERBS
from jaxnets.core import streams
from jaxnets.core.errors import (
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
# Set by `jaxnets -v`: errors are printed with their traceback.
VERBOSE = "JAXNETS_VERBOSE"
# Exit code 1 for the caller, but immediately: a normal shutdown would wait for a thread or a process that has ended.
HUNG = -1


@dataclasses.dataclass(frozen=True)
class SummaryOptions:
    """Options of `jaxnets summary`."""

    compile: bool = False
    """Also compile the training step, and show its memory by the compiler's analysis."""


# The options of each command that takes a configuration, in addition to the fields of the experiment.
OPTIONS: dict[str, type] = {
    "train": train.RunOptions,
    "check": check.CheckOptions,
    "summary": SummaryOptions,
    "shard": shard.ShardOptions,
    "estimate": estimate.EstimateOptions,
    "plan": plan.PlanOptions,
    "find-lr": find_lr.FindRateOptions,
    "find-batch": find_batch.FindBatchOptions,
    "sweep": sweep.SweepOptions,
    "curve": curve.CurveOptions,
}


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; errors go to stderr as one message each."""
    given = list(arguments)
    if given[:1] in (["-v"], ["--verbose"]):
        os.environ[VERBOSE] = "1"
        given.pop(0)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _Notes()
            return _dispatch(given)
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
        text = str(error)
        if "nable to initialize backend" in text:
            _complain(f"{text}; check JAX_PLATFORMS, and see `jaxnets doctor`")
        elif "for JAX flag" in text:
            _complain(f"{text}; correct or unset the environment variable of that name")
        else:
            raise
        return 1
    except BrokenPipeError:
        raise  # the reader of the output closed it; see `jaxnets.__main__`
    except OSError as error:
        _complain(f"the operating system refuses: {error}")
        return 1
    except KeyboardInterrupt:
        _complain("interrupted; the same command continues from the last checkpoint")
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
                    f"note: {str(message).splitlines()[0][:300]}. Programs that are not found there are compiled again"
                )
            self._cache = True
        else:
            streams.say(warnings.formatwarning(message, category, filename, lineno).rstrip())


def _complain(text: str) -> None:
    if os.environ.get(VERBOSE) and sys.exc_info()[0] is not None:
        streams.say(traceback.format_exc().rstrip())
    streams.say(f"jaxnets: {text}")  # the exit code is enough if this cannot be printed


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
        from jaxnets.cli import doctor

        return doctor.run(rest)
    if verb == "compare" and compare_seeds.wanted(rest):
        return compare_seeds.run(rest, _prepare_jax)
    if verb in ("runs", "compare", "clean", "copy"):
        from jaxnets.cli import runs, tidy

        return {"runs": runs.run, "compare": runs.compare, "clean": tidy.clean, "copy": tidy.copy}[verb](rest)
    if verb == "ui":
        from jaxnets.cli import ui

        return ui.run(rest)
    if verb == "completion":
        from jaxnets.cli import completion

        return completion.run(rest)
    if verb == "ckpt":
        from jaxnets.cli import checkpoints

        return checkpoints.run(rest)
    if verb == "finetune":
        _prepare_jax()
        from jaxnets.cli import finetune

        return finetune.run(rest)
    if verb in ("sweep", "curve") and rest:
        return (sweep if verb == "sweep" else curve).run(rest, _prepare_jax)
    of_run = verb in ("evaluate", "diagnose", "predict", "generate", "export")
    if not rest:
        what = "the directory of a run" if of_run else "the name of a configuration"
        raise UsageError(f"`jaxnets {verb}` needs {what}; see `jaxnets --help`")
    return _on_run(verb, rest) if of_run else _on_experiment(verb, rest)


def _on_run(verb: str, arguments: list[str]) -> int:
    """A command whose first argument is a run directory."""
    directory = arguments[0]
    if not os.path.isfile(user_path(directory) / "config.json"):
        raise RunDirectoryError(f"{directory!r} holds no run (no config.json); give the directory of a run")
    _prepare_jax()
    from jaxnets.cli import diagnose, evaluate, export, generate, predict

    commands = {
        "evaluate": evaluate.run,
        "diagnose": diagnose.run,
        "export": export.run,
        "generate": generate.run,
        "predict": predict.run,
    }
    return commands[verb](arguments)


def _on_experiment(verb: str, arguments: list[str]) -> int:
    """A command whose first argument is a configuration, followed by flags."""
    loaded, experiment, options = fast_parse.read_experiment(verb, arguments, OPTIONS[verb])
    _prepare_jax()
    if verb == "train":
        return train.run(loaded, experiment, options)
    if verb == "check":
        return check.run(loaded, experiment, options)
    if verb == "plan":
        return plan.run(loaded, experiment, options)
    if verb == "find-lr":
        return find_lr.run(loaded, experiment, options)
    if verb == "find-batch":
        return find_batch.run(loaded, experiment, options)
    if verb == "estimate":
        return estimate.run(loaded, experiment, options)
    if verb == "shard":
        return shard.run(loaded, experiment, options)
    from jaxnets.cli.summary import summarize

    summarize(loaded.name, experiment, compiled=options.compile)
    return 0


def _prepare_jax() -> None:
    if why := machine.prepare_jax():
        _complain(f"note: {why}")
