"""The network of airbench against a plain implementation: whitening, identity kernels, mirrored views."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, drawn, output_and_gradient

from jaxnets.models import AirBench
from jaxnets.models.airbench import near_identity
from jaxnets.models.airbench import whitening_kernel as eager

whitening_kernel = jax.jit(eager, static_argnums=1)
IMAGES = jax.random.normal(jax.random.key(5), (3, 9, 11, 3))


def conv(x, kernel, padding):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def pool(x):
    """Over windows of 2x2; a ragged edge is dropped."""
    h, v = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    a, b, c, d = (x[:, i:h:2, j:v:2] for i in (0, 1) for j in (0, 1))
    return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))


def plain(model, variables, x):
    """Jordan 2024, section 3 and appendix: as its code is written, for one view after the other."""
    p, s, w = variables["params"], variables["batch_stats"], variables["whitening"]

    def gelu(x):
        return x * (1 + jax.scipy.special.erf(x / np.sqrt(2))) / 2

    def one(x):
        x = gelu(conv(x, w["whitening"]["kernel"], "VALID") + p["whitening"]["bias"])
        for block in range(len(model.widths)):
            own, stats = p[f"block_{block}"], s[f"block_{block}"]
            for half in (0, 1):
                x = conv(x, own[f"conv_{half}"]["kernel"], "SAME")
                x = pool(x) if half == 0 else x
                mean, variance = stats[f"norm_{half}"]["mean"], stats[f"norm_{half}"]["var"]
                x = gelu((x - mean) / jnp.sqrt(variance + 1e-12) + own[f"norm_{half}"]["bias"])
        # Sorted, because the gradient of `max` is 0 / 0 where the compiler computes the two sides of its comparison apart.
        return jnp.sort(x.reshape(len(x), -1, x.shape[-1]), axis=1)[:, -1] @ p["output"]["kernel"] / 9

    return (one(x) + one(jnp.flip(x, 2))) / 2 if model.views == "mirrored" else one(x)


@pytest.mark.smoke
@pytest.mark.parametrize("views", ["mirrored", pytest.param("one", marks=pytest.mark.slow)])
def test_outputs_and_gradients_equal_those_of_a_plain_implementation(views):
    model = AirBench(widths=(3, 4), views=views, outputs=4)
    variables = drawn(model, IMAGES)

    def both(apply):
        return output_and_gradient(lambda p: apply({**variables, "params": p}), variables["params"])

    with jax.numpy_rank_promotion("allow"):
        (ours, g), (theirs, h) = both(lambda v: model.apply(v, IMAGES)), both(lambda v: plain(model, v, IMAGES))
    # Sums of at most 36 products in another order, in float32.
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert_close(g, h, rtol=1e-4, atol=1e-5)
    for path, leaf in jax.tree_util.tree_leaves_with_path(g):
        assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_it_has_the_parameters_of_the_published_network():
    """1.97 million: 312 of the whitening (288 of them fixed), 1,967,616 of six convolutions, 2,560 and 1,152 biases of norms."""
    model = AirBench(outputs=10)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == 1_971_640 - 288
    assert shapes["whitening"]["whitening"]["kernel"].shape == (2, 2, 3, 24)
    with_fixed = 312 + 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256) + 2_560 + 2 * (64 + 256 + 256)
    assert with_fixed == 1_971_640


def test_the_whitening_makes_patches_uncorrelated():
    """Against numpy: second moments of all patches, and a convolution whose outputs have the identity as theirs."""
    x = np.cumsum(np.random.default_rng(0).normal(size=(40, 9, 8, 2)), axis=2).astype(
        np.float32
    )  # pixels in a row alike
    kernel = np.asarray(whitening_kernel(jnp.asarray(x), eps=0.0))
    assert kernel.shape == (2, 2, 2, 16)
    np.testing.assert_array_equal(kernel[..., 8:], -kernel[..., :8])
    patches = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), (2, 2), axis=(1, 2))
    patches = patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 8)
    made = patches @ kernel[..., :8].reshape(8, 8)
    # The eigenvalues are 1000 apart, of which float32 leaves four digits.
    np.testing.assert_allclose(made.T @ made / len(made), np.eye(8), atol=2e-3)
    assert (0.5 ** np.arange(8) @ kernel[..., :8].reshape(8, 8) > 0).all(), "the sign is decided"
    values = np.linalg.eigvalsh(patches.T @ patches / len(patches))[::-1]
    norms = np.linalg.norm(np.asarray(whitening_kernel(jnp.asarray(x), eps=0.5))[..., :8].reshape(8, 8), axis=0)
    np.testing.assert_allclose(norms, 1 / np.sqrt(values + 0.5), rtol=1e-3)


def test_the_first_training_batch_measures_the_whitening_and_it_stays():
    model = AirBench(widths=(3,), outputs=2)
    one, two = IMAGES[:, :5, :5], IMAGES[:, 4:, 6:]
    start = model.init(jax.random.key(0), one)
    kernel = np.asarray(start["whitening"]["whitening"]["kernel"]).reshape(12, 24)
    np.testing.assert_array_equal(kernel, np.concatenate([np.eye(12), -np.eye(12)], axis=1))

    @jax.jit
    def trained(variables, x):
        _, new = model.apply(variables, x, train=True, mutable=["batch_stats", "whitening"])
        return {**variables, **new}

    first = trained(start, one)
    found = first["whitening"]["whitening"]
    np.testing.assert_allclose(found["kernel"], whitening_kernel(one), rtol=1e-4, atol=1e-5)
    assert int(found["measured"]) == 1
    jax.tree.map(np.testing.assert_array_equal, trained(first, two)["whitening"], first["whitening"])


def test_kernels_begin_as_the_identity():
    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 3))
    wide = near_identity(jax.random.key(1), (3, 3, 3, 7))
    y = conv(x, wide, "SAME")
    np.testing.assert_allclose(y[..., :3], x, atol=1e-6)
    assert 0.1 < float(np.abs(wide[..., 3:]).max()) <= 1 / np.sqrt(27)  # PyTorch's distribution
    np.testing.assert_allclose(conv(x, near_identity(jax.random.key(1), (3, 3, 3, 2)), "SAME"), x[..., :2], atol=1e-6)


def test_images_that_are_too_small_and_fields_that_are_wrong():
    with pytest.raises(ValueError, match=r"needs at least 9x9 pixels, got \(1, 8, 8, 1\)"):
        AirBench().init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    with pytest.raises(ValueError, match="logit_scale is positive"):
        AirBench(logit_scale=0.0)
    with pytest.raises(ValueError, match="views"):
        AirBench(views="two")
