"""Instruments: what says why a network does not learn, how its loss is curved, what it stands.

They take functions and trees of parameters, so they work for any model: `loss` is a function of the parameters alone,
`lambda params: mean_loss(model.apply({"params": params}, x), y)`.
"""

from typing import TYPE_CHECKING

from jaxnets.core.lazy import lazy

if TYPE_CHECKING:
    from jaxnets.diagnose.batch_size import LargestBatch as LargestBatch
    from jaxnets.diagnose.batch_size import knee as knee
    from jaxnets.diagnose.batch_size import largest_batch as largest_batch
    from jaxnets.diagnose.curvature import curvature_range as curvature_range
    from jaxnets.diagnose.curvature import hessian_product as hessian_product
    from jaxnets.diagnose.curvature import hessian_trace as hessian_trace
    from jaxnets.diagnose.curvature import lanczos as lanczos
    from jaxnets.diagnose.damage import damage_curve as damage_curve
    from jaxnets.diagnose.damage import damaged as damaged
    from jaxnets.diagnose.damage import held_at_zero as held_at_zero
    from jaxnets.diagnose.gradients import dead_units as dead_units
    from jaxnets.diagnose.gradients import gradient_profile as gradient_profile
    from jaxnets.diagnose.noise import NoiseScale as NoiseScale
    from jaxnets.diagnose.noise import noise_scale as noise_scale
    from jaxnets.diagnose.noise import squared_norms as squared_norms
    from jaxnets.diagnose.rates import RateTest as RateTest
    from jaxnets.diagnose.rates import growing_rates as growing_rates
    from jaxnets.diagnose.rates import losses_by_rate as losses_by_rate
    from jaxnets.diagnose.rates import rate_test as rate_test

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
    "LargestBatch": "batch_size",
    "knee": "batch_size",
    "largest_batch": "batch_size",
    "NoiseScale": "noise",
    "noise_scale": "noise",
    "squared_norms": "noise",
    "RateTest": "rates",
    "growing_rates": "rates",
    "losses_by_rate": "rates",
    "rate_test": "rates",
}


__getattr__, __dir__ = lazy(__name__, FILES)

__all__ = [
    "LargestBatch",
    "NoiseScale",
    "RateTest",
    "curvature_range",
    "damage_curve",
    "damaged",
    "dead_units",
    "gradient_profile",
    "growing_rates",
    "held_at_zero",
    "hessian_product",
    "hessian_trace",
    "knee",
    "lanczos",
    "largest_batch",
    "losses_by_rate",
    "noise_scale",
    "rate_test",
    "squared_norms",
]
