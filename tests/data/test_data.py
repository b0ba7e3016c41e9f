"""Order, feeds, files, tables, downloads."""

import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnets.core.download import Remote, check_digests, download, obtain, read_arrays
from jaxnets.core.errors import DataError, UsageError
from jaxnets.data import Augment, Digits, Tabular, from_arrays, load
from jaxnets.data.order import InOrder, Shuffled, _permutation
from jaxnets.data.sources.images import MNIST, _read_cifar_archive, read_idx
from jaxnets.ops.random import stream_key


@given(examples=st.integers(1, 200), batch=st.integers(1, 40), seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_an_epoch_shows_no_example_twice_and_the_order_is_pure(examples, batch, seed):
    if batch > examples:
        with pytest.raises(UsageError, match=f"larger than the training set \\({examples}"):
            Shuffled(examples, batch, seed)
        return
    order = Shuffled(examples, batch, seed)
    per = order.steps_per_epoch
    for epoch in (0, 3):
        seen = np.concatenate([order.rows(epoch * per + i)[0] for i in range(per)])
        assert len(set(seen.tolist())) == per * batch
        assert seen.min() >= 0
        assert seen.max() < examples
    before = order.rows(7 * per)[0].copy()
    _permutation.cache_clear()  # as in a new process
    np.testing.assert_array_equal(before, Shuffled(examples, batch, seed).rows(7 * per)[0])


def test_epochs_and_seeds_differ():
    rows = [Shuffled(100, 50, seed).rows(step)[0].tolist() for seed in (0, 1) for step in (0, 2)]
    assert len({tuple(r) for r in rows}) == 4


@given(examples=st.integers(1, 100), batch=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_evaluation_order_counts_every_example_once(examples, batch):
    order = InOrder(examples, batch)
    kept = [index[mask > 0] for index, mask in map(order.rows, range(order.steps))]
    np.testing.assert_array_equal(np.concatenate(kept), np.arange(examples))


def test_augmentation_depends_on_key_and_position_only():
    images = jnp.asarray(np.random.default_rng(0).random((6, 8, 8, 1)), jnp.float32)
    augment = Augment(shift=2, flip=True, cutout=3, noise=0.1)
    a = augment(images, stream_key(0, "augment", 5))
    np.testing.assert_array_equal(a, augment(images, stream_key(0, "augment", 5)))
    np.testing.assert_array_equal(a[:3], augment(images[:3], stream_key(0, "augment", 5)))
    assert not np.array_equal(a, augment(images, stream_key(0, "augment", 6)))
    assert Augment()(images, stream_key(0, "augment", 5)) is images


def test_augmentations_equal_their_definitions():
    images = jnp.asarray(np.random.default_rng(0).random((64, 8, 8, 1)) + 1, jnp.float32)
    key = stream_key(0, "augment", 0)
    shifted = np.asarray(Augment(shift=1)(images, key))
    inner = shifted[:, 1:-1, 1:-1]
    places = [
        np.array_equal(inner[0], np.asarray(images)[0, 1 + i : 7 + i, 1 + j : 7 + j])
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
    ]
    assert sum(places) == 1
    flipped = np.asarray(Augment(flip=True)(images, key))
    same = [np.array_equal(a, b) for a, b in zip(flipped, images, strict=True)]
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(flipped, np.asarray(images), strict=True)]
    assert all(s != m for s, m in zip(same, mirrored, strict=True))
    assert 16 < sum(mirrored) < 48
    holes = (np.asarray(Augment(cutout=4)(images, key)) == 0).sum(axis=(1, 2, 3))
    assert holes.max() == 16
    assert holes.min() >= 4
    noise = np.asarray(Augment(noise=0.5)(images, key)) - np.asarray(images)
    assert noise.std() == pytest.approx(0.5, rel=0.05)


def test_digits_are_bundled_and_split_once():
    digits = load("digits")
    assert digits.card.examples == {"train": 1438, "test": 359}
    assert digits.fingerprint == Digits().open().fingerprint
    x = digits.train["inputs"]
    prepared = digits.prepare(jnp.asarray(x))
    assert abs(float(prepared.mean())) < 0.05
    assert float(prepared.std()) == pytest.approx(1, abs=0.05)


def test_from_arrays_does_not_change_the_callers_arrays():
    x, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 3
    x_before, y_before = x.copy(), y.copy()
    dataset = from_arrays(x, y)
    dataset.train["inputs"][:] = 0
    np.testing.assert_array_equal(x, x_before)
    np.testing.assert_array_equal(y, y_before)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (
            np.array([[1.0], [np.nan], [2.0]] * 4),
            np.arange(12) % 2,
            r"1 at index|NaN or infinite values, the first at index",
        ),
        (np.ones((12, 2)), np.r_[np.zeros(11), np.inf], "targets hold 1 NaN or infinite"),
        (np.ones((12, 2)), np.r_[np.zeros(11, int), -1], "label -1 at index .* out of range"),
        (np.ones((12, 2)), np.zeros(11, int), r"targets have shape \(11,\) for 12 inputs"),
        (np.ones((12, 2), complex), np.arange(12) % 2, "dtype complex128; give real numbers"),
        (
            np.ones((12, 2)),
            np.arange(12) * 1000,
            "run up to 11000 for .* examples. For a regression give floats",
        ),
        (np.ones((0, 2)), np.zeros(0, int), "no examples"),
        (np.ones(12), np.zeros(12, int), r"inputs have shape \(12,\)"),
        (np.array([["a"]] * 12), np.zeros(12, int), "dtype <U1"),
    ],
)
def test_bad_arrays_are_named(x, y, message):
    with pytest.raises(DataError, match=message):
        from_arrays(x, y)


def test_class_names_bound_the_labels():
    with pytest.raises(DataError, match="label 2 at index .*0 to 1"):
        from_arrays(np.ones((30, 1)), np.arange(30) % 3, class_names=("no", "yes"))
    words = from_arrays(np.ones((30, 1)), np.array(["10", "2", "9"] * 10))
    assert words.class_names == ("2", "9", "10")


def test_splits_of_different_kinds_are_refused_and_text_labels_keep_their_names():
    x = np.ones((10, 1))
    with pytest.raises(DataError, match="training targets are integers, the test targets real numbers"):
        from_arrays(x, np.arange(10) % 2, test=(x, np.arange(10) / 2))
    named = from_arrays(x, np.array(["yes", "no"] * 5), class_names=("yes", "no"))
    assert named.class_names == ("yes", "no")
    with pytest.raises(DataError, match="label 'no' is not among the class names"):
        from_arrays(x, np.array(["yes", "no"] * 5), class_names=("yes", "maybe"))


def test_large_numbers_keep_their_differences():
    stamps = 1.7e9 + np.arange(100.0)[:, None]
    dataset = from_arrays(stamps, np.arange(100) % 2)
    assert len(np.unique(dataset.train["inputs"])) == 80


def test_a_fingerprint_covers_how_examples_are_prepared():
    x, y = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32), np.arange(20) % 2
    variants = [from_arrays(x, y), from_arrays(x, y, standardize=False), from_arrays(x, y, augment=Augment(noise=0.1))]
    assert len({dataset.fingerprint for dataset in variants}) == 3
    with pytest.raises(DataError, match="augment.flip needs images"):
        from_arrays(x, y, augment=Augment(flip=True))


CSV = "size,kind,rooms,price\n" + "".join(
    f"{i},{'flat' if i % 2 else 'house'},{'' if i % 7 == 0 else i % 4},{100.5 * i + 3}\n" for i in range(40)
)


def test_a_table_is_encoded_from_its_training_rows(tmp_path):
    path = tmp_path / "homes.csv"
    path.write_text(CSV)
    dataset = Tabular(path=str(path), target="price").open()
    assert dataset.card.target_kind == "number"
    x = dataset.train["inputs"]
    assert x.shape == (32, 4)  # size, two kinds, rooms
    np.testing.assert_allclose(x[:, 0].mean(), 0, atol=1e-6)
    np.testing.assert_allclose(x[:, 0].std(), 1, atol=1e-5)
    assert set(np.unique(x[:, 1:3])) == {0.0, 1.0}
    assert Tabular(path=str(path), target="kind").open().class_names == ("flat", "house")
    assert Tabular(path=str(path), target="price", ignore=("kind",)).open().card.input_shape == (2,)
    zipped = tmp_path / "homes.csv.gz"
    zipped.write_bytes(gzip.compress(CSV.encode()))
    assert Tabular(path=str(zipped), target="price").open().fingerprint == dataset.fingerprint


@pytest.mark.parametrize(
    ("text", "target", "message"),
    [
        (CSV, "prize", "no column 'prize'. Did you mean 'price'"),
        (CSV, "", "name the column to predict"),
        (CSV.replace("3,flat", "3,flat,9"), "price", "line 5 has 5 cells, the header 4"),
        (CSV.replace("103.5", "nan"), "price", r"is empty \(or NaN\) in 1 rows, the first in row 2"),
        (CSV.replace(",103.5\n", ",\n"), "price", r"is empty \(or NaN\) in 1 rows, the first in row 2"),
        (CSV.replace("\n1,", "\ninf,"), "price", "column 'size' is infinite in row 2"),
        ("a,a\n1,2\n3,4\n5,6\n", "a", "name every column once"),
        ("a,b\n", "b", "has 1 lines"),
    ],
)
def test_a_bad_table_is_named_with_its_line(tmp_path, text, target, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        Tabular(path=str(path), target=target).open()


def test_unknown_cells_and_labels_written_two_ways(tmp_path):
    rows = "".join(f"{'NA' if i % 5 == 0 else i},{'1.0' if i % 2 else '2'}\n" for i in range(30))
    path = tmp_path / "t.csv"
    path.write_text("a,label\n" + rows + f"3,{'1'}\n")
    dataset = Tabular(path=str(path), target="label").open()
    assert dataset.card.input_shape == (1,)
    assert dataset.class_names == ("1", "2")


def test_a_file_that_is_missing_or_of_another_kind(tmp_path):
    (tmp_path / "homes.csv").write_text(CSV)
    with pytest.raises(DataError, match=r"no file .*Did you mean 'homes.csv'"):
        Tabular(path=str(tmp_path / "home.csv"), target="price").open()
    other = tmp_path / "t.parquet"
    other.write_text("x")
    with pytest.raises(DataError, match=r"neither \.csv"):
        Tabular(path=str(other)).open()
    with pytest.raises(DataError, match=r"no data set called 'mnits'. Did you mean 'mnist'"):
        load("mnits")


def test_custom_npz_files(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, x=np.random.default_rng(0).normal(size=(50, 3)), y=np.arange(50) % 2)
    assert Tabular(path=str(path)).open().card.class_names == ("0", "1")
    with pytest.raises(DataError, match="expected inputs under"):
        Tabular(path=str(path), target="z").open()


@pytest.mark.parametrize("damage", ["truncate", "flip", "text", "pickle"])
def test_a_damaged_or_hostile_npz_is_refused(tmp_path, damage):
    path = tmp_path / "d.npz"
    np.savez(path, inputs=np.arange(4000.0).reshape(1000, 4), targets=np.arange(1000) % 2)
    raw = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(raw[: len(raw) // 2])
    elif damage == "flip":
        raw[len(raw) // 3] ^= 16
        path.write_bytes(raw)
    elif damage == "text":
        path.write_text("not an archive")
    else:

        class Evil:
            def __reduce__(self):
                return (os.mkdir, (str(tmp_path / "pwned"),))

        np.savez(path, inputs=np.array([Evil()], dtype=object), targets=np.zeros(1))
    with pytest.raises(DataError, match="cannot be read|holds Python objects"):
        read_arrays(path)
    assert not (tmp_path / "pwned").exists()


def idx(array):
    return b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


@pytest.mark.parametrize(
    "spoil", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b"\1" + b[1:], lambda b: b[:6], lambda b: b""]
)
def test_idx_files_declare_what_they_hold(spoil):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.testing.assert_array_equal(read_idx(idx(array)), array)
    np.testing.assert_array_equal(read_idx(gzip.compress(idx(array))), array)
    with pytest.raises(DataError, match="IDX"):
        read_idx(spoil(idx(array)))


def test_a_download_is_checked_kept_and_found_again(tmp_path, monkeypatch):
    monkeypatch.delenv("JAXNETS_DATA", raising=False)
    source = tmp_path / "source.bin"
    source.write_bytes(bytes(range(200)))
    good = Remote(source.as_uri(), hashlib.sha256(source.read_bytes()).hexdigest())

    def decode(files):
        return {"x": np.frombuffer(files[0], np.uint8)}

    arrays = obtain("vision/tiny.npz", (good,), decode)
    source.unlink()  # the second time it comes from the cache
    np.testing.assert_array_equal(obtain("vision/tiny.npz", (good,), decode)["x"], arrays["x"])
    with pytest.raises(DataError, match=r"vision/other.npz is not on this machine .*JAXNETS_DATA"):
        obtain("vision/other.npz", (good,), decode)


def test_a_download_with_another_digest_is_refused(tmp_path):
    source = tmp_path / "source.bin"
    source.write_bytes(b"changed")
    with pytest.raises(DataError, match=r"sha256 .* expected 0000.*nothing was kept"):
        download(Remote(source.as_uri(), "0" * 64), wanted_for="x")
    with pytest.raises(DataError, match="damaged"):
        check_digests("x", {"a": np.zeros(3)}, {"a": "0" * 64})


def test_cifar_archive_is_read_in_place(tmp_path):
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    rows = {}
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
            rows[name] = rng.integers(0, 256, (3, 3073)).astype(np.uint8)
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            info.size = rows[name].size
            archive.addfile(info, io.BytesIO(rows[name].tobytes()))
    arrays = _read_cifar_archive(buffer.getvalue())
    assert arrays["x_train"].shape == (15, 32, 32, 3)
    first = rows["data_batch_2"][1]
    assert arrays["y_train"][4] == first[0]
    assert arrays["x_train"][4, 5, 7, 2] == first[1 + 2 * 1024 + 5 * 32 + 7]


needs_data = pytest.mark.skipif(
    not (Path(os.environ.get("JAXNETS_DATA", "")) / "vision" / "mnist.npz").is_file(), reason="JAXNETS_DATA is not set"
)


@needs_data
def test_mnist_is_the_published_one():
    from jaxnets.data.sources.images import _MNIST_DIGESTS

    mnist = MNIST().open()
    arrays = {"x_train": mnist.train["inputs"], "x_test": mnist.test["inputs"]}
    check_digests("mnist", arrays, {key: _MNIST_DIGESTS[key] for key in arrays})
    assert mnist.card.examples == {"train": 60000, "test": 10000}


@pytest.mark.slow
@needs_data
def test_cifar_is_decoded_and_balanced():
    cifar = load("cifar10")
    assert cifar.train["inputs"].shape == (50000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(cifar.train["targets"]), [5000] * 10)
    np.testing.assert_array_equal(np.bincount(cifar.test["targets"]), [1000] * 10)
    assert cifar.train["inputs"].mean(axis=(0, 1, 2)) == pytest.approx([125.3, 123.0, 113.9], abs=0.5)


@needs_data
def test_california_is_a_regression_on_held_out_districts():
    california = load("california")
    assert california.card.examples == {"train": 16512, "test": 4128}
    assert california.card.target_kind == "number"
    assert np.isfinite(california.train["inputs"]).all()
