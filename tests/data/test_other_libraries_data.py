"""Data sets of other libraries, by the library itself: the results of the same numbers in memory."""

import sys

import numpy as np
import pytest

import jaxnets
from jaxnets.core.errors import DataError, DataWarning, UsageError
from jaxnets.data import ImageFolder, from_arrays, from_folder, from_source, large
from jaxnets.models import MLP


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 120)
    x = rng.integers(0, 100, (120, 6, 5, 3)) + 50 * y[:, None, None, None]
    return x.astype(np.uint8), y


def train(data, **options):
    return jaxnets.fit(
        MLP(widths=(8,)), data, **{"steps": 8, "batch_size": 16, "progress": "none", "log_every": 1} | options
    )


def losses(run):
    return list(run.history.series("loss")[1])


@pytest.fixture(scope="module")
def in_memory(images):
    return losses(train(images))


@pytest.mark.slow
def test_a_data_set_of_pytorch(images, in_memory):
    torch = pytest.importorskip("torch")
    x, y = map(torch.from_numpy, images)
    assert losses(train(torch.utils.data.TensorDataset(x, y))) == in_memory
    part = torch.utils.data.Subset(torch.utils.data.TensorDataset(x, y), range(120))  # has __getitems__
    assert losses(train(part)) == in_memory
    with pytest.raises(UsageError, match=r"give its \.dataset"):
        train(torch.utils.data.DataLoader(part))

    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield x[0], y[0]

    with pytest.raises(UsageError, match="need row numbers"):
        train(Endless())


@pytest.mark.slow
def test_a_data_set_of_hugging_face(images, in_memory, tmp_path):
    datasets = pytest.importorskip("datasets")
    pil = pytest.importorskip("PIL.Image")
    x, y = images
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"]), "id": datasets.Value("string")}
    )
    columns = {"image": [pil.fromarray(one) for one in x], "label": y.tolist(), "id": list(map(str, y))}
    made = datasets.Dataset.from_dict(columns, features=features)
    data = from_source(made, inputs="image", targets="label")
    assert data.card.class_names == ("a", "b", "c")
    assert losses(train(data)) == in_memory
    assert from_source(made, inputs="image", targets="label").fingerprint == data.fingerprint
    plain = datasets.Dataset.from_dict({"inputs": x[:, 0, :, 0].tolist(), "targets": y.tolist()})
    # Lists of Python become 64-bit numbers, in memory too.
    assert losses(train(plain)) == losses(train((x[:, 0, :, 0].astype(np.int64), y)))
    with pytest.raises(DataError, match=r"row 0 is a dict without 'inputs'|dict without 'inputs'"):
        from_source(made)
    with pytest.raises(DataError, match=r"source\['train'\]"):
        from_source(datasets.DatasetDict({"train": made}))
    with pytest.raises(UsageError, match="without streaming"):
        from_source(made.to_iterable_dataset())


@pytest.mark.slow
def test_a_data_set_of_grain(images, in_memory):
    grain = pytest.importorskip("grain")
    x, y = images
    made = grain.MapDataset.source(list(zip(x, y, strict=True)))
    assert losses(train(made)) == in_memory
    doubled = made.map(lambda item: {"inputs": item[0].astype(np.float32) * 2, "targets": item[1]})
    assert losses(train(doubled)) == losses(train((x.astype(np.float32) * 2, y)))
    with pytest.raises(DataError, match=r"leave out \.repeat\(\)"):
        from_source(made.repeat())


@pytest.mark.parametrize("size", [1, 1 << 40], ids=["large", "small"])
def test_files_of_h5py_and_zarr(images, in_memory, tmp_path, monkeypatch, size):
    h5py, zarr = pytest.importorskip("h5py"), pytest.importorskip("zarr")
    monkeypatch.setattr(large, "LARGE_BYTES", size)
    x, y = images
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["inputs"], file["labels"] = x, y
    group = zarr.open_group(tmp_path / "data.zarr", mode="w")
    for name, array in (("inputs", x), ("labels", y)):
        group.create_array(name, data=array, chunks=(50, *array.shape[1:]))
    with h5py.File(tmp_path / "data.h5") as file:
        for source in (file, group):
            run = train(from_source(source, targets="labels"))
            assert run.parts.dataset.lazy == (size == 1)
            assert losses(run) == in_memory
            assert losses(train((source["inputs"], y))) == in_memory
            rows = np.array([7, 3, 3, 119])
            np.testing.assert_array_equal(large.gather(from_source(source, targets="labels", test=(
                {"inputs": x, "labels": y})).train, rows)["inputs"], x[rows])  # fmt: skip


@pytest.fixture(scope="module")
def folder(images, tmp_path_factory):
    pil = pytest.importorskip("PIL.Image")
    where = tmp_path_factory.mktemp("pictures")
    for number, (image, label) in enumerate(zip(*images, strict=True)):
        (where / f"class {label}").mkdir(exist_ok=True)
        pil.fromarray(image).save(where / f"class {label}" / f"{number:03}.png")
    return where


@pytest.mark.slow
def test_a_folder_of_images(images, folder):
    x, y = images
    order = np.argsort(y, kind="stable")
    data = from_folder(folder)
    assert data.card.class_names == ("class 0", "class 1", "class 2")
    names = np.array(data.card.class_names)
    assert losses(train(data)) == losses(train(from_arrays(x[order], names[y[order]])))
    assert data.fingerprint == from_folder(folder).fingerprint
    grey = from_folder(folder, color="L", size=(3, 4))
    assert grey.card.input_shape == (3, 4, 1)
    assert train(grey).predict(np.asarray(grey.test["inputs"])).shape == (24,)
    means = from_folder(folder, read=lambda file: np.asarray([file.stat().st_size, 1.0]))
    assert means.card.input_shape == (2,)


def test_a_folder_as_the_source_of_an_experiment(folder):
    source = ImageFolder(str(folder), size=(4, 6), color="L", classes=3)
    found, outline = source.open(), source.outline()
    assert found.card.input_shape == outline.card.input_shape == (4, 6, 1)
    assert len(found.card.class_names) == len(outline.card.class_names) == 3
    assert np.asarray(found.test["inputs"]).dtype == outline.test["inputs"].dtype == np.uint8
    with pytest.raises(DataError, match="at least 2 classes; got"):
        ImageFolder(classes=1)


def test_folders_of_training_and_test_images(images, tmp_path):
    pil = pytest.importorskip("PIL.Image")
    for split, rows in (("train", range(60)), ("val", range(60, 80))):
        for row in rows:
            where = tmp_path / split / "abc"[images[1][row]]
            where.mkdir(parents=True, exist_ok=True)
            pil.fromarray(images[0][row]).save(where / f"{row}.png")
    data = from_folder(tmp_path)
    assert data.card.examples == {"train": 60, "test": 20}
    (tmp_path / "val" / "d").mkdir()
    with pytest.raises(DataError, match="'d', which is no class"):
        from_folder(tmp_path)


def test_folders_that_cannot_be_read(images, tmp_path, monkeypatch):
    pil = pytest.importorskip("PIL.Image")
    with pytest.raises(DataError, match="no folder"):
        from_folder(tmp_path / "none")
    with pytest.raises(DataError, match="no folders; put each class into its own"):
        from_folder(tmp_path)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match="has no images"):
        from_folder(tmp_path)
    for number in range(12):
        pil.fromarray(images[0][number][: 6 - number // 11]).save(tmp_path / "cat" / f"{number}.png")
    with pytest.raises(DataError, match=r"have shape .* cut or resize them"):
        from_folder(tmp_path)
    (tmp_path / "cat" / "3.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"3\.png cannot be read as an image"):
        from_folder(tmp_path, size=(6, 5))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"pip install jaxnets\[data\]"):
        from_folder(tmp_path)


def test_a_list_of_files_with_a_function_that_reads_them(images, in_memory, tmp_path):
    files = []
    for number, (image, label) in enumerate(zip(*images, strict=True)):
        files.append(tmp_path / f"{number}_{label}.npy")
        np.save(files[-1], image)
    data = from_source(files, read=lambda file: (np.load(file), int(file.stem.split("_")[1])))
    assert losses(train(data)) == in_memory


def test_channels_first_are_noted(images):
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 3, 8, 8)).astype(np.float32))
    with pytest.warns(DataWarning, match="channels first"):
        from_source(torch.utils.data.TensorDataset(x, torch.arange(40) % 3))


@pytest.mark.parametrize("targets", ["text", "bool", "category", "number", "one-hot", "frame"])
def test_frames_of_polars_give_what_frames_of_pandas_give(targets):
    pl, pd = pytest.importorskip("polars"), pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=40), "b": rng.integers(0, 5, 40)}
    words = np.array(["cat", "dog"])[np.arange(40) % 2]
    given = {
        "text": lambda of: of.Series(words),
        "bool": lambda of: of.Series(words == "cat"),
        "category": lambda of: (
            of.Series(words, dtype="category") if of is pd else of.Series(words).cast(pl.Categorical)
        ),
        "number": lambda of: of.Series(x["a"] * 2),
        "one-hot": lambda of: of.DataFrame({"c": [1, 0] * 20, "d": [0, 1] * 20}),
        "frame": lambda of: of.DataFrame({"kind": words}),
    }[targets]
    ours, theirs = (from_arrays(of.DataFrame(x), given(of), name="frame") for of in (pl, pd))
    assert ours.feature_names == ("a", "b")
    assert ours.preparation == theirs.preparation
    for split in ("train", "test"):
        for name, array in getattr(theirs, split).items():
            np.testing.assert_array_equal(getattr(ours, split)[name], array)
