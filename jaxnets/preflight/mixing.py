"""What an output may depend on: its own example alone, the tokens before it, no padding, no order.

An example is replaced by another one and the outputs of the rest are compared. This finds dependence of any kind, also on
integers, for which there is no gradient.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.core.types import Batch
from jaxnets.ops.tokens import IGNORED, PAD
from jaxnets.preflight.finding import Finding, amber, green, red, skipped
from jaxnets.preflight.subject import Subject

# Largest difference of outputs, in their own standard deviations, that is rounding: sums in another order, in float32.
ROUNDING = 1e-3
STATISTICS = "batch_stats"


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """The largest difference, in standard deviations of the first."""
    if not first.size:
        return 0.0
    scale = max(float(first.std()), 1e-3 * float(np.abs(first).max()), 1e-12)
    return float(np.abs(first - second).max()) / scale


def examples_apart(subject: Subject) -> Finding:
    """Outputs of an example do not change where the others are replaced."""
    if subject.rows < 2:
        return skipped("the data are one example")
    even = np.arange(subject.rows) % 2 == 0
    replaced, turned = swapped(subject, ~even), swapped(subject, even)
    first, second, third = (subject.outputs(subject.moved, batch) for batch in (subject.batch, replaced, turned))
    if len(first) != subject.rows:
        return red(
            f"the model gives {len(first)} outputs for {subject.rows} examples.",
            "Keep the first dim, the examples, in every reshape.",
        )
    leak = max(difference(first[even], second[even]), difference(first[~even], third[~even]))
    facts = f"half of {subject.rows} examples replaced"
    if leak > ROUNDING:
        return red(
            f"{facts}: the outputs of the others change by {leak:.2g} standard deviations, so examples mix.",
            "Look for a softmax, norm, mean or reshape over dim 0, the examples; only the other dims are those of one "
            "example.",
        )
    if not subject.answers:
        return green(f"{facts}: the outputs of the others change by {leak:.1g} of their deviation")
    if difference(first[~even], second[~even]) < 1e-7:
        return amber(
            f"{facts}: not even their own outputs change, so the model does not read its inputs.",
            "Look for dead units, a layer that is left out, or outputs that are constant.",
        )
    trained = [subject.outputs(subject.moved, batch, train=True) for batch in (subject.batch, replaced)]
    leak_in_training = difference(trained[0][even], trained[1][even])
    if leak_in_training > ROUNDING and STATISTICS not in subject.variables:
        return red(
            f"{facts}: in training the outputs of the others change by {leak_in_training:.2g} standard deviations, though the "
            f"model keeps no batch statistics for evaluation.",
            "Look for a mean, softmax or random draw over dim 0 that only training has.",
        )
    said = " In training batch norm mixes them, as it should." if leak_in_training > ROUNDING else ""
    return green(f"{facts}: the outputs of the others change by {leak:.1g} of their deviation.{said}")


def swapped(subject: Subject, rows: np.ndarray, *only: str) -> Batch:
    """The batch with some rows replaced by other examples; of the named arrays only, if there are names."""

    def swap(name: str, array: Any) -> Any:
        if only and name not in only:
            return array
        pairs = jax.device_get((array, subject.other[name]))
        return jax.tree.map(lambda a, b: np.where(rows.reshape(-1, *[1] * (a.ndim - 1)), b, a), *pairs)

    return {name: swap(name, array) for name, array in subject.batch.items()}


def loss_counts(subject: Subject) -> Finding:
    """The loss is a mean over the examples that count, each with its own target."""
    if subject.rows < 4 or not subject.by_gradient:
        return skipped("there is one example" if subject.by_gradient else "the task has no loss of one batch")
    even = np.arange(subject.rows) % 2 == 0
    odd = (~even).astype(np.float32)

    def loss(batch: Batch, mask: Any = None) -> tuple[float, float, float]:
        total, weight = subject.loss(subject.moved, batch if mask is None else {**batch, "mask": mask})
        return total, weight, total / max(weight, 1e-30)

    whole, first, second = loss(subject.batch), loss(subject.batch, 1 - odd), loss(subject.batch, odd)
    unit = max(abs(whole[2]), abs(first[2]), 1e-6)
    facts = f"loss {whole[2]:.4g} for {subject.rows} examples, {first[2]:.4g} and {second[2]:.4g} for the halves"
    if abs(whole[1] - first[1]) < 1e-6 * whole[1] and abs(whole[0] - first[0]) < 1e-5 * max(abs(whole[0]), 1e-6):
        return red(
            f"{facts}: rows whose mask is 0 count.",
            "Multiply the values by batch['mask'] and divide by its sum, or return one value for each example.",
        )
    parts = (first[2] * first[1] + second[2] * second[1]) / max(first[1] + second[1], 1e-30)
    if abs(whole[2] - first[2] - second[2]) < 1e-3 * unit and abs(whole[2] - parts) > 1e-2 * unit:
        return red(
            f"{facts}: the loss is a sum, so the rate of learning grows with the batch.",
            "Divide by the number of examples, or return one value for each example.",
        )
    for names, what in (((), "examples"), (("targets",), "targets")):
        changed = loss(swapped(subject, ~even, *names), 1 - odd)
        if abs(changed[2] - first[2]) > 1e-3 * unit:
            only_targets = loss(swapped(subject, ~even, "targets"), 1 - odd)
            mixes = "targets" if abs(only_targets[2] - first[2]) > 1e-3 * unit else what
            return red(
                f"the loss of {int(even.sum())} examples goes from {first[2]:.4g} to {changed[2]:.4g} where the {mixes} of "
                f"others, whose mask is 0, are replaced.{_broadcast(subject)}",
                "Predictions [B, 1] and targets [B] broadcast to [B, B]: give both the same shape."
                if mixes == "targets"
                else "The model mixes examples, or a reshape in the loss does.",
            )
    if (finding := _class_weights(subject)) is not None:
        return finding
    if abs(whole[2] - parts) > 1e-2 * unit:
        return amber(
            f"{facts}: not their mean.", "The loss of an example depends on how many there are; see that you mean it."
        )
    return green(f"{facts}; masked rows and the targets of others change nothing")


def _class_weights(subject: Subject) -> Finding | None:
    """A finding where a class has no weight in the loss, or a rare class less than a frequent one."""
    labels = np.asarray(subject.batch["targets"])
    if subject.kind != "class" or labels.ndim != 1:
        return None
    names = subject.parts.dataset.card.class_names
    weights = {}
    for label in np.unique(labels).tolist():
        mask = (labels == label).astype(np.float32)
        weights[label] = subject.loss(subject.variables, {**subject.batch, "mask": mask})[1] / float(mask.sum())
    nothing = [names[label] for label, weight in weights.items() if weight == 0]
    if nothing:
        return red(
            f"examples of {', '.join(nothing[:4])} have weight 0 in the loss.", "Look at class_weight, and at the mask."
        )
    counts = np.bincount(subject.samples["train"]["targets"].astype(int), minlength=len(names))
    rare, common = (pick(weights, key=lambda label: counts[label]) for pick in (min, max))
    if counts[common] > 1.5 * counts[rare] and weights[rare] < 0.7 * weights[common]:
        return amber(
            f"class {names[rare]} has {counts[rare]} of {counts.sum()} examples and weight {weights[rare]:.3g}, class "
            f"{names[common]} has {counts[common]} and weight {weights[common]:.3g}: the weights make the rare one rarer.",
            "Take the inverse: class_weight='balanced'.",
        )
    return None


def _broadcast(subject: Subject) -> str:
    """What JAX says of arrays of different ranks in a loss of the user's."""
    objective = getattr(subject.task, "objective", None)
    if objective is None:
        return ""
    outputs = jax.eval_shape(lambda: subject.inner.apply(subject.variables, subject.batch, None)[0])
    try:
        with jax.numpy_rank_promotion("raise"):
            jax.eval_shape(objective, outputs, subject.batch)
    except ValueError as error:
        return f" JAX says: {str(error).split('.')[0][:160]}."
    except Exception:  # the user's own code, for other reasons
        return ""
    return ""


def order(subject: Subject) -> Finding:
    """Outputs go with their examples in any order, and with the nodes of a graph."""
    if "node_mask" in subject.batch:
        return _nodes(subject)
    if subject.rows < 2:
        return skipped("the data are one example")
    reversed_ = jax.tree.map(lambda a: a[::-1], jax.device_get(subject.batch))
    first, second = (subject.outputs(subject.moved, batch) for batch in (subject.batch, reversed_))
    apart = difference(first, second[::-1])
    if apart > ROUNDING:
        return red(
            f"with the examples in the opposite order the outputs change by {apart:.2g} standard deviations.",
            "The model looks at the place of an example in the batch: a fixed random mask (dropout with a constant key, which "
            "evaluation should not have), a position, or a reshape over dim 0.",
        )
    return green(f"examples in the opposite order: outputs change by {apart:.1g} of their deviation")


def _nodes(subject: Subject) -> Finding:
    """Outputs of a graph do not depend on the numbers of its nodes."""
    batch, count = subject.batch, subject.batch["node_mask"].shape[1]
    new = np.random.default_rng(0).permutation(count)
    where = jnp.asarray(np.argsort(new))
    moved = {**batch, "edges": where[batch["edges"]]}
    for name, array in batch.items():
        if name != "edges" and array.ndim > 1 and array.shape[1] == count and not name.startswith("edge"):
            moved[name] = array[:, jnp.asarray(new)]
    first, second = subject.outputs(subject.moved, batch), subject.outputs(subject.moved, moved)
    if first.ndim > 2 and first.shape[1] == count:
        first = first[:, new]
    apart = difference(first, second)
    if apart > ROUNDING:
        return red(
            f"with other numbers for the {count} nodes the outputs change by {apart:.2g} standard deviations.",
            "A graph has no order: sum, mean or attend over neighbours, and read no position of a node.",
        )
    return green(f"{count} nodes with other numbers: outputs change by {apart:.1g} of their deviation")


def causal(subject: Subject) -> Finding:
    """Predictions of a token do not see it or what follows."""
    if subject.kind not in ("token", "sequence") or not subject.answers:
        return skipped("the model does not predict tokens from those before")
    name = "inputs" if subject.kind == "token" else "targets"
    tokens = np.asarray(subject.batch[name])
    at, size = tokens.shape[1] // 2, max(2, len(subject.parts.dataset.card.class_names))
    # The token at a place is read by the logits of that place in a language model, and by those of the next in a decoder.
    seen = at if subject.kind == "token" else at + 1
    later = np.random.default_rng(0).integers(min(4, size - 2), size, tokens.shape)
    changed = np.where(np.arange(tokens.shape[1])[None, :] >= at, later, tokens).astype(tokens.dtype)
    first, second = (
        subject.outputs(subject.moved, {**subject.batch, name: jnp.asarray(array)}) for array in (tokens, changed)
    )
    leak = difference(first[:, :seen], second[:, :seen])
    if leak > ROUNDING:
        return red(
            f"tokens from place {at} on replaced: logits before it change by {leak:.2g} standard deviations, so the model "
            f"sees what it should predict.",
            "Mask attention to later places (a lower triangle, before softmax), pad convolutions on the left, and shift the "
            "targets by one.",
        )
    if subject.kind == "token" and (shifted := _shifts(subject)):
        return shifted
    used = difference(first[:, seen:], second[:, seen:])
    if used < 1e-7:
        return amber(
            f"tokens from place {at} on replaced: no logits change at all.", "The model does not read its tokens."
        )
    return green(f"tokens from place {at} on replaced: logits before it change by {leak:.1g} of their deviation")


def _shifts(subject: Subject) -> Finding | None:
    """A finding where the targets are not the next tokens."""
    inputs, targets = (np.asarray(subject.batch[name]) for name in ("inputs", "targets"))
    counted = targets != IGNORED
    length = targets.shape[1]

    def agrees(shift: int) -> float:
        there = counted[:, : length - shift] & (np.arange(length - shift)[None, :] >= 0)
        same = targets[:, : length - shift] == inputs[:, shift:]
        return float(same[there].mean()) if there.any() else 0.0

    next_one = agrees(1) if length > 1 else 1.0
    for shift, what in ((0, "the token that the model reads there"), (2, "the token after the next")):
        if shift < length and agrees(shift) > 0.999 and next_one < 0.9:
            return red(f"the targets are {what}.", "Shift them: the target at a place is the input at the next place.")
    return None


def padding(subject: Subject) -> Finding:
    """What is padding has no influence on outputs and loss."""
    batch, card = subject.batch, subject.parts.dataset.card
    unread: dict[str, Callable[[Any], Any]] = {}
    what = ""
    if "node_mask" in batch and "edge_mask" in batch:
        hidden = ~np.asarray(batch["node_mask"], bool)
        what = f"{int(hidden.sum())} nodes that are padding"
        if hidden.any():
            unread["inputs"] = lambda a: jnp.where(jnp.asarray(hidden)[..., None], a + 7, a)
    elif "lengths" in batch and getattr(batch["inputs"], "ndim", 0) > 1:
        beyond = np.arange(batch["inputs"].shape[1])[None, :] >= np.asarray(batch["lengths"])[:, None]
        what = f"{int(beyond.sum())} steps beyond the lengths"
        if beyond.any():
            wide = jnp.asarray(beyond).reshape(*beyond.shape, *[1] * (batch["inputs"].ndim - 2))
            unread["inputs"] = lambda a: jnp.where(wide, (a + 7).astype(a.dtype), a)
    elif card.tokens is not None and subject.kind in ("class", "labels", "number"):
        ids = np.asarray(batch["inputs"])
        wider = {**batch, "inputs": jnp.pad(batch["inputs"], ((0, 0), (0, 3)), constant_values=PAD)}
        try:
            first, second = subject.outputs(subject.moved, batch), subject.outputs(subject.moved, wider)
        except Exception:  # a model of one length only
            return skipped(f"the model takes sequences of {ids.shape[1]} tokens only")
        return _padding("3 tokens of padding added", difference(first, second))
    if not unread:
        return skipped(f"there are no {what.split(' ', 1)[1]}" if what else "the data have no padding")
    changed = {**batch, **{name: change(batch[name]) for name, change in unread.items()}}
    first, second = (subject.outputs(subject.moved, one) for one in (batch, changed))
    if first.ndim > 2 and "node_mask" in batch:
        real = np.asarray(batch["node_mask"], bool)
        first, second = first[real], second[real]
    return _padding(f"{what} changed", difference(first, second))


def _padding(facts: str, leak: float) -> Finding:
    if leak > ROUNDING:
        return red(
            f"{facts}: outputs change by {leak:.2g} standard deviations, so padding counts.",
            "Mask it in attention, sums and means (divide by the real number of steps), and read a recurrent net's state at "
            "the last real step.",
        )
    return green(f"{facts}: outputs change by {leak:.1g} of their deviation")
