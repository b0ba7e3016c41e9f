"""Instruments: what says why a network does not learn, how its loss is curved, what it stands.

They take functions and trees of parameters, so they work for any model: `loss` is a function of the parameters alone,
`lambda params: mean_loss(model.apply({"params": params}, x), y)`.
"""

from typing import TYPE_CHECKING

from jaxnets.core.lazy import lazy

if TYPE_CHECKING:
    from jaxnets.diagnose.curvature import curvature_range as curvature_range
    from jaxnets.diagnose.curvature import hessian_product as hessian_product
    from jaxnets.diagnose.curvature import hessian_trace as hessian_trace
    from jaxnets.diagnose.curvature import lanczos as lanczos
    from jaxnets.diagnose.damage import damage_curve as damage_curve
    from jaxnets.diagnose.damage import damaged as damaged
    from jaxnets.diagnose.damage import held_at_zero as held_at_zero
    from jaxnets.diagnose.gradients import dead_units as dead_units
    from jaxnets.diagnose.gradients import gradient_profile as gradient_profile

FILES = {
    "curvature_range": "curvature",
    "hessian_product": "curvature",
    "hessian_trace": "curvature",
    "lanczos": "curvature",
    "damage_curve": "damage",
    "damaged": "damage",
    "held_at_zero": "damage",
    "dead_units": "gradients",
    "gradient_profile": "gradients",
}


__getattr__, __dir__ = lazy(__name__, FILES)

__all__ = [
    "curvature_range",
    "damage_curve",
    "damaged",
    "dead_units",
    "gradient_profile",
    "held_at_zero",
    "hessian_product",
    "hessian_trace",
    "lanczos",
]
