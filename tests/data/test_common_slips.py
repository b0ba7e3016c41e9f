"""What people hand over when they mean arrays of numbers, and what they forget."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnets
from jaxnets.core.errors import DataError, DataWarning, UsageError
from jaxnets.models import MLP

pandas = pytest.importorskip("pandas")

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 3)).astype(np.float32), np.arange(40) % 2


@pytest.mark.parametrize("count", [6, 40])
def test_floats_that_are_all_0_or_1_are_numbers_and_a_note_says_how_they_become_classes(count):
    y = Y[:count].astype(float)
    with pytest.warns(DataWarning, match=r"all 0 or 1, and are treated as numbers.*y.astype\(int\).*kind='class'"):
        assert jaxnets.from_arrays(X[:count], y).card.target_kind == "number"
    assert jaxnets.from_arrays(X[:count], y, kind="class").class_names == ("0", "1")


def as_torch(array, **options):
    torch = pytest.importorskip("torch")
    return torch.tensor(array, requires_grad=array.dtype.kind == "f", **options)


@pytest.mark.parametrize(
    "form",
    [jnp.asarray, list, as_torch, lambda a: list(as_torch(a)), pandas.DataFrame, lambda a: a.tolist()],
    ids=["jax", "rows", "torch", "rows of torch", "pandas", "lists"],
)
def test_the_same_numbers_in_any_form_are_the_same_data(form):
    numbers = X.astype(np.float32)
    found, plain = jaxnets.from_arrays(form(numbers), form(Y)), jaxnets.from_arrays(numbers, Y)
    for split in ("train", "test"):
        for name in ("inputs", "targets"):
            np.testing.assert_array_equal(getattr(found, split)[name], getattr(plain, split)[name])
    assert found.class_names == plain.class_names


def test_a_series_is_a_target_and_a_frame_of_one_column_an_input():
    frame = pandas.DataFrame({"a": X[:, 0], "b": X[:, 1], "y": pandas.Categorical(np.where(Y, "yes", "no"))})
    data = jaxnets.from_arrays(frame[["a"]], frame["y"])
    assert (data.feature_names, data.class_names) == (("a",), ("no", "yes"))
    with pytest.raises(DataError, match=r"x\[:, None\], of a frame frame\[\['name'\]\]"):
        jaxnets.from_arrays(frame["a"], frame["y"])


class Widths(nn.Module):
    features: tuple[int, ...] = (4, 2)
    kernel: tuple[tuple[int, int], ...] = ()

    @nn.compact
    def __call__(self, x):
        for width in self.features:
            x = nn.Dense(width)(x)
        return x


@pytest.mark.slow
def test_lists_in_the_fields_of_a_module_are_tuples(tmp_path):
    runs = [
        jaxnets.fit(model, [X, Y], steps=3, progress="none", run_dir=tmp_path / str(place))
        for place, model in enumerate((Widths([4, 2], [[1, 2]]), Widths((4, 2), ((1, 2),))))
    ]
    np.testing.assert_array_equal(runs[0].outputs(X), runs[1].outputs(X))
    again = jaxnets.fit(Widths([4, 2], [[1, 2]]), [X, Y], steps=3, progress="none", run_dir=tmp_path / "0")
    np.testing.assert_array_equal(again.outputs(X), runs[0].outputs(X))


def test_too_few_examples_are_refused_with_the_reason():
    for kind, make, said in (
        (
            UsageError,
            lambda: jaxnets.fit(MLP(), (X, Y), batch_size=64),
            "batch_size 64 is larger than the training set (32",
        ),
        (DataError, lambda: jaxnets.fit(MLP(), (X[:1], Y[:1])), "holdout=0.2 of 1 examples leaves an empty split"),
        (DataError, lambda: jaxnets.fit(MLP(), (X, Y * 0)), "has one class only (0)"),
        (DataError, lambda: jaxnets.fit(MLP(), (X, X[:, 0] * 0)), "there is nothing to predict"),
    ):
        with pytest.raises(kind) as error:
            make()
        assert said in str(error.value)
    one = jaxnets.fit(MLP(), (X[:8], Y[:8]), test=(X[:1], Y[:1]), steps=1, progress="none")
    assert one.predict(X[:1]).shape == (1,)
