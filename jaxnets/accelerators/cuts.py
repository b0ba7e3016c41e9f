"""Which dim of a value a mesh axis splits, followed through the operations of a jaxpr from the parameters on.

The compiler's rules, as far as layers need them: a product has the split of its operands but along what it sums over, and the
result of a sum over a split dim is whole again (an all-reduce). The result of an operation that is not known here counts as
whole, and so does a dim that is merged behind another one.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax

from jaxnets.parallel.partition import RULES, path_name, rule_of

# Operations that are not element by element and keep the split of an operand of the same shape.
# fmt: off
KEEPS = frozenset((
    "cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum", "dynamic_slice", "dynamic_update_slice", "name",
    "reduce_precision", "rev", "sharding_constraint", "shard_map", "split",
))
# fmt: on


def cuts_of(params: Any) -> list[int | None]:
    """The dim of each parameter that the axis `tensor` splits, where its size allows it."""

    def cut(path: Any, shape: Sequence[int]) -> int | None:
        rule = rule_of(f"params/{path_name(path)}", RULES)
        if rule is None or "tensor" not in rule.axes or len(rule.axes) > len(shape):
            return None
        return len(shape) - len(rule.axes) + rule.axes.index("tensor")

    return [cut(path, leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]


def cut_of(equation: Any, place: int, cuts: Sequence[int | None], *, cheap: bool) -> int | None:
    """The split dim of a result of an operation; None: it is whole.

    Args:
        equation: the operation.
        place: of the result among its results.
        cuts: the split dim of each operand.
        cheap: whether it works element by element, or moves elements only.
    """
    if all(cut is None for cut in cuts):
        return None
    name, out = equation.primitive.name, equation.outvars[place].aval
    if name == "dot_general":
        return _of_product(equation, cuts)
    if name == "conv_general_dilated":
        return _of_convolution(equation, cuts)
    if name in ("ragged_dot", "ragged_dot_general"):  # `[tokens, K]` and `[groups, K, N]`
        return out.ndim - 1 if cuts[0] is None and cuts[1] == equation.invars[1].aval.ndim - 1 else None
    if name == "optimization_barrier":
        return cuts[place]
    for var, cut in zip(equation.invars, cuts, strict=True):
        if cut is not None:
            return _after(name, equation.params, var.aval.shape, out.shape, cut, cheap or name in KEEPS)
    return None


def _after(name: str, params: Any, before: Sequence[int], after: Sequence[int], cut: int, keeps: bool) -> int | None:
    """Where the split dim of an operand is in the result of an operation that has no other one that is split."""
    if name == "transpose":
        return list(params["permutation"]).index(cut)
    if name == "broadcast_in_dim":
        return int(params["broadcast_dimensions"][cut])
    if name in ("reshape", "squeeze", "expand_dims"):
        outer = math.prod(before[:cut])
        return next((dim for dim in range(len(after)) if after[dim] > 1 and math.prod(after[:dim]) == outer), None)
    if "axes" in params and len(after) < len(before):  # a reduction
        axes = params["axes"]
        return None if cut in axes else cut - sum(axis < cut for axis in axes)
    return cut if keeps and len(after) == len(before) and after[cut] == before[cut] else None


def _of_convolution(equation: Any, cuts: Sequence[int | None]) -> int | None:
    """Of images split by example, of a kernel by output channel, or of both by the channels of groups."""
    image, kernel, result = equation.params["dimension_numbers"]
    grouped = equation.params["feature_group_count"] > 1
    if cuts[0] == image[0]:
        return int(result[0])
    by_channels = cuts[0] in (None, image[1]) if grouped else cuts[0] is None
    return int(result[1]) if by_channels and cuts[1] in (None, kernel[0]) else None


def _of_product(equation: Any, cuts: Sequence[int | None]) -> int | None:
    (left_sum, right_sum), (left_batch, right_batch) = equation.params["dimension_numbers"]
    left, right = (var.aval for var in equation.invars)
    (cut_left, cut_right) = cuts
    if cut_left in left_sum or cut_right in right_sum:
        return None
    if cut_left is not None:
        return _place(cut_left, left.ndim, left_sum, left_batch, len(left_batch))
    free_left = left.ndim - len(left_sum) - len(left_batch)
    return _place(cut_right, right.ndim, right_sum, right_batch, len(right_batch) + free_left)


def _place(cut: int | None, ndim: int, summed: Sequence[int], batch: Sequence[int], first_free: int) -> int | None:
    """The dim of a product's result that a dim of one operand becomes."""
    if cut is None:
        return None
    if cut in batch:
        return list(batch).index(cut)
    free = [dim for dim in range(ndim) if dim not in summed and dim not in batch]
    return first_free + free.index(cut)
