"""What a check says, and the report of all of them."""

import dataclasses
import html
from typing import Literal

from jaxnets.core.types import Exhibit

Colour = Literal["green", "amber", "red", "skipped"]
# The colours from the worst to the one that says nothing.
COLOURS: tuple[Colour, ...] = ("red", "amber", "green", "skipped")
TINTS = {"red": "#b91c1c", "amber": "#b45309", "green": "#15803d", "skipped": "#6b7280"}


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one check."""

    colour: Colour
    """red: training would be wasted. amber: look at it. green: in order. skipped: the check is not for this run."""
    sentence: str
    """What was measured, with its numbers."""
    remedy: str = ""
    """What to do; "" where nothing is to be done."""
    figure: Exhibit | None = None
    """The measurement as a picture, where one helps."""
    check: str = ""
    """Name of the check, `Check.name`."""
    title: str = ""
    """The check in words."""
    seconds: float = 0.0
    """Time that the check took; the first one to need a program also waits for its compilation."""

    @property
    def text(self) -> str:
        """The sentence and the remedy."""
        return f"{self.sentence} {self.remedy}".strip()


def green(sentence: str, figure: Exhibit | None = None) -> Finding:
    """A finding that all is in order."""
    return Finding("green", sentence, figure=figure)


def amber(sentence: str, remedy: str, figure: Exhibit | None = None) -> Finding:
    """A finding to look at."""
    return Finding("amber", sentence, remedy, figure)


def red(sentence: str, remedy: str, figure: Exhibit | None = None) -> Finding:
    """A finding that makes training pointless until it is mended."""
    return Finding("red", sentence, remedy, figure)


def skipped(reason: str) -> Finding:
    """No finding, and why."""
    return Finding("skipped", reason)


@dataclasses.dataclass(frozen=True)
class CheckReport:
    """The findings of all checks, in their order. Printed as text; in a notebook it is a table."""

    title: str
    """The model and the data."""
    findings: tuple[Finding, ...]
    """In the order of the checks."""
    seconds: float
    """Time that all checks took together."""

    def __getitem__(self, check: str) -> Finding:
        """The finding of the check of this name."""
        for finding in self.findings:
            if finding.check == check:
                return finding
        raise KeyError(f"no check {check!r} was made; these were: {', '.join(one.check for one in self.findings)}")

    def of(self, colour: Colour) -> tuple[Finding, ...]:
        """The findings of one colour."""
        return tuple(finding for finding in self.findings if finding.colour == colour)

    @property
    def passed(self) -> bool:
        """Whether no finding is red."""
        return not self.of("red")

    @property
    def summary(self) -> str:
        """How many findings there are of each colour."""
        counts = ", ".join(f"{len(self.of(colour))} {colour}" for colour in COLOURS)
        return f"{self.title}: {counts} ({self.seconds:.1f} s)"

    def __str__(self) -> str:
        """A line for each finding, under the summary."""
        width = max((len(one.title) for one in self.findings), default=0)
        lines = [f"{one.colour:<7}  {one.title:<{width}}  {one.text}" for one in self.findings]
        return "\n".join([self.summary, *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The findings as a table."""
        rows = "".join(
            f"<tr><td style='color:{TINTS[one.colour]};font-weight:600'>{one.colour}</td><td>{html.escape(one.title)}</td>"
            f"<td style='text-align:left'>{html.escape(one.sentence)} <i>{html.escape(one.remedy)}</i></td></tr>"
            for one in self.findings
        )
        return f"<p>{html.escape(self.summary)}</p><table>{rows}</table>"
