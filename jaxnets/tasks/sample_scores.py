"""Scores of generated samples by our own classifier: Frechet distance on its features, and class coverage.

The distance is that of Heusel et al. 2017, with features of another network than Inception. So it only compares samples
scored by the same classifier.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.core.types import Variables


def features_and_labels(
    model: nn.Module, variables: Variables, inputs: Any, *, layer: str, batch_size: int = 500
) -> tuple[np.ndarray, np.ndarray]:
    """The outputs of a named layer of a classifier, and the predicted labels.

    Args:
        model: the classifier; `model.apply` returns logits.
        variables: its trained variables.
        inputs: `[N, ...]`, prepared as in the classifier's training.
        layer: name of the submodule whose output (before any activation outside it) is used, e.g. "dense_0" of a CNN.
        batch_size: number of inputs per call.

    Returns:
        Features `[N, F]` float64 after a ReLU, and labels `[N]`.
    """

    def is_layer(module: nn.Module, method: str) -> bool:
        return module.name == layer and method == "__call__"

    @jax.jit
    def one(x: Any) -> Any:
        logits: Any
        logits, kept = model.apply(variables, x, capture_intermediates=is_layer, mutable=["intermediates"])
        found = jax.tree.leaves(kept)
        if len(found) != 1:
            raise ValueError(f"{type(model).__name__} has {len(found)} layers called {layer!r}; name one that it has")
        return nn.relu(found[0].reshape(len(x), -1)), jnp.argmax(logits, axis=-1)

    parts = [jax.device_get(one(inputs[start : start + batch_size])) for start in range(0, len(inputs), batch_size)]
    features, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    return features.astype(np.float64), labels


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """`|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))` of features `[N, F]` and `[M, F]`, treated as Gaussians."""
    for name, features in (("first", a), ("second", b)):
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"the {name} features have shape {features.shape}; give at least two rows [N, F]")
    cov_a, cov_b = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (a, b))
    # tr (S_a S_b)^(1/2) = tr (R S_b R)^(1/2) with R the root of S_a; R S_b R is symmetric and has real eigenvalues.
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    both = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0)).sum()
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * both)


def class_coverage(labels: np.ndarray, classes: int) -> float:
    """The share of classes, in [0, 1], with at least a quarter of the samples of a uniform distribution."""
    shares = np.bincount(labels, minlength=classes) / len(labels)
    return float((shares >= 0.25 / classes).mean())
