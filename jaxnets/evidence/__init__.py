"""Experiments as evidence: comparisons over seeds with their intervals, sweeps over settings."""

from typing import TYPE_CHECKING

from jaxnets.core.lazy import lazy

if TYPE_CHECKING:
    from jaxnets.evidence.comparison import Comparison as Comparison
    from jaxnets.evidence.comparison import compare as compare
    from jaxnets.evidence.paired import Paired as Paired
    from jaxnets.evidence.paired import interval as interval
    from jaxnets.evidence.search import sweep as sweep
    from jaxnets.evidence.sweep_result import SweepResult as SweepResult
    from jaxnets.evidence.trials import Range as Range

FILES = {
    "Comparison": "comparison",
    "Paired": "paired",
    "Range": "trials",
    "SweepResult": "sweep_result",
    "compare": "comparison",
    "interval": "paired",
    "sweep": "search",
}

__getattr__, __dir__ = lazy(__name__, FILES)

__all__ = ["Comparison", "Paired", "Range", "SweepResult", "compare", "interval", "sweep"]
