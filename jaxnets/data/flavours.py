"""Converts array-likes to plain arrays: all NumPy dtypes, pandas objects, lists, tensors of other libraries.

The results are booleans, integers or floats in native byte order (text too, for labels), without masks and without Python
objects. Values that would need a guess are refused.
"""

from typing import Any

import numpy as np

from jaxnets.core.errors import DataError

# Type names of the missing values of pandas and Python; NaN is tested by value.
_MISSING_TYPES = ("NAType", "NaTType", "NoneType")


def plain_numbers(what: str, values: Any) -> np.ndarray:
    """Real numbers as a plain array: booleans, integers or floats in native byte order.

    Args:
        what: what the values are, for messages.
        values: an array of any kind, a DataFrame, a list.

    Raises:
        DataError: text, dates, complex or structured numbers, masked values, sparse matrices, rows of different lengths.
    """
    array = plain_array(what, values)
    if array.dtype.kind in "SU":
        raise DataError(
            f"{what} hold text (dtype {array.dtype}), e.g. {array.ravel()[0]!r}; give real numbers: encode words as numbers, "
            f"or read a table of both with data.Tabular"
        )
    return array


def plain_array(what: str, values: Any) -> np.ndarray:
    """Numbers or text as a plain array; raises `DataError` for anything else. Missing text raises, missing numbers are NaN."""
    array = _as_array(what, values)
    if isinstance(array, np.ma.MaskedArray):
        masked = np.ma.getmaskarray(array)
        if masked.any():
            place = tuple(int(i) for i in np.argwhere(masked)[0])
            raise DataError(
                f"{what} are a masked array with {int(masked.sum())} masked values, the first at index {place}; fill them "
                f"(x.filled(value)) or leave those rows out: masked values are not data"
            )
        array = array.data
    if array.dtype.kind == "T":  # NumPy's strings of variable length
        array = array.astype(object)
    if array.dtype.kind == "O":
        array = _from_objects(what, array)
    if array.dtype.kind == "S":
        array = _from_bytes(what, array)
    if array.dtype.kind in "Mm":
        raise DataError(
            f"{what} are dates or times (dtype {array.dtype}); give numbers, e.g. seconds: x.astype('datetime64[s]')"
            f".astype(np.int64), or x / np.timedelta64(1, 's')"
        )
    if array.dtype.kind == "V" and array.dtype.names:
        raise DataError(
            f"{what} have named fields ({', '.join(array.dtype.names)}); give one array of numbers: "
            f"numpy.lib.recfunctions.structured_to_unstructured(x)"
        )
    if array.dtype.kind == "V" and array.dtype.name in (
        "bfloat16",
        "float8_e4m3fn",
        "float8_e5m2",
        "float8_e4m3b11fnuz",
    ):
        array = array.astype(np.float32)
    if array.dtype.kind not in "biufSU":
        raise DataError(f"{what} have dtype {array.dtype}; give real numbers")
    # FITS, IDX and HDF files store numbers in the other byte order, which no device takes.
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _as_array(what: str, values: Any) -> np.ndarray:
    if hasattr(values, "toarray") and hasattr(values, "nnz"):
        raise DataError(f"{what} are a sparse matrix ({type(values).__name__}); give a dense array: x.toarray()")
    if isinstance(values, np.ma.MaskedArray):
        return values
    values = _from_torch(values)
    try:
        # A list that holds masked arrays would lose their masks.
        if isinstance(values, list | tuple) and any(isinstance(v, np.ma.MaskedArray) for v in values):
            return np.ma.stack(values)
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        remedy = "give rows of one length"
        if not isinstance(values, list | tuple):
            remedy = "convert them first, e.g. a torch tensor with x.detach().float().numpy()"
        raise DataError(f"{what} cannot become an array ({error}); {remedy}") from error
    if isinstance(values, list | tuple) and array.dtype.kind in "US":
        return _unmixed(values, array)
    return array


def _from_torch(values: Any) -> Any:
    """Tensors of torch without their gradient, on the host and in a dtype that NumPy has; also those in a list."""
    if isinstance(values, list | tuple) and values and hasattr(values[0], "detach"):
        return [_from_torch(value) for value in values]
    if not (hasattr(values, "detach") and hasattr(values, "requires_grad")):
        return values
    values = values.detach().cpu()
    return values.float() if "bfloat16" in str(values.dtype) else values


def _unmixed(values: Any, array: np.ndarray) -> np.ndarray:
    """The array of a list of strings, or an object array if NumPy turned numbers or missing values into text."""
    objects = np.array(values, dtype=object).reshape(array.shape)
    kinds = {type(v) for v in objects.ravel()}
    return array if all(issubclass(kind, str) for kind in kinds) else objects


def is_missing(value: Any) -> bool:
    """Whether a Python object is a missing value: None, NaN, pandas' NA or NaT."""
    if type(value).__name__ in _MISSING_TYPES:
        return True
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def _from_objects(what: str, array: np.ndarray) -> np.ndarray:
    """An object array as numbers or as text."""
    flat = array.ravel()
    missing = np.array([is_missing(v) for v in flat], bool)
    known = [v for v, gone in zip(flat, missing, strict=True) if not gone]
    if known and all(isinstance(v, str | bytes | np.bytes_) for v in known):
        if missing.any():
            place = tuple(int(i) for i in np.argwhere(missing.reshape(array.shape))[0])
            raise DataError(
                f"{what}: {int(missing.sum())} of {len(flat)} are missing (None or NaN among text), the first at index "
                f"{place}; leave those rows out, or name them as a class"
            )
        if len({isinstance(v, str) for v in known}) > 1:
            raise DataError(f"{what} mix text and bytes; convert the bytes to text: [v.decode() for v in x]")
        return np.array(known).reshape(array.shape)
    try:
        if not missing.any() and all(isinstance(v, bool | np.bool_) for v in known):
            return flat.astype(bool).reshape(array.shape)
        if not missing.any() and all(isinstance(v, int | np.integer) for v in known):
            return np.array([int(v) for v in known], np.int64).reshape(array.shape)
        if any(isinstance(v, str | bytes | np.ndarray | list | tuple | dict) for v in known):
            raise TypeError(
                f"{next(v for v in known if isinstance(v, str | bytes | np.ndarray | list | tuple | dict))!r:.80}"
            )
        numbers = np.full(flat.shape, np.nan)
        numbers[~missing] = [float(v) for v in known]
    except (TypeError, ValueError, OverflowError) as error:
        kinds = ", ".join(sorted({type(v).__name__ for v in known})[:4])
        raise DataError(
            f"{what} are an array of Python objects ({kinds}) that are neither all numbers nor all text ({error}); convert "
            f"them first: x.astype(str) for labels, x.astype(float) for numbers"
        ) from error
    return numbers.reshape(array.shape)


def _from_bytes(what: str, array: np.ndarray) -> np.ndarray:
    """Bytes decoded as UTF-8 text; HDF5 and ARFF files store text as bytes."""
    try:
        return np.char.decode(array, "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{what} are bytes that are not text in UTF-8 ({error}); decode them first") from error
