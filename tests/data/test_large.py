"""Data that do not fit into memory: read row by row, with the results of the same numbers in memory."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, assert_same_bits

import jaxnets
from jaxnets.core.errors import DataError, DataWarning, UsageError
from jaxnets.core.scaling import blocks, centred, extremes, mean_and_deviation
from jaxnets.data import large, windows
from jaxnets.data.arrays import from_arrays
from jaxnets.data.dataset import Dataset
from jaxnets.data.order import Shuffled
from jaxnets.models import MLP


def images(count=300, dtype=np.uint8):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, count)
    x = rng.integers(0, 100, (count, 6, 6, 3)) + 50 * y[:, None, None, None]
    return x.astype(dtype), y


def mapped(path, array):
    """The array in a file, mapped read-only."""
    np.save(path, array)
    return np.load(path, mmap_mode="r")


@pytest.fixture
def lazily(monkeypatch):
    """Every mapped array counts as large."""
    monkeypatch.setattr(large, "LARGE_BYTES", 1)


def train(data, **options):
    return jaxnets.fit(
        MLP(widths=(8,)), data, **{"steps": 12, "batch_size": 16, "progress": "none", "log_every": 1} | options
    )


def losses(run):
    return run.history.series("loss")[1]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, ">f4"])
def test_a_mapped_file_trains_as_the_same_numbers_in_memory(tmp_path, lazily, dtype):
    x, y = images(dtype=dtype)
    plain, lazy = train((x, y)), train((mapped(tmp_path / "x.npy", x), y))
    assert lazy.parts.dataset.lazy
    assert not lazy.parts.resident
    assert not plain.parts.dataset.lazy
    assert lazy.parts.dataset.preparation == plain.parts.dataset.preparation
    assert list(losses(plain)) == list(losses(lazy))
    assert_same_bits(plain.variables, lazy.variables)
    assert plain.evaluate() == lazy.evaluate()


@pytest.mark.parametrize("shape", [(500, 3), (40, 9, 7, 3), (5000, 4, 1), (60, 12), (50,), (30, 2, 8)])
def test_statistics_are_those_of_plain_sums_to_the_bit(shape):
    x = np.random.default_rng(1).normal(100, 3, shape).astype(np.float32)
    x = x if x.ndim > 1 else x[:, None]
    lead = tuple(range(x.ndim - 1))
    least, most = extremes(x)
    np.testing.assert_array_equal(least, x.min(axis=lead))
    np.testing.assert_array_equal(most, x.max(axis=lead))
    # The same steps with NumPy's own sums over all but the last dim.
    unit, start = np.abs(x).max(axis=lead).astype(np.float64), x[(0,) * len(lead)].astype(np.float64)
    count = x.size / x.shape[-1]
    mean = start + sum((centred(b, start) / unit).sum(axis=lead) for b in blocks(x)) / count * unit
    off = [centred(b, mean) / unit for b in blocks(x)]
    residual, spread = sum(b.sum(axis=lead) for b in off) / count, sum((b * b).sum(axis=lead) for b in off) / count
    found = mean_and_deviation(x)
    np.testing.assert_array_equal(found[0], mean)
    np.testing.assert_array_equal(found[1], np.sqrt(np.maximum(spread - residual**2, 0)) * unit)


@pytest.mark.slow
def test_a_run_on_a_mapped_file_resumes_with_the_same_bits(tmp_path, lazily):
    x, y = images()
    map_ = mapped(tmp_path / "x.npy", x)
    whole = train((map_, y), run_dir=tmp_path / "whole")
    data = from_arrays(map_, y)
    experiment = whole.experiment
    jaxnets.train(experiment, dataset=data, run_dir=tmp_path / "cut", stop_at=5, progress="none")
    again = from_arrays(np.load(tmp_path / "x.npy", mmap_mode="r"), y)
    cut = jaxnets.train(experiment, dataset=again, run_dir=tmp_path / "cut", progress="none")
    assert_same_bits(whole.state, cut.state)


def test_another_file_is_other_data(tmp_path, lazily):
    x, y = images()
    first = from_arrays(mapped(tmp_path / "x.npy", x), y).fingerprint
    assert first == from_arrays(np.load(tmp_path / "x.npy", mmap_mode="r"), y).fingerprint
    assert first != from_arrays(np.load(tmp_path / "x.npy", mmap_mode="r"), y, seed=1).fingerprint
    tested = from_arrays(mapped(tmp_path / "x.npy", x), y, test=(x[:9], y[:9]), standardize=False).fingerprint
    changed = x.copy()
    changed[2] += 1  # not among the rows that are looked at: the time of the file tells
    assert (
        tested
        != from_arrays(mapped(tmp_path / "x.npy", changed), y, test=(x[:9], y[:9]), standardize=False).fingerprint
    )


def test_a_writable_map_is_the_same_data_when_it_is_opened_again(tmp_path, lazily):
    x, y = images()
    made = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, x.shape)
    made[:] = x
    first = from_arrays(made, y).fingerprint
    del made
    assert first == from_arrays(np.load(tmp_path / "x.npy", mmap_mode="r"), y).fingerprint


def test_a_large_map_is_checked_by_its_sample_and_then_as_it_is_read(tmp_path, lazily, monkeypatch):
    x, y = images(400, np.float32)
    monkeypatch.setattr(large, "CHECKED_BYTES", 1)
    monkeypatch.setattr(large, "SAMPLE_ROWS", 50)
    with pytest.warns(DataWarning, match="50 of 400 training rows"):
        good = train((mapped(tmp_path / "good.npy", x), y), test=(x[:20], y[:20]))
    seen = x[large.sample_rows(400, x.shape[1:], x.dtype)]
    assert len(seen) == 50
    np.testing.assert_allclose(good.parts.dataset.prepare.mean, seen.mean(axis=(0, 1, 2)), rtol=1e-5)
    unseen = next(i for i in range(400) if i not in set(large.sample_rows(400, x.shape[1:], x.dtype)))
    x[unseen, 0, 0, 0] = np.nan
    with pytest.warns(DataWarning), pytest.raises(DataError, match=f"row {unseen} of the data has a NaN"):
        train((mapped(tmp_path / "bad.npy", x), y), test=images(20, np.float32), steps=50)


def test_a_nan_in_a_map_is_found_before_training(tmp_path, lazily):
    x, y = images(dtype=np.float32)
    x[250, 1, 2, 0] = np.nan
    with pytest.raises(DataError, match=r"NaN or infinite values, the first at index \(250, 1, 2, 0\)"):
        from_arrays(mapped(tmp_path / "x.npy", x), y, test=images(5, np.float32))


def test_rows_of_a_lazy_array_are_those_of_the_array(tmp_path, lazily):
    x, _ = images(50)
    lazy = large.as_lazy("x", mapped(tmp_path / "x.npy", x))
    view = lazy.select(np.arange(49, -1, -2))
    for array, plain in ((lazy, x), (view, x[49::-2])):
        assert array.shape == plain.shape
        for key in (
            3,
            -2,
            slice(4, 9),
            slice(None, None, 7),
            [5, 1, 5],
            np.arange(len(plain)) % 3 == 0,
            (2, 1),
            (slice(3), 0),
        ):
            np.testing.assert_array_equal(array[key], plain[key])
        np.testing.assert_array_equal(np.asarray(array), plain)
        assert (array.min(), array.max()) == (plain.min(), plain.max())
    with pytest.raises(IndexError, match="row 50 of an array of 50 rows"):
        lazy[[2, 50]]


def test_maps_in_a_dataset_made_by_hand(tmp_path, lazily):
    x, y = images()
    split = {"inputs": mapped(tmp_path / "x.npy", x), "targets": y, "weights": np.arange(300.0) % 4}
    names = ("a", "b", "c")
    plain = Dataset("by hand", {**split, "inputs": x}, {**split, "inputs": x}, names)
    lazy = Dataset("by hand", split, split, names)
    assert lazy.lazy
    assert lazy.preparation == plain.preparation
    assert list(losses(train(lazy))) == list(losses(train(plain)))


def test_a_sample_of_rows_is_small_and_always_the_same():
    rows = large.sample_rows(10**8, (224, 224, 3), np.dtype(np.uint8))
    assert len(rows) * 224 * 224 * 3 <= large.SAMPLE_BYTES
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, large.sample_rows(10**8, (224, 224, 3), np.dtype(np.uint8)))
    assert len(large.sample_rows(10**8, (3,), np.dtype(np.float32))) == large.SAMPLE_ROWS


MEMORY = """
import sys, numpy as np
import jaxnets
def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1024
x = np.load(sys.argv[1], mmap_mode="r")
model = lambda: jaxnets.models.MLP(widths=(8,))
options = dict(steps=30, batch_size=64, progress="none", placement="host")
small = np.random.default_rng(0).integers(0, 255, (2000, *x.shape[1:]), np.uint8)
jaxnets.fit(model(), (small, np.arange(2000) % 10), **options)  # what JAX and one run need whatever the data
before = anonymous()
run = jaxnets.fit(model(), (x, np.arange(len(x)) % 10), **options)
assert run.parts.dataset.lazy
print(anonymous() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")
def test_a_mapped_file_is_not_copied_into_memory(tmp_path):
    made = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, (200_000, 1024))
    made[:: 4096 // 1024] = 7  # touches each page
    made[:, :16] = np.random.default_rng(0).integers(0, 255, (200_000, 16), np.uint8)
    made.flush()
    del made
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "x.npy")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 100, f"{done.stdout.strip()} MB for a file of 205 MB"


def brighten(key, inputs):
    return inputs + jax.random.normal(key, ())


@pytest.mark.slow
def test_a_custom_augmentation_has_a_key_for_each_step_and_row():
    x, y = images(64, np.float32)
    run = train(from_arrays(x, y, test=(x, y), augment=brighten, standardize=False), batch_size=64, steps=2)
    feed = run.parts.feed
    shifts = []
    for step in (0, 1):
        batch = feed.batch(feed.load(step, 1, 1), 0, jnp.int32(step))
        index = np.asarray(batch["index"])
        shift = np.asarray(batch["inputs"]) - x[index]
        np.testing.assert_allclose(shift, np.broadcast_to(shift[:, :1, :1, :1], shift.shape), atol=1e-3)
        keys = jaxnets.ops.random.example_keys(jaxnets.ops.random.stream_key(0, "augment", step), jnp.asarray(index))
        wanted = np.array([jax.random.normal(key, ()) for key in keys])
        np.testing.assert_allclose(shift[:, 0, 0, 0], wanted, atol=1e-4)
        shifts.append(wanted[np.argsort(index)])
    assert not np.allclose(shifts[0], shifts[1])
    plain = train(from_arrays(x, y, test=(x, y), standardize=False), batch_size=64, steps=2)
    assert list(losses(plain)) != list(losses(run))


def test_a_custom_augmentation_must_keep_the_shape():
    x, y = images(64, np.float32)
    with pytest.raises(UsageError, match=r"makes inputs of shape \(3, 6, 3\) from \(6, 6, 3\)"):
        train(from_arrays(x, y, augment=lambda key, inputs: inputs[::2]))
    with pytest.raises(UsageError, match="a function"):
        from_arrays(x, y, augment="flip")
    assert from_arrays(x, y, augment=brighten).fingerprint == from_arrays(x, y, augment=brighten).fingerprint
    assert from_arrays(x, y, augment=brighten).fingerprint != from_arrays(x, y).fingerprint


def tokens_in(path, count, dtype=np.uint16):
    """A pair of files of byte tokens as nanoGPT writes them."""
    ids = np.random.default_rng(0).integers(0, 256, count).astype(dtype)
    ids.tofile(path / "train.bin")
    ids[:200].tofile(path / "val.bin")
    return ids


def source_of(path, **options):
    return jaxnets.data.TokenFile(str(path), tokens="bytes", **{"length": 16} | options)


@pytest.mark.parametrize(("count", "stride"), [(1000, 0), (1001, 8), (995, 5), (1000, 16), (1001, 30), (18, 16)])
def test_windows_of_a_mapped_file_are_those_in_memory(tmp_path, monkeypatch, count, stride):
    tokens_in(tmp_path, count)
    plain = source_of(tmp_path, stride=stride).open()
    monkeypatch.setattr(large, "LARGE_BYTES", 1)
    lazy = source_of(tmp_path, stride=stride).open()
    assert lazy.lazy
    assert not plain.lazy
    for split in ("train", "test"):
        for name, array in getattr(plain, split).items():
            np.testing.assert_array_equal(np.asarray(getattr(lazy, split)[name]), array)
            assert getattr(lazy, split)[name].dtype == array.dtype
    assert lazy.preparation == plain.preparation


def test_a_token_outside_the_vocabulary_is_found_when_it_is_read(tmp_path, lazily, monkeypatch):
    ids = tokens_in(tmp_path, 5000)
    monkeypatch.setattr(windows, "SAMPLE", 5)
    seen = np.linspace(0, 623, 5).astype(int)
    row = next(row for row in range(624) if not {row - 2, row - 1, row, row + 1, row + 2} & set(seen))
    ids[8 * row + 3] = 300
    ids.tofile(tmp_path / "train.bin")
    data = source_of(tmp_path).open()
    with pytest.raises(DataError, match=f"has token 300 at {8 * row + 3}, outside of a vocabulary of 256"):
        large.gather(data.train, np.array([row]))


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")
def test_a_sparse_file_of_ten_gigabytes_opens_trains_and_resumes(tmp_path):
    ids = np.memmap(tmp_path / "train.bin", np.uint16, "w+", shape=(5_000_000_000,))
    ids[:1000] = np.arange(1000) % 256
    ids.flush()
    np.arange(2000, dtype=np.uint16).clip(0, 255).tofile(tmp_path / "val.bin")
    before = anonymous()
    source = source_of(tmp_path, length=256, stride=4096)
    data = source.open()
    assert len(data.train["inputs"]) == 1_220_704
    experiment = jaxnets.Experiment(
        task=jaxnets.tasks.NextToken(model=jaxnets.models.LanguageModel(layers=1, heads=2, width=16)),
        data=source,
        steps=6,
        batch_size=8,
    )
    whole = jaxnets.train(experiment, run_dir=tmp_path / "whole", progress="none")
    assert anonymous() - before < 400
    jaxnets.train(experiment, run_dir=tmp_path / "cut", stop_at=3, progress="none")
    cut = jaxnets.train(experiment, run_dir=tmp_path / "cut", progress="none")
    assert_same_bits(whole.state, cut.state)


def anonymous():
    """Megabytes of this process that no file backs."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024


def test_the_order_is_numpys_own_permutation():
    for examples, seed, epoch in ((7, 0, 0), (1000, 3, 1), (70_001, 2**31, 5)):
        found = np.concatenate(
            [Shuffled(examples, 7, seed).rows(epoch * (examples // 7) + i)[0] for i in range(min(2, examples // 7))]
        )
        wanted = np.random.default_rng((seed, epoch)).permutation(examples)
        np.testing.assert_array_equal(found, wanted[: len(found)])
        assert found.dtype == np.int32
