"""Instruments: what says why a network does not learn, how its loss is curved, what it stands, what an output rests on.

They take functions and trees of parameters, so they work for any model: `loss` is a function of the parameters alone,
`lambda params: mean_loss(model.apply({"params": params}, x), y)`.
"""

from typing import TYPE_CHECKING

from jaxnets.core.lazy import lazy

if TYPE_CHECKING:
    from jaxnets.diagnose.attribution import Integrated as Integrated
    from jaxnets.diagnose.attribution import integrated_gradients as integrated_gradients
    from jaxnets.diagnose.attribution import occlusion as occlusion
    from jaxnets.diagnose.attribution import saliency as saliency
    from jaxnets.diagnose.attribution import smooth_gradient as smooth_gradient
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
    from jaxnets.diagnose.examples import Nearest as Nearest
    from jaxnets.diagnose.examples import influence as influence
    from jaxnets.diagnose.examples import nearest_examples as nearest_examples
    from jaxnets.diagnose.gradients import dead_units as dead_units
    from jaxnets.diagnose.gradients import gradient_profile as gradient_profile
    from jaxnets.diagnose.noise import NoiseScale as NoiseScale
    from jaxnets.diagnose.noise import noise_scale as noise_scale
    from jaxnets.diagnose.noise import squared_norms as squared_norms
    from jaxnets.diagnose.plane import Components as Components
    from jaxnets.diagnose.plane import in_plane as in_plane
    from jaxnets.diagnose.plane import principal_components as principal_components
    from jaxnets.diagnose.rates import RateTest as RateTest
    from jaxnets.diagnose.rates import growing_rates as growing_rates
    from jaxnets.diagnose.rates import losses_by_rate as losses_by_rate
    from jaxnets.diagnose.rates import rate_test as rate_test
    from jaxnets.diagnose.units import layer_output as layer_output
    from jaxnets.diagnose.units import maximised_input as maximised_input

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
    "Integrated": "attribution",
    "integrated_gradients": "attribution",
    "occlusion": "attribution",
    "saliency": "attribution",
    "smooth_gradient": "attribution",
    "Nearest": "examples",
    "influence": "examples",
    "nearest_examples": "examples",
    "Components": "plane",
    "in_plane": "plane",
    "principal_components": "plane",
    "layer_output": "units",
    "maximised_input": "units",
}


__getattr__, __dir__ = lazy(__name__, FILES)

__all__ = [
    "Components",
    "Integrated",
    "LargestBatch",
    "Nearest",
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
    "in_plane",
    "influence",
    "integrated_gradients",
    "knee",
    "lanczos",
    "largest_batch",
    "layer_output",
    "losses_by_rate",
    "maximised_input",
    "nearest_examples",
    "noise_scale",
    "occlusion",
    "principal_components",
    "rate_test",
    "saliency",
    "smooth_gradient",
    "squared_norms",
]
