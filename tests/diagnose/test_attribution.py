"""What an output depends on: against closed forms on linear and quadratic models, and the sums that must hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import diagnose
from jaxnets.core.errors import UsageError
from jaxnets.models import MLP

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(12, 3)).astype(np.float32)
X = RNG.normal(size=(5, 12)).astype(np.float32)


def linear(variables, x):
    return x.reshape(len(x), -1) @ variables["kernel"]


def network(**fields):
    model = MLP(widths=(16, 8), outputs=3, **fields)
    return model.apply, model.init(jax.random.key(0), X)


def test_the_saliency_of_a_linear_model_is_its_weights():
    found = diagnose.saliency(linear, {"kernel": KERNEL}, X, 1)
    np.testing.assert_allclose(found, np.broadcast_to(KERNEL[:, 1], X.shape), rtol=1e-6)
    largest = (X @ KERNEL).argmax(axis=1)
    np.testing.assert_allclose(diagnose.saliency(linear, {"kernel": KERNEL}, X), KERNEL.T[largest], rtol=1e-6)
    each = np.array([0, 1, 2, 1, 0])
    np.testing.assert_allclose(diagnose.saliency(linear, {"kernel": KERNEL}, X, each), KERNEL.T[each], rtol=1e-6)
    margin = diagnose.saliency(linear, {"kernel": KERNEL}, X, lambda outputs: outputs[:, 0] - outputs[:, 2])
    np.testing.assert_allclose(margin, np.broadcast_to(KERNEL[:, 0] - KERNEL[:, 2], X.shape), rtol=1e-5, atol=1e-6)


def test_saliency_equals_central_differences():
    apply, variables = network(activation="tanh")
    found = diagnose.saliency(apply, variables, X, 2)
    step = 1e-2  # the error of a central difference is its square, and float32 rounds at 1e-7 / 1e-2
    for number in (0, 7):
        moved = np.zeros_like(X)
        moved[:, number] = step
        slope = (apply(variables, X + moved) - apply(variables, X - moved))[:, 2] / (2 * step)
        np.testing.assert_allclose(found[:, number], slope, atol=2e-4)


def test_smooth_gradient_is_the_mean_gradient_under_noise():
    def cube(variables, x):
        return (variables["w"][None] * x**3).sum(axis=1)

    w = jnp.asarray(KERNEL[:, 0])
    found = diagnose.smooth_gradient(cube, {"w": w}, X, noise=0.2, draws=4000)
    # The mean of 3 (x + e)^2 is 3 (x^2 + deviation^2); its error falls with the root of the draws.
    deviation = 0.2 * (X.max(axis=1) - X.min(axis=1))[:, None]
    want = 3 * KERNEL[:, 0][None] * (X**2 + deviation**2)
    spread = 3 * np.abs(KERNEL[:, 0])[None] * np.sqrt(4 * X**2 * deviation**2 + 2 * deviation**4)
    assert (np.abs(found - want) < 5 * spread / np.sqrt(4000) + 1e-5).all()
    plain = diagnose.smooth_gradient(linear, {"kernel": KERNEL}, X, 1, draws=3)
    np.testing.assert_allclose(plain, diagnose.saliency(linear, {"kernel": KERNEL}, X, 1), rtol=1e-5)


@pytest.mark.smoke
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_integrated_gradients_add_up_to_the_change_of_the_output(activation):
    apply, variables = network(activation=activation)
    baseline = RNG.normal(size=12).astype(np.float32)
    # A ReLU network has kinks along the line, where the rule loses its order.
    steps = 32 if activation == "tanh" else 512
    values, gap = diagnose.integrated_gradients(apply, variables, X, 1, baseline=baseline, steps=steps)
    want = (apply(variables, X) - apply(variables, np.broadcast_to(baseline, X.shape)))[:, 1]
    np.testing.assert_allclose(values.sum(axis=1), want, atol=1e-3)
    np.testing.assert_allclose(gap, values.sum(axis=1) - want, atol=1e-6)
    assert np.abs(want).max() > 0.1


def test_integrated_gradients_of_a_quadratic_are_exact_and_a_coarse_rule_says_its_gap():
    def square(variables, x):
        return jnp.square(x @ variables["kernel"]).sum(axis=1)

    values, gap = diagnose.integrated_gradients(square, {"kernel": KERNEL}, X, steps=1)
    np.testing.assert_allclose(values, X * ((X @ KERNEL) @ KERNEL.T), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gap, 0, atol=2e-4)  # sums of some hundreds in float32
    _, gap = diagnose.integrated_gradients(lambda v, x: (x**4).sum(axis=1), {}, X, steps=1)
    np.testing.assert_allclose(gap, -0.5 * (X**4).sum(axis=1), rtol=1e-4)  # 4 / 2^3 of it instead of all


def test_an_irrelevant_patch_occludes_nothing_and_others_their_share():
    images = RNG.normal(size=(4, 6, 5, 2)).astype(np.float32)
    weights = RNG.normal(size=(6, 5, 2)).astype(np.float32)
    weights[:3, :2] = 0

    def score(variables, x):
        return (variables["w"][None] * x).sum(axis=(1, 2, 3))

    found = diagnose.occlusion(score, {"w": weights}, images, size=(3, 2), fill=0.5)
    assert found.shape == (4, 2, 3)
    np.testing.assert_allclose(found[:, 0, 0], 0, atol=1e-5)
    parts = weights[None] * (images - 0.5)
    for row in range(2):
        for column in range(3):
            window = parts[:, 3 * row : 3 * row + 3, 2 * column : 2 * column + 2]  # the last one is cut off
            np.testing.assert_allclose(found[:, row, column], window.sum(axis=(1, 2, 3)), rtol=1e-4, atol=1e-5)
    assert diagnose.occlusion(score, {"w": weights}, images, size=2, stride=1).shape == (4, 5, 4)


def test_tokens_are_occluded_and_not_differentiated():
    table = jnp.asarray(RNG.normal(size=(7, 2)), jnp.float32).at[0].set(0)
    tokens = np.array([[1, 2, 3, 4], [4, 4, 0, 0]])

    def bag(variables, tokens):
        return variables["table"][tokens].sum(axis=1)

    found = diagnose.occlusion(bag, {"table": table}, tokens, 1, size=1)
    np.testing.assert_allclose(found, np.asarray(table)[tokens, 1], atol=1e-6)
    for call in (diagnose.saliency, diagnose.smooth_gradient, diagnose.integrated_gradients):
        with pytest.raises(UsageError, match="use occlusion for tokens"):
            call(bag, {"table": table}, tokens, 1)


def test_outputs_that_are_not_there_are_refused():
    variables = {"kernel": KERNEL}
    for output in (3, -1, np.array([0.5] * 5)):
        with pytest.raises(UsageError, match="from 0 to 2"):
            diagnose.saliency(linear, variables, X, output)
    with pytest.raises(UsageError, match="no single number"):
        diagnose.saliency(lambda v, x: x[:, :, None], variables, X)
    with pytest.raises(UsageError, match=r"it gave \[5, 3\]"):
        diagnose.saliency(linear, variables, X, lambda outputs: outputs)
    with pytest.raises(UsageError, match="size is a window"):
        diagnose.occlusion(linear, variables, X, size=13)
