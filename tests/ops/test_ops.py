"""Fast forms against their plain references."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.ops import average_pool, conv_general_dilated, convolution, dot_general, max_pool, name_axes
from jaxnets.ops.dense import COPY_PAYS
from jaxnets.ops.pooling import max_pool_reference
from jaxnets.ops.random import example_keys, stream_key
from jaxnets.parallel import MeshShape, make_mesh

NUMBERS = ("NHWC", "HWIO", "NHWC")


@pytest.mark.parametrize("form", convolution.KERNEL_FORMS)
@pytest.mark.parametrize(
    ("batch", "size", "channels", "window", "steps", "holes", "padding"),
    [
        (2, (7, 6), (3, 4), (3, 2), (1, 1), False, "SAME"),
        (1, (9, 5), (1, 2), (4, 4), (2, 3), False, "SAME"),
        (3, (8, 4), (4, 1), (1, 3), (3, 2), False, ((2, 0), (1, 1))),
        (2, (6, 9), (2, 3), (4, 2), (2, 1), False, "VALID"),
        (2, (5, 4), (3, 2), (4, 4), (2, 2), True, ((2, 2), (2, 2))),
        (1, (4, 6), (2, 4), (3, 1), (3, 2), True, ((2, 0), (1, 1))),
        (3, (4, 5), (1, 3), (2, 3), (1, 3), True, ((0, 0), (0, 0))),
    ],
)
def test_convolution_and_its_derivatives_equal_lax(
    batch, size, channels, window, steps, holes, padding, form, monkeypatch
):
    monkeypatch.setattr(convolution, "kernel_form", lambda x, window: form)
    rng = np.random.default_rng(0)
    x, kernel, dx, dkernel = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in 2 * ((batch, *size, channels[0]), (*window, *channels))
    )
    strides, dilation = ((1, 1), steps) if holes else (steps, (1, 1))

    def derivatives(convolve, x, kernel, dx, dkernel):
        def f(x, kernel):
            return convolve(x, kernel, strides, padding, lhs_dilation=dilation, dimension_numbers=NUMBERS)

        y, back = jax.vjp(f, x, kernel)
        g = jnp.asarray(np.random.default_rng(1).normal(size=y.shape), jnp.float32)

        def slope(x, kernel):
            return jnp.square(jax.grad(lambda x: jnp.vdot(f(x, kernel), g * f(x, kernel)))(x)).mean()

        forward = jax.jvp(f, (x, kernel), (dx, dkernel))[1]
        return y, (*back(g), forward, *jax.grad(slope, argnums=(0, 1))(x, kernel))

    (y, found), (y_plain, wanted) = (
        jax.jit(derivatives, static_argnums=0)(convolve, x, kernel, dx, dkernel)
        for convolve in (conv_general_dilated, jax.lax.conv_general_dilated)
    )
    np.testing.assert_array_equal(y, y_plain)
    # Sums of products of unit normals in another order: 1e-5 of the largest is 10 times the spread seen.
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * float(jnp.abs(want).max() + 1))


@pytest.mark.parametrize("of_kernel", [False, True])
def test_convolution_and_its_gradients_under_vmap_equal_lax(of_kernel):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 2, 7, 6, 4)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 2, 4, 5) if of_kernel else (3, 2, 4, 5)), jnp.float32)

    def gradients(convolve):
        def loss(x, kernel):
            return jnp.square(convolve(x, kernel, (2, 1), "SAME", dimension_numbers=NUMBERS)).sum()

        return jax.vmap(jax.grad(loss, argnums=(0, 1)), in_axes=(0, 0 if of_kernel else None))(x, kernel)

    ours, plain = gradients(conv_general_dilated), gradients(jax.lax.conv_general_dilated)
    for got, want in zip(ours, plain, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)


def test_grouped_and_dilated_convolutions_take_the_plain_path():
    x, kernel = jnp.ones((1, 6, 6, 4)), jnp.ones((3, 3, 2, 4))
    numbers = ("NHWC", "HWIO", "NHWC")
    options = {"dimension_numbers": numbers, "feature_group_count": 2, "rhs_dilation": (2, 2)}
    got = conv_general_dilated(x, kernel, (1, 1), "SAME", **options)
    np.testing.assert_array_equal(got, jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", **options))


def test_few_channels_and_examples_take_the_convolution_and_windows_of_one_pixel_the_product():
    forms = [convolution.kernel_form((b, 8, 8, c), (w, w)) for b, c, w in ((128, 64, 3), (128, 65, 3), (2, 3, 1))]
    assert forms == ["convolution", "shifted", "shifted"]


@pytest.mark.parametrize("form", convolution.KERNEL_FORMS)
def test_gradient_has_the_same_bits_inside_a_loop(form, monkeypatch):
    monkeypatch.setattr(convolution, "kernel_form", lambda x, window: form)
    x = jax.random.normal(jax.random.key(0), (8, 12, 12, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 5))
    layer = nn.Conv(5, (3, 3), strides=2, use_bias=False, conv_general_dilated=conv_general_dilated)

    def gradient(kernel):
        return jax.grad(lambda k: (layer.apply({"params": {"kernel": k}}, x) ** 2).sum())(kernel)

    looped = jax.jit(lambda k, n: jax.lax.fori_loop(0, n, lambda _, g: gradient(k) + 0 * g, jnp.zeros_like(k)))
    np.testing.assert_array_equal(jax.jit(gradient)(kernel), looped(kernel, 3))


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (2, 7, 9, 1), (1, 2, 2, 4)])
def test_max_pool_equals_its_reference(shape):
    x = jax.random.normal(jax.random.key(0), shape)
    np.testing.assert_array_equal(max_pool(x), max_pool_reference(x))
    # With and without ties: the first of equals has it all.
    for given in (x, jnp.round(x)):
        ours = jax.grad(lambda x: (max_pool(x) ** 2).sum())(given)
        np.testing.assert_array_equal(ours, jax.grad(lambda x: (max_pool_reference(x) ** 2).sum())(given))
    assert jnp.isnan(max_pool(x.at[0, 1, 0, 0].set(jnp.nan))[0, 0, 0, 0])


@pytest.mark.parametrize("window", [1, 2, 3])
def test_average_pool_is_the_mean_of_each_window(window):
    x = np.random.default_rng(0).normal(size=(2, 6, 12, 3))
    want = np.array(
        [[x[:, i : i + window, j : j + window].mean((1, 2)) for j in range(0, 12, window)] for i in range(0, 6, window)]
    )
    np.testing.assert_allclose(average_pool(jnp.asarray(x), window), want.transpose(2, 0, 1, 3), atol=1e-6)
    with pytest.raises(ValueError, match="needs sides divisible by 4, got 6x12 pixels"):
        average_pool(jnp.asarray(x), 4)


def test_streams_steps_and_examples_have_different_draws():
    keys = [stream_key(seed, name, step) for seed in (0, 1) for name in ("model", "augment") for step in (0, 1)]
    draws = {float(jax.random.uniform(key)) for key in keys}
    draws |= {float(u) for u in jax.vmap(jax.random.uniform)(example_keys(keys[0], 5))}
    assert len(draws) == 13
    # An example's key depends on its position, not on how many there are.
    few, many = (jax.random.key_data(example_keys(keys[0], n)) for n in (3, 9))
    np.testing.assert_array_equal(few, many[:3])


def test_name_axes_is_a_no_op_outside_a_mesh_and_pins_inside_one():
    x = jnp.zeros((16, 4))
    assert name_axes(x, "batch", "embed") is x
    with jax.set_mesh(make_mesh(MeshShape(data=2, fsdp=4))):
        pinned = jax.jit(lambda x: name_axes(x, "batch", "embed"))(x)
        assert pinned.sharding.spec[0] == ("data", "fsdp")
        # 6 rows do not divide by 8 devices: left alone rather than refused or dropped silently by the compiler.
        assert jax.jit(lambda x: name_axes(x, "batch", "embed"))(jnp.zeros((6, 4))).shape == (6, 4)
    with pytest.raises(ValueError, match="2 names"):
        name_axes(jnp.zeros((1, 2, 3)), "batch", "embed")
    with pytest.raises(ValueError, match="'bach' is not a known"):
        name_axes(x, "bach", "embed")


@pytest.mark.parametrize("shape", [(128, 256, 64), (130, 127, 3), (4, 32, 200, 16)])
def test_dense_product_and_both_gradients_equal_lax(shape):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=shape[:-1]), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=shape[-2:]), jnp.float32)
    assert x.size in COPY_PAYS

    def product(dot_general):
        layer = nn.Dense(shape[-1], use_bias=False, dot_general=dot_general)

        def apply(x, k):
            return layer.apply({"params": {"kernel": k}}, x)

        # Forward mode, as a check that there is one; and through a Hessian's product with a vector.
        forward = jax.jvp(apply, (x, kernel), (x[::-1], kernel[::-1]))[1]
        curved = jax.jvp(jax.grad(lambda k: jnp.square(apply(x, k)).mean()), (kernel,), (kernel[::-1],))[1]
        return *jax.vjp(apply, x, kernel), (forward, curved)

    (y, back, others), (y_plain, back_plain, others_plain) = product(dot_general), product(jax.lax.dot_general)
    np.testing.assert_array_equal(y, y_plain)
    for got, want in zip(others, others_plain, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    g = jnp.asarray(rng.normal(size=y.shape), jnp.float32)
    # Sums of at most 256 products of unit normals in another order: 1e-4 is 10 times the spread seen.
    for got, want in zip(back(g), back_plain(g), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_other_products_take_the_plain_path():
    x, y = jnp.ones((3, 128, 64)), jnp.ones((3, 64, 5))
    numbers = (((2,), (1,)), ((0,), (0,)))
    np.testing.assert_array_equal(dot_general(x, y, numbers), x @ y)
    wide = dot_general(x.astype(jnp.bfloat16), y[0].astype(jnp.bfloat16), (((2,), (0,)), ((), ())), None,
                       preferred_element_type=jnp.float32)  # fmt: skip
    assert wide.dtype == jnp.float32
