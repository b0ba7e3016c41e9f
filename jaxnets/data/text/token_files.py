"""Reads files of token ids: `.npz`, `.npy`, and the `.bin` files of nanoGPT and llm.c. `.npy` and `.bin` are memory-mapped."""

from pathlib import Path

import numpy as np

from jaxnets.core.download import read_arrays
from jaxnets.core.errors import DataError
from jaxnets.core.files import user_path

# Magic number and version of an llm.c file -> dtype of the ids after its header of 256 int32.
_LLM_C = {(20240520, 1): "<u2", (20240801, 7): "<u4"}
_HEADER = 1024
# Ids from which a wrong dtype is seen.
PROBED = 1 << 24
# Names of the test file, in place of "train".
_TEST_NAMES = ("val", "validation", "valid", "test")


def read_parts(path: Path, train: str, test: str, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of the training and the test split, `[T]` each.

    Args:
        path: an `.npz` with two arrays; a `.bin` or `.npy` training file with the test file beside it, whose name has "val",
            "validation", "valid" or "test" instead of "train"; or a folder that holds such a pair.
        train: name of the training array in an `.npz`.
        test: name of the test array in an `.npz`. Otherwise the name of the test file, if it ends in `.bin` or `.npy`, or
            the word that replaces "train" in it.
        dtype: integer type of a `.bin` without a header: "uint16" or "uint32".

    Raises:
        DataError: a file is missing, damaged or of another kind.
    """
    path = path.expanduser()
    if path.is_dir():
        found = [path / f"train{suffix}" for suffix in (".bin", ".npy") if (path / f"train{suffix}").is_file()]
        if not found:
            raise DataError(f"{path} holds neither train.bin nor train.npy; name the training file in data.path")
        path = found[0]
    if path.suffix == ".npz":
        arrays = read_arrays(path, (train, test))
        return arrays[train], arrays[test]
    if path.suffix not in (".bin", ".npy"):
        raise DataError(f"{path} is not a token file by its name; give .npz, .npy or .bin (uint16 or uint32 ids)")
    if not path.is_file():
        raise DataError(f"there is no file {path}; check the path")
    parts = [_read(file, dtype) for file in (path, _beside(path, test))]
    return parts[0], parts[1]


def _beside(path: Path, test: str) -> Path:
    """The test file that belongs to a training file."""
    if test.endswith((".bin", ".npy")):
        given = user_path(test)
        candidates = [given if given.is_absolute() else path.parent / given]
    else:
        names = dict.fromkeys((test, *_TEST_NAMES))
        candidates = [path.with_name(path.name.replace("train", name)) for name in names if "train" in path.name]
    found = [candidate for candidate in candidates if candidate.is_file()]
    if not found:
        wanted = (
            ", ".join(candidate.name for candidate in candidates) or 'its name has no "train" to replace with "val"'
        )
        raise DataError(
            f"{path} is the training file, and there is no test file beside it ({wanted}); put it there, or name it in "
            f"data.test: test='held_out.bin'"
        )
    return found[0]


def _read(path: Path, dtype: str) -> np.ndarray:
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        size = path.stat().st_size
        with path.open("rb") as file:
            head = np.frombuffer(file.read(_HEADER), np.uint8)
        if len(head) == _HEADER:
            magic, version, count = (int(n) for n in head.view("<i4")[:3])
            if (magic, version) in _LLM_C:
                return _mapped(path, _LLM_C[magic, version], size, offset=_HEADER, declared=count)
            if magic in {known for known, _ in _LLM_C}:
                raise DataError(
                    f"{path} is an llm.c file of version {version}, which is not supported; write it again with llm.c"
                )
        ids = _mapped(path, {"uint16": "<u2", "uint32": "<u4"}[dtype], size)
    except DataError:
        raise
    except Exception as error:  # numpy raises half a dozen types on damaged bytes
        raise DataError(
            f"{path} cannot be read as token ids ({type(error).__name__}: {error}); make it again"
        ) from error
    head = ids[:PROBED]
    if len(ids) > 3 and head[0::2].any() and not head[1::2].any() and (dtype == "uint32" or not head[2::4].any()):
        raise DataError(
            f"{path}: read as {dtype}, each token is followed by zeros, so it seems to hold 64-bit integers; write it with "
            f"`ids.astype('uint16').tofile(...)`, or uint32 for a vocabulary beyond 65,536"
        )
    if dtype == "uint16" and len(ids) > 1 and head[0::2].any() and not head[1::2].any():
        raise DataError(
            f"{path}: read as uint16, every second token is 0, so it seems to hold uint32; set data.dtype to uint32, or write "
            f"it with `ids.astype('uint16').tofile(...)`"
        )
    return ids


def _mapped(path: Path, dtype: str, size: int, *, offset: int = 0, declared: int | None = None) -> np.ndarray:
    kind = np.dtype(dtype)
    count, rest = divmod(size - offset, kind.itemsize)
    if rest or not count:
        raise DataError(
            f"{path} has {size:,} bytes, which is not a multiple of the {kind.itemsize} bytes of a {kind.name} id; it is "
            f"truncated, or of another kind (data.dtype is uint16 or uint32)"
        )
    if declared is not None and declared != count:
        raise DataError(f"{path}: its header declares {declared:,} tokens, and {count:,} follow; it is truncated")
    return np.memmap(path, kind, "r", offset=offset)
