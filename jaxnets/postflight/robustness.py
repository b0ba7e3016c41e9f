"""The section `robustness`: the score with damaged weights and changed inputs, and what the probabilities are worth."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.diagnose import confidence
from jaxnets.diagnose.bit_flips import flip_curve
from jaxnets.diagnose.corruption import corruption_curve
from jaxnets.diagnose.damage import damage_curve
from jaxnets.diagnose.lipschitz import lipschitz_lower
from jaxnets.diagnose.robustness import attack_curve
from jaxnets.postflight.examined import Examined
from jaxnets.postflight.section import Measured, Picture, Section
from jaxnets.report import surface_plots

NAME = "robustness"
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
BITS, HIT = tuple(range(20, 32)), 3
# Sizes of an attack, in standard deviations of the prepared inputs.
SIZES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
# Probability with which a set of classes misses the right one.
MISSES = 0.1
# Numbers in the Jacobian of an example, above which it is not computed.
MOST_SLOPES = 200_000

Found = tuple[list[Measured], list[Picture]]


def robustness(examined: Examined) -> Section:
    """Damage and flipped bits for every task; attacks, corruptions and calibration for classifiers of real inputs."""
    if examined.run.parts.task.players:
        return Section(NAME, left_out=("several players have no single score",))
    numbers, pictures, left_out = list[Measured](), list[Picture](), list[str]()

    def take(part: Callable[[Examined], Found], reason: str = "") -> None:
        if reason:
            left_out.append(reason)
            return
        found = part(examined)
        numbers.extend(found[0])
        pictures.extend(found[1])

    if reason := examined.too_expensive("test"):
        return Section(NAME, left_out=(reason,))
    take(_damage)
    floats = all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(examined.params))
    take(_flips, "" if floats else "flipped bits are those of float32, and some parameters have another dtype")
    with examined.alone():
        reason = examined.by_outputs
        if reason or examined.kind != "class":
            left_out.append(f"attacks, corruptions and calibration: {reason or 'the targets are not classes'}")
            return Section(NAME, tuple(numbers), tuple(pictures), tuple(left_out))
        logits = np.asarray(jax.jit(examined.outputs)(examined.asked))
        take(_attacks)
        take(_steepness, _too_steep(examined, logits))
        reason = "" if np.isfinite(logits).all() else "some outputs are not finite numbers"
        if examined.run.parts.task.probabilities(logits[:1]) is None:
            reason = "the outputs are no logits of probabilities"
        take(functools.partial(_probabilities, logits=logits), f"calibration: {reason}" if reason else "")
    images = _images(examined)
    if images is None:
        left_out.append("corruptions: inputs are not images of numbers from 0 on")
    else:
        take(functools.partial(_corruptions, images=images[0], back=images[1]))
    return Section(NAME, tuple(numbers), tuple(pictures), tuple(left_out))


def _damage(examined: Examined) -> Found:
    curves = {
        kind: damage_curve(
            examined.score, examined.params, SHARES, repeats=3, seed=examined.seed, kind=kind
        ).mean(axis=1)
        for kind in ("weights", "units")
    }  # fmt: skip
    at = SHARES.index(0.1)
    numbers = [Measured(f"{examined.headline}_undamaged", float(curves["weights"][0]), "on the test examples")]
    for kind, curve in curves.items():
        numbers.append(
            Measured(
                f"{examined.headline}_without_10_percent_of_{kind}", float(curve[at]), "mean of three random choices"
            )
        )
    figure = surface_plots.curves(curves, at=SHARES, across="share set to 0", up=examined.headline)
    return numbers, [Picture.of("Damage", "The score after a random share of weights or units is set to 0.", figure)]


def _flips(examined: Examined) -> Found:
    found = flip_curve(examined.score, examined.params, BITS, count=HIT, repeats=3, seed=examined.seed)
    failed = np.inf if examined.less_is_better else -np.inf  # what is not a number is the worst
    found = np.where(np.isnan(found), failed, found)
    curves = {"mean": found.mean(axis=1), "worst": found.max(axis=1) if examined.less_is_better else found.min(axis=1)}
    curves = {name: np.where(np.isfinite(line), line, np.nan) for name, line in curves.items()}
    figure = surface_plots.curves(curves, at=BITS, across="bit of float32", up=examined.headline)
    caption = f"The score after one bit of {HIT} random weights is flipped; 23 to 30 are the exponent, 31 is the sign."
    return [], [Picture.of("Flipped bits", caption, figure)]


def _attacks(examined: Examined) -> Found:
    x, labels = examined.asked, examined.test["targets"]
    sizes = [size * float(x.std()) for size in SIZES]
    attacked = attack_curve(examined.outputs, x, labels, sizes, steps=10, seed=examined.seed)
    signs = jax.random.rademacher(jax.random.key(examined.seed), x.shape, x.dtype)
    call = jax.jit(examined.outputs)
    noisy = np.asarray([_accuracy(np.asarray(call(x + size * signs)), labels) for size in sizes])
    numbers = [
        Measured("accuracy_attacked", float(attacked[SIZES.index(0.1)]), "each number moved by up to .1 of a deviation"),
        Measured("accuracy_with_noise", float(noisy[SIZES.index(0.1)]), "the same sizes with random signs"),
    ]  # fmt: skip
    curves = {"attacked (PGD)": attacked, "random signs": noisy}
    figure = surface_plots.curves(curves, at=SIZES, across="size, in standard deviations of the inputs", up="accuracy")
    return numbers, [Picture.of("Attacks", "The worst inputs nearby that gradient ascent finds.", figure)]


def _too_steep(examined: Examined, logits: np.ndarray) -> str:
    slopes = logits.shape[-1] * int(np.prod(examined.asked.shape[1:]))
    return f"Lipschitz bound: {slopes:,} derivatives of an example" if slopes > MOST_SLOPES else ""


def _steepness(examined: Examined) -> Found:
    bound = lipschitz_lower(examined.outputs, examined.asked[:32], batch=8)
    return [
        Measured("lipschitz_at_least", bound, "largest change of the logits by a change of the input of length 1")
    ], []


def _probabilities(examined: Examined, logits: np.ndarray) -> Found:
    # In a random order: test examples may stand class by class, and both halves must be drawn alike.
    order = np.random.default_rng(examined.seed).permutation(len(logits))
    logits, labels = logits[order], np.asarray(examined.test["targets"])[order]
    half = len(labels) // 2
    if half < 10:
        return [], []
    probabilities = confidence.softmax(logits)
    found = confidence.reliability(probabilities, labels)
    temperature = confidence.best_temperature(logits[:half], labels[:half])
    repaired = confidence.softmax(logits, temperature)
    threshold = confidence.conformal_threshold(repaired[:half], labels[:half], alpha=MISSES)
    sets = confidence.conformal_sets(repaired[half:], threshold)
    foreign = confidence.foreignness(np.asarray(jax.jit(examined.outputs)(_shuffled(examined))))
    numbers = [
        Measured("calibration_error", found.error, "mean distance of confidence and accuracy"),
        Measured("temperature", temperature, "dividing the logits by it mends the confidence; above 1: too sure"),
        Measured("calibration_error_repaired", confidence.reliability(repaired[half:], labels[half:]).error,
                 "with this temperature, on the other half of the examples"),
        Measured("conformal_set_size", float(sets.sum(axis=1).mean()),
                 f"classes in a set that holds the right one in {1 - MISSES:.0%}"),
        Measured("foreign_inputs_found", confidence.auroc(confidence.foreignness(logits), foreign),
                 "AUROC of the energy for inputs whose numbers were shuffled; .5 is chance"),
    ]  # fmt: skip
    filled = found.examples > 0
    curves = {"accuracy": found.accuracy[filled], "confidence": found.confidence[filled]}
    figure = surface_plots.curves(curves, at=found.confidence[filled], across="confidence", up="accuracy")
    return numbers, [
        Picture.of("Calibration", "Accuracy against confidence; a calibrated model has both alike.", figure)
    ]


def _shuffled(examined: Examined) -> Array:
    """The inputs with the numbers of each example in another order."""
    flat = np.asarray(examined.asked).reshape(len(examined.asked), -1)
    mixed = np.random.default_rng(examined.seed).permuted(flat, axis=1)
    return jnp.asarray(mixed.reshape(examined.asked.shape))


def _images(examined: Examined) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]] | None:
    """The raw test images as float in [0, 1], `[N, H, W, C]`, where 1 is their largest number, and how to make them raw again;
    None for what is no image."""
    raw = np.asarray(examined.test["inputs"])
    small = raw.ndim not in (3, 4) or min(raw.shape[1:3]) < 4  # a series of a few numbers is no image
    if small or raw.dtype == bool or raw.min() < 0 or raw.max() <= 0:
        return None
    top = float(raw.max())
    images = np.clip(raw.reshape(*raw.shape[:3], -1).astype(np.float32) / top, 0, 1)

    def back(images: np.ndarray) -> np.ndarray:
        scaled = images.reshape(raw.shape) * top
        return (np.rint(scaled) if np.issubdtype(raw.dtype, np.integer) else scaled).astype(raw.dtype)

    return images, back


def _corruptions(examined: Examined, images: np.ndarray, back: Callable[[np.ndarray], np.ndarray]) -> Found:
    def score(images: np.ndarray) -> float:
        return float((examined.run.predict(back(images)) == examined.test["targets"]).mean())

    curves = corruption_curve(score, images, seed=examined.seed)
    worst = float(np.mean([curve[-1] for curve in curves.values()]))
    numbers = [Measured("accuracy_corrupted", worst, "mean over the corruptions at their highest severity")]
    figure = surface_plots.curves(curves, across="severity", up="accuracy")
    return numbers, [Picture.of("Corruptions", "The score on changed test images.", figure)]


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(axis=-1) == labels).mean())
