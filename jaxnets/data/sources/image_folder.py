"""A folder of images by class as a source, for configurations and the command line."""

import dataclasses
from typing import Literal

import numpy as np

from jaxnets.core.errors import DataError
from jaxnets.data.augment import Augment
from jaxnets.data.dataset import Arrays, Dataset, Source
from jaxnets.data.folder import from_folder
from jaxnets.data.prepare import Standardize

# Images that stand for the real ones in an estimate: too many for a device, so they are streamed as the real ones are.
STAND_INS = 16_384


@dataclasses.dataclass(frozen=True)
class ImageFolder(Source):
    """Images in a folder for each class, read when their batch is needed: see `data.from_folder`."""

    path: str = "imagenet"
    """The folder with a folder for each class, or with `train` and `test` (or `val`), which hold those."""
    size: tuple[int, int] = (224, 224)
    """Height and width to which images are resized."""
    color: Literal["RGB", "L"] = "RGB"
    """RGB for three channels, L for one."""
    holdout: float = 0.2
    """Share of the test split where there is no folder for it, in (0, 1)."""
    augment: Augment = Augment()
    """Random changes to training images."""
    threads: int = 4
    """How many threads read files."""
    classes: int = 1000
    """Number of classes, for estimates alone, which do not read the folder."""

    def __post_init__(self) -> None:
        if min(self.size) < 1 or self.threads < 1 or self.classes < 2:
            raise DataError(
                f"ImageFolder needs a size and threads of at least 1, and at least 2 classes; got {self.size}, {self.threads} "
                f"and {self.classes}"
            )

    def open(self) -> Dataset:
        """Images `[height, width, channels]` uint8, each with the number of its class."""
        return from_folder(
            self.path,
            size=self.size,
            color=self.color,
            holdout=self.holdout,
            augment=self.augment,
            threads=self.threads,
        )

    def outline(self) -> Dataset:
        """The shapes of `open`; nothing is read."""
        shape = (*self.size, 3 if self.color == "RGB" else 1)
        split: Arrays = {
            "inputs": np.broadcast_to(np.uint8(0), (STAND_INS, *shape)),
            "targets": np.broadcast_to(np.int32(0), (STAND_INS,)),
        }
        names, prepare = tuple(map(str, range(self.classes))), Standardize((0.0,), (255.0,))
        return Dataset(self.path, split, split, class_names=names, prepare=prepare, augment=self.augment)
