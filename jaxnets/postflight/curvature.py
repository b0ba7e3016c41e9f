"""The section `curvature`: how the loss of the training examples bends around the trained weights."""

from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxnets.diagnose.curvature import curvature_range, hessian_trace
from jaxnets.diagnose.landscape import sharpness
from jaxnets.diagnose.slices import filter_direction, loss_slice
from jaxnets.diagnose.spectrum import Spectrum, spectral_density
from jaxnets.diagnose.trees import length
from jaxnets.postflight.examined import Examined
from jaxnets.postflight.section import Measured, Picture, Section
from jaxnets.report import surface_plots
from jaxnets.tasks.predicted import why_no_loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "curvature"
# Lanczos' method keeps `STEPS` vectors as large as the parameters.
STEPS, MOST_PARAMETERS = 30, 20_000_000
# Places of the slice along each direction.
PLACES = np.linspace(-1, 1, 13)
# Radius of the ball of `sharpness`, as a share of the norm of the parameters.
BALL = 0.01
# Eigenvalues within this share of the whole range count as zero.
ZERO = 0.01


def curvature(examined: Examined) -> Section:
    """Extreme eigenvalues of the Hessian, its trace and spectrum, the sharpness, a slice of the loss."""
    if reason := why_no_loss(examined.run.parts.task):
        return Section(NAME, left_out=(reason,))
    count = examined.run.parts.parameters
    if count > MOST_PARAMETERS:
        return Section(NAME, left_out=(f"{count:,} parameters; at most {MOST_PARAMETERS:,} are looked at",))
    if reason := examined.too_expensive("train"):
        return Section(NAME, left_out=(reason,))
    params, seed = examined.params, examined.seed
    with examined.alone():
        value, gradient = jax.jit(jax.value_and_grad(examined.loss))(params)
        if not np.isfinite(float(value) + float(length(gradient))):
            return Section(NAME, left_out=("the loss or its gradient is not a finite number",))
        low, high = curvature_range(examined.loss, params, steps=STEPS, seed=seed)
        trace, error = hessian_trace(examined.loss, params, samples=20, seed=seed)
        spectrum = spectral_density(examined.loss, params, steps=STEPS, samples=2, seed=seed)
        ball = BALL * float(length(params))
        rise = sharpness(examined.loss, params, ball, steps=20, starts=1, seed=seed)
        directions = [filter_direction(params, seed=seed + number) for number in (0, 1)]
        plane = loss_slice(examined.loss, params, directions, PLACES)
    reach = ZERO * max(abs(low), abs(high))
    numbers = (
        Measured(
            "loss", float(value), f"mean of {len(examined.training['mask'])} training examples, as in an evaluation"
        ),
        Measured("gradient_norm", float(length(gradient)), "0 at a critical point"),
        Measured("largest_eigenvalue", high, "of the Hessian of this loss"),
        Measured("smallest_eigenvalue", low, "below 0: the loss falls along some direction"),
        Measured(
            "highest_rate", 2 / high if high > 0 else np.nan, "gradient descent on all examples diverges above it"
        ),
        Measured("trace", trace, f"sum of all eigenvalues, standard error {error:.2g}"),
        Measured("share_near_zero", spectrum.share(-reach, reach), f"eigenvalues within {ZERO:.0%} of the largest"),
        Measured("sharpness", rise, f"rise of the loss within {BALL:.0%} of the norm of the weights"),
    )
    pictures = (
        Picture.of(
            "The spectrum of the Hessian", "Density of its eigenvalues, on a logarithmic scale.", _drawn(spectrum)
        ),
        Picture.of(
            "The loss around the weights",
            "Along two random directions; 1 is a change as large as the weights of each filter.",
            surface_plots.loss_slice(PLACES, plane),
        ),
    )
    return Section(NAME, numbers, pictures)


def _drawn(spectrum: Spectrum) -> "Figure":
    low, high = float(spectrum.values[0]), float(spectrum.values[-1])
    reach = max(high - low, 1e-12)
    at = np.linspace(low - 0.05 * reach, high + 0.05 * reach, 600)
    return surface_plots.spectrum(at, spectrum.density(at, 0.01 * reach))
