"""Arrays as people have them: every make is trained on rightly, or refused by name before any work."""

import datetime
import decimal

import ml_dtypes
import numpy as np
import pytest

import jaxnets
from jaxnets.core.errors import DataError, DataWarning
from jaxnets.core.scaling import mean_and_deviation
from jaxnets.data import Dataset, from_arrays, from_graph, pad_graphs
from jaxnets.data.flavours import plain_array
from jaxnets.data.prepare import fit_standardize

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3)) * [1, 6, 30] + [12, 250, -400]
Y = np.arange(60) % 3


def prepared(data, split="train"):
    return np.asarray(data.prepare(getattr(data, split)["inputs"]), np.float64)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.astype(">f8"),
        lambda x: x.astype(">f4"),
        lambda x: np.asfortranarray(x),
        lambda x: x[::-1][::-1],
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: x.astype(np.longdouble),
        lambda x: x.astype(object),
        lambda x: x.tolist(),
        lambda x: np.ma.masked_array(x, mask=False),
        lambda x: np.vectorize(decimal.Decimal, otypes=[object])(x),
        lambda x: x.astype(ml_dtypes.bfloat16),
        lambda x: x.astype(np.float16),
    ],
    ids=[
        "big-endian",
        "big-endian32",
        "fortran",
        "reversed",
        "strided",
        "longdouble",
        "objects",
        "list",
        "unmasked",
        "decimals",
        "bfloat16",
        "half",
    ],
)
def test_equal_numbers_in_any_kind_of_array_are_prepared_alike(make):
    x = X.astype(ml_dtypes.bfloat16).astype(np.float64)  # numbers that every make can hold
    given = make(x)
    data = from_arrays(given, Y, test=(given, Y))
    right = (x - x.mean(0)) / x.std(0)  # numpy, in float64
    np.testing.assert_allclose(prepared(data), right, rtol=1e-5, atol=1e-5)
    assert data.train["inputs"].dtype.isnative


def test_read_only_arrays_are_accepted_and_not_changed():
    x = X.copy()
    x.setflags(write=False)
    before = x.copy()
    from_arrays(x, Y)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.ma.masked_greater(X, 100), "masked array with .* masked values, the first at index .*filled"),
        ([np.ma.masked_equal([1.0, 2.0], 2.0)] * 60, "masked values"),
        (np.zeros(60, dtype=[("a", float), ("b", int)]), r"named fields \(a, b\).*structured_to_unstructured"),
        (np.full((60, 2), np.datetime64("2024-01-01")), "dates or times.*astype"),
        (np.full((60, 2), np.timedelta64(3, "s")), "dates or times"),
        (np.full((60, 2), "a"), "hold text.*'a'.*Tabular"),
        (np.array([["a", 1.0]] * 60, object), "neither all numbers nor all text"),
        (np.array([[datetime.date(2024, 1, 1)]] * 60, object), "neither all numbers nor all text"),
        (X + 1j, "dtype complex128"),
        (np.zeros((60, 0)), "without a single number"),
        (np.zeros((0, 3)), "no examples"),
        (np.zeros((60,)), r"shape \(60,\)"),
        ([[1.0, 2.0], [3.0]] * 30, "rows of one length"),
        (np.array([[1.0, None]] * 60, object), "NaN or infinite.*index \\(0, 1\\)"),
        (np.where(X > 260, np.inf, X), "NaN or infinite"),
    ],
)
def test_ambiguous_arrays_are_refused(given, message):
    with pytest.raises(DataError, match=message):
        from_arrays(given, Y[: len(given)])


class Sparse:
    nnz, shape = 3, (60, 3)

    def toarray(self):
        raise AssertionError("it may be large")


def test_sparse_matrices_are_refused_with_the_remedy():
    with pytest.raises(DataError, match=r"sparse matrix \(Sparse\).*x.toarray\(\)"):
        from_arrays(Sparse(), Y)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int32, np.uint32, np.float64, np.longdouble])
def test_seconds_since_1970_keep_their_differences(dtype):
    seconds = 1_760_000_000 + RNG.permutation(400)
    data = from_arrays(
        seconds.astype(dtype)[:, None], np.arange(400) % 2, test=(seconds[:9].astype(dtype)[:, None], Y[:9] % 2)
    )
    exact = seconds - 1_760_000_000
    right = (exact - exact.mean()) / exact.std()
    np.testing.assert_allclose(prepared(data)[:, 0], right, atol=1e-6)
    np.testing.assert_allclose(prepared(data, "test")[:, 0], right[:9], atol=1e-6)


def test_nanoseconds_since_1970_keep_their_differences_beyond_float64():
    nanoseconds = 1_760_000_000_000_000_000 + RNG.permutation(300).astype(np.int64)
    data = from_arrays(nanoseconds[:, None], np.arange(300) % 2, test=(nanoseconds[:1, None], Y[:1]))
    exact = (nanoseconds - 1_760_000_000_000_000_000).astype(float)
    # The mean itself is kept in float64, in steps of 256: a shift of all alike, by no more than half a step.
    difference = prepared(data)[:, 0] - (exact - exact.mean()) / exact.std()
    assert np.ptp(difference) < 1e-6
    assert abs(difference.mean()) < 128 / exact.std() + 1e-6


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e8 + 0.1, 1e-30, -7.3])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_constant_feature_is_centred_and_not_divided_by_its_rounding_error(value, dtype):
    x = np.column_stack([RNG.normal(size=3001), np.full(3001, value)]).astype(dtype)
    assert fit_standardize(x).std[1] == 1.0
    # Computed in another way each time, it differs in the last place.
    x[::2, 1] = np.nextafter(x[::2, 1], np.array(np.inf, dtype))
    assert fit_standardize(x).std[1] == 1.0


def test_a_small_feature_is_no_constant_one():
    x = np.column_stack([1e-9 * RNG.normal(size=500), 1e6 + RNG.normal(size=500)])
    np.testing.assert_allclose(fit_standardize(x).std, x.std(axis=0), rtol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e8, 1e12])
def test_means_and_deviations_are_numpys_at_any_level(offset):
    x = RNG.normal(size=(70_000, 2)) + offset  # more than a block
    mean, deviation = mean_and_deviation(x)
    exact = x.astype(np.longdouble)
    np.testing.assert_allclose(mean, exact.mean(0).astype(float), rtol=1e-14, atol=1e-13)
    np.testing.assert_allclose(deviation, exact.std(0).astype(float), rtol=1e-9)


@pytest.mark.parametrize("size", [1e200, 1e-200, 1e307])
def test_numbers_whose_squares_overflow_float64_are_scaled(size):
    x = np.clip(RNG.normal(size=(300, 2)), -1.5, 1.5)
    data = from_arrays(x * size, np.arange(300) % 2, test=(x[:5] * size, Y[:5] % 2))
    np.testing.assert_allclose(prepared(data), (x - x.mean(0)) / x.std(0), rtol=1e-5, atol=1e-6)


def test_images_with_channels_first_are_noted():
    pixels = RNG.integers(0, 256, (40, 3, 16, 16)).astype(np.uint8)
    with pytest.warns(DataWarning, match=r"channels first.*np.moveaxis\(x, 1, -1\)"):
        from_arrays(pixels, np.arange(40) % 2)


def test_the_same_rules_apply_to_a_data_set_made_by_hand():
    good = {"inputs": X.astype(">f4"), "targets": Y}
    assert Dataset("d", good, good, ("a", "b", "c")).train["inputs"].dtype == np.float32
    for change, message in (
        ({"inputs": np.ma.masked_greater(X, 100)}, "masked"),
        ({"targets": Y[:9]}, "one for each example"),
        ({"targets": Y + 0.5}, "not a whole number"),
        ({"inputs": np.where(X > 260, np.nan, X)}, "NaN"),
        ({"weights": np.full(60, -1.0)}, "none below 0"),
        ({"weights": np.zeros(60)}, "no example counts"),
        ({"mask": np.ones((60, 3))}, "one number for each of 60 examples"),
        ({"lengths": np.full(60, 4)}, "from 1 to 3"),
        ({"lengths": np.ones(60)}, "whole number"),
    ):
        with pytest.raises(DataError, match=message):
            Dataset("d", {**good, **change}, good, ("a", "b", "c"))
    with pytest.raises(DataError, match="no array 'targets'"):
        Dataset("d", {"inputs": X}, good)


def test_an_array_that_nothing_reads_is_refused_by_name():
    split = {"inputs": X, "targets": Y, "importance": np.ones(60)}
    with pytest.raises(DataError, match="'importance', which neither Classification nor MLP reads"):
        jaxnets.fit(
            jaxnets.models.MLP(widths=(4,)), Dataset("d", split, split, ("a", "b", "c")), steps=1, progress="none"
        )


def test_a_weight_of_2_equals_two_copies_of_an_example():
    x, y = X[:24].astype(np.float32), X[:24, 0]
    weights = np.arange(24) % 3
    options = {"steps": 30, "progress": "none", "optimizer": jaxnets.optim.SGD(learning_rate=0.05)}
    task = jaxnets.tasks.Regression(model=jaxnets.models.MLP(widths=()), target_mean=12.0, target_std=1.0)
    plain = {"standardize": False, "kind": "number"}
    scaled = (x - x.mean(0)) / x.std(0)
    weighed = jaxnets.fit(
        task, from_arrays(scaled, y, weights=weights, test=(scaled, y, weights), **plain), batch_size=16, **options
    )
    rows = np.repeat(np.arange(24), weights)  # each as often as its weight says: 24 again; 16 have a weight
    again = jaxnets.fit(
        task, from_arrays(scaled[rows], y[rows], test=(scaled[rows], y[rows]), **plain), batch_size=24, **options
    )
    for name, value in again.evaluate().items():
        assert weighed.evaluate()[name] == pytest.approx(value, rel=2e-4), name


def test_rows_of_weight_0_change_neither_training_nor_scales():
    x, y, weights = X.copy(), X[:, 0].copy(), np.ones(60)
    x[::2], y[::2], weights[::2] = 1e6, -1e6, 0
    data = from_arrays(x, y, weights=weights, test=(X, X[:, 0]))
    np.testing.assert_allclose(data.prepare.mean, X[1::2].mean(axis=0))
    assert data.card.target_means[0] == pytest.approx(X[1::2, 0].mean())


def test_lengths_reach_a_model_that_takes_them_and_are_refused_by_one_that_does_not():
    lengths = RNG.integers(1, 7, 40)
    x = RNG.normal(size=(40, 6, 2)).astype(np.float32)
    split = {"inputs": x, "targets": np.arange(40) % 2, "lengths": lengths}
    data = Dataset("s", split, split, ("a", "b"))
    options = {"steps": 2, "batch_size": 8, "progress": "none"}
    run = jaxnets.fit(jaxnets.models.RNN(widths=(4,)), data, **options)
    beyond = np.where((np.arange(6)[None] < lengths[:, None])[..., None], x, 99.0)
    first, second = (run.outputs({"inputs": a, "lengths": lengths}) for a in (x, beyond))
    np.testing.assert_array_equal(first, second)
    with pytest.raises(DataError, match="'lengths', which neither Classification nor MLP reads"):
        jaxnets.fit(jaxnets.models.MLP(widths=(4,)), data, **options)


def test_graphs_of_any_format_and_nodes_without_a_label():
    edges = np.array([[0, 1], [1, 2], [2, 3]], ">i4")
    nodes = np.eye(4).astype(">f8")
    assert pad_graphs([(nodes, edges)])["inputs"].dtype == np.float32
    for labels in (
        [0, 1, -1, 0],
        ["a", "b", "?", "a"],
        [0, 1, None, 0],
        np.array([0, 1, np.nan, 0]),
        np.array([[0], [1], [7], [0]]),
    ):
        data = from_graph(nodes, edges, labels, train=[0, 1], test=[3])
        assert len(data.class_names) == 2
        assert data.train["targets"][0, [0, 1, 3]].tolist() == [0, 1, 0]
    with pytest.raises(DataError, match="missing|NaN"):
        from_graph(nodes, edges, ["a", "b", "?", None], train=[0, 1], test=[3])
    with pytest.raises(DataError, match="masked"):
        pad_graphs([(np.ma.masked_equal(nodes, 1), edges)])


def test_text_of_any_type_is_text():
    for values in ([b"a", b"b"], np.array(["a", "b"], object), np.array(["a", "b"], "S1"), np.array(["a", "b"])):
        assert plain_array("x", values).tolist() == ["a", "b"]
    with pytest.raises(DataError, match="mix text and bytes"):
        plain_array("x", np.array(["a", b"b"], object))
    with pytest.raises(DataError, match="not text in UTF-8"):
        plain_array("x", [b"\xff"])


def test_large_unscaled_numbers_are_noted_if_32_bits_lose_their_digits():
    seconds = 1_760_000_000.0 + np.arange(60)[:, None]
    with pytest.warns(DataWarning, match="lose digits: feature 0 has 4. different values .*subtract their mean"):
        from_arrays(seconds, Y, standardize=False)
    with pytest.warns(DataWarning, match="features, which are not scaled, lose digits"):
        pad_graphs([(seconds, [[0, 1]])])
