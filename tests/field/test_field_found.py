"""What a second look found: the kinds of the other field tests in places that they had not reached."""

import types

import flax.linen as nn
import numpy as np
import pytest

import jaxnets
from jaxnets.config.code_digest import described
from jaxnets.core.errors import DataError, DataWarning, UsageError
from jaxnets.data import Series, Tabular, TokenFile, from_arrays, from_graph
from jaxnets.models import MLP
from jaxnets.tasks import Forecasting, MultiLabel, Regression
from jaxnets.tasks.scales import in_units, standardized

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 3))
Y = np.where(np.arange(48) % 2, "z", "a")


def test_an_edited_property_or_module_of_constants_is_another_model():
    def model(factor):
        class Net(nn.Module):
            @property
            def factor(self):
                return factor

            @nn.compact
            def __call__(self, x, *, train=False):
                return nn.Dense(1)(x * self.factor)

        return Net()

    def of_module(value):
        constants = types.ModuleType("constants_of_mine")
        constants.K = value

        class Net(nn.Module):
            @nn.compact
            def __call__(self, x, *, train=False):
                return nn.Dense(1)(x * constants.K)

        return Net()

    for make in (model, of_module):
        assert described(type(make(1.0))) == described(type(make(1.0)))
        assert described(type(make(1.0))) != described(type(make(9.0)))


def test_strings_of_any_length_and_tensors_of_other_libraries():
    torch = pytest.importorskip("torch")
    assert from_arrays(X, Y.astype(np.dtypes.StringDType())).class_names == ("a", "z")
    assert from_arrays(torch.tensor(X), torch.arange(48) % 2).class_names == ("0", "1")
    for tensor in (torch.nn.Parameter(torch.tensor(X)), torch.tensor(X, dtype=torch.bfloat16)):
        kept = from_arrays(X, Y).train["inputs"]
        np.testing.assert_allclose(from_arrays(tensor, Y).train["inputs"], kept, rtol=2**-8)
        np.testing.assert_array_equal(
            from_arrays(list(tensor), Y).train["inputs"], from_arrays(tensor, Y).train["inputs"]
        )


def test_numbers_beyond_what_a_table_or_a_frame_holds_are_noted(tmp_path):
    nanoseconds = 1_760_000_000_000_000_000 + np.arange(48)
    (tmp_path / "t.csv").write_text(
        "t,y\n" + "\n".join(f"{t},{label}" for t, label in zip(nanoseconds, Y, strict=True))
    )
    with pytest.warns(DataWarning, match="column 't' has numbers beyond 2.53"):
        Tabular(str(tmp_path / "t.csv"), target="y").open()
    with pytest.warns(DataWarning, match="column 't' has numbers beyond 2.53"):
        Series(str(tmp_path / "t.csv"), columns=("t",), history=4, horizon=1).open()
    pandas = pytest.importorskip("pandas")
    with pytest.warns(DataWarning, match="column 't' has integers too large for floats"):
        from_arrays(pandas.DataFrame({"t": nanoseconds, "v": X[:, 0]}), Y)


def test_a_number_for_missing_cells_matches_in_any_spelling(tmp_path):
    cells = ["-999.0" if i % 5 == 0 else f"{i}" for i in range(48)]
    (tmp_path / "t.csv").write_text(
        "t,y\n" + "\n".join(f"{cell},{label}" for cell, label in zip(cells, Y, strict=True))
    )
    columns = Tabular(str(tmp_path / "t.csv"), target="y", missing=("-999",)).open().columns
    (column,) = columns.columns
    assert column.least >= 1
    by_file = columns.read(tmp_path / "t.csv")
    for values in (
        cells,
        [float(cell) for cell in cells],
        np.array(cells, float),
        np.array([int(float(c)) for c in cells]),
    ):
        np.testing.assert_array_equal(columns.encode("memory", {"t": values}), by_file)
    rows = [{"t": cell} for cell in cells]
    data = Tabular(str(tmp_path / "t.csv"), target="y", missing=("-999",)).open()
    run = jaxnets.fit(MLP(widths=(4,)), data, steps=1, progress="none")
    np.testing.assert_array_equal(run.outputs(rows), run.outputs({"t": cells}))


@pytest.mark.parametrize("size", [1e-200, 1e-50, 1.0, 1e40, 1e200])
def test_targets_of_any_size_come_back_and_have_an_r2(size):
    y, mean, deviation = size * X[:, 0], size * X[:, 0].mean(), size * X[:, 0].std()
    task = Regression(model=MLP(widths=()), target_mean=mean, target_std=deviation)
    outputs = standardized(y, mean, deviation)[:, None]
    np.testing.assert_allclose(task.decide(outputs), y, rtol=1e-5, atol=1e-6 * size)
    values = {"loss": 0.1, "squared_0": 0.1, "absolute_0": 0.2, **task.about_split({"targets": y})}
    assert task.derive(values)["r2"] == pytest.approx(0.9)


def test_whole_numbers_of_64_bits_as_targets_keep_their_differences():
    y = 1_760_000_000_000_000_000 + RNG.permutation(48)
    exact = (y - 1_760_000_000_000_000_000).astype(float)
    about = Regression(model=MLP()).about_split({"targets": y})
    assert about["deviation_0"] == pytest.approx(exact.std())
    got = standardized(y, float(y[0]), 10.0)
    np.testing.assert_allclose(np.diff(got), np.diff(exact) / 10, atol=1e-5)
    assert in_units(np.ones((2, 1)), 1.76e18, 10.0).dtype == np.float64


def test_the_columns_of_a_frame_of_labels_name_them():
    pandas = pytest.importorskip("pandas")
    assert from_arrays(X, pandas.get_dummies(pandas.Series(Y))).class_names == ("a", "z")
    many = pandas.DataFrame(RNG.integers(0, 2, (48, 3)), columns=["red", "green", "blue"])
    assert from_arrays(X, many).class_names == ("red", "green", "blue")


def test_ids_of_64_bits_are_not_read_as_shorter_ones(tmp_path):
    ids = RNG.integers(1, 256, 2000)
    for name in ("train.bin", "val.bin"):
        ids.astype(np.int64).tofile(tmp_path / name)
    for dtype in ("uint16", "uint32"):
        with pytest.raises(DataError, match="64-bit integers"):
            TokenFile(path=str(tmp_path), tokens="bytes", length=16, dtype=dtype).open()


def test_a_label_without_known_targets_is_not_counted_in_macro_f1():
    task = MultiLabel(model=MLP())
    counts = {f"{name}_{k}": v for name, row in (("hits", (3, 1, 0)), ("false_alarms", (1, 1, 0)), ("misses", (0, 1, 0)))
              for k, v in enumerate(row)}  # fmt: skip
    known = task.about_split({"targets": np.array([[1, 0, -1], [0, 1, -1]])})
    assert task.derive({**counts, **known})["macro_f1"] == pytest.approx((6 / 7 + 0.5) / 2)
    assert task.derive(counts)["macro_f1"] == pytest.approx((6 / 7 + 0.5) / 3)


def test_smaller_ones():
    class Indexed(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            index = self.param("index", lambda key: np.arange(3))
            return nn.Dense(1)(x[:, index])

    with pytest.raises(UsageError, match="parameter index is int32, which has no gradient; keep it in a collection"):
        jaxnets.fit(Indexed(), (X, X[:, 0]), steps=1, progress="none")
    with pytest.raises(DataError, match=r"x.astype\(str\) for labels"):
        from_arrays(X, np.array([10**20, 10**20 + 1] * 24, object))
    with pytest.warns(DataWarning, match="'.' is taken as a class"):
        from_graph(np.eye(4), [[0, 1]], ["a", "?", "a", "?"], train=[0, 1], test=[2])
    flat = {"loss": 0.0, "mse": 0.0, "mae": 0.0, "last_mse": 0.0, "season_mse": 0.0}
    assert np.isnan(Forecasting(model=MLP()).derive(flat)["gain"])
