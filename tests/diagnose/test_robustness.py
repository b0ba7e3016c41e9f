"""Attacks, corruption, Lipschitz bounds and flipped bits: by formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.ndimage import gaussian_filter

from jaxnets import diagnose
from jaxnets.core.errors import UsageError
from jaxnets.models import MLP


def linear():
    """The loss of a linear classifier of two classes, `log(1 + exp(-y w x))`, and what it is made of."""
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=5).astype(np.float32), rng.normal(size=(8, 5)).astype(np.float32)
    y = np.sign(x @ w + 0.3 * rng.normal(size=8)).astype(np.float32)
    return (lambda x: jnp.logaddexp(0, -y * (x @ w))), x, y, w


@pytest.mark.smoke
def test_on_a_linear_model_fgsm_is_the_sign_of_the_weights_and_reaches_the_margin():
    losses, x, y, w = linear()
    moved = np.asarray(diagnose.fgsm(losses, x, 0.1))
    np.testing.assert_allclose(moved, x - 0.1 * y[:, None] * np.sign(w)[None, :], rtol=1e-6)
    # The margin y w x falls by size times the dual norm of the weights: the largest fall that there is.
    np.testing.assert_allclose(y * (moved @ w), y * (x @ w) - 0.1 * np.abs(w).sum(), rtol=1e-5, atol=1e-6)
    round_ = np.asarray(diagnose.fgsm(losses, x, 0.1, norm="2"))
    np.testing.assert_allclose(y * (round_ @ w), y * (x @ w) - 0.1 * np.linalg.norm(w), rtol=1e-5, atol=1e-6)
    # Just over the margin's size the answer turns, just below it does not.
    sizes = np.abs(x @ w) / np.abs(w).sum()
    for factor, turned in ((0.99, False), (1.01, True)):
        away = np.stack([np.asarray(diagnose.fgsm(losses, x, factor * size))[i] for i, size in enumerate(sizes[:3])])
        right = np.sign(x[:3] @ w) == y[:3]
        assert ((np.sign(away @ w) != np.sign(x[:3] @ w)) == turned)[right].all()


@pytest.mark.parametrize(("norm", "dual"), [("inf", 1), pytest.param("2", 2, marks=pytest.mark.slow)])
def test_pgd_stays_in_its_ball_and_finds_the_worst_point_of_a_linear_model(norm, dual):
    losses, x, y, w = linear()
    moved = np.asarray(diagnose.pgd(losses, x, 0.2, norm=norm, steps=40, step=0.05))
    away = np.linalg.norm(moved - x, ord=np.inf if norm == "inf" else 2, axis=1)
    assert (away <= 0.2 * (1 + 1e-5)).all()
    np.testing.assert_allclose(y * (moved @ w), y * (x @ w) - 0.2 * np.linalg.norm(w, dual), rtol=1e-4, atol=1e-4)
    inside = np.asarray(diagnose.pgd(losses, np.clip(x, 0, 1), 0.2, norm=norm, steps=5, bounds=(0.0, 1.0)))
    assert inside.min() >= 0
    assert inside.max() <= 1
    np.testing.assert_array_equal(diagnose.pgd(losses, x, 0.0, norm=norm, steps=2), x)


@pytest.mark.slow
def test_pgd_keeps_the_point_of_the_largest_loss():
    """A loss whose maximum is between two steps: the last point is not the best."""
    x = np.asarray([[0.0], [0.0]], np.float32)

    def losses(x):
        return -jnp.square(x[:, 0] - 0.35)

    found = np.asarray(diagnose.pgd(losses, x, 1.0, steps=8, step=0.5, seed=1))
    alone = np.asarray(losses(found))
    assert (alone >= np.asarray(losses(x))).all()
    assert (np.abs(found[:, 0] - 0.35) <= 0.25 + 1e-6).all()


@pytest.mark.slow
def test_the_curve_of_a_linear_model_is_the_share_whose_margin_is_larger():
    losses, x, y, w = linear()
    labels = (np.sign(x @ w) > 0).astype(int)
    sizes = [0.0, 0.1, 0.3, 1.0]
    curve = diagnose.attack_curve(lambda x: jnp.stack([-(x @ w), x @ w], axis=1), x, labels, sizes, steps=8)
    margin = np.abs(x @ w) / np.abs(w).sum()
    np.testing.assert_allclose(curve, [(margin > size).mean() for size in sizes])
    assert curve[0] == 1
    assert curve[-1] < 1
    np.testing.assert_allclose(  # d log(1 + exp(-y w x)) / dx
        diagnose.input_gradients(losses, x), (-y / (1 + np.exp(y * (x @ w))))[:, None] * w[None, :], rtol=1e-5
    )


def test_attacks_refuse_inputs_that_they_cannot_change():
    losses, x, _, _ = linear()
    with pytest.raises(UsageError, match="real numbers, and these are int"):
        diagnose.fgsm(losses, np.ones((8, 5), int), 0.1)
    with pytest.raises(UsageError, match="0 or more; got -1"):
        diagnose.pgd(losses, x, -1)
    with pytest.raises(UsageError, match=r"each example, \(8,\); got \(\)"):
        diagnose.fgsm(lambda x: losses(x).mean(), x, 0.1)
    with pytest.raises(UsageError, match="steps is at least 1"):
        diagnose.pgd(losses, x, 0.1, steps=0)


def pictures():
    return np.random.default_rng(0).uniform(0.3, 0.7, (4, 9, 8, 3)).astype(np.float32)


def test_corruptions_equal_their_definitions():
    images = pictures()
    noisy = np.asarray(diagnose.corrupted(images, "noise", 0.05))
    assert (noisy - images).std() == pytest.approx(0.05, rel=0.1)
    blurred = diagnose.corrupted(images, "blur", 1.0)
    wanted = gaussian_filter(images, (0, 1, 1, 0), mode="nearest", truncate=3.0)
    np.testing.assert_allclose(blurred, wanted, rtol=0, atol=2e-6)
    np.testing.assert_allclose(diagnose.corrupted(images, "brightness", 0.4), np.minimum(images + 0.4, 1), atol=1e-6)
    flat = np.asarray(diagnose.corrupted(images, "contrast", 1.0))
    luma = (images @ np.asarray([0.299, 0.587, 0.114], np.float32)).mean(axis=(1, 2))
    np.testing.assert_allclose(flat, np.broadcast_to(luma[:, None, None, None], images.shape), atol=1e-6)
    covered = np.asarray(diagnose.corrupted(images, "occlusion", 0.25)) == 0.5
    assert covered.all(axis=-1).sum(axis=(1, 2)).tolist() == [round(9 * 0.5) * round(8 * 0.5)] * 4
    for kind in ("noise", "blur", "brightness", "contrast", "occlusion"):
        np.testing.assert_allclose(diagnose.corrupted(images, kind, 0.0), images, atol=1e-6)


def test_a_corruption_curve_grows_worse_with_severity():
    images = pictures()
    curves = diagnose.corruption_curve(lambda worse: float(np.abs(worse - images).mean()), images)
    assert set(curves) == {"noise", "blur", "brightness", "contrast", "occlusion"}
    for curve in curves.values():
        assert curve.shape == (6,)
        assert curve[0] == 0
        assert (np.diff(curve) > 0).all()
    for kind, strength in (("noise", -1.0), ("contrast", 1.5)):
        with pytest.raises(UsageError, match=f"strength of {kind}"):
            diagnose.corrupted(images, kind, strength)
    with pytest.raises(UsageError, match="kind is one of noise"):
        diagnose.corrupted(images, "rain", 1.0)
    with pytest.raises(UsageError, match="divide bytes by 255"):
        diagnose.corrupted((images * 255).astype(np.uint8), "noise", 0.1)
    with pytest.raises(UsageError, match="scale them first"):
        diagnose.corrupted(images * 255, "noise", 0.1)


def test_of_a_linear_layer_both_bounds_are_its_largest_singular_value():
    rng = np.random.default_rng(0)
    kernel, x = rng.normal(size=(6, 4)).astype(np.float32), rng.normal(size=(3, 6)).astype(np.float32)
    largest = np.linalg.svd(kernel)[1][0]
    assert diagnose.lipschitz_upper({"output": {"kernel": kernel, "bias": np.zeros(4)}}) == pytest.approx(
        largest, rel=1e-5
    )
    assert diagnose.lipschitz_lower(lambda x: x @ kernel, x) == pytest.approx(largest, rel=1e-4)


def test_the_ratio_of_near_outputs_lies_between_the_bounds():
    rng = np.random.default_rng(0)
    model, sizes = MLP(widths=(8, 8), outputs=3), (4, 8, 8, 3)
    x = rng.normal(size=(40, 4)).astype(np.float32)
    params = {
        name: {
            "kernel": np.float32(rng.normal(size=sizes[i : i + 2])),
            "bias": np.float32(rng.normal(size=sizes[i + 1])),
        }
        for i, name in enumerate(("hidden_0", "hidden_1", "output"))
    }
    outputs = jax.jit(lambda x: model.apply({"params": params}, x))
    low, high = diagnose.lipschitz_lower(outputs, x, batch=16), diagnose.lipschitz_upper(params)
    near = x + 1e-3 * rng.normal(size=x.shape).astype(np.float32)
    ratio = np.linalg.norm(outputs(near) - outputs(x), axis=1) / np.linalg.norm(near - x, axis=1)
    assert ratio.max() <= low * 1.01 <= high
    assert diagnose.lipschitz_upper(params, activation=0.25) == pytest.approx(high / 16)
    with pytest.raises(UsageError, match=r"got norm_0/scale"):
        diagnose.lipschitz_upper({**params, "norm_0": {"scale": jnp.ones(8)}})


def test_a_flipped_bit_is_one_bit_of_so_many_numbers():
    rng = np.random.default_rng(0)
    params = {
        "a": jnp.asarray(rng.normal(size=(20, 3)), jnp.float32),
        "b": jnp.asarray(rng.normal(size=7), jnp.bfloat16),
    }
    for bit in (0, 7, 14, 15):
        found = diagnose.flipped(params, bit, count=11, seed=1)
        changed = 0
        for name, kind in (("a", "uint32"), ("b", "uint16")):
            apart = np.asarray(found[name]).view(kind) ^ np.asarray(params[name]).view(kind)
            assert set(np.unique(apart)) <= {0, 1 << bit}
            assert found[name].dtype == params[name].dtype
            changed += (apart > 0).sum()
        assert changed == 11
    only = {"a": params["a"]}
    signs = diagnose.flipped(only, 31, count=60)["a"]
    np.testing.assert_array_equal(signs, -params["a"])
    again = diagnose.flipped(diagnose.flipped(only, 30, count=5, seed=3), 30, count=5, seed=3)["a"]
    np.testing.assert_array_equal(again, params["a"])
    with pytest.raises(UsageError, match="from 0 to 15 in bfloat16, got 31"):
        diagnose.flipped(params, 31)
    with pytest.raises(UsageError, match="from 0 to the 60 numbers"):
        diagnose.flipped(only, 0, count=61)


def test_the_high_bit_of_the_exponent_does_the_harm():
    params = {"w": jnp.asarray(np.random.default_rng(0).uniform(0.1, 0.9, 50), jnp.float32)}
    error = diagnose.flip_curve(
        lambda tree: float(np.abs(np.asarray(tree["w"]) - np.asarray(params["w"])).max()),
        params,
        [0, 22, 31, 30],
        count=3,
        repeats=4,
    )
    assert error.shape == (4, 4)
    assert (error[0] < 1e-7).all()
    assert (error[1] < 0.5).all()
    assert (error[2] < 2).all()
    assert (error[3] > 1e30).all()
    with pytest.raises(UsageError, match="repeats is at least 1"):
        diagnose.flip_curve(lambda tree: 0.0, params, [0], repeats=0)


def test_losses_of_any_task_may_be_attacked():
    """A regression with another loss, and inputs with several dims."""
    x = np.zeros((3, 2, 2), np.float32)
    moved = diagnose.fgsm(lambda x: optax.huber_loss(x.sum(axis=(1, 2)), jnp.ones(3)), x, 0.5)
    np.testing.assert_array_equal(moved, np.full((3, 2, 2), -0.5))
