"""Whether the model learns a few examples by heart, and every parameter of it moves."""

from typing import Any

import numpy as np

from jaxnets.checkpoints.digest import leaf_paths
from jaxnets.core.types import Lines
from jaxnets.preflight.finding import Finding, amber, green, red, skipped
from jaxnets.preflight.subject import Learning, Subject

NOT_BY_GRADIENT = "the parameters do not follow the gradient of a loss of the data"
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
            f"{len(without)} of {len(free)} parameters ({size:,} numbers) get no gradient: {listed(without)}.",
            "They have no influence on the loss: a stop_gradient, a layer that is not used, dead units, an argmax or a round "
            "in the way. Freeze what is meant to stay (freeze=...).",
        )
    if still:
        return red(
            f"{len(still)} of {len(free)} parameters have a gradient and do not move: {listed(still)}.",
            "The optimizer leaves them out, or its rate there is 0; look at its patterns and masks.",
        )
    if held:
        return amber(
            f"{len(held)} of {len(before)} parameters are frozen by the optimizer: {listed(held)}; the others move.",
            "If that is not meant, look at freeze, train_only and the optimizer's patterns.",
        )
    return green(f"all {len(before)} parameters have a gradient and move")


def listed(paths: list[str]) -> str:
    """The first of some paths, and how many more there are."""
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
    if not subject.by_gradient:
        return green(f"{facts}; its rule of learning follows no loss", figure)
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
            return amber(
                f"{facts}: it is learned after a jump, at {scale:g} times the rate too.", "Lower the rate.", figure
            )
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
    ends = [
        np.sqrt(sum(size**2 for size in norms(tree["params"]).values()))
        for tree in (subject.variables, learning.variables)
    ]
    if ends[1] < 0.3 * ends[0]:
        return red(
            f"{facts}: meanwhile the weights shrink to {ends[1] / ends[0]:.0%} of their norm.",
            "Weight decay is far too strong for this rate: lower optimizer.weight_decay.",
            figure,
        )
    return red(
        f"{facts}; other rates ({', '.join(tried)} times) do no better.",
        "The model cannot learn the examples it sees at every step: look at the loss (its sign, its targets), the outputs, "
        "and the parameters without gradient.",
        figure,
    )


def _ends(losses: np.ndarray) -> float:
    last = float(losses[-5:].mean())
    return last if np.isfinite(last) else float("inf")


def _curve(losses: np.ndarray) -> Lines:
    steps = np.arange(len(losses))
    title = "Loss while a few examples are learned"
    return Lines(title, steps, losses[None, None], ("training loss",), ("",), "step", "loss")
