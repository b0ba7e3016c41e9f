"""Images in a folder for each class, read by Pillow (`pip install jaxnets[data]`) when their batch is needed."""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxnets.core.errors import DataError
from jaxnets.core.files import user_path
from jaxnets.data.augment import Augmentation
from jaxnets.data.dataset import Dataset
from jaxnets.data.indexed import from_source
from jaxnets.data.targets import natural_order

# Files with other names are left out.
IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Names of the folder of the test images, beside "train".
TEST_FOLDERS = ("test", "val", "valid", "validation")


def from_folder(
    path: str | Path,
    *,
    size: tuple[int, int] | None = None,
    color: Literal["RGB", "L"] = "RGB",
    test: str | Path | None = None,
    holdout: float = 0.2,
    seed: int = 0,
    name: str = "",
    read: Callable[[Path], Any] | None = None,
    transform: Callable[[np.random.Generator, dict[str, Any]], Mapping[str, Any]] | None = None,
    augment: Augmentation | Sequence[Augmentation] | Callable[..., Any] | None = None,
    standardize: bool = True,
    threads: int = 4,
    processes: int = 0,
) -> Dataset:
    """A data set of images `[H, W, C]` uint8 by class: `path/cat/1.jpg`, `path/dog/2.jpg`, ...

    Args:
        path: the folder with a folder for each class; or with `train` and `test` (or `val`), which hold those.
        size: (height, width) to which images are resized (bilinear); None takes them as they are, all of one size.
        color: "RGB" for three channels, "L" for one.
        test: the folder of the test images, with the same classes; None takes the one beside `train`, or holds out a share.
        holdout: that share, in (0, 1).
        seed: seed of the shuffle before the holdout split.
        name: name for messages and the report; by default that of the folder.
        read: a function of a file's path that returns the inputs, instead of Pillow; then files with any name are used.
        transform: random changes while training, as in `from_source`.
        augment: random changes on the device, as in `from_arrays`.
        standardize: scale each channel by mean and deviation of a sample of the training images.
        threads: how many read files at the same time.
        processes: how many processes do, in place of threads, as in `from_source`.

    Raises:
        DataError: there are no such folders or images, an image is damaged or of another size, or Pillow is not installed.
    """
    folder = user_path(path)
    if test is None and (folder / "train").is_dir():
        test = next((folder / other for other in TEST_FOLDERS if (folder / other).is_dir()), None)
        folder = folder / "train"
    reading = read if read is not None else functools.partial(read_image, size=size, color=color)
    train = Files(folder, reading, IMAGES if read is None else ())
    held = None
    if test is not None:
        held = Files(user_path(test), reading, train.suffixes, classes=train.classes)
    return from_source(
        train, test=held, holdout=holdout, seed=seed, name=name or user_path(path).name, transform=transform, augment=augment,
        standardize=standardize, kind="class", class_names=train.classes, target_name="class", threads=threads,
        processes=processes,
    )  # fmt: skip


class Files:
    """Examples `(inputs, class number)` from the files in the folders of some classes."""

    def __init__(
        self,
        folder: Path,
        read: Callable[[Path], Any],
        suffixes: tuple[str, ...],
        *,
        classes: tuple[str, ...] = (),
    ) -> None:
        if not folder.is_dir():
            raise DataError(f"there is no folder {folder}; check the path")
        found = sorted((f.name for f in folder.iterdir() if f.is_dir() and f.name[0] != "."), key=natural_order)
        self.classes, self.suffixes, self._read = classes or tuple(found), suffixes, read
        unknown = sorted(set(found) - set(self.classes))
        if unknown or not found:
            held = (
                f"a folder {unknown[0]!r}, which is no class" if unknown else "no folders; put each class into its own"
            )
            known = f" ({', '.join(self.classes[:8])})" if unknown else ""
            raise DataError(f"{folder} has {held}{known}")
        self.files = [(file, number) for number, word in enumerate(self.classes) for file in self._in(folder / word)]
        if not self.files:
            raise DataError(
                f"{folder} has no images ({', '.join(suffixes)}) in the folders of its classes; check the path"
            )
        named = "\n".join(f"{file.relative_to(folder)} {file.stat().st_size}" for file, _ in self.files)
        self.fingerprint = hashlib.sha256(named.encode()).hexdigest()[:16]
        """A digest of the names and sizes of the files."""

    def _in(self, folder: Path) -> list[Path]:
        if not folder.is_dir():
            return []
        files = (f for f in sorted(folder.rglob("*")) if f.is_file() and f.name[0] != ".")
        return [f for f in files if not self.suffixes or f.suffix.lower() in self.suffixes]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        file, number = self.files[row]
        return self._read(file), number


def read_image(path: Path, *, size: tuple[int, int] | None = None, color: str = "RGB") -> np.ndarray:
    """An image file as uint8 `[H, W, 3]`, or `[H, W, 1]` for color "L"; raises `DataError` if it cannot be read."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise DataError(
            f"{path} needs the package Pillow, which is not installed; run `pip install jaxnets[data]`"
        ) from error
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert(color)  # cameras store turned images with a mark
            if size is not None:
                upright = upright.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            made = np.asarray(upright)
    except Exception as error:  # Pillow raises many types on damaged bytes
        raise DataError(f"{path} cannot be read as an image ({type(error).__name__}: {error}); leave it out") from error
    return made if made.ndim == 3 else made[:, :, None]
