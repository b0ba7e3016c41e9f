"""Instruments that show why a network does not learn, how its loss is curved, how robust it is, and what an output depends on.

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
    from jaxnets.diagnose.bit_flips import flip_curve as flip_curve
    from jaxnets.diagnose.bit_flips import flipped as flipped
    from jaxnets.diagnose.confidence import Reliability as Reliability
    from jaxnets.diagnose.confidence import auroc as auroc
    from jaxnets.diagnose.confidence import best_temperature as best_temperature
    from jaxnets.diagnose.confidence import conformal_sets as conformal_sets
    from jaxnets.diagnose.confidence import conformal_threshold as conformal_threshold
    from jaxnets.diagnose.confidence import foreignness as foreignness
    from jaxnets.diagnose.confidence import reliability as reliability
    from jaxnets.diagnose.confidence import softmax as softmax
    from jaxnets.diagnose.connectivity import barrier as barrier
    from jaxnets.diagnose.connectivity import bezier as bezier
    from jaxnets.diagnose.connectivity import connected as connected
    from jaxnets.diagnose.connectivity import losses_along as losses_along
    from jaxnets.diagnose.connectivity import matched as matched
    from jaxnets.diagnose.connectivity import straight as straight
    from jaxnets.diagnose.corruption import STRENGTHS as STRENGTHS
    from jaxnets.diagnose.corruption import corrupted as corrupted
    from jaxnets.diagnose.corruption import corruption_curve as corruption_curve
    from jaxnets.diagnose.curvature import curvature_range as curvature_range
    from jaxnets.diagnose.curvature import empirical_fisher_product as empirical_fisher_product
    from jaxnets.diagnose.curvature import fisher_product as fisher_product
    from jaxnets.diagnose.curvature import gauss_newton_product as gauss_newton_product
    from jaxnets.diagnose.curvature import hessian_product as hessian_product
    from jaxnets.diagnose.curvature import hessian_trace as hessian_trace
    from jaxnets.diagnose.curvature import lanczos as lanczos
    from jaxnets.diagnose.curvature import linearised as linearised
    from jaxnets.diagnose.damage import damage_curve as damage_curve
    from jaxnets.diagnose.damage import damaged as damaged
    from jaxnets.diagnose.damage import held_at_zero as held_at_zero
    from jaxnets.diagnose.examples import Nearest as Nearest
    from jaxnets.diagnose.examples import influence as influence
    from jaxnets.diagnose.examples import nearest_examples as nearest_examples
    from jaxnets.diagnose.gradients import dead_units as dead_units
    from jaxnets.diagnose.gradients import gradient_profile as gradient_profile
    from jaxnets.diagnose.landscape import CriticalPoint as CriticalPoint
    from jaxnets.diagnose.landscape import critical_point as critical_point
    from jaxnets.diagnose.landscape import sharpness as sharpness
    from jaxnets.diagnose.landscape import stability as stability
    from jaxnets.diagnose.lipschitz import lipschitz_lower as lipschitz_lower
    from jaxnets.diagnose.lipschitz import lipschitz_upper as lipschitz_upper
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
    from jaxnets.diagnose.robustness import attack_curve as attack_curve
    from jaxnets.diagnose.robustness import fgsm as fgsm
    from jaxnets.diagnose.robustness import input_gradients as input_gradients
    from jaxnets.diagnose.robustness import pgd as pgd
    from jaxnets.diagnose.slices import filter_direction as filter_direction
    from jaxnets.diagnose.slices import loss_slice as loss_slice
    from jaxnets.diagnose.spectrum import Spectrum as Spectrum
    from jaxnets.diagnose.spectrum import spectral_density as spectral_density
    from jaxnets.diagnose.units import layer_output as layer_output
    from jaxnets.diagnose.units import maximised_input as maximised_input

FILES = {
    "LargestBatch": "batch_size",
    "knee": "batch_size",
    "largest_batch": "batch_size",
    "flip_curve": "bit_flips",
    "flipped": "bit_flips",
    "Reliability": "confidence",
    "auroc": "confidence",
    "best_temperature": "confidence",
    "conformal_sets": "confidence",
    "conformal_threshold": "confidence",
    "foreignness": "confidence",
    "reliability": "confidence",
    "softmax": "confidence",
    "barrier": "connectivity",
    "bezier": "connectivity",
    "connected": "connectivity",
    "losses_along": "connectivity",
    "matched": "connectivity",
    "straight": "connectivity",
    "STRENGTHS": "corruption",
    "corrupted": "corruption",
    "corruption_curve": "corruption",
    "curvature_range": "curvature",
    "empirical_fisher_product": "curvature",
    "fisher_product": "curvature",
    "gauss_newton_product": "curvature",
    "hessian_product": "curvature",
    "hessian_trace": "curvature",
    "lanczos": "curvature",
    "linearised": "curvature",
    "damage_curve": "damage",
    "damaged": "damage",
    "held_at_zero": "damage",
    "dead_units": "gradients",
    "gradient_profile": "gradients",
    "lipschitz_lower": "lipschitz",
    "lipschitz_upper": "lipschitz",
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
    "attack_curve": "robustness",
    "fgsm": "robustness",
    "input_gradients": "robustness",
    "pgd": "robustness",
    "CriticalPoint": "landscape",
    "critical_point": "landscape",
    "sharpness": "landscape",
    "stability": "landscape",
    "filter_direction": "slices",
    "loss_slice": "slices",
    "Spectrum": "spectrum",
    "spectral_density": "spectrum",
}


__getattr__, __dir__ = lazy(__name__, FILES)

__all__ = [
    "STRENGTHS",
    "Components",
    "CriticalPoint",
    "Integrated",
    "LargestBatch",
    "Nearest",
    "NoiseScale",
    "RateTest",
    "Reliability",
    "Spectrum",
    "attack_curve",
    "auroc",
    "barrier",
    "best_temperature",
    "bezier",
    "conformal_sets",
    "conformal_threshold",
    "connected",
    "corrupted",
    "corruption_curve",
    "critical_point",
    "curvature_range",
    "damage_curve",
    "damaged",
    "dead_units",
    "empirical_fisher_product",
    "fgsm",
    "filter_direction",
    "fisher_product",
    "flip_curve",
    "flipped",
    "foreignness",
    "gauss_newton_product",
    "gradient_profile",
    "growing_rates",
    "held_at_zero",
    "hessian_product",
    "hessian_trace",
    "in_plane",
    "influence",
    "input_gradients",
    "integrated_gradients",
    "knee",
    "lanczos",
    "largest_batch",
    "layer_output",
    "linearised",
    "lipschitz_lower",
    "lipschitz_upper",
    "loss_slice",
    "losses_along",
    "losses_by_rate",
    "matched",
    "maximised_input",
    "nearest_examples",
    "noise_scale",
    "occlusion",
    "pgd",
    "principal_components",
    "rate_test",
    "reliability",
    "saliency",
    "sharpness",
    "smooth_gradient",
    "softmax",
    "spectral_density",
    "squared_norms",
    "stability",
    "straight",
]
