"""Whether the model learns a few examples, every parameter of it, and whether gradients reach all of it."""

from typing import Any

import jax
import numpy as np

from jaxnets.checkpoints.digest import leaf_paths
from jaxnets.core.types import Lines
from jaxnets.diagnose.gradients import dead_units
from jaxnets.preflight.finding import Finding, amber, green, red, skipped
from jaxnets.preflight.subject import Learning, Subject

NOT_BY_GRADIENT = "the parameters do not follow the gradient of one loss"
# The share of its norm by which one update changes the middle one of the layers, from which on the rate is high.
LARGE_UPDATE = 0.3
# Names that a sentence lists.
SHOWN = 6


def norms(tree: Any) -> dict[str, float]:
    """The norm of each leaf, by path."""
    return {path: float(np.linalg.norm(np.ravel(leaf).astype(np.float64))) for path, leaf in leaf_paths(tree).items()}


def parameters(subject: Subject) -> Finding:
    """Every parameter has a gradient and moves."""
    if not subject.by_gradient:
        return skipped(NOT_BY_GRADIENT)
    params = subject.variables["params"]
    frozen = subject.parts.recipe.frozen
    held = [] if frozen is None else [path for path, fixed in leaf_paths(frozen(params)).items() if fixed]
    first, later = norms(subject.gradient), norms(subject.later_gradient)
    before, after = (leaf_paths(tree["params"]) for tree in (subject.variables, subject.learned.variables))
    free = [path for path in before if path not in held]
    without = [path for path in free if first[path] == 0 and later[path] == 0]
    still = [path for path in free if path not in without and np.array_equal(before[path], after[path])]
    if not free:
        return red(f"all {len(before)} parameters are frozen.", "Let the optimizer train some.")
    if without:
        size = sum(before[path].size for path in without)
        return red(
            f"{len(without)} of {len(free)} parameters ({size:,} numbers) get no gradient: {_listed(without)}.",
            "They have no influence on the loss: a stop_gradient, a layer that is not used, dead units, an argmax or a round "
            "in the way. Freeze what is meant to stay (freeze=...).",
        )
    if still:
        return red(
            f"{len(still)} of {len(free)} parameters have a gradient and do not move: {_listed(still)}.",
            "The optimizer leaves them out, or its rate there is 0; look at its patterns and masks.",
        )
    if held:
        return amber(
            f"{len(held)} of {len(before)} parameters are frozen by the optimizer: {_listed(held)}; the others move.",
            "If that is not meant, look at freeze, train_only and the optimizer's patterns.",
        )
    return green(f"all {len(before)} parameters have a gradient and move")


def _listed(paths: list[str]) -> str:
    return ", ".join(paths[:SHOWN]) + (f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else "")


def overfit(subject: Subject) -> Finding:
    """A handful of examples can be learned by heart, by the run's own optimizer."""
    learning = subject.learned
    losses, floor = learning.losses, subject.floor
    figure = _curve(losses)
    start, last = float(losses[0]), float(losses[-5:].mean())
    facts = f"{subject.rows} examples, {len(losses)} steps: loss {start:.4g} to {last:.4g}"
    if subject.task.players:
        if not np.isfinite(losses).all():
            return red(f"{facts}.", "The players diverge: lower their rates.")
        return green(f"{facts}; {len(subject.task.players)} players, whose losses need not fall", figure)
    if not np.isfinite(losses).all():
        return _with_other_rates(subject, learning, f"{facts}, not finite", figure)
    if subject.kind and subject.kind != "labels" and last < -1e-3:
        return red(
            f"{facts}: the loss falls below 0, which it cannot.{_score(subject)}",
            "Look for its sign: what is minimised is the negative of a loss.",
            figure,
        )
    peak = float(losses[: max(10, len(losses) // 10)].max())
    jumps = peak > 3 * max(abs(start), 1e-6) and subject.kind != "" and not subject.given_weights
    share = min((last - floor) / max(abs(start - floor), 1e-12), _evaluated(subject) / max(abs(start), 1e-12))
    if subject.kind and (jumps or share > 0.5):
        return _with_other_rates(subject, learning, facts + (f", after a peak of {peak:.3g}" if jumps else ""), figure)
    if not subject.kind:
        fell = start - last > 0.02 * abs(start)
        if fell or learning.out_of_time:
            return green(facts, figure)
        return amber(f"{facts}.", "The loss does not fall on the examples it sees at every step.", figure)
    if subject.kind and learning.first_update > LARGE_UPDATE and not subject.given_weights:
        return amber(
            f"{facts}; but one update at the highest rate changes the weights of a layer by {learning.first_update:.0%} of "
            f"their norm, where 0.1% to 10% is usual.",
            "The rate of learning is high: try a tenth.",
            figure,
        )
    if share > 0.15:
        return amber(
            f"{facts}, {share:.0%} of the start{' when its time was up' if learning.out_of_time else ''}.",
            "A model that can learn the task learns so few by heart: is it large enough, the rate right, dropout not too "
            "much?",
            figure,
        )
    return green(f"{facts}{_score(subject)}", figure)


def _evaluated(subject: Subject) -> float:
    """The loss of the learned examples without dropout."""
    total, weight = subject.loss(subject.moved, subject.batch)
    return total / max(weight, 1e-30) if np.isfinite(total) and total > 0 else float("inf")


def _score(subject: Subject) -> str:
    """How the learned examples are predicted."""
    if not subject.answers or subject.kind != "class" or subject.batch["targets"].ndim != 1:
        return ""
    right = subject.outputs(subject.moved, subject.batch).argmax(axis=-1) == np.asarray(subject.batch["targets"])
    return f"; {right.mean():.0%} of them are then predicted"


def _with_other_rates(subject: Subject, learning: Learning, facts: str, figure: Lines) -> Finding:
    """The finding for examples that are not learned: whether other rates would do, or none."""
    losses, floor = learning.losses, subject.floor
    start = float(losses[0])
    rough = not np.isfinite(losses).all() or losses.max() > 3 * max(abs(start), 1e-6)
    tried = []
    for scale in (0.01, 0.1, 0.001) if rough else (10.0, 100.0, 1e3, 1e4, 0.1, 0.01):
        other = subject.learn(scale, steps=150, seconds=subject.seconds / 3)
        tried.append(f"{scale:g}")
        last, calm = float(other.losses[-1]), other.losses.max() <= 1.5 * max(abs(start), 1e-6)
        fell = np.isfinite(other.losses).all() and (last - floor) < 0.4 * (start - floor)
        slow = learning.out_of_time and len(losses) < 100  # there was no time to see whether it falls
        if fell and (calm or not rough) and last < 0.8 * _ends(losses):
            high = scale < 1
            what = f"the rate of learning is far too {'high' if high else 'low'}"
            how = f"with {scale:g} times the rate the loss goes to {last:.3g}"
            remedy = f"Try about {scale:g} times optimizer.learning_rate."
            severe = scale <= 0.1 if high else scale >= 1e3 and not subject.given_weights
            made = red if severe and not slow else amber
            return made(f"{facts}: {what}; {how}{' without a jump' if rough else ''}.", remedy, figure)
        if rough and fell and _ends(losses) < 0.1 * start:
            return amber(f"{facts}: it is learned after a jump, at {scale:g} times the rate too.", "Lower the rate.", figure)
    share = (_ends(losses) - floor) / max(abs(start - floor), 1e-12)
    if learning.out_of_time or share < 0.8:
        clock = " when its time was up" if learning.out_of_time else ""
        return amber(
            f"{facts}{clock}; other rates ({', '.join(tried)} times) do no better.",
            "Give it more time (--seconds), a larger model, or examples that differ.",
            figure,
        )
    if 0 <= learning.first_update < 1e-6:
        return red(
            f"{facts}: one update changes the weights by {learning.first_update:.1g} of their norm, which is nothing.",
            "The rate, a schedule that begins at 0, clip_norm or a mask takes the updates away.",
            figure,
        )
    ends = [np.sqrt(sum(size**2 for size in norms(tree["params"]).values())) for tree in (subject.variables, learning.variables)]
    if ends[1] < 0.3 * ends[0]:
        return red(
            f"{facts}: meanwhile the weights shrink to {ends[1] / ends[0]:.0%} of their norm.",
            "Weight decay is far too strong for this rate: lower optimizer.weight_decay.",
            figure,
        )
    return red(
        f"{facts}; other rates ({', '.join(tried)} times) do no better.",
        "The model cannot learn the examples it sees at every step: look at the loss (its sign, its targets), the outputs, and "
        "the parameters without gradient.",
        figure,
    )


def _ends(losses: np.ndarray) -> float:
    last = float(losses[-5:].mean())
    return last if np.isfinite(last) else float("inf")


def _curve(losses: np.ndarray) -> Lines:
    steps = np.arange(len(losses))
    title = "Loss while a few examples are learned"
    return Lines(title, steps, losses[None, None], ("training loss",), ("",), "step", "loss")


def units(subject: Subject) -> Finding:
    """Units that no example wakes up, and units that are at their ends."""
    if not subject.by_gradient or not subject.answers:
        return skipped(NOT_BY_GRADIENT if subject.answers else "the model is not called on the inputs alone")
    if not any(path.endswith("kernel") for path in leaf_paths(subject.variables["params"])):
        return skipped("the model has no layer with a kernel")

    def shares(variables: Any) -> dict[str, float]:
        rest = {name: value for name, value in variables.items() if name != "params"}
        return dead_units(
            lambda params, batch: subject.inner.apply({"params": params, **rest}, batch, None)[0],
            variables["params"],
            subject.batch,
        )

    # Layers behind one that begins at zero have no gradient at first, and frozen or zeroed ones wake up later.
    dead = shares(subject.variables)
    if max(dead.values()) > 0.4:
        later = shares(subject.moved)
        dead = {name: min(share, later[name]) for name, share in dead.items()}
    worst = max(dead, key=lambda name: dead[name])
    facts = f"{dead[worst]:.0%} of the units of {worst} get no gradient from any of {subject.rows} examples"
    if dead[worst] > 0.9:
        return red(
            f"{facts}.",
            "They are dead or saturated: look at the scale of inputs and initial weights and at the biases; leaky ReLU, GELU "
            "or a norm before the activation keep units alive.",
        )
    if dead[worst] > 0.5:
        return amber(f"{facts}.", "Smaller initial weights, a smaller rate, a norm, or leaky ReLU keep more units alive.")
    return green(facts)


def gradients(subject: Subject) -> Finding:
    """Gradients of the first and last layers have the same order of magnitude."""
    if not subject.by_gradient:
        return skipped(NOT_BY_GRADIENT)
    found = norms(subject.gradient)
    if sum(value == 0 for value in found.values()) > 0.3 * len(found):
        found = norms(subject.later_gradient)  # layers behind one that begins at zero
    params = leaf_paths(subject.variables["params"])
    ranks = {path: rank for rank, path in enumerate(subject.layers)}
    kernels = [path for path, leaf in params.items() if leaf.ndim > 1 and found[path] > 0]
    if len(kernels) < 2:
        return skipped("there are fewer than two layers with a gradient")
    kernels.sort(key=lambda path: ranks.get(path.rpartition("/")[0], len(ranks)))
    sizes = np.array([found[path] / np.sqrt(params[path].size) for path in kernels])
    figure = Lines(
        "Gradient of each layer, first to last",
        np.arange(len(kernels)),
        np.log10(sizes)[None, None],
        ("log10 of its root mean square",),
        (f"{kernels[0]} to {kernels[-1]}",),
        "layer",
        "",
    )
    first, last = float(sizes[0]), float(sizes[-1])
    facts = f"root mean square {first:.2g} in {kernels[0]}, {last:.2g} in {kernels[-1]}"
    if first < 1e-6 * last:
        return red(
            f"{facts}: the gradient vanishes on its way.",
            "Use ReLU or GELU in place of saturating activations, residual connections, a norm, or an initialisation for the "
            "activation (He for ReLU).",
            figure,
        )
    if first < 1e-3 * last:
        return amber(f"{facts}: the first layers learn slowly.", "Residual connections, a norm or another initialisation.", figure)
    if first > 1e4 * last or max(sizes) > 1e4:
        return amber(
            f"{facts}: the gradient explodes on its way.", "Clip it (clip_norm), scale the inputs, add norms.", figure
        )
    return green(facts, figure)


def bias_before_norm(subject: Subject) -> Finding:
    """A bias that the next norm takes away again."""
    if not subject.by_gradient:
        return skipped(NOT_BY_GRADIENT)
    found = norms(subject.later_gradient)
    useless = [
        path
        for path, value in found.items()
        if path.endswith("/bias")
        and 0 < value < 1e-5 * found.get(path.removesuffix("bias") + "kernel", 0.0)
        and not path.endswith("key/bias")  # softmax takes it away, and every library has it
    ]
    if useless:
        return amber(
            f"{len(useless)} biases have no influence on the loss in training: {_listed(useless)}.",
            "A norm over the batch (or a softmax) follows and takes them away; leave them out (use_bias=False).",
        )
    return green("no bias is taken away by a norm behind it")


def derivatives(subject: Subject) -> Finding:
    """The gradient is that of the loss: it agrees with finite differences in random directions."""
    if not subject.by_gradient:
        return skipped(NOT_BY_GRADIENT)
    variables = subject.variables
    # On the host: each of these operations on the device would be a program of its own.
    params, rng = jax.device_get(variables["params"]), np.random.default_rng(0)
    start, slope = subject.slope(variables)
    gradient, frozen = jax.device_get(slope), subject.parts.recipe.frozen
    held = jax.tree.map(lambda _: False, params) if frozen is None else frozen(params)

    def drawn(p: np.ndarray, g: np.ndarray, fixed: bool) -> np.ndarray:
        """As large as the parameter itself, and half of it along the gradient, so that it is not lost in it."""
        size = 0.0 if fixed else np.sqrt(np.square(p).mean()) + 1e-2
        return (size * (rng.normal(size=p.shape) + np.sign(g))).astype(p.dtype)

    def along(direction: Any, size: float) -> float:
        ends = [jax.tree.map(lambda p, d: p + (sign * size * d).astype(p.dtype), params, direction) for sign in (1, -1)]
        first, second = (subject.slope({**variables, "params": there})[0] for there in ends)
        return (first - second) / (2 * size)

    errors = []
    for _ in range(2):
        direction = jax.tree.map(drawn, params, gradient, held)
        pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
        inner = [float(np.vdot(g.astype(np.float64), d)) for g, d in pairs]
        expected, scale = sum(inner), float(np.sqrt(np.square(inner).sum())) + 1e-12
        found = []
        # In float32 a small step is lost in rounding, and a large one in curvature: the best of three counts.
        for size in (1e-2, 3e-3, 1e-3):
            rounding = 1e-6 * max(abs(start), 1e-3) / size
            found.append(max(0.0, abs(along(direction, size) - expected) - rounding) / scale)
        errors.append(min(found))
    error = float(max(errors))
    facts = f"the derivative in 2 random directions differs from finite differences by {error:.1%}"
    if error > 0.1:
        return amber(
            f"{facts}.",
            "Some part of the loss has another gradient than its own: stop_gradient, a custom_vjp, rounding, a straight-through "
            "estimator. If none is meant, look there.",
        )
    return green(facts)


def modes(subject: Subject) -> Finding:
    """Evaluation is deterministic; training differs from it only by what is there for it."""
    if not subject.answers:
        return skipped("the model is not called on the inputs alone")
    rates = [getattr(module, "rate", 0.0) for module in subject.layers.values() if type(module).__name__ == "Dropout"]
    drops = any(isinstance(rate, int | float) and rate > 0 for rate in rates)
    drops = drops or any(bool(getattr(subject.inner.model, name, 0)) for name in ("dropout", "drop_path"))
    statistics = "batch_stats" in subject.variables
    said = [name for name, there in (("dropout", drops), ("batch norm", statistics)) if there]
    first, again = (subject.outputs(subject.variables, subject.batch, seed=seed) for seed in (0, 1))
    if not np.array_equal(first, again, equal_nan=True):
        return red("two evaluations of the same batch differ.", "Draw random numbers in training only (train=True).")
    variables = subject.moved
    drawn = [subject.outputs(variables, subject.batch, train=True, seed=seed) for seed in (0, 1)]
    still = subject.outputs(variables, subject.batch)
    spread = max(float(still.std()), 1e-12)
    random = float(np.abs(drawn[0] - drawn[1]).max()) / spread
    apart = float(np.abs(drawn[0] - still).max()) / spread
    if drops and random == 0:
        return amber(
            "the model has dropout, and two training calls with other keys give the same.",
            "Its rate is 0, or it always runs as in evaluation: pass `deterministic=not train`.",
        )
    before, after = (jax.tree.leaves(jax.device_get(tree.get("batch_stats", {}))) for tree in (subject.variables, variables))
    if before and all(np.array_equal(a, b) for a, b in zip(before, after, strict=True)):
        return amber(
            "the statistics of batch norm are the same after training steps, so evaluation uses those of no data.",
            "Its momentum is 1, or it always runs as in evaluation: pass `use_running_average=not train`.",
        )
    facts = f"evaluation is deterministic; the model has {' and '.join(said) or 'neither dropout nor batch norm'}"
    if not drops and not statistics and apart > 1e-3 and random == 0:
        return amber(
            f"{facts}, and training differs from it by {apart:.2g} standard deviations.",
            "Look for what reads `train`, the other way round perhaps.",
        )
    return green(f"{facts}; two training calls differ by {random:.2g} standard deviations")

