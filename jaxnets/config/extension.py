"""A run that is trained for another number of steps than it was configured for."""

import dataclasses
import json
from pathlib import Path

from jaxnets.core.errors import RunDirectoryError
from jaxnets.optim.optimizers import Optimizer

# The file in a run directory that lists the extensions of the run.
FILE = "extended.json"


@dataclasses.dataclass(frozen=True)
class Extension:
    """One change of the number of steps."""

    before: int
    """Steps of the run until now."""
    after: int
    """Its steps from now on."""
    at: int
    """Steps that were done when it was changed: from here on the schedule of the learning rate is different."""

    def __post_init__(self) -> None:
        if self.after < self.at:
            raise RunDirectoryError(
                f"the run has done {self.at} steps already, and {self.after} were requested; request more than {self.at}"
            )

    def said(self, optimizer: Optimizer) -> str:
        """A sentence about the change."""
        steps = f"the run continues from step {self.at} to {self.after} (it was configured for {self.before})"
        old, new = optimizer.rates(self.before, self.at + 1), optimizer.rates(self.after, self.at + 1)
        if old is None or new is None:
            return f"{steps}; its schedule, if it has one, spans {self.after} steps from now on"
        if (old == new).all():
            return f"{steps}; the learning rate stays {new[-1]:.4g}"
        return (
            f"{steps}; the schedule of the learning rate spans {self.after} steps from now on: at step {self.at} it is "
            f"{new[-1]:.4g} instead of {old[-1]:.4g}"
        )


def read_extensions(directory: Path) -> list[dict[str, int]]:
    """The extensions of a run, oldest first; [] where there are none. Raises `RunDirectoryError` for a damaged file."""
    path = directory / FILE
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return [{name: int(one[name]) for name in ("before", "after", "at")} for one in found]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise RunDirectoryError(
            f"{path} cannot be read ({type(error).__name__}: {error}); restore it, or train again"
        ) from error
