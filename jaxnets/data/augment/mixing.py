"""Examples mixed with others of the batch: mixup, CutMix, and values swapped between rows.

It is done over the whole batch of a step, before the batch is split between micro-batches or replicas, so the result depends
on neither. Each example has its own share, drawn from its own key (Zhang et al. draw one for the whole batch; the
expected loss is the same, its variance is smaller).

Shapes: `B` batch, `C` classes.
"""

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.errors import DataError
from jaxnets.core.types import Batch
from jaxnets.data.augment.base import Facts, keys_of, wrong_inputs
from jaxnets.data.augment.geometry import inside_box

# The arrays that a batch may have if examples are mixed: any other array would belong to one of the two examples.
MIXED = ("inputs", "targets", "weights", "mask", "index")
# Targets that are averaged: one-hot classes, labels, real numbers.
AVERAGED = ("class", "distribution", "labels", "number", "any", "series")
# The label of a `labels` target that is not known (`data.targets.UNKNOWN_LABEL`).
UNKNOWN = -1


def check_mixing(what: str, facts: Facts) -> None:
    """Raise `DataError` if examples of these data cannot be averaged."""
    if facts.tokens or facts.several:
        raise wrong_inputs(
            what, "one array of real numbers", facts, "Leave it out: tokens and named inputs are not averaged"
        )
    more = [name for name in facts.arrays if name not in MIXED]
    if more or facts.kind not in AVERAGED:
        held = f"the array {more[0]!r}" if more else f"targets of kind {facts.kind!r}"
        raise DataError(
            f"{facts.name}: {what} averages inputs and targets, but the data have {held}, which has no average; leave it out"
        )


def partners(key: Array, mask: Array) -> Array:
    """For each row the number of its partner, `[B]` int32: a cycle through all rows whose mask is not 0, in random order.

    Each row has another one as its partner (if there are two), each is the partner of one, and each pair is equally likely.
    Rows whose mask is 0 are their own partners.
    """
    count = mask.shape[0]
    draws = jax.random.uniform(key, (count,))
    order = jnp.argsort(jnp.where(mask > 0, draws, 2.0))  # rows that count come first
    place = jnp.argsort(order)
    counted = (mask > 0).sum()
    after = jnp.where(place + 1 < counted, place + 1, 0)
    return jnp.where(mask > 0, order[after], jnp.arange(count))


def shares(keys: Array, alpha: float) -> Array:
    """A share of Beta(alpha, alpha) for each key, `[B]` float32."""
    return jax.vmap(lambda key: jax.random.beta(key, alpha, alpha))(keys)


def mixup(
    batch: Batch, key: Array, alpha: float, facts: Facts, *, only: int | None = None, first: Batch | None = None
) -> Batch:
    """Mixup (Zhang et al. 2018): `share * x_i + (1 - share) * x_j` for inputs and targets.

    Args:
        batch: `inputs` `[B, ...]`, `targets` `[B, ...]`, `mask` `[B]`. Weights in the mask are averaged like targets.
        key: key of the step.
        alpha: parameter of the distribution of the shares.
        facts: number of classes and kind of the targets; class numbers become `[B, C]`.
        only: change the examples with this random bit, 0 or 1; None: all.
        first: the batch before the examples with the other bit were changed.
    """
    given = batch if first is None else first
    pair_key, share_key = jax.random.split(key)
    partner = partners(pair_key, given["mask"])
    keys = keys_of(given, share_key)
    share = shares(keys, alpha)
    mixed = _average(given, partner, share, facts)
    mixed["inputs"] = _between(given["inputs"], given["inputs"][partner], share, given["mask"])
    return _where(_chosen(keys, only), mixed, batch, facts)


def cutmix(batch: Batch, key: Array, alpha: float, facts: Facts, *, only: int | None = None) -> Batch:
    """CutMix (Yun et al. 2019): a rectangle is taken from the partner; targets are averaged by the area that is kept.

    The rectangle has the shape of the image, the drawn share of its area, and its centre anywhere; it is clipped at the
    border, and the share that counts is that of the pixels that are kept.
    """
    pair_key, share_key = jax.random.split(key)
    partner = partners(pair_key, batch["mask"])
    keys = keys_of(batch, share_key)
    H, W = batch["inputs"].shape[1:3]

    def cut(key: Array, share: Array) -> Array:
        box_key = jax.random.fold_in(key, 2)
        side = jnp.sqrt(1.0 - share)
        height, width = jnp.floor(H * side).astype(jnp.int32), jnp.floor(W * side).astype(jnp.int32)
        row, column = jax.random.randint(box_key, (2,), 0, jnp.array([H, W]))
        return inside_box((H, W), row - height // 2, column - width // 2, height, width)

    inside = jax.vmap(cut)(keys, shares(keys, alpha))  # [B, H, W, 1]
    kept = 1.0 - inside.mean(axis=(1, 2, 3))
    mixed = _average(batch, partner, kept, facts)
    inside = inside & (batch["mask"] > 0)[:, None, None, None]
    mixed["inputs"] = jnp.where(inside, batch["inputs"][partner], batch["inputs"])
    return _where(_chosen(keys, only), mixed, batch, facts)


def swap(inputs: Array, keys: Array, partner: Array, rate: float) -> Array:
    """Swap noise: each value of `inputs` `[B, F]` becomes that of the partner's row with probability `rate`."""
    drawn = jax.vmap(lambda key: jax.random.bernoulli(key, rate, inputs.shape[1:]))(keys)
    return jnp.where(drawn, inputs[partner], inputs)


def soft_targets(targets: Array, facts: Facts) -> Array:
    """Class numbers `[B]` as distributions `[B, C]` float32; other targets as float32."""
    if facts.kind == "class" and jnp.issubdtype(targets.dtype, jnp.integer):
        return jax.nn.one_hot(targets, facts.classes, dtype=jnp.float32)
    return targets.astype(jnp.float32)


def _average(batch: Batch, partner: Array, share: Array, facts: Facts) -> Batch:
    """The batch with targets and weights averaged."""
    mask = batch["mask"]
    targets = soft_targets(batch["targets"], facts)
    mixed = _between(targets, targets[partner], share, mask)
    if facts.kind == "labels":
        mixed = jnp.where((targets < 0) | (targets[partner] < 0), UNKNOWN, mixed)
    return {**batch, "targets": mixed, "mask": _between(mask, mask[partner], share, mask)}


def _between(own: Array, other: Array, share: Array, mask: Array) -> Array:
    """`share * own + (1 - share) * other`, exactly `own` where both are equal or the row does not count."""
    shape = (-1,) + (1,) * (own.ndim - 1)
    share, counts = share.reshape(shape), (mask > 0).reshape(shape)
    return jnp.where(counts, own + (1.0 - share) * (other - own), own)


def _chosen(keys: Array, only: int | None) -> Array | None:
    """Which examples are changed: those with the random bit `only`."""
    if only is None:
        return None
    coins = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, 1)))(keys)
    return coins == bool(only)


def _where(chosen: Array | None, mixed: Batch, batch: Batch, facts: Facts) -> Batch:
    """The mixed examples where they are chosen, else those of `batch`."""
    if chosen is None:
        return mixed
    old = {**batch, "targets": soft_targets(batch["targets"], facts)}
    changed = {
        name: jnp.where(chosen.reshape((-1,) + (1,) * (mixed[name].ndim - 1)), mixed[name], old[name])
        for name in ("inputs", "targets", "mask")
    }
    return {**batch, **changed}
