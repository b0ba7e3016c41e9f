"""Double descent: the test error has its peak where the parameters just suffice to fit the data, and falls again beyond.

Shapes: `E` training examples, `N` inputs, `F` features.
"""

from collections.abc import Sequence

import numpy as np


def double_descent_errors(
    features: Sequence[int],
    *,
    examples: int = 100,
    inputs: int = 20,
    noise: float = 0.5,
    trials: int = 20,
    seed: int = 0,
) -> np.ndarray:
    """Median test error of the least-squares fit of smallest norm on random ReLU features (Belkin et al. 2019),
    `[len(features)]`.

    The targets are a linear function of normal inputs, with noise. With as many features as examples there is a single fit,
    and it fits the noise with huge weights. With more features there are many fits, and the one of smallest norm is smooth.

    Args:
        features: numbers of features; the output weights are the only ones that are fitted.
        examples: for training.
        inputs: N.
        noise: standard deviation of the targets' noise.
        trials: draws of data and features.
        seed: of all draws.
    """
    if not features or min(features) < 1 or examples < 1 or trials < 1:
        raise ValueError(f"features, examples and trials are at least 1; got {features}, {examples}, {trials}")
    errors = np.empty((trials, len(features)))
    for trial in range(trials):
        rng = np.random.default_rng([seed, trial])
        x, direction = rng.normal(size=(examples + 1000, inputs)), rng.normal(size=inputs) / np.sqrt(inputs)
        clean = x @ direction
        y = clean[:examples] + noise * rng.normal(size=examples)
        kernel = rng.normal(size=(inputs, max(features))) / np.sqrt(inputs)
        hidden = np.maximum(x @ kernel, 0)
        for column, count in enumerate(features):
            weights = np.linalg.lstsq(hidden[:examples, :count], y, rcond=None)[0]
            errors[trial, column] = np.square(hidden[examples:, :count] @ weights - clean[examples:]).mean()
    medians: np.ndarray = np.median(errors, axis=0)
    return medians
