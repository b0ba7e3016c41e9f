"""Training examples related to a prediction: the nearest ones in an embedding, and the most influential ones.

Shapes: `M` queried examples, `N` training examples, `D` numbers of an embedding.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import UsageError
from jaxnets.ops.forward_mode import jvp


class Nearest(NamedTuple):
    """The nearest examples, the nearest first."""

    rows: np.ndarray
    """Row numbers `[M, k]` int."""
    distances: np.ndarray
    """`[M, k]` float32."""


def nearest_examples(
    asked: Any, examples: Any, k: int = 5, *, metric: Literal["cosine", "euclidean"] = "cosine"
) -> Nearest:
    """The `k` examples nearest to each queried one.

    Args:
        asked: embeddings `[M, D]`: outputs of a layer (`layer_output`), flattened.
        examples: embeddings `[N, D]` of the training examples.
        k: from 1 to N.
        metric: cosine: 1 - cosine of the angle. euclidean: the length of the difference.

    Raises:
        UsageError: shapes that do not fit, or a `k` that is out of range.
    """
    asked, examples = np.asarray(asked, np.float32), np.asarray(examples, np.float32)
    if asked.ndim != 2 or examples.ndim != 2 or asked.shape[1] != examples.shape[1]:
        raise UsageError(f"embeddings are [M, D] and [N, D]; got {list(asked.shape)} and {list(examples.shape)}")
    if not 1 <= k <= len(examples):
        raise UsageError(f"k is from 1 to {len(examples)}, the number of examples; got {k}")
    if metric == "cosine":
        asked, examples = _unit(asked), _unit(examples)
    rows, distances = [], []
    for one in asked:  # differences, not products: they are exact where two embeddings are nearly equal
        squares = np.square(examples - one[None]).sum(axis=1)
        order = np.argsort(squares, kind="stable")[:k]
        rows.append(order)
        distances.append(squares[order] / 2 if metric == "cosine" else np.sqrt(squares[order]))
    return Nearest(np.stack(rows), np.stack(distances))


def influence(
    losses: Callable[[Any, Any], Array],
    checkpoints: Sequence[Any],
    learning_rates: Sequence[float],
    training: Any,
    asked: Any,
) -> np.ndarray:
    """TracIn: how much training on each example reduced the loss of each queried one (Pruthi et al. 2020), `[M, N]`.

    The sum over checkpoints of the learning rate times the product of the two gradients. It is the change of the loss by one
    step of gradient descent on the example, to first order, added up over the run; positive: the example helped. For an
    optimizer other than gradient descent it keeps the order of the examples at best.

    The gradients of the training examples are never stored: each product is a derivative in the direction of the other
    gradient, so the cost is a gradient and a forward derivative for each checkpoint and each queried example.

    Args:
        losses: `(params, examples)` to the loss of each example, `[N]`, in which no example depends on the others.
        checkpoints: parameters at some steps of the run.
        learning_rates: at these steps; times the number of steps that a checkpoint stands for, where the sum is to be that
            of the whole run.
        training: a tree of arrays with the examples in the first dim.
        asked: likewise.

    Raises:
        UsageError: not as many rates as checkpoints, or losses that are no vector.
    """
    if len(checkpoints) != len(learning_rates) or not len(checkpoints):
        raise UsageError(
            f"influence needs a learning rate for each checkpoint, at least one; got {len(learning_rates)} rates and "
            f"{len(checkpoints)} checkpoints"
        )
    count = len(jax.tree.leaves(training)[0])
    shape = jax.eval_shape(losses, checkpoints[0], training).shape
    if shape != (count,):
        raise UsageError(f"losses gives one loss for each of {count} examples, [{count}]; it gave {list(shape)}")

    @jax.jit
    def products(params: Any, training: Any, asked: Any) -> Array:
        def one(example: Any) -> Array:
            row = jax.tree.map(lambda array: array[None], example)
            gradient = jax.grad(lambda params: losses(params, row).sum())(params)
            return jvp(lambda params: losses(params, training), params, gradient)[1]

        return jax.lax.map(one, asked)

    training, asked = jax.tree.map(jnp.asarray, (training, asked))
    found = [
        rate * np.asarray(products(params, training, asked), np.float64)
        for params, rate in zip(checkpoints, learning_rates, strict=True)
    ]
    return np.sum(found, axis=0)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """The same directions with length 1; zeros stay zeros."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
