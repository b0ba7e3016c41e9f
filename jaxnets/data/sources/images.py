"""Named sets of small images: digits (bundled), MNIST, Fashion-MNIST, CIFAR-10."""

import dataclasses
import functools
import io
import zlib
from pathlib import Path
from typing import Literal

import numpy as np

from jaxnets.core.download import Remote, check_digests, locate, obtain, read_arrays
from jaxnets.core.errors import DataError
from jaxnets.data.augment import Augment
from jaxnets.data.dataset import Dataset, Source, Standardize

ASSETS = Path(__file__).parents[1] / "assets"
Scale = Literal["standard", "unit", "signed"]

_FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_KEYS = ("x_train", "y_train", "x_test", "y_test")
# sha256 of the decoded arrays, so that any mirror of the files is accepted.
_MNIST_DIGESTS = {
    "x_train": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    "y_train": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    "x_test": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    "y_test": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
}
_FASHION_DIGESTS = {
    "x_train": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
    "y_train": "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
    "x_test": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
    "y_test": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
}
_CIFAR_REMOTE = Remote(
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9dddda3db29a59bca1dd",
)


@dataclasses.dataclass(frozen=True)
class Digits(Source):
    """1,797 handwritten digits, 8x8 pixels, values 0 to 16 (UCI optical digits; bundled, no download)."""

    augment: Augment = Augment()
    """Random changes to training images."""
    scale: Scale = "standard"
    """Scaling of the model inputs: mean 0 and deviation 1, or pixels in [0, 1] (unit) or [-1, 1] (signed)."""
    holdout: float = 0.2
    """Share of the images in the test split, in (0, 1), drawn with a fixed seed."""

    def open(self) -> Dataset:
        """1,438 training and 359 test images `[8, 8, 1]` uint8 at the default share."""
        arrays = read_arrays(ASSETS / "digits.npz", ("inputs", "targets"))
        x, y = arrays["inputs"][..., None], arrays["targets"].astype(np.int32)
        count = round(len(x) * self.holdout)
        if not 0 < count < len(x):
            raise DataError(f"digits: holdout={self.holdout} leaves an empty split; choose a share in (0, 1)")
        order = np.random.default_rng(0).permutation(len(x))
        test, train = order[:count], order[count:]
        return Dataset(
            name="digits",
            train={"inputs": x[train], "targets": y[train]},
            test={"inputs": x[test], "targets": y[test]},
            class_names=tuple("0123456789"),
            target_name="digit",
            prepare=_scaling(self.scale, 16.0, (4.9,), (6.0,)),
            augment=self.augment,
            source="E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, CC BY 4.0",
        )


@dataclasses.dataclass(frozen=True)
class MNIST(Source):
    """60,000 training and 10,000 test images of handwritten digits, 28x28 (LeCun, Cortes and Burges)."""

    augment: Augment = Augment()
    """Random changes to training images."""
    scale: Scale = "standard"
    """Scaling of the model inputs: mean 0 and deviation 1, or pixels in [0, 1] (unit) or [-1, 1] (signed)."""

    def open(self) -> Dataset:
        """Images `[28, 28, 1]` uint8, in the original order."""
        url = "https://ossci-datasets.s3.amazonaws.com/mnist/"
        arrays = _idx_arrays("vision/mnist.npz", url, _MNIST_DIGESTS)
        prepare = _scaling(self.scale, 255.0, (33.3,), (78.6,))
        return _dataset("mnist", arrays, tuple("0123456789"), prepare, self.augment, "digit", url)


@dataclasses.dataclass(frozen=True)
class FashionMNIST(Source):
    """60,000 training and 10,000 test images of clothing, 28x28 (Xiao et al. 2017)."""

    augment: Augment = Augment()
    """Random changes to training images."""
    scale: Scale = "standard"
    """Scaling of the model inputs: mean 0 and deviation 1, or pixels in [0, 1] (unit) or [-1, 1] (signed)."""

    def open(self) -> Dataset:
        """Images `[28, 28, 1]` uint8, in the original order."""
        url = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
        arrays = _idx_arrays("vision/fashion_mnist.npz", url, _FASHION_DIGESTS)
        prepare = _scaling(self.scale, 255.0, (72.9,), (90.0,))
        return _dataset("fashion-mnist", arrays, _FASHION_CLASSES, prepare, self.augment, "garment", url)


@dataclasses.dataclass(frozen=True)
class CIFAR10(Source):
    """50,000 training and 10,000 test colour photographs, 32x32, ten classes (Krizhevsky 2009)."""

    augment: Augment = Augment()
    """Random changes to training images."""
    scale: Scale = "standard"
    """Scaling of the model inputs: mean 0 and deviation 1, or pixels in [0, 1] (unit) or [-1, 1] (signed)."""

    def open(self) -> Dataset:
        """Images `[32, 32, 3]` uint8 RGB, in the official order."""
        prepare = _scaling(self.scale, 255.0, (125.3, 123.0, 113.9), (63.0, 62.1, 66.7))
        return _dataset("cifar10", _cifar_arrays(), _CIFAR_CLASSES, prepare, self.augment, "object", _CIFAR_REMOTE.url)


def _scaling(scale: Scale, highest: float, mean: tuple[float, ...], std: tuple[float, ...]) -> Standardize:
    """The scaling of pixels in [0, highest]."""
    if scale == "standard":
        return Standardize(mean, std)
    return Standardize((0.0,), (highest,)) if scale == "unit" else Standardize((highest / 2,), (highest / 2,))


def _dataset(
    name: str,
    arrays: dict[str, np.ndarray],
    classes: tuple[str, ...],
    prepare: Standardize,
    augment: Augment,
    target_name: str,
    source: str,
) -> Dataset:
    for split in ("train", "test"):
        labels, images = arrays[f"y_{split}"], arrays[f"x_{split}"]
        if len(labels) != len(images) or labels.min() < 0 or labels.max() >= len(classes):
            raise DataError(f"{name}: the {split} labels do not fit the images or the {len(classes)} classes")
    pixels = {split: arrays[f"x_{split}"] for split in ("train", "test")}
    pixels = {split: x if x.ndim == 4 else x[..., None] for split, x in pixels.items()}
    return Dataset(
        name=name,
        train={"inputs": pixels["train"], "targets": arrays["y_train"].astype(np.int32)},
        test={"inputs": pixels["test"], "targets": arrays["y_test"].astype(np.int32)},
        class_names=classes,
        target_name=target_name,
        prepare=prepare,
        augment=augment,
        source=source,
    )


def _idx_arrays(relative: str, url: str, digests: dict[str, str]) -> dict[str, np.ndarray]:
    def decode(files: list[bytes]) -> dict[str, np.ndarray]:
        arrays = {key: read_idx(content) for key, content in zip(_KEYS, files, strict=True)}
        check_digests(relative, arrays, digests)
        return arrays

    arrays = obtain(relative, tuple(Remote(f"{url}{name}.gz") for name in _IDX_FILES), decode)
    missing = [key for key in _KEYS if key not in arrays]
    if missing:
        raise DataError(f"{relative} has no array {missing[0]!r}; it holds {', '.join(arrays)}")
    return arrays


# Bytes after unpacking; the largest known file (EMNIST) has 550 MiB.
LARGEST_IDX = 1 << 30


def read_idx(content: bytes) -> np.ndarray:
    """An array from the IDX format of MNIST (unsigned bytes, optionally gzipped); checks the declared sizes."""
    try:
        if content[:2] == b"\x1f\x8b":
            unpacker = zlib.decompressobj(wbits=31)
            content = unpacker.decompress(content, LARGEST_IDX)
            if unpacker.unconsumed_tail:
                raise DataError(
                    f"an IDX file unpacks to more than {LARGEST_IDX >> 20} MiB; MNIST and its like are far smaller"
                )
            if not unpacker.eof:
                raise EOFError("it ends in the middle")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"an IDX file is damaged: {error}") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise DataError(f"not an IDX file of unsigned bytes: it starts with {content[:4].hex() or 'nothing'}")
    dims = content[3]
    header = content[4 : 4 + 4 * dims]
    shape = tuple(int(n) for n in np.frombuffer(header[: len(header) // 4 * 4], ">u4"))
    if not 1 <= dims <= 4:
        raise DataError(f"an IDX file of images or labels has 1 to 4 dims, this one declares {dims}; it is damaged")
    if len(shape) != dims or 0 in shape or len(content) != 4 + 4 * dims + int(np.prod(shape, dtype=object)):
        raise DataError(f"an IDX file declares shape {shape} but has {len(content)} bytes; it is damaged")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(shape)


@functools.lru_cache(maxsize=1)
def _cifar_arrays() -> dict[str, np.ndarray]:
    """CIFAR-10 from the delta-coded pieces under `JAXNETS_DATA`, from the cache, or from the authors' site in Toronto."""
    if locate("vision/cifar10_test.npz") and not locate("vision/cifar10.npz"):
        pieces = [_read_delta(f"vision/cifar10_{name}.npz") for name in ("train_a", "train_b", "test")]
        return {
            "x_train": np.concatenate([pieces[0][0], pieces[1][0]]),
            "y_train": np.concatenate([pieces[0][1], pieces[1][1]]),
            "x_test": pieces[2][0],
            "y_test": pieces[2][1],
        }
    return obtain("vision/cifar10.npz", (_CIFAR_REMOTE,), lambda files: _read_cifar_archive(files[0]))


def _read_delta(relative: str) -> tuple[np.ndarray, np.ndarray]:
    """Undo the delta coding that makes photographs compressible: differences mod 256 along rows, columns and planes."""
    path = locate(relative)
    if path is None:
        raise DataError(f"{relative} is missing beside the other CIFAR-10 pieces; restore it under JAXNETS_DATA")
    arrays = read_arrays(path, ("delta", "y"))
    planes = arrays["delta"].copy()
    planes[..., 0] = np.cumsum(planes[..., 0], axis=-1, dtype=np.uint8)
    planes = np.cumsum(planes, axis=-1, dtype=np.uint8)
    green = planes[:, 0]
    return np.stack([planes[:, 1] + green, green, planes[:, 2] + green], axis=-1), arrays["y"]


def _read_cifar_archive(content: bytes) -> dict[str, np.ndarray]:
    """Read the six binary members in memory; nothing is extracted to disk."""
    import tarfile  # imported late: it takes longer to import than most commands to run

    parts = []
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
            member = archive.extractfile(f"cifar-10-batches-bin/{name}.bin")
            if member is None:
                raise DataError(f"the CIFAR-10 archive has no member {name}.bin")
            parts.append(np.frombuffer(member.read(), np.uint8).reshape(-1, 3073))
    train = np.concatenate(parts[:5])
    images = [part[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) for part in (train, parts[5])]
    return {"x_train": images[0], "y_train": train[:, 0], "x_test": images[1], "y_test": parts[5][:, 0]}
