"""The search for the largest batch against brute force, and the noise scale against gradients of known distribution."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import diagnose
from jaxnets.core.errors import UsageError


@pytest.mark.parametrize(
    "peak",
    [
        lambda b: 1000 + 37 * b,
        lambda b: 5_000_000 + 1000 * b,
        lambda b: 100 * 2 ** math.ceil(math.log2(b)) + 5000,  # buffers that grow by doubling
        lambda b: 10 * b * b,
        lambda b: 500 * b + (90_000 if b > 300 else 0),  # another algorithm from some size on
    ],
    ids=["line", "flat", "doubling", "square", "jump"],
)
@pytest.mark.parametrize("limit", [40_000, 200_000, 6_000_000])
@pytest.mark.parametrize("multiple", [1, 8])
def test_the_largest_batch_equals_that_of_an_exhaustive_search(peak, limit, multiple):
    measured = []

    def counted(batch):
        measured.append(batch)
        return peak(batch)

    most = 4000
    found = diagnose.largest_batch(counted, limit, start=64, most=most, multiple=multiple, tries=12)
    want = max((b for b in range(multiple, most + 1, multiple) if peak(b) <= limit), default=0)
    assert found.size <= want
    assert found.size >= 0.98 * want - multiple
    assert len(measured) == len(set(measured)) <= 12
    assert all(batch % multiple == 0 for batch in measured)
    assert found.bounded == (want + multiple <= most)


def test_linear_memory_needs_four_measurements():
    found = diagnose.largest_batch(lambda b: 10_000 + 123 * b, 1_000_000, start=32, most=100_000)
    assert len(found.memory) <= 4
    assert found.size == (1_000_000 - 10_000) // 123
    np.testing.assert_allclose(found.line, (10_000, 123), rtol=1e-6)


def test_the_knee_is_the_smallest_batch_that_is_nearly_the_fastest():
    assert diagnose.knee({8: 100.0, 16: 190.0, 32: 280.0, 64: 300.0, 128: 298.0}) == 32


@pytest.mark.smoke
def test_the_noise_scale_of_gaussian_gradients_is_the_known_one():
    """Gradients of examples are drawn from N(g, diag(s^2)): the scale is sum(s^2) / |g|^2 by definition."""
    g = jnp.array([0.3, -0.4, 0.0, 0.1])
    s = jnp.array([1.0, 2.0, 0.5, 1.5])
    parts, part, steps = 4, 16, 500

    def norms(key):
        examples = g[None, None] + s[None, None] * jax.random.normal(key, (parts, part, 4))
        return diagnose.squared_norms({"a": examples.mean(axis=1)})

    found = diagnose.noise_scale(jax.vmap(norms)(jax.random.split(jax.random.key(0), steps)), part=16, whole=64)
    want = float((s**2).sum() / (g**2).sum())
    assert found.noise == pytest.approx(float((s**2).sum()), rel=0.05)
    assert found.batch == pytest.approx(want, rel=0.1)
    assert 0 < found.error < 0.2 * want
    assert abs(found.batch - want) < 4 * found.error


def test_signal_and_noise_are_unbiased_if_the_signal_is_zero():
    """Without a true gradient the estimate of |g|^2 is 0 on average, not the |mean|^2 that a batch shows."""

    def norms(key):
        return diagnose.squared_norms([jax.random.normal(key, (2, 8, 10)).mean(axis=1)])

    found = diagnose.noise_scale(jax.vmap(norms)(jax.random.split(jax.random.key(1), 400)), part=8, whole=16)
    assert abs(found.signal) < 0.1  # a batch of 16 shows 10 / 16 = 0.6; the standard error over 400 steps is 0.03
    hidden = diagnose.noise_scale([[1.0, 0.4]], part=8, whole=16)
    assert hidden.batch is None
    assert math.isnan(hidden.error)


def test_a_batch_without_parts_is_refused():
    with pytest.raises(UsageError, match="parts of a batch"):
        diagnose.noise_scale([[1.0, 1.0]], part=8, whole=8)
    with pytest.raises(UsageError, match="multiple of 8"):
        diagnose.largest_batch(lambda b: b, 10, start=8, most=4, multiple=8)
