"""Small files that made a reader hang, read without end or fail with a traceback: each is one bounded message."""

import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest

from jaxnets.core.download import read_array, read_arrays
from jaxnets.core.errors import LONGEST_MESSAGE, DataError, JaxnetsError, shortened
from jaxnets.data import Tabular, Text, open_tokenizer
from jaxnets.data.sources.images import read_idx


def npy(description, shape):
    """A .npy file of no data that declares this."""
    head = f"{{'descr': {description!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (118 - len(head) - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head


@pytest.mark.parametrize("description", ["|V0", "|S0", "<U0", "|V8"])
def test_any_number_of_elements_without_a_size_is_refused(tmp_path, description):
    path = tmp_path / "few_bytes.npy"
    path.write_bytes(npy(description, (10**12,)))
    with pytest.raises(DataError, match=r"elements of dtype|cannot be read as \.npy"):
        read_array(path)


@pytest.mark.parametrize(
    "read", [lambda path: Text(str(path)).open(), lambda path: read_arrays(path), lambda path: read_array(path)]
)
@pytest.mark.parametrize("make", ["device", "pipe"])
def test_endless_files_are_not_read(tmp_path, read, make):
    path = Path("/dev/zero")
    if make == "pipe":
        path = tmp_path / "pipe"
        os.mkfifo(path)
    if not path.exists():
        pytest.skip("no such device here")
    found = []

    def attempt():
        try:
            read(path)
        except DataError as error:
            found.append(str(error))

    # A reader that waits or never ends must fail this test, not the suite.
    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(10)
    assert found
    assert "not a plain file" in found[0]


def test_an_idx_file_of_impossible_dims_is_one_message():
    for dims in ((0, 2**32 - 1, 2**32 - 1), (2**32 - 1,) * 4, (0,)):
        content = bytes([0, 0, 8, len(dims)]) + b"".join(struct.pack(">I", n) for n in dims)
        with pytest.raises(DataError, match="damaged"):
            read_idx(content)


@pytest.mark.parametrize(
    "arrays",
    [
        {"inputs": np.array(3.0), "targets": np.arange(4)},
        {"inputs": np.zeros((4, 2)), "targets": np.array(3)},
        {"inputs": np.zeros((4, 2)), "targets": np.array([0, 1, 2, 7]), "target_names": np.array(["a", "b"])},
        {"inputs": np.zeros((4, 2)), "targets": np.array([0, 1, 0, -1]), "target_names": np.array(["a", "b"])},
        {"inputs": np.zeros((4, 2)), "targets": np.array([0, 1, 0, 1]), "target_names": np.array("ab")},
    ],
    ids=["inputs of no dims", "targets of no dims", "a label too large", "a label below 0", "names of no dims"],
)
def test_an_npz_that_contradicts_itself_is_one_message(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(JaxnetsError):
        Tabular(str(tmp_path / "a.npz")).open()


def test_a_panic_of_the_tokenizers_library_is_one_message(tmp_path, monkeypatch):
    tokenizers = pytest.importorskip("tokenizers")

    class PanicException(BaseException):
        """As pyo3 raises it: no Exception."""

    class Panics:
        @staticmethod
        def from_str(_):
            raise PanicException("index out of bounds")

    path = tmp_path / "tokenizer.json"
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    made.save(str(path))
    monkeypatch.setattr(tokenizers, "Tokenizer", Panics)
    with pytest.raises(DataError, match="index out of bounds"):
        open_tokenizer(str(path)).encode("a")


def test_the_length_of_a_message_is_bounded_for_any_quoted_text(tmp_path):
    path = tmp_path / "wide.csv"
    path.write_text("x" * 5_000_000 + ",\n1,2\n3,4\n")
    with pytest.raises(DataError) as caught:
        Tabular(str(path), target="y").open()
    assert len(str(caught.value)) < LONGEST_MESSAGE + 100
    assert "characters left out" in str(caught.value)
    assert shortened("abc", 3) == "abc"
    assert shortened("a" * 10, 4) == "aa ... (6 characters left out) ... aa"
