"""The settings for initial weights from another run; `begin.py` loads them."""

import dataclasses

from jaxnets.core.errors import UsageError


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """Initial weights from another run. Every leaf must fit, except those named here; the optimizer and the step start from
    scratch."""

    run: str = ""
    """The directory of the other run; empty: start from scratch."""
    step: int = 0
    """Its checkpoint; 0 takes the newest undamaged one."""
    fresh: tuple[str, ...] = ()
    """Leaves that keep their new random values, as patterns: `params/output/*`, say."""
    ignore: tuple[str, ...] = ()
    """Leaves of the other run that are not loaded, as patterns."""
    cast: bool = False
    """Accept leaves in another number format and convert them."""

    @property
    def active(self) -> bool:
        """Whether another run is given."""
        return bool(self.run)

    def __post_init__(self) -> None:
        if self.step < 0:
            raise UsageError(f"warm_start.step is a step, or 0 for the newest; got {self.step}")
        if not self.run and (self.fresh or self.ignore or self.cast or self.step):
            raise UsageError("warm_start.run is empty, so warm_start's other fields say nothing; name a run directory")
