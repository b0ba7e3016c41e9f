"""Embeddings as points of the plane: principal components, or t-SNE where scikit-learn is installed."""

from typing import Any, Literal, NamedTuple

import numpy as np

from jaxnets.core.errors import UsageError


class Components(NamedTuple):
    """Principal components of some points; `K` of them."""

    points: np.ndarray
    """Coordinates `[N, K]` of the points, about their mean."""
    directions: np.ndarray
    """`[K, D]`, orthonormal, the direction of the largest variance first; the largest number of each is positive."""
    shares: np.ndarray
    """`[K]`: the share of the variance along each."""


def principal_components(embeddings: Any, count: int = 2) -> Components:
    """The directions along which points vary most (Pearson 1901, Hotelling 1933), by singular values, in float64.

    Args:
        embeddings: `[N, D]`.
        count: of the components, at most N and D.

    Raises:
        UsageError: no matrix, or not as many components.
    """
    points = _matrix(embeddings)
    if not 1 <= count <= min(points.shape):
        raise UsageError(f"count is from 1 to {min(points.shape)} for embeddings {list(points.shape)}; got {count}")
    centred = points - points.mean(axis=0, keepdims=True)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    largest = np.abs(directions).argmax(axis=1)
    directions = directions * np.sign(directions[np.arange(len(directions)), largest])[:, None]
    variance = np.square(values)
    shares = variance / max(variance.sum(), np.finfo(float).tiny)
    return Components(centred @ directions[:count].T, directions[:count], shares[:count])


def in_plane(
    embeddings: Any, method: Literal["pca", "tsne"] = "pca", *, perplexity: float = 30.0, seed: int = 0
) -> np.ndarray:
    """Embeddings `[N, D]` as points `[N, 2]`.

    Distances between far points are meaningless with t-SNE (van der Maaten and Hinton 2008), but not with principal
    components.

    Args:
        embeddings: `[N, D]`.
        method: pca: the first two principal components. tsne: scikit-learn's t-SNE, initialised with them.
        perplexity: of t-SNE: about how many neighbours a point has; less than N.
        seed: of t-SNE.

    Raises:
        UsageError: no matrix, or t-SNE without scikit-learn.
    """
    if method == "pca":
        return principal_components(embeddings).points
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise UsageError("method='tsne' needs scikit-learn (pip install scikit-learn), or take method='pca'") from None
    points = _matrix(embeddings)
    if not 0 < perplexity < len(points):
        raise UsageError(f"perplexity is between 0 and {len(points)}, the number of points; got {perplexity}")
    made = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(points)
    return np.asarray(made, np.float64)


def _matrix(embeddings: Any) -> np.ndarray:
    points = np.asarray(embeddings, np.float64)
    if points.ndim != 2:
        raise UsageError(
            f"embeddings are [N, D]; got {list(points.shape)}; flatten them by reshape(len(embeddings), -1)"
        )
    return points
