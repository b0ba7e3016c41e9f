"""Gradients against finite differences: a small fault is found in float64, kinks raise no alarm, float32 is said."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnets
from jaxnets import models
from jaxnets.data import from_arrays

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, 300)
INPUTS = (RNG.normal(size=(4, 12))[LABELS] + RNG.normal(size=(300, 12))).astype(np.float32)


def checked(model, inputs=INPUTS, **arguments):
    data = from_arrays(inputs[:200], LABELS[:200], test=(inputs[200:], LABELS[200:]))
    return jaxnets.check(model, data, only=["derivatives"], progress="none", **arguments)["derivatives"]


@jax.custom_vjp
def scaled_back(x):
    """The identity, whose gradient is 1 % too large."""
    return x


scaled_back.defvjp(lambda x: (x, None), lambda _, slope: (1.01 * slope,))


class Dense(nn.Module):
    """Three layers; the gradient of the first one may be wrong, and the second one may round or refuse float64."""

    wrong: bool = False
    second: str = "any format"
    outputs: int = 4

    @nn.compact
    def __call__(self, x):
        h = nn.relu(nn.Dense(32)(x))
        h = scaled_back(h) if self.wrong else h
        h = nn.relu(nn.Dense(32, dtype=jnp.float32 if self.second == "float32" else None)(h))
        if self.second == "refuses":
            h = jax.lax.fori_loop(0, 2, lambda _, carry: carry + h, jnp.zeros(h.shape, jnp.float32))
        return nn.Dense(self.outputs)(h)


def test_a_gradient_that_is_one_percent_too_large_in_one_layer_is_found():
    found = checked(Dense(wrong=True))
    assert found.colour == "amber"
    assert "custom_vjp" in found.text
    assert "float64" in found.sentence
    assert checked(Dense()).colour == "green"


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_kinks_raise_no_alarm(seed):
    """ReLU and maxima of windows, in a network of many units and few examples."""
    images = RNG.normal(size=(300, 8, 8, 1)).astype(np.float32)
    found = checked(models.CNN(features=(8, 8), dense=(32,)), images, seed=seed)
    assert found.colour == "green", found.sentence
    assert "float64" in found.sentence


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ("float32", "a part of the model computes in float32"),
        pytest.param("refuses", "TypeError", marks=pytest.mark.slow),
    ],
)
def test_a_model_that_cannot_compute_in_float64_is_compared_in_float32(second, said):
    found = checked(Dense(second=second))
    assert found.colour == "green", found.sentence
    assert "(float32" in found.sentence
    assert said in found.sentence
