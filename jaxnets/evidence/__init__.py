"""Experiments as evidence: comparisons over seeds with their intervals, sweeps over settings, curves over sizes."""

from typing import TYPE_CHECKING

from jaxnets.core.lazy import lazy

if TYPE_CHECKING:
    from jaxnets.evidence.comparison import Comparison as Comparison
    from jaxnets.evidence.comparison import compare as compare
    from jaxnets.evidence.curve_result import Curve as Curve
    from jaxnets.evidence.curves import curve as curve
    from jaxnets.evidence.error_parts import BiasVariance as BiasVariance
    from jaxnets.evidence.error_parts import bias_variance as bias_variance
    from jaxnets.evidence.law import Law as Law
    from jaxnets.evidence.law import fit_law as fit_law
    from jaxnets.evidence.paired import Paired as Paired
    from jaxnets.evidence.paired import interval as interval
    from jaxnets.evidence.search import sweep as sweep
    from jaxnets.evidence.sweep_result import SweepResult as SweepResult
    from jaxnets.evidence.trials import Range as Range

FILES = {
    "BiasVariance": "error_parts",
    "Comparison": "comparison",
    "Curve": "curve_result",
    "Law": "law",
    "Paired": "paired",
    "Range": "trials",
    "SweepResult": "sweep_result",
    "bias_variance": "error_parts",
    "compare": "comparison",
    "curve": "curves",
    "fit_law": "law",
    "interval": "paired",
    "sweep": "search",
}

__getattr__, __dir__ = lazy(__name__, FILES)

__all__ = [*FILES]
