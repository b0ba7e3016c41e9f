"""Before a run: the list of what one looks at when training goes wrong, made as one report before the first step."""

from typing import TYPE_CHECKING

from jaxnets.core.lazy import lazy

if TYPE_CHECKING:
    from jaxnets.preflight.check import check_experiment as check_experiment
    from jaxnets.preflight.checks import CHECKS as CHECKS
    from jaxnets.preflight.finding import CheckReport as CheckReport
    from jaxnets.preflight.finding import Finding as Finding

FILES = {
    "CHECKS": "checks",
    "CheckReport": "finding",
    "Finding": "finding",
    "check_experiment": "check",
}

__getattr__, __dir__ = lazy(__name__, FILES)

__all__ = ["CHECKS", "CheckReport", "Finding", "check_experiment"]
