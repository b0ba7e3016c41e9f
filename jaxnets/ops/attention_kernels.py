"""The two halves of flash attention as kernels of a TPU: those of JAX's splash attention.

They hold scores in the memory of the core alone. They take grouped heads, documents and windows, but no slopes, and lengths
that a multiple of 128 fills. Shapes are those of `attention_blocks.py`.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.ops.attention_blocks import LEAST, Pairs, blocks_seen
from jaxnets.ops.axes import free_axes, mapped_elsewhere
from jaxnets.ops.beyond_promise import compiled_for, splash_attention

# Blocks that a length may consist of, the best first.
SIZES = (512, 256, 128)
# Products of a query and a key, each of two operations a number of a head: of the kernels here, and of cuDNN's.
PRODUCTS = {"outputs": 2, "gradients": 7, "dot_product_attention_fwd": 2, "dot_product_attention_bwd": 5}
# The names by which `kernel_flops` knows calls of the kernels here, and of cuDNN's.
OURS = re.compile(r"(causal_|window_(?P<window>\d+)_)?flash_attention_(?P<what>outputs|gradients)")
CUDNN = re.compile(r"(?P<what>dot_product_attention_[fb]wd)(_wrapper)?")


def kernels_suit(q: Array, k: Array, pairs: Pairs) -> bool:
    """Whether the kernels take queries `[B, T, H, K]` and keys `[B, S, G, K]` where the program is compiled for."""
    shapes = not (q.shape[1] % SIZES[-1] or k.shape[1] % SIZES[-1] or q.shape[-1] % 64)
    if compiled_for() != "tpu" or not shapes or pairs.slopes is not None or q.dtype not in (jnp.float32, jnp.bfloat16):
        return False
    mesh = jax.sharding.get_abstract_mesh()
    # Where the compiler still spreads arrays over devices it cannot cut a kernel.
    alone = mesh.size == 1 and not mesh.manual_axes
    return (mesh.empty or alone or not free_axes()) and not mapped_elsewhere() and splash_attention() is not None


def kernel_outputs(q: Array, k: Array, v: Array, pairs: Pairs, *, interpret: bool = False) -> tuple[Array, Array]:
    """`block_outputs` by a kernel; `interpret` runs it on any machine."""

    def run(q: Array, k: Array, v: Array, documents: Any) -> tuple[Array, Array]:
        kernel, ids = _kernel(q, k, pairs, interpret), _segments(documents)
        y, (sums,) = jax.vmap(kernel)(*_heads_first(q * _scale(q), k, v), *ids)
        y, sums = y.swapaxes(1, 2), sums.swapaxes(1, 2)
        # In the kernel a query that sees no key sees all of them.
        seen = sums > LEAST
        return jnp.where(seen[..., None], y.astype(jnp.float32), 0.0), jnp.where(seen, sums, LEAST)

    return _called("outputs", pairs, run, q, k, v, pairs.documents)


def kernel_gradients(
    q: Array, k: Array, v: Array, pairs: Pairs, y: Array, sums: Array, dy: Array, *, interpret: bool = False
) -> tuple[Array, Array, Array]:
    """`block_gradients` by two kernels; `interpret` runs them on any machine."""

    def run(q: Array, k: Array, v: Array, documents: Any, y: Array, sums: Array, dy: Array) -> tuple[Array, ...]:
        kernel, (module, _) = _kernel(q, k, pairs, interpret), _modules()

        def backward(q: Array, k: Array, v: Array, y: Array, sums: Array, dy: Array, ids: Any = None) -> Any:
            given: Any = {name: value for name, value in kernel.kwargs.items() if name != "save_residuals"}
            saved = q, k, v, ids, None, y, sums, kernel.dq_mask_info, kernel.dkv_mask_info
            return module._splash_attention_bwd(False, **given, res=saved, do=dy)[3:6]

        several = _heads_first(q * _scale(q), k, v, y.astype(q.dtype), sums, dy.astype(q.dtype))
        dq, dk, dv = (a.swapaxes(1, 2).astype(jnp.float32) for a in jax.vmap(backward)(*several, *_segments(documents)))
        return dq * _scale(q), dk, dv

    return _called("gradients", pairs, run, q, k, v, pairs.documents, y, sums, dy)


def kernel_flops(equation: Any) -> float | None:
    """Floating-point operations of an equation that calls one of these kernels, or cuDNN's attention; None for any other."""
    name = (
        str(equation.params.get("name", "")) if equation.primitive.name in ("jit", "pjit") else equation.primitive.name
    )
    call = OURS.fullmatch(name) or CUDNN.fullmatch(name)
    if call is None:
        return None
    # JAX may divide a call: what computes constants, such as masks, has none of these inputs, the other may have more.
    inputs = [var.aval for var in equation.invars if var.aval.ndim == 4]
    if len(inputs) < 3:
        return None
    q, k = inputs[:2]
    window = call.groupdict().get("window") or equation.params.get("sliding_window_length")
    causal = bool(call.re is OURS and call[1]) or "CAUSAL" in str(equation.params.get("mask_type", ""))
    lengths = q.shape[1], k.shape[1]
    t, s = (SIZES[-1] if length % SIZES[-1] else _size(length) for length in lengths)
    seen = blocks_seen(lengths, (t, s), causal=causal, window=int(window) if window else None)
    share = len(seen) / math.prod(-(-length // size) for length, size in zip(lengths, (t, s), strict=True))
    return 2.0 * PRODUCTS[call["what"]] * math.prod(q.shape) * k.shape[1] * share


def _modules() -> Any:
    found = splash_attention()
    if found is None:
        raise RuntimeError("this JAX has no splash attention; `kernels_suit` says so")
    return found


def _kernel(q: Array, k: Array, pairs: Pairs, interpret: bool) -> Any:
    """JAX's kernel for these shapes, with blocks as large as divide the lengths."""
    module, masks = _modules()
    T, S, heads = q.shape[1], k.shape[1], q.shape[2]
    mask = masks.FullMask((T, S))
    if pairs.causal:  # a window is so many positions before a query and after it
        mask = masks.CausalMask((T, S)) if pairs.window is None else masks.LocalMask((T, S), (pairs.window - 1, 0), 0)
    mask = masks.MultiHeadMask([mask] * heads)
    t, s = _size(T), _size(S)
    names = ("block_q", "block_q_dkv", "block_q_dq"), ("block_kv", "block_kv_compute", "block_kv_dkv",
             "block_kv_dkv_compute", "block_kv_dq")  # fmt: skip
    sizes = module.BlockSizes(**dict.fromkeys(names[0], t), **dict.fromkeys(names[1], s))
    shards = {"head_shards": 1, "q_seq_shards": 1}
    return module.make_splash_mha(mask, block_sizes=sizes, save_residuals=True, interpret=interpret, **shards)


def _size(length: int) -> int:
    return next(size for size in SIZES if length % size == 0)


def _scale(q: Array) -> float:
    """The kernels leave it to their caller."""
    return float(q.shape[-1] ** -0.5)


def _segments(documents: Any) -> tuple[Any, ...]:
    """The kernels' last argument, if there is one."""
    if documents is None:
        return ()
    mine, theirs = (numbers.astype(jnp.int32) for numbers in documents)
    return (_modules()[0].SegmentIds(mine, theirs),)


def _heads_first(*arrays: Array) -> list[Array]:
    """`[B, T, H, ...]` to `[B, H, T, ...]`."""
    return [array.swapaxes(1, 2) for array in arrays]


def _called(what: str, pairs: Pairs, run: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function, called by a name by which `kernel_flops` knows it."""
    seen = "" if not pairs.causal else "causal_" if pairs.window is None else f"window_{pairs.window}_"
    run.__name__ = f"{seen}flash_attention_{what}"
    return jax.jit(run)(*arguments)
