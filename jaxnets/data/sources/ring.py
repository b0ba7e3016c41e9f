"""A ring of Gaussians: the usual test for mode collapse in generative models."""

import dataclasses
import math

import numpy as np

from jaxnets.core.errors import DataError
from jaxnets.data.dataset import Dataset, Source


@dataclasses.dataclass(frozen=True)
class Ring(Source):
    """Gaussians evenly spaced on a circle in the plane; the label is the Gaussian (as in Metz et al. 2017, section 3.1)."""

    modes: int = 8
    """Number of Gaussians on the circle."""
    radius: float = 2.0
    """Radius of the circle of their centres."""
    deviation: float = 0.02
    """Standard deviation of each, in both directions."""
    examples: int = 50_000
    """Training points; the test has a tenth as many in addition."""
    data_seed: int = 0
    """Seed of the points, in training and test."""

    def open(self) -> Dataset:
        """Points `[2]` float32, not scaled."""
        if self.modes < 1 or self.examples < 10 or self.deviation <= 0:
            raise DataError(
                f"a ring has at least 1 mode, at least 10 examples and a positive deviation; got modes={self.modes}, "
                f"examples={self.examples}, deviation={self.deviation}"
            )
        rng = np.random.default_rng(self.data_seed)
        centres = np.array(ring_centres(self.modes, self.radius))

        def draw(count: int) -> dict[str, np.ndarray]:
            targets = rng.integers(0, self.modes, count)
            inputs = centres[targets] + self.deviation * rng.normal(size=(count, 2))
            return {"inputs": inputs.astype(np.float32), "targets": targets.astype(np.int32)}

        return Dataset(
            name="ring",
            train=draw(self.examples),
            test=draw(self.examples // 10),
            class_names=tuple(str(mode) for mode in range(self.modes)),
            target_name="mode",
            source="drawn by jaxnets",
        )


def ring_centres(modes: int, radius: float) -> tuple[tuple[float, float], ...]:
    """The centres `(x, y)` of a ring's modes, counter-clockwise from the right."""
    angles = [2 * math.pi * mode / modes for mode in range(modes)]
    return tuple((radius * math.cos(angle), radius * math.sin(angle)) for angle in angles)
