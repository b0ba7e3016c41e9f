"""What a model gives before its first step: shapes, finite numbers, the first loss, the range of its outputs."""

import jax
import numpy as np

from jaxnets.checkpoints.digest import leaf_paths
from jaxnets.ops.tokens import IGNORED, PAD
from jaxnets.preflight.finding import Finding, amber, green, red, skipped
from jaxnets.preflight.subject import Subject

# A first loss this many times the prior's is far off, and one this many times is wrong: the model begins very sure.
FAR, WRONG = 2.0, 100.0


def shapes(subject: Subject) -> Finding:
    """Whether outputs, loss and gradient are finite."""
    outputs = subject.outputs(subject.variables, subject.batch)
    inputs = jax.tree.leaves(subject.task.inputs_of(subject.batch))
    facts = (
        f"inputs {_dims(inputs[0].shape)} to outputs {_dims(outputs.shape)}, {subject.parts.parameters:,} parameters"
    )
    if not np.isfinite(outputs).all():
        return red(
            f"{facts}; {1 - np.isfinite(outputs).mean():.0%} of the outputs at step 0 are not finite.",
            "Look for a division by 0, a logarithm or root of 0, or initial weights that overflow; JAX_DEBUG_NANS=1 names the "
            "operation.",
        )
    if not subject.by_gradient:
        return green(f"{facts}, all finite")
    loss, gradient = subject.slope(subject.variables)
    bad = [path for path, leaf in leaf_paths(gradient).items() if not np.isfinite(np.asarray(leaf)).all()]
    if not np.isfinite(loss) or bad:
        where = f"the gradient of {', '.join(bad[:4])}" if np.isfinite(loss) else "the loss"
        return red(
            f"{facts}; {where} is not finite at step 0.",
            "A square root or norm has no gradient at 0, and a logarithm none: add a small number inside it. "
            "JAX_DEBUG_NANS=1 names the operation.",
        )
    return green(f"{facts}; outputs, loss ({loss:.4g}) and gradient are finite")


def prior(subject: Subject) -> tuple[float, str] | None:
    """The loss of the best constant prediction on the sample of the training data, and its name; None where it is unknown."""
    targets = subject.samples["train"]["targets"]
    if subject.kind == "class" and targets.ndim == 1 and getattr(subject.inner, "has_probabilities", False):
        shares = np.bincount(targets.astype(int)) / len(targets)
        return _entropy(shares), "the entropy of the labels"
    if subject.kind == "class" and "counted" in subject.batch:
        counted = np.asarray(subject.samples["train"]["counted"], bool)
        labels = targets[counted].astype(int)
        return _entropy(np.bincount(labels) / len(labels)), "the entropy of the counted labels"
    if subject.kind in ("token", "sequence"):
        counted = targets[(targets != IGNORED) & ((targets != PAD) | (subject.kind == "token"))].astype(int)
        return _entropy(np.bincount(counted) / len(counted)), "the entropy of the tokens"
    if subject.kind == "number":
        encoded = np.asarray(subject.prepared["train"]["targets"], np.float64)
        return float(encoded.reshape(len(encoded), -1).var(axis=0).mean()), "the variance of the targets"
    return None


def initial_loss(subject: Subject) -> Finding:
    """The first loss is that of a model that knows nothing."""
    known = prior(subject)
    if known is None or getattr(subject.inner, "error", "squared") != "squared":
        return skipped("what a model that knows nothing loses is not known for this task")
    total, weight = subject.loss(subject.variables, subject.batch)
    loss, (expected, name) = total / max(weight, 1e-30), known
    if getattr(subject.task, "objective", None) is not None:
        name += " (your own loss may have another scale)"
    classes = len(subject.parts.dataset.card.class_names)
    blind = max(expected, np.log(max(classes, 2)) if subject.kind != "number" else expected)
    facts = f"loss {loss:.4g} at step 0; {name} is {expected:.4g}" + (
        f", log {classes} is {blind:.4g}" if classes else ""
    )
    if loss < 0:
        return red(
            f"{facts}: the loss is negative.", "This loss cannot be below 0: look for its sign, or a missing minus."
        )
    if subject.given_weights:
        return green(f"{facts}; the weights are given ones")
    if loss < 0.3 * expected:
        return red(
            f"{facts}: the untrained model is too good.",
            "The inputs may hold the targets, or the loss leaves something out (a mask, a mean over too many rows).",
        )
    if loss > WRONG * max(blind, 0.1):
        return red(
            f"{facts}: {loss / blind:.0f} times as much as by guessing.",
            "Inputs or initial weights are far too large, or the loss is a sum. Scale the inputs, and begin the last layer "
            "smaller.",
        )
    if loss > FAR * max(blind, 0.1):
        return amber(
            f"{facts}: {loss / blind:.1f} times as much as by guessing.",
            "The first steps will only undo this. Begin the last layer smaller (zeros, or a smaller scale), and set its bias "
            "to the frequencies of the classes or the mean of the targets.",
        )
    return green(facts)


def output_range(subject: Subject) -> Finding:
    """The outputs can take the values that the loss needs: logits are not squashed, numbers not cut off."""
    logits = subject.kind in ("class", "token", "sequence", "labels") and getattr(
        subject.inner, "has_probabilities", True
    )
    if (subject.kind != "number" and not logits) or not subject.answers:
        return skipped("the outputs are neither logits nor predicted numbers")
    tripled = {**subject.moved, "params": jax.tree.map(lambda leaf: 3 * leaf, jax.device_get(subject.moved["params"]))}
    found = [subject.outputs(variables, subject.batch) for variables in (subject.variables, subject.moved, tripled)]
    both = np.concatenate([one.reshape(-1, one.shape[-1]) for one in found])
    low, high = float(both.min()), float(both.max())
    facts = f"outputs from {low:.3g} to {high:.3g}, also with all weights tripled"
    what = "the loss takes logits" if logits else "the targets go beyond that"
    encoded = np.asarray(subject.prepared["train"]["targets"])
    if logits and both.shape[1] > 1 and low >= 0 and np.allclose(both.sum(axis=-1), 1, atol=1e-3):
        return red(
            f"{facts}, and they add up to 1: they are probabilities, and {what} (softmax is applied twice).",
            "Return the outputs of the last layer without softmax.",
        )
    if max(float(one.std(axis=0).max()) for one in found) < 1e-7:
        return skipped("the outputs are the same for all examples, so their range says nothing")
    if not logits and encoded.min() >= low - 0.05 and encoded.max() <= high + 0.05:
        return green(f"{facts}; the targets lie from {encoded.min():.3g} to {encoded.max():.3g}")
    for bounds, name in (((0, 1), "a sigmoid"), ((-1, 1), "tanh")):
        if bounds[0] <= low and high <= bounds[1] and _fills(both, bounds):
            return red(
                f"{facts}: {name} is the last operation, and {what}.", "Return the last layer's outputs without it."
            )
    if low >= 0 and (both == 0).mean() > 0.02 and high > 0:
        return red(
            f"{facts}, and {(both == 0).mean():.0%} of them are exactly 0: a ReLU is the last operation, and {what}.",
            "Return the last layer's outputs without it.",
        )
    ends = ((both == low).mean(), (both == high).mean())
    if min(ends) > 0.02 and high - low < 2:
        return red(
            f"{facts}, and {sum(ends):.0%} of them are exactly at these ends: they are cut off, and {what}.",
            "Return the last layer's outputs without clip.",
        )
    return green(facts)


def _fills(values: np.ndarray, bounds: tuple[float, float]) -> bool:
    """Whether outputs within bounds come so near to one of them that a squashing function is likely."""
    size = bounds[1] - bounds[0]
    spread = float(values.max() - values.min())
    return spread > 0.1 * size and (bounds == (0, 1) or float(np.abs(values).max()) > 0.9)


def _entropy(shares: np.ndarray) -> float:
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def _dims(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
