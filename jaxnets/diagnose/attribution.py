"""How an output depends on the numbers of an input: gradients, smoothed gradients, integrated gradients, occlusion.

Shapes: `N` examples, `C` outputs of each. `apply` is a function `(variables, inputs) -> outputs` in which no example depends
on the others, such as the `apply` of a Linen module in evaluation.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import UsageError

Apply = Callable[[Any, Any], Array]
# The output that is explained; see `score_of`.
Output = int | np.ndarray | Callable[[Array], Array] | None


def score_of(apply: Apply, variables: Any, inputs: Any, output: Output = None) -> Callable[[Any, Any], Array]:
    """A function `(variables, inputs)` to one number for each example, `[N]`: the output that is explained.

    Args:
        apply: see the module's docstring.
        variables: of the model.
        inputs: `[N, ...]`; if `output` is None, the explained output is the largest one for these inputs, also for later
        calls. output: the number of an output, for all examples or `[N]` int for each; or a function of the outputs that gives
            `[N]`. None: the largest output of each example, or the only one.

    Raises:
        UsageError: there is no such output, or `apply` gives more than a vector for each example.
    """
    count = len(inputs)
    shape = jax.eval_shape(apply, variables, inputs).shape
    if callable(output):
        chosen: Callable[[Array], Array] = output
        found = jax.eval_shape(lambda v, x: chosen(apply(v, x)), variables, inputs).shape
        if found != (count,):
            raise UsageError(f"output gives one number for each of {count} examples, [{count}]; it gave {list(found)}")
        return lambda variables, inputs: chosen(apply(variables, inputs))
    if shape == (count,) and output is None:
        return apply
    if len(shape) != 2 or shape[0] != count:
        raise UsageError(
            f"outputs of shape {list(shape)} have no single number for each of {count} examples; give output= as a function "
            f"that makes one, such as lambda outputs: outputs[:, -1, 3]"
        )
    given = jax.jit(apply)(variables, inputs).argmax(axis=1) if output is None else output
    places = np.broadcast_to(np.asarray(given), (count,))
    if not np.issubdtype(places.dtype, np.integer) or places.min() < 0 or places.max() >= shape[1]:
        raise UsageError(f"output is a whole number from 0 to {shape[1] - 1}, or one for each example; got {output}")
    return lambda variables, inputs: apply(variables, inputs)[np.arange(count), places]


def saliency(apply: Apply, variables: Any, inputs: Any, output: Output = None) -> np.ndarray:
    """The gradient of an output with respect to the input, of the shape of the inputs (Simonyan et al. 2014).

    It says how the output changes with a small change of each number. The sign shows the direction, the magnitude the
    strength.

    Args:
        apply: see the module's docstring.
        variables: of the model.
        inputs: real, `[N, ...]`, as the model takes them.
        output: see `score_of`.

    Raises:
        UsageError: inputs that are not real numbers, as tokens; use `occlusion`.
    """
    inputs = _real(inputs)
    score = score_of(apply, variables, inputs, output)
    return np.asarray(jax.jit(_slope(score))(variables, inputs))


def smooth_gradient(
    apply: Apply,
    variables: Any,
    inputs: Any,
    output: Output = None,
    *,
    noise: float = 0.15,
    draws: int = 32,
    seed: int = 0,
) -> np.ndarray:
    """SmoothGrad: the mean of `saliency` over inputs with Gaussian noise (Smilkov et al. 2017), of the shape of the inputs.

    Args:
        apply: see the module's docstring.
        variables: of the model.
        inputs: as for `saliency`.
        output: see `score_of`.
        noise: deviation of the noise, as a share of the range (largest minus smallest number) of each example.
        draws: of the noise, at least 1.
        seed: of the noise.
    """
    if draws < 1 or noise < 0:
        raise UsageError(f"draws is at least 1 and noise at least 0, got {draws} and {noise}")
    inputs = _real(inputs)
    slope = _slope(score_of(apply, variables, inputs, output))
    rest = tuple(range(1, inputs.ndim))
    deviation = noise * (inputs.max(axis=rest, keepdims=True) - inputs.min(axis=rest, keepdims=True))

    @jax.jit
    def mean(variables: Any, inputs: Array, keys: Array) -> Array:
        def one(total: Array, key: Array) -> tuple[Array, None]:
            drawn = jax.random.normal(key, inputs.shape, inputs.dtype)
            return total + slope(variables, inputs + deviation * drawn), None

        return jax.lax.scan(one, jnp.zeros_like(inputs), keys)[0] / draws

    return np.asarray(mean(variables, inputs, jax.random.split(jax.random.key(seed), draws)))


class Integrated(NamedTuple):
    """Integrated gradients, and the error of their sum."""

    values: np.ndarray
    """The contribution of each number of the input to the output, of the shape of the inputs."""
    gap: np.ndarray
    """`[N]`: the sum of the values minus (output at the input - output at the baseline). Use more steps if it is large."""


def integrated_gradients(
    apply: Apply,
    variables: Any,
    inputs: Any,
    output: Output = None,
    *,
    baseline: Any = 0.0,
    steps: int = 64,
) -> Integrated:
    """The gradient integrated along the line from a baseline to the input, times their difference (Sundararajan et al. 2017).

    The values of an example add up to the output at the input minus that at the baseline (completeness), except for
    the error of the integration, which is returned too.

    Args:
        apply: see the module's docstring.
        variables: of the model.
        inputs: as for `saliency`.
        output: see `score_of`; the largest output is that at the inputs.
        baseline: an input without information: a number, an example, or one for each example. 0 is the mean of inputs that are
            standardised.
        steps: points of the Gauss-Legendre rule, at least 1.
    """
    if steps < 1:
        raise UsageError(f"steps is at least 1, got {steps}")
    inputs = _real(inputs)
    start = jnp.asarray(np.broadcast_to(np.asarray(baseline, inputs.dtype), inputs.shape))
    score = score_of(apply, variables, inputs, output)
    slope = _slope(score)
    places, weights = np.polynomial.legendre.leggauss(steps)
    points = jnp.asarray(np.stack([(places + 1) / 2, weights / 2], axis=1), inputs.dtype)

    @jax.jit
    def integral(variables: Any, inputs: Array, start: Array) -> tuple[Array, Array]:
        def one(total: Array, point: Array) -> tuple[Array, None]:
            return total + point[1] * slope(variables, start + point[0] * (inputs - start)), None

        values = (inputs - start) * jax.lax.scan(one, jnp.zeros_like(inputs), points)[0]
        whole = score(variables, inputs) - score(variables, start)
        return values, values.reshape(len(values), -1).sum(axis=1) - whole

    return Integrated(*map(np.asarray, integral(variables, inputs, start)))


def occlusion(
    apply: Apply,
    variables: Any,
    inputs: Any,
    output: Output = None,
    *,
    size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    fill: float = 0.0,
) -> np.ndarray:
    """How much an output falls if a window of the input is covered (Zeiler and Fergus 2014), `[N, places, ...]`.

    Args:
        apply: see the module's docstring.
        variables: of the model.
        inputs: `[N, ...]` of any dtype; tokens too.
        output: see `score_of`.
        size: of the window in the first dims of an example, such as `(4, 4)` for an image `[H, W, C]`; it covers the other
            dims whole. A single number is for the first two dims, or for the only one.
        stride: between windows; by default their size, so that they do not overlap. The last one may be cut off by the edge.
        fill: the value that covers the window; 0 is the mean of inputs that are standardised, and the padding of tokens.

    Raises:
        UsageError: a size that does not fit an example.
    """
    inputs = jnp.asarray(inputs)
    extents = inputs.shape[1:]
    sizes = (size,) * min(2, len(extents)) if isinstance(size, int) else tuple(size)
    strides = sizes if stride is None else (stride,) * len(sizes) if isinstance(stride, int) else tuple(stride)
    if not 1 <= len(sizes) <= len(extents) or any(not 1 <= s <= e for s, e in zip(sizes, extents, strict=False)):
        raise UsageError(f"size is a window in the first dims of an example, {list(extents)}; got {size}")
    if len(strides) != len(sizes) or min(strides) < 1:
        raise UsageError(
            f"stride is a number, or one for each of the {len(sizes)} dims of size, at least 1; got {stride}"
        )
    score = score_of(apply, variables, inputs, output)
    first = [np.arange(-(-(e - s) // t) + 1) * t for e, s, t in zip(extents, sizes, strides, strict=False)]
    corners = jnp.asarray(np.stack(np.meshgrid(*first, indexing="ij"), axis=-1).reshape(-1, len(sizes)))

    @jax.jit
    def falls(variables: Any, inputs: Array, corners: Array) -> Array:
        def one(corner: Array) -> Array:
            covered = jnp.ones((1,) * inputs.ndim, bool)
            for dim, extent in enumerate(sizes, start=1):
                place = jnp.arange(inputs.shape[dim]).reshape((-1,) + (1,) * (inputs.ndim - dim - 1))[(None,) * dim]
                covered = covered & (place >= corner[dim - 1]) & (place < corner[dim - 1] + extent)
            return score(variables, jnp.where(covered, jnp.asarray(fill, inputs.dtype), inputs))

        return score(variables, inputs)[None] - jax.lax.map(one, corners)

    return np.asarray(falls(variables, inputs, corners)).T.reshape(len(inputs), *map(len, first))


def _slope(score: Callable[[Any, Any], Array]) -> Callable[[Any, Array], Array]:
    """The gradient of each example's score with respect to its input: that of the sum, as examples do not mix."""
    return jax.grad(lambda variables, inputs: score(variables, inputs).sum(), argnums=1)


def _real(inputs: Any) -> Array:
    inputs = jnp.asarray(inputs)
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise UsageError(
            f"a gradient with respect to inputs needs real numbers, and these are {inputs.dtype}; cast pixels to "
            f"float32 as the model takes them, and use occlusion for tokens"
        )
    return inputs
