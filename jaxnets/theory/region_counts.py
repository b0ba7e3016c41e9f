"""How many linear regions there can be, and how many there are at initialisation.

Networks do not have a number of regions that grows exponentially with depth: their *maximum* does. At a random
    initialisation the number
is far below it (Hanin and Rolnick 2019).
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from jaxnets.theory.construction import Construction, of_layers


def arrangement_regions(planes: int, dims: int) -> int:
    """The regions of `n` hyperplanes in general position: `sum_{j <= d} C(n, j)` (Zaslavsky 1975). One hidden layer cannot
    have more.
    """
    _check(planes=planes, dims=dims)
    return sum(math.comb(planes, j) for j in range(min(dims, planes) + 1))


def most_regions(widths: Sequence[int], inputs: int) -> int:
    """No ReLU network with these hidden layers has more: the product of `arrangement_regions(n_l, d_l)`.

    `d_l` is the smallest of the number of inputs and the widths before, because a region's image lies in a space of that
    dim (Raghu et al. 2017; Serra et al. 2018 have a sharper form). It is exact for one layer.
    """
    _check(inputs=inputs, **{f"widths[{i}]": width for i, width in enumerate(widths)})
    product, dims = 1, inputs
    for width in widths:
        product *= arrangement_regions(width, dims)
        dims = min(dims, width)
    return product


def reached_regions(widths: Sequence[int], inputs: int) -> int:
    """Some network with these hidden layers has at least so many (Montufar et al. 2014, theorem 4).

    `(prod_{l < L} floor(n_l / d)^d) sum_{j <= d} C(n_L, j)`: every layer but the last folds each dim `floor(n_l / d)`
    times. It needs widths of at least the number `d` of inputs.
    """
    _check(inputs=inputs, **{f"widths[{i}]": width for i, width in enumerate(widths)})
    if not widths or min(widths) < inputs:
        raise ValueError(
            f"the theorem needs hidden layers at least as wide as the {inputs} inputs, got {tuple(widths)}"
        )
    folds = math.prod((width // inputs) ** inputs for width in widths[:-1])
    return folds * arrangement_regions(widths[-1], inputs)


def initialised(widths: Sequence[int], inputs: int, *, seed: int, biases: float = 0.1) -> Construction:
    """A ReLU network with normal weights of variance `2 / inputs` (He et al. 2015) and normal biases, drawn by numpy.

    Args:
        widths: hidden layers.
        inputs: N.
        seed: of the draws.
        biases: their standard deviation; with 0 all hyperplanes of the first layer go through the origin.
    """
    rng = np.random.default_rng(seed)
    sizes = [inputs, *widths, 1]
    layers = [
        (rng.normal(size=(before, after)) * math.sqrt(2 / before), rng.normal(size=after) * biases)
        for before, after in itertools.pairwise(sizes)
    ]
    return of_layers(layers, "relu")


def _check(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is at least 1, got {size}")
