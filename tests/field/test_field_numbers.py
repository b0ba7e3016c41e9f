"""Numbers at the ends of their formats: huge and tiny gradients, float16 without its hardware, batches of one, one class."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnets
from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import DataError, UsageError
from jaxnets.data import InMemory, from_arrays
from jaxnets.ops.attention import dot_product_attention
from jaxnets.ops.norm import global_norm
from jaxnets.parallel import MeshShape, make_mesh
from jaxnets.runs.build import assemble
from jaxnets.tasks import Supervised

X = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)


@pytest.mark.parametrize("size", [1e-30, 1e-22, 1e-10, 1.0, 1e10, 1e19, 1e25, 1e37])
def test_a_norm_is_right_even_if_its_squares_overflow_float32(size):
    leaves = {"a": np.array([[3.0, 0.0], [0.0, 4.0]]), "b": np.array([12.0])}
    norm, finite = jax.jit(global_norm)(jax.tree.map(lambda a: jnp.asarray(a * size, jnp.float32), leaves))
    assert float(norm) == pytest.approx(13 * size, rel=1e-6, abs=0)
    assert finite.tolist() == [True, True]


def test_a_norm_names_the_leaf_that_is_not_finite():
    for bad in (np.nan, np.inf):
        norm, finite = global_norm({"a": jnp.array([1e30]), "b": jnp.array([bad])})
        assert not np.isfinite(float(norm))
        assert finite.tolist() == [True, False]
    assert float(global_norm({"a": jnp.zeros(3)})[0]) == 0


def test_a_huge_gradient_is_clipped_and_does_not_become_0():
    rule = jaxnets.optim.SGD(learning_rate=1.0, momentum=0.0, clip_norm=1.0, schedule=jaxnets.optim.Constant()).build(
        10
    )
    params = {"w": jnp.zeros(3)}
    for size in (1e20, 1e-3, 1.0):
        update, _ = rule.update({"w": jnp.array([3.0, 4.0, 0.0]) * size}, rule.init(params), params)
        right = -np.array([3.0, 4.0, 0.0]) * size / max(5 * size, 1.0)
        np.testing.assert_allclose(update["w"], right, rtol=1e-6)


def test_attention_in_float16_is_that_in_float32_rounded():
    q, k, v = (jax.random.normal(key, (2, 5, 2, 4)) for key in jax.random.split(jax.random.key(0), 3))
    right = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    got = dot_product_attention(*(a.astype(jnp.float16) for a in (q, k, v)), is_causal=True)
    assert got.dtype == jnp.float16
    np.testing.assert_allclose(got, right, atol=2e-3)


def test_batch_norm_of_one_example_is_refused():
    model = jaxnets.models.MLP(widths=(4,), norm="batch")
    images = np.random.default_rng(0).random((8, 6, 6, 1))  # an image has statistics of its own
    one = make_mesh(MeshShape(), devices=jax.devices()[:1])
    for sizes in ({"batch_size": 1}, {"batch_size": 8, "micro_batches": 8}):
        options = {"task": Supervised(model=model), "data": InMemory(), "steps": 2, **sizes}
        with pytest.raises(UsageError, match="one example at a time, whose variance is 0.*norm='layer'"):
            assemble(Experiment(**options), from_arrays(X, X[:, 0]), mesh=one)
        options["task"] = Supervised(model=jaxnets.models.CNN(batch_norm=True))
        assemble(Experiment(**options), from_arrays(np.repeat(images, 2, 0), np.arange(16) % 2), mesh=one)


def test_a_single_class_is_refused():
    with pytest.raises(DataError, match="one class only .0., so there is nothing to classify"):
        jaxnets.fit(jaxnets.models.MLP(), (X, np.zeros(64, int)), steps=1, progress="none")
