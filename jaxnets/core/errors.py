"""The errors jaxnets raises on purpose.

Each message names the value that was given, the rule it broke and what to do about it. The command line prints the
message alone (no traceback) and exits 2 for a `UsageError`, 1 for the rest.
"""

import difflib
import warnings
from collections.abc import Iterable

# Characters of a message that are shown; a message may quote a file, and a file may hold anything.
LONGEST_MESSAGE = 4000


class JaxnetsError(Exception):
    """Something jaxnets checked and refused. The message is for the user; a long one is shortened in its middle."""

    def __init__(self, message: str = "") -> None:
        super().__init__(shortened(message, LONGEST_MESSAGE))


def shortened(text: str, longest: int) -> str:
    """A text of at most about `longest` characters: a longer one is shortened in its middle, with the number of characters
    left out."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]} ... ({len(text) - 2 * half:,} characters left out) ... {text[-half:]}"


class UsageError(JaxnetsError):
    """A command line or a configuration that cannot be understood or cannot be run."""


class ConfigFileError(UsageError):
    """A configuration file, which is Python, that raised while it ran."""


class DataError(JaxnetsError):
    """Data that are missing, damaged or not what the task needs."""


class RunDirectoryError(JaxnetsError):
    """A run directory that cannot be written, or that belongs to another run."""


class CheckpointError(RunDirectoryError):
    """A checkpoint that is missing, damaged, unfinished or not what the run needs."""


class DamagedError(CheckpointError):
    """A checkpoint that is complete and is not what was saved."""


class HungError(CheckpointError):
    """A save that timed out. Its threads are still blocked, so the process cannot exit normally."""


class LostProcessError(JaxnetsError):
    """Another process of the run is lost, and this one cannot continue without it."""


class LockedError(RunDirectoryError):
    """A run directory that another process is training in."""


class PreemptedError(JaxnetsError):
    """A signal stopped the run; everything is saved, and the same command continues it. Exit code 75."""


class RecompileError(JaxnetsError):
    """The training step was compiled a second time: a shape, dtype or sharding changed."""


class NonFiniteError(JaxnetsError):
    """The loss or a gradient became NaN or infinite; the message names the step."""


class DataWarning(UserWarning):
    """A decision or an observation about the user's data that may not be what the user wants."""


# Each one is shown, also when a notebook's cell is run again; the user's own filters take precedence.
warnings.filterwarnings("always", category=DataWarning, append=True)


def note(message: str) -> None:
    """Report a decision or an observation about the user's data as a `DataWarning`; the command line prints only its text."""
    warnings.warn(message, DataWarning, stacklevel=3)


def first_line(error: BaseException, *, most: int = 300) -> str:
    """The first line of another library's message, to quote in ours; the name of its class if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """A sentence that suggests the nearest of `choices`, or lists them; for the end of an error message."""
    choices = sorted(choices)
    near = difflib.get_close_matches(word, choices, n=3, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(repr(name) for name in near)}?"
    return f"Choose from: {', '.join(choices)}."
