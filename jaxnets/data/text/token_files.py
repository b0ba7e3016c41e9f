"""Files of token ids made before: `.npz`, `.npy`, and the `.bin` files of nanoGPT and llm.c. `.npy` and `.bin` are mapped,
not read whole."""

from pathlib import Path

import numpy as np

from jaxnets.core.download import read_arrays
from jaxnets.core.errors import DataError
from jaxnets.core.files import user_path

# The first number of an llm.c file and its version, and the integers that follow its header of 256 int32.
_LLM_C = {(20240520, 1): "<u2", (20240801, 7): "<u4"}
_HEADER = 1024
# What the file for the test may be called, in the place of "train".
_TEST_NAMES = ("val", "validation", "valid", "test")


def read_parts(path: Path, train: str, test: str, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids for training and for the test, `[T]` each.

    Args:
        path: an `.npz` with two arrays; a `.bin` or `.npy` for training beside one for the test, whose name has "val",
            "validation", "valid" or "test" for "train"; or a folder that holds such a pair.
        train: the array for training in an `.npz`.
        test: the array for the test in an `.npz`; else a name of the file for the test, if it ends in `.bin` or `.npy`, or
            what it has for "train".
        dtype: integers of a `.bin` without a header: "uint16" or "uint32".

    Raises:
        DataError: a file that is missing, damaged or of another kind.
    """
    path = path.expanduser()
    if path.is_dir():
        found = [path / f"train{suffix}" for suffix in (".bin", ".npy") if (path / f"train{suffix}").is_file()]
        if not found:
            raise DataError(f"{path} holds neither train.bin nor train.npy; name the file for training in data.path")
        path = found[0]
    if path.suffix == ".npz":
        arrays = read_arrays(path, (train, test))
        return arrays[train], arrays[test]
    if path.suffix not in (".bin", ".npy"):
        raise DataError(
            f"{path} is no file of tokens by its name; give .npz, .npy or .bin (uint16 or uint32 ids in a row)"
        )
    if not path.is_file():
        raise DataError(f"there is no file {path}; check the path")
    parts = [_read(file, dtype) for file in (path, _beside(path, test))]
    return parts[0], parts[1]


def _beside(path: Path, test: str) -> Path:
    """The file for the test that goes with one for training."""
    if test.endswith((".bin", ".npy")):
        given = user_path(test)
        candidates = [given if given.is_absolute() else path.parent / given]
    else:
        names = dict.fromkeys((test, *_TEST_NAMES))
        candidates = [path.with_name(path.name.replace("train", name)) for name in names if "train" in path.name]
    found = [candidate for candidate in candidates if candidate.is_file()]
    if not found:
        wanted = ", ".join(candidate.name for candidate in candidates) or 'a name with "train" in it has "val" there'
        raise DataError(
            f"{path} is for training, and there is none for the test beside it ({wanted}); put it there, or name it in "
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
                    f"{path} is an llm.c file of version {version}, which is not read; write it anew by llm.c"
                )
        ids = _mapped(path, {"uint16": "<u2", "uint32": "<u4"}[dtype], size)
    except DataError:
        raise
    except Exception as error:  # numpy raises half a dozen types on damaged bytes
        raise DataError(
            f"{path} cannot be read as token ids ({type(error).__name__}: {error}); make it anew"
        ) from error
    if len(ids) > 3 and ids[0::2].any() and not ids[1::2].any() and (dtype == "uint32" or not ids[2::4].any()):
        raise DataError(
            f"{path}: as {dtype}, tokens are followed by zeros, so it holds numbers of 64 bits it seems; write it by "
            f"`ids.astype('uint16').tofile(...)`, or uint32 for a vocabulary beyond 65,536"
        )
    if dtype == "uint16" and len(ids) > 1 and ids[0::2].any() and not ids[1::2].any():
        raise DataError(
            f"{path}: as uint16, every second token is 0, so it holds uint32 it seems; set data.dtype to uint32, or write it "
            f"by `ids.astype('uint16').tofile(...)`"
        )
    return ids


def _mapped(path: Path, dtype: str, size: int, *, offset: int = 0, declared: int | None = None) -> np.ndarray:
    kind = np.dtype(dtype)
    count, rest = divmod(size - offset, kind.itemsize)
    if rest or not count:
        raise DataError(
            f"{path} has {size:,} bytes, which is no whole number of {kind.name} ids of {kind.itemsize} bytes each; it is cut "
            f"off, or of another kind (data.dtype is uint16 or uint32)"
        )
    if declared is not None and declared != count:
        raise DataError(f"{path}: its header declares {declared:,} tokens, and {count:,} follow; it is cut off")
    return np.memmap(path, kind, "r", offset=offset)
