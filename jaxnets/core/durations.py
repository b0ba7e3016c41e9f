"""Durations within a run, in one form for schedules and for everything else that starts or ends at some step.

A duration is a share of the run (0.3 or "0.3dur"), or a number of steps ("500ba"), epochs ("10ep"), examples ("50k ex") or
tokens ("2M tok"). `in_steps` converts it to steps. Steps and shares only need the length of the run; the others need the size
of a step, which a `Clock` has.
"""

import dataclasses
import re

from jaxnets.core.errors import UsageError

# A float is a share of the run; a text is a number with a unit.
Duration = float | str

UNITS = {"dur": "share of the run", "ba": "steps", "ep": "epochs", "ex": "examples", "tok": "tokens"}
MULTIPLES = {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
FORM = re.compile(r"\s*(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*([kMBT]?)\s*([a-z]+)\s*")


@dataclasses.dataclass(frozen=True)
class Clock:
    """The sizes by which durations are converted to steps."""

    steps: int
    """Steps of the whole run."""
    batch_size: int | None = None
    """Examples in each step; None: unknown."""
    examples: int | None = None
    """Training examples; None: unknown. An epoch has `examples // batch_size` steps."""
    tokens: int | None = None
    """Tokens of an example; None: unknown, or the examples are not made of tokens."""


class UnknownLengthError(UsageError):
    """A duration is in epochs, examples or tokens, and the number of these in a step is not known."""


def parse(duration: Duration) -> tuple[float, str]:
    """The number and the unit of a duration, one of `UNITS`.

    Raises:
        UsageError: it is no duration.
    """
    if isinstance(duration, int | float) and not isinstance(duration, bool):
        if 0 <= duration <= 1:
            return float(duration), "dur"
        raise UsageError(
            f"a number is a share of the run, between 0 and 1; got {duration}. Write '{duration:g}ba' for steps, or "
            f"'{duration:g}ep' for epochs"
        )
    match = FORM.fullmatch(duration) if isinstance(duration, str) else None
    if match is None or match[4] not in UNITS:
        raise UsageError(
            f"a duration is a share of the run such as 0.3 or '0.3dur', or a number of steps '500ba', epochs '10ep', examples "
            f"'50k ex' or tokens '2M tok'; got {duration!r}"
        )
    value, unit = float(match[1] + (match[2] or "")) * MULTIPLES[match[3]], match[4]
    if unit == "dur" and value > 1:
        raise UsageError(f"a share of the run is between 0 and 1; got {duration!r}")
    return value, unit


def check_durations(owner: object, *names: str) -> None:
    """Raise `UsageError`, with the name of the field, unless these fields of a dataclass hold durations."""
    for name in names:
        held = getattr(owner, name)
        for duration in held if isinstance(held, tuple) else (held,):
            try:
                parse(duration)
            except UsageError as error:
                raise UsageError(f"{type(owner).__name__}.{name}: {error}") from error


def in_steps(duration: Duration, clock: Clock) -> int:
    """Steps that a duration lasts, rounded to the nearest whole number; may be more than the run has.

    Raises:
        UsageError: it is no duration.
        UnknownLengthError: it is in epochs, examples or tokens, and the clock does not say how many a step has.
    """
    value, unit = parse(duration)
    return round(value * _steps_of_one(unit, duration, clock))


def _steps_of_one(unit: str, duration: Duration, clock: Clock) -> float:
    if unit == "dur":
        return clock.steps
    if unit == "ba":
        return 1
    needed = {"ep": ("batch_size", "examples"), "ex": ("batch_size",), "tok": ("batch_size", "tokens")}[unit]
    if any(getattr(clock, name) is None for name in needed):
        raise UnknownLengthError(
            f"how many steps {duration!r} lasts depends on {' and '.join(needed)}, of which "
            f"{', '.join(name for name in needed if getattr(clock, name) is None)} is not known here; give it in steps "
            f"('500ba') or as a share of the run (0.3)"
        )
    batch_size = clock.batch_size or 1
    if unit == "ep":
        return max(1, (clock.examples or 0) // batch_size)
    return 1 / batch_size if unit == "ex" else 1 / (batch_size * max(1, clock.tokens or 0))


def as_length(duration: str) -> int | str:
    """The length of a run as a duration: the number where it is in steps ("500ba"), else the duration itself, checked.

    Raises:
        UsageError: it is no duration, a share of the run, or nothing.
    """
    try:
        value, unit = parse(duration)
    except UsageError:
        value, unit = 0.0, ""
    if unit in ("", "dur"):
        share = "; a share of the run has no meaning here, because this is its length" if unit else ""
        raise UsageError(
            f"steps is a number such as 500, or a duration in steps '500ba', epochs '10ep', examples '50k ex' or tokens "
            f"'2M tok'; got {duration!r}{share}"
        )
    if value <= 0:
        raise UsageError(f"steps is at least 1, got {duration!r}")
    return in_steps(duration, Clock(0)) if unit == "ba" else duration


def as_steps(duration: Duration, clock: Clock) -> Duration:
    """The duration in a unit that needs the length of the run only: epochs, examples and tokens become steps."""
    return duration if parse(duration)[1] in ("dur", "ba") else f"{in_steps(duration, clock)}ba"
