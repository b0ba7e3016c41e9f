"""Data that are read by row numbers: the results of the same numbers in memory, whatever reads them."""

import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_same_bits

import jaxnets
from jaxnets.core.errors import DataError, DataWarning, UsageError
from jaxnets.data import from_arrays, from_source, large
from jaxnets.models import MLP


def images(count=300, dtype=np.uint8):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, count)
    x = rng.integers(0, 100, (count, 6, 6, 3)) + 50 * y[:, None, None, None]
    return x.astype(dtype), y


class Rows:
    """What a user would write."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        return self.x[row], self.y[row]


class Slow(Rows):
    """Later rows come sooner, so threads finish in another order."""

    def __getitem__(self, row):
        time.sleep(0.001 * (row % 3))
        return super().__getitem__(row)


class AtOnce(Rows):
    """Several rows in one call, as dicts, as Hugging Face gives them."""

    calls = 0

    def __getitem__(self, row):
        raise AssertionError("rows are read together, by __getitems__")

    def __getitems__(self, rows):
        AtOnce.calls += 1
        return [{"inputs": self.x[row], "targets": self.y[row], "name": "not an array"} for row in rows]


def train(data, **options):
    return jaxnets.fit(
        MLP(widths=(8,)), data, **{"steps": 12, "batch_size": 16, "progress": "none", "log_every": 1} | options
    )


def losses(run):
    return list(run.history.series("loss")[1])


@pytest.fixture(scope="module")
def in_memory():
    return {dtype: train(images(dtype=dtype)) for dtype in (np.uint8, np.float64)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [Rows, AtOnce, lambda x, y: list(zip(x, y, strict=True))], ids=["items", "batches", "list"]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_rows_train_as_the_same_numbers_in_memory(in_memory, make, dtype):
    run = train(make(*images(dtype=dtype)))
    assert run.parts.dataset.lazy
    assert not run.parts.resident
    assert run.parts.dataset.prepare == in_memory[dtype].parts.dataset.prepare
    assert losses(run) == losses(in_memory[dtype])
    assert_same_bits(run.variables, in_memory[dtype].variables)
    assert run.evaluate() == in_memory[dtype].evaluate()


def test_rows_on_the_device_give_the_same_bits(in_memory):
    run = train(Rows(*images()), placement="device")
    assert run.parts.resident
    assert losses(run) == losses(in_memory[np.uint8])


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_do_not_change_the_order(threads):
    x, y = images(60)
    data = from_source(Slow(x, y), test=Rows(x, y), threads=threads)
    rows = np.random.default_rng(0).permutation(60)
    found = large.gather(data.train, rows)
    np.testing.assert_array_equal(found["inputs"], x[rows])
    np.testing.assert_array_equal(found["targets"], y[rows])
    np.testing.assert_array_equal(data.train["inputs"][[5, 5, 3]], x[[5, 5, 3]])


def test_one_thread_is_one_reader_at_a_time():
    x, y = images(60)
    inside, most = [0], [0]

    class Counting(Rows):
        def __getitem__(self, row):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.0005)
            inside[0] -= 1
            return super().__getitem__(row)

    data = from_source(Counting(x, y), threads=1)
    readers = [threading.Thread(target=large.gather, args=(s, np.arange(12))) for s in (data.train, data.test)]
    [reader.start() for reader in readers]
    [reader.join() for reader in readers]
    assert most == [1]


def shifted(rng, example):
    assert set(example) == {"inputs", "targets"}
    return {**example, "inputs": example["inputs"] + np.float32(rng.normal())}


@pytest.mark.slow
def test_a_run_on_rows_with_random_changes_resumes_with_the_same_bits(tmp_path):
    x, y = images(80, np.float32)

    def data():
        return from_source(Rows(x, y), transform=shifted)

    whole = train(data(), run_dir=tmp_path / "whole")
    jaxnets.train(whole.experiment, dataset=data(), run_dir=tmp_path / "cut", stop_at=5, progress="none")
    cut = jaxnets.train(whole.experiment, dataset=data(), run_dir=tmp_path / "cut", progress="none")
    assert_same_bits(whole.state, cut.state)
    assert losses(whole) != losses(train(from_source(Rows(x, y))))


def test_random_changes_depend_on_seed_step_and_row_and_are_not_applied_to_the_test_split():
    x, y = images(40, np.float32)
    data = from_source(Rows(x, y), test=Rows(x, y), transform=shifted, standardize=False)
    run = train(data, steps=3, batch_size=8, seed=5)
    feed = run.parts.feed
    for step in (0, 2):
        batch = feed.batch(feed.load(step, 1, 1), 0, jnp.int32(step))
        for row, got in zip(np.asarray(batch["index"]), np.asarray(batch["inputs"]), strict=True):
            np.testing.assert_array_equal(got, x[row] + np.float32(np.random.default_rng((5, step, row)).normal()))
    evaluated = run.parts.evaluator._feed
    batch = evaluated.batch(evaluated.load(0, 1, 1), 0, jnp.int32(0))
    np.testing.assert_array_equal(np.asarray(batch["inputs"])[:40], x)


def test_text_targets_and_names():
    x, y = images(90)
    words = np.array(["cat", "dog", "elephant"])[y]
    source = Rows(x, words.tolist())
    plain = train(from_arrays(x, words))
    assert losses(train(from_source(source))) == losses(plain)
    assert from_source(source, class_names=["dog", "cat", "elephant"]).card.class_names == ("dog", "cat", "elephant")
    with pytest.raises(DataError, match="label 'elephant' is not among"):
        from_source(source, class_names=["dog", "cat"])


@pytest.mark.parametrize("kind", ["number", "several numbers", "one-hot", "labels"])
def test_other_targets_are_those_in_memory(kind):
    x, y = images(90, np.float32)
    targets = {
        "number": y * 1.5,
        "several numbers": np.stack([y * 1.5, y + 0.25], 1),
        "one-hot": np.eye(3)[y],
        "labels": np.stack([y > 0, y > 1], 1).astype(float),
    }[kind]
    plain, rows = from_arrays(x, targets), from_source(Rows(x, targets))
    assert (rows.card.target_kind, rows.card.class_names) == (plain.card.target_kind, plain.card.class_names)
    np.testing.assert_array_equal(np.asarray(rows.train["targets"]), plain.train["targets"])
    assert rows.card.target_means == plain.card.target_means
    assert rows.card.target_deviations == plain.card.target_deviations


@pytest.mark.slow
def test_tokens_stay_tokens():
    ids = np.random.default_rng(0).integers(0, 11, (50, 9))
    data = from_source(Rows(ids[:, :-1], ids[:, 1:]), input_kind="tokens", kind="token", class_names=11)
    assert data.card.target_kind == "token"
    batch = large.gather(data.train, np.arange(5))
    assert batch["inputs"].dtype.kind == "i"
    np.testing.assert_array_equal(batch["inputs"][:, 1:], batch["targets"][:, :-1])
    run = jaxnets.fit(
        jaxnets.tasks.NextToken(model=jaxnets.models.LanguageModel(layers=1, heads=2, width=16)),
        data,
        steps=3,
        progress="none",
    )
    assert np.isfinite(losses(run)).all()
    with pytest.raises(DataError, match=r"token 10 of row \d+ is outside of a vocabulary of 10"):
        from_source(Rows(ids[:, :-1], ids[:, 1:]), input_kind="tokens", kind="token", class_names=10)


def test_of_many_rows_a_sample_is_read_and_a_class_outside_it_is_an_error(monkeypatch):
    monkeypatch.setattr(large, "SAMPLE_ROWS", 50)
    x, y = images(400, np.float32)
    read = []

    class Watched(Rows):
        def __getitem__(self, row):
            read.append(row)
            return super().__getitem__(row)

    with pytest.warns(DataWarning) as notes:
        data = from_source(Watched(x, y), test=Rows(x[:20], y[:20]))
    notes_text = " ".join(str(n.message) for n in notes)
    assert "of 50 of 400 training rows; standardize=False" in notes_text
    assert "3 classes were found in the targets of 50 of 400" in notes_text
    assert len(read) < 100
    sample = large.sample_rows(400, x.shape[1:], x.dtype)
    np.testing.assert_allclose(data.prepare.mean, x[sample].mean(axis=(0, 1, 2)), rtol=1e-5)
    unseen = next(i for i in range(20, 400) if i not in set(sample))
    other = y.copy()
    other[unseen] = 3
    with (
        pytest.warns(DataWarning),
        pytest.raises(DataError, match=f"label 3 of row {unseen} is out of range: there are 3"),
    ):
        train(from_source(Rows(x, other), test=Rows(x[:20], y[:20])), steps=60)
    train(from_source(Rows(x, other), test=Rows(x[:20], y[:20]), class_names=4, standardize=False), steps=60)


def wrong(change):
    x, y = images(40, np.float32)
    rows = list(zip(list(x), list(y), strict=True))
    change(rows)
    return rows


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (wrong(lambda r: r.__setitem__(17, (np.zeros((5, 6, 3), np.float32), 1))), DataError, r"row 17 have shape \(5, 6, 3\)"),
        (wrong(lambda r: r.__setitem__(17, (np.full((6, 6, 3), np.nan, np.float32), 1))), DataError, "row 17 .*NaN"),
        (wrong(lambda r: r.__setitem__(17, (r[0][0], None))), DataError, r"targets of row 17 are missing"),
        (wrong(lambda r: r.__setitem__(17, (r[0][0], -1))), DataError, "label -1"),
        (wrong(lambda r: r.__setitem__(17, (1, 2, 3))), DataError, "row 17 is a tuple of 3; give"),
        (wrong(lambda r: r.__setitem__(17, {"image": 1})), DataError, "row 17 is a dict without 'inputs'; it holds image"),
        (wrong(lambda r: r.__setitem__(17, (r[0][0], "cat"))), DataError, "row 17 mix text and numbers"),
        ([], DataError, "0 examples"),
        (iter([(1, 2)]), UsageError, "need row numbers, which an iterator does not have"),
        ({"image": np.zeros(3)}, DataError, "there is no array 'inputs' in image"),
        ((np.zeros(3), np.zeros(3)), UsageError, r"arrays go to from_arrays\(inputs, targets\)"),
    ],
)  # fmt: skip
def test_errors_name_the_row_and_the_remedy(source, error, message):
    with pytest.raises(error, match=message):
        from_source(source)


def test_an_exception_of_a_source_is_reported_with_the_row():
    class Broken(Rows):
        def __getitem__(self, row):
            if row == 23:
                raise OSError("the file is gone")
            return super().__getitem__(row)

    with pytest.raises(DataError, match=r"row 23 cannot be read \(OSError: the file is gone\)"):
        from_source(Broken(*images(40)))


def test_a_source_that_draws_random_numbers_itself_is_noted():
    class Random(Rows):
        def __getitem__(self, row):
            return np.random.default_rng().normal(size=3), int(self.y[row])

    with pytest.warns(DataWarning, match="not the same when they are read twice"):
        from_source(Random(*images(40)))


def test_a_report_of_a_run_on_rows(tmp_path):
    run = train(Rows(*images()), run_dir=tmp_path / "run")
    assert (tmp_path / "run" / "report.html").exists()
    opened = jaxnets.open_run(tmp_path / "run")
    x, _ = images(10)
    np.testing.assert_array_equal(opened.predict(x), run.predict(x))


def test_a_dict_of_arrays_is_arrays(in_memory):
    x, y = images()
    assert losses(train({"inputs": x, "targets": y})) == losses(in_memory[np.uint8])
