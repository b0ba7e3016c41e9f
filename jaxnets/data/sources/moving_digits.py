"""Short films of handwritten digits that move and bounce, after Srivastava et al. 2015 ("Moving MNIST")."""

import dataclasses
from typing import Literal

import numpy as np

from jaxnets.core.errors import DataError
from jaxnets.data.dataset import Dataset, Source, Standardize
from jaxnets.data.sources.images import MNIST, Digits


@dataclasses.dataclass(frozen=True)
class MovingDigits(Source):
    """Digits that move on straight lines and bounce off the frame. Where digits overlap, the brighter pixel is shown. The
    task is to predict the last frames from the first.

    The test films use digit images that are in no training film.
    """

    digits: Literal["digits", "mnist"] = "digits"
    """Source of the digits: the bundled 8x8 digits, smoothly enlarged to 16x16, or MNIST, 28x28."""
    size: int = 32
    """Height and width of a frame; at least that of a digit (the original: MNIST in 64)."""
    count: int = 2
    """Digits in each film."""
    seen: int = 6
    """Input frames."""
    ahead: int = 1
    """Frames to predict."""
    speed: float = 3.0
    """Pixels that a digit moves per frame (the original: 3.6); positions are rounded to whole pixels."""
    train: int = 2000
    """Number of training films."""
    test: int = 400
    """Number of test films."""
    seed: int = 0
    """Seed of the digits, starting points and directions."""

    def open(self) -> Dataset:
        """Inputs `[N, seen, size, size, 1]` and targets `[N, ahead, size, size, 1]`, uint8; inputs are scaled to [0, 1]."""
        for name in ("count", "seen", "ahead", "train", "test"):
            if getattr(self, name) < 1:
                raise DataError(f"MovingDigits.{name} is at least 1, got {getattr(self, name)}")
        glyphs = {name: self._glyphs(name) for name in ("train", "test")}
        side = glyphs["train"].shape[1]
        if self.size < side:
            raise DataError(
                f"frames of {self.size} pixels cannot hold {self.digits} of {side}; set size={side} or more"
            )
        if not 0 < self.speed <= self.size - side + 1:
            raise DataError(
                f"speed={self.speed} is not in (0, {self.size - side + 1}]: a digit would leave its frame in one step"
            )
        splits = {}
        for index, (name, count) in enumerate((("train", self.train), ("test", self.test))):
            films = self._films(np.random.default_rng((self.seed, index)), glyphs[name], count)
            splits[name] = {"inputs": films[:, : self.seen], "targets": films[:, self.seen :]}
        return Dataset(
            name="moving digits",
            train=splits["train"],
            test=splits["test"],
            target_name="frame",
            prepare=Standardize((0.0,), (255.0,)),
            source=f"made from {self.digits}, seed {self.seed}",
        )

    def _glyphs(self, split: str) -> np.ndarray:
        """Digits of one split, `[N, side, side]` uint8."""
        data = (Digits() if self.digits == "digits" else MNIST()).open()
        images = (data.train if split == "train" else data.test)["inputs"][..., 0]
        if self.digits == "mnist":
            return images
        # Scale 0..16 to 0..255 and double both sides with bilinear interpolation.
        padded = np.pad(images.astype(np.float32) * (255 / 16), ((0, 0), (1, 1), (1, 1)))
        for dim in (1, 2):
            middle = padded.take(range(1, padded.shape[dim] - 1), dim)
            sides = [padded.take(range(start, start + middle.shape[dim]), dim) for start in (0, 2)]
            halves = np.stack([0.75 * middle + 0.25 * side for side in sides], axis=dim + 1)
            shape = list(middle.shape)
            shape[dim] *= 2
            padded = halves.reshape(shape)
        return padded.astype(np.uint8)

    def _films(self, rng: np.random.Generator, glyphs: np.ndarray, count: int) -> np.ndarray:
        """`[count, seen + ahead, size, size, 1]` uint8."""
        frames, side = self.seen + self.ahead, glyphs.shape[1]
        shape = (count, self.count)
        chosen = rng.integers(0, len(glyphs), shape)
        room = self.size - side
        angle = rng.uniform(0, 2 * np.pi, shape)
        velocity = self.speed * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
        start = rng.uniform(0, room, (*shape, 2)) if room else np.zeros((*shape, 2))
        path = start[:, None] + velocity[:, None] * np.arange(frames)[:, None, None]
        # A bouncing path is a straight path folded back at both walls.
        corner = np.rint(room - np.abs(path % (2 * room) - room) if room else path * 0).astype(int)
        films = np.zeros((count, frames, self.size, self.size), np.uint8)
        for film, corners, which in zip(films, corner, chosen, strict=True):
            for frame, places in zip(film, corners, strict=True):
                for (row, column), digit in zip(places, which, strict=True):
                    window = frame[row : row + side, column : column + side]
                    np.maximum(window, glyphs[digit], out=window)
        return films[..., None]
