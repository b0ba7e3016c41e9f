"""Synthetic images with several handwritten digits each, made from the bundled digits."""

import dataclasses

import numpy as np

from jaxnets.core.errors import DataError
from jaxnets.data.arrays import from_arrays
from jaxnets.data.dataset import Dataset, Source
from jaxnets.data.sources.images import Digits


@dataclasses.dataclass(frozen=True)
class OverlaidDigits(Source):
    """Synthetic images with one or more 8x8 digits at random places; the labels are the digits in the image.

    Where digits overlap, the brighter pixel is shown. The number of digits, the digits and their places are drawn uniformly;
    a digit that occurs twice is one label. The test images use digit images that are in no training image.
    """

    least: int = 1
    """Smallest number of digits in an image."""
    most: int = 2
    """Largest number of digits in an image."""
    size: int = 14
    """Height and width of an image, at least 8; the smaller, the more the digits overlap."""
    train: int = 10000
    """Number of training images."""
    test: int = 2000
    """Number of test images."""
    seed: int = 0
    """Seed of the digits and their places."""

    def open(self) -> Dataset:
        """Inputs `[N, size, size, 1]` uint8, 0 to 16; targets `[N, 10]` uint8, 1 for each digit in the image."""
        if not 1 <= self.least <= self.most:
            raise DataError(f"OverlaidDigits: 1 <= least <= most, got least={self.least}, most={self.most}")
        for name, lowest in (("size", 8), ("train", 1), ("test", 1)):
            if getattr(self, name) < lowest:
                raise DataError(f"OverlaidDigits.{name} is at least {lowest}, got {getattr(self, name)}")
        digits = Digits().open()
        made = [
            self._draw(np.random.default_rng((self.seed, index)), split, count)
            for index, (split, count) in enumerate(((digits.train, self.train), (digits.test, self.test)))
        ]
        dataset = from_arrays(
            *made[0],
            test=made[1],
            name="overlaid digits",
            kind="labels",
            class_names=digits.class_names,
            target_name="digits",
        )
        return dataclasses.replace(dataset, source=f"made from {digits.source}, seed {self.seed}")

    def _draw(
        self, rng: np.random.Generator, digits: dict[str, np.ndarray], count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        images = np.zeros((count, self.size, self.size, 1), np.uint8)
        labels = np.zeros((count, 10), np.uint8)
        numbers = rng.integers(self.least, self.most + 1, count)
        chosen = rng.integers(0, len(digits["targets"]), (count, self.most))
        places = rng.integers(0, self.size - 7, (count, self.most, 2))
        for image, label, number, which, corners in zip(images, labels, numbers, chosen, places, strict=True):
            for digit, (row, column) in zip(which[:number], corners, strict=False):
                window = image[row : row + 8, column : column + 8]
                np.maximum(window, digits["inputs"][digit], out=window)
                label[digits["targets"][digit]] = 1
        return images, labels
