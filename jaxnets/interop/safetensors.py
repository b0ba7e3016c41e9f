"""Reads and writes safetensors: a length, a JSON header with names, dtypes, shapes and offsets, then the bytes.

The header is untrusted: everything in it is checked against the file before any array is read.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxnets.core.errors import DataError
from jaxnets.core.files import replacing, user_path

DTYPES: dict[str, Any] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
# The limit of the reference implementation.
LONGEST_HEADER = 100_000_000


def read_safetensors(path: Path | str) -> dict[str, np.ndarray]:
    """Arrays by name, as read-only views of the memory-mapped file: bytes are loaded on first use.

    Raises:
        DataError: the file is missing, damaged, or does not match its header.
    """
    path = user_path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, LONGEST_HEADER):
                raise DataError(
                    f"{path} is not safetensors: it declares a header of {length:,} bytes and has {size:,} in all"
                )
            header = json.loads(file.read(length), object_pairs_hook=_once)
        if not isinstance(header, dict):
            raise DataError(f"{path} is not safetensors: its header is {type(header).__name__}, not an object")
        data = np.memmap(path, np.uint8, "r", offset=8 + length) if size > 8 + length else np.zeros(0, np.uint8)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        arrays = {name: _array(path, name, entry, data) for name, entry in entries.items()}
        _check_whole(path, entries, len(data))
        return arrays
    except FileNotFoundError:
        raise DataError(f"there is no file {path}; check the path") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as safetensors ({type(error).__name__}: {str(error)[:200]})") from error


def write_safetensors(
    path: Path | str, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays by name, atomically: the file is complete or absent. Raises `DataError`."""
    path, names = user_path(path), {np.dtype(dtype): name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at, plain = 0, {}
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        if array.dtype not in names:
            raise DataError(
                f"{name} is {array.dtype}, which safetensors does not support; cast it to one of {', '.join(DTYPES)}"
            )
        header[name] = {
            "dtype": names[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        plain[name], at = array, at + array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    try:
        with replacing(path) as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for array in plain.values():
                file.write(array.tobytes())
    except OSError as error:
        raise DataError(f"cannot write {path} ({error}); choose another place") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a duplicate key raises `ValueError`, since it is ambiguous."""
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1)
        raise ValueError(f"the header names {twice[:100]!r} twice")
    return made


def _check_whole(path: Path, entries: Mapping[str, Any], size: int) -> None:
    """Raise `DataError` unless the arrays are contiguous and fill the file, as the format requires."""
    at = 0
    for start, end, name in sorted((*entry["data_offsets"], name) for name, entry in entries.items()):
        if start != at:
            what = "overlap those before them" if start < at else "leave a gap before them"
            raise DataError(
                f"{path}: the bytes of {name[:100]!r} {what}; the file is damaged or made by another writer"
            )
        at = end
    if at != size:
        raise DataError(f"{path}: {size - at:,} bytes at the end belong to no array; the file is damaged")


def _array(path: Path, name: str, entry: Any, data: np.ndarray) -> np.ndarray:
    declared = entry.get("dtype") if isinstance(entry, dict) else None
    if isinstance(declared, str) and declared not in DTYPES:
        raise DataError(
            f"{path}: {name[:100]!r} is {declared[:20]}, which is not supported; supported are {', '.join(DTYPES)}. Save "
            f"quantised weights again in bfloat16 with the library that made them"
        )
    try:
        dtype, shape, (start, end) = np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(f"{path}: the header's entry for {name[:100]!r} is not valid safetensors ({error})") from error
    numbers = (*shape, start, end)
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in numbers) or len(shape) > 32:
        raise DataError(f"{path}: {name[:100]!r} has shape {str(shape)[:100]} at {start} to {end}, which is not valid")
    if end > len(data) or start > end or end - start != math.prod(shape) * dtype.itemsize:
        raise DataError(
            f"{path}: {name[:100]!r} of {dtype}{list(shape)} is declared at bytes {start} to {end} of {len(data)}, "
            f"which does not fit"
        )
    return data[start:end].view(dtype).reshape(shape)
