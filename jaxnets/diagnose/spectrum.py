"""The density of the eigenvalues of a Hessian, by stochastic Lanczos quadrature (Ghorbani et al. 2019).

From a random vector `v` of length 1, the Ritz values of Lanczos' method and the squared first entries of their vectors are the
nodes and weights of Gauss' quadrature for the measure `sum_i (v . u_i)^2 delta(lambda - lambda_i)`. Its mean over vectors
is the density of the eigenvalues.
"""

import dataclasses
from typing import Any

import numpy as np

from jaxnets.core.errors import UsageError
from jaxnets.diagnose.curvature import Loss, lanczos_step, tridiagonal
from jaxnets.diagnose.trees import size


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """An estimate of how the eigenvalues of a Hessian are distributed."""

    values: np.ndarray
    """Nodes, ascending, `[K]`."""
    weights: np.ndarray
    """The share of the eigenvalues that each node stands for, `[K]`; they sum to 1."""
    count: int
    """Eigenvalues of the Hessian: numbers in the parameters."""

    def share(self, low: float = -np.inf, high: float = np.inf) -> float:
        """The share of the eigenvalues in `[low, high]`."""
        return float(self.weights[(self.values >= low) & (self.values <= high)].sum())

    @property
    def trace(self) -> float:
        """The sum of all eigenvalues, as estimated."""
        return float(self.count * (self.values * self.weights).sum())

    def density(self, at: np.ndarray, width: float) -> np.ndarray:
        """The density at given places `[N]`, with every node a normal distribution of this standard deviation."""
        if width <= 0:
            raise UsageError(f"width is the standard deviation of a node, above 0; got {width}")
        apart = (np.asarray(at, float)[:, None] - self.values[None, :]) / width
        return np.exp(-np.square(apart) / 2) @ self.weights / (width * np.sqrt(2 * np.pi))


def spectral_density(loss: Loss, params: Any, *, steps: int = 40, samples: int = 8, seed: int = 0) -> Spectrum:
    """The distribution of all eigenvalues of the Hessian of a loss.

    With `steps` products a vector, polynomials of degree `2 steps - 1` are integrated exactly; the random vectors add an error
    that falls with the square root of `samples` and of the number of parameters.

    Args:
        loss: parameters to a scalar.
        params: a tree of real arrays; may be sharded.
        steps: products for each random vector.
        samples: random vectors.
        seed: of these.
    """
    if samples < 1:
        raise UsageError(f"samples is at least 1, got {samples}")
    step = lanczos_step(loss)
    values, weights = list[np.ndarray](), list[np.ndarray]()
    for number in range(samples):
        nodes, vectors = np.linalg.eigh(tridiagonal(step, params, steps=steps, seed=seed + number))
        values.append(nodes)
        weights.append(np.square(vectors[0]) / samples)
    every = np.concatenate(values)
    order = np.argsort(every, kind="stable")
    return Spectrum(every[order], np.concatenate(weights)[order], size(params))
