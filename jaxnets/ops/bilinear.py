"""Products of two arrays with hand-written gradients.

`jax.custom_vjp` is enough for training, but it forbids forward mode, and gradients of gradients use JAX's own rules. A
primitive that is declared linear in each factor has neither limit. Its JVP is the same product with a tangent in place of a
factor, and its two transposes are hand-written, at every order.

Primitives are defined with parts of JAX that may move. If they have moved, `bilinear` returns the plain product, which JAX
differentiates: the same values, at the speed of JAX's own gradients.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from jaxnets.ops.beyond_promise import primitive_tools

# Name of a primitive -> the function it computes. Code that reads a trace (to count operations, say) needs it.
PLAIN: dict[str, Callable[..., Array]] = {}


def bilinear(
    name: str, plain: Callable[..., Array], *, left: Callable[..., Array], right: Callable[..., Array]
) -> Callable[..., Array]:
    """`plain(a, b, **how)`, linear in `a` and in `b`, with these gradients.

    Args:
        name: the name of the primitive, as a trace shows it.
        plain: the product. Row i of the result (first dim) depends on row i of `a` and on all of `b`.
        left: `left(g, a, b, **how)` is the gradient for `a`; `g` is that of the product, `a` has only shape and dtype.
        right: `right(g, a, b, **how)` is the gradient for `b`; `b` has only shape and dtype.

    Returns:
        A function with the values and signature of `plain`, for hashable keywords. It can be differentiated in both modes
        any number of times, mapped (`jax.vmap`) and compiled.
    """
    tools = primitive_tools()
    if tools is None:
        return plain
    Primitive, ad, batching, mlir = tools
    primitive = Primitive(f"jaxnets_{name}")
    PLAIN[primitive.name] = plain

    @primitive.def_impl
    def eager(a: Array, b: Array, **how: Any) -> Array:
        return jax.jit(plain, static_argnames=tuple(how))(a, b, **how)

    @primitive.def_abstract_eval
    def shape(a: Any, b: Any, **how: Any) -> Any:
        out = jax.eval_shape(functools.partial(plain, **how), *(jax.ShapeDtypeStruct(v.shape, v.dtype) for v in (a, b)))
        return a.update(shape=out.shape, dtype=out.dtype)

    def mapped(factors: Any, dims: Any, **how: Any) -> tuple[Array, int]:
        (a, b), (dim_a, dim_b) = factors, dims
        if dim_b is not None:
            return jax.vmap(functools.partial(plain, **how), in_axes=(dim_a, dim_b))(a, b), 0
        a = jax.numpy.moveaxis(a, dim_a, 0)
        out = primitive.bind(a.reshape(-1, *a.shape[2:]), b, **how)
        return out.reshape(*a.shape[:2], *out.shape[1:]), 0

    ad.defbilinear(
        primitive,
        lambda g, a, b, **how: left(g, a.aval, b, **how),
        lambda g, a, b, **how: right(g, a, b.aval, **how),
    )
    batching.primitive_batchers[primitive] = mapped
    mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=False))
    bind: Callable[..., Array] = primitive.bind
    return bind
