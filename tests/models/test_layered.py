"""Techniques that change the layers of any model, against their defining equations."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, drawn

from jaxnets.core.errors import UsageError
from jaxnets.models import CNN, MLP, RCNN, LanguageModel, Layered, Layers, LoRA, with_layers
from jaxnets.models.dropouts import MASKS_A_STEP, alpha, channels, connections, gyro
from jaxnets.models.layered import factorised, standardized
from jaxnets.models.norms import BatchNorm
from jaxnets.models.wrapper import without_wrappers

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.normal(size=(8, 8, 8, 3)), jnp.float32)
KEY = jax.random.key(3)


def kernel_of(model, layers, variables, x):
    """Outputs of the layered model on the variables of the model itself."""
    return Layered(model, layers).apply(variables, x)


def test_without_settings_a_model_is_unchanged_and_with_them_it_keeps_fields_and_paths():
    model = CNN(features=(4,), dense=(8,), outputs=3)
    assert with_layers(model, Layers()) is model
    wrapped = with_layers(model, Layers(kernels="standardized"))
    assert without_wrappers(LoRA(wrapped)) is model
    assert wrapped.clone(outputs=5).outputs == 5
    assert jax.tree.structure(jax.eval_shape(wrapped.init, KEY, IMAGES)) == jax.tree.structure(
        jax.eval_shape(model.init, KEY, IMAGES)
    )


@pytest.mark.smoke
def test_standardised_kernels_have_mean_zero_and_variance_one_for_each_output_channel():
    kernel = jnp.asarray(3 + 2 * RNG.normal(size=(3, 3, 4, 5)), jnp.float32)
    rows = np.asarray(kernel, np.float64).reshape(-1, 5)
    # Deviations: float32 for values around 3, and eps of 1e-5 beside a variance of 4.
    np.testing.assert_allclose(
        np.asarray(standardized(kernel)).reshape(-1, 5), (rows - rows.mean(0)) / rows.std(0), atol=1e-5
    )
    model = CNN(features=(4,), dense=(), outputs=3, batch_norm=True)
    variables = drawn(model, IMAGES)
    changed = jax.tree.map(lambda a: a, variables)
    changed["params"]["conv_0_0"]["kernel"] = standardized(variables["params"]["conv_0_0"]["kernel"])
    got = jax.jit(Layered(model, Layers(kernels="standardized")).apply)(variables, IMAGES)
    np.testing.assert_allclose(got, jax.jit(model.apply)(changed, IMAGES), rtol=1e-5)
    # The function does not depend on the scale of a kernel, so its gradient is orthogonal to it.
    wrapped = Layered(model, Layers(kernels="standardized"))
    slope = jax.jit(jax.grad(lambda v: jnp.sin(wrapped.apply(v, IMAGES)).sum()))(variables)["params"]["conv_0_0"][
        "kernel"
    ]
    kernel = variables["params"]["conv_0_0"]["kernel"]
    assert abs(float((slope * kernel).sum())) < 1e-3 * float(jnp.linalg.norm(slope) * jnp.linalg.norm(kernel))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_every_kind_of_dropout_keeps_the_mean(rate):
    """Inverted scaling: the mean of ones over many draws is 1.000; the tolerance is four deviations of a mean of so many."""
    ones = jnp.ones((1_000_000,), jnp.float32).reshape(1000, 1000)
    spread = 4 * math.sqrt(rate / (1 - rate) / ones.size)
    for dropped in (nn.Dropout(rate, deterministic=False).apply({}, ones, rngs={"dropout": KEY}),
                    channels(KEY, ones.reshape(1000, 1, 1000), rate),
                    connections(KEY, ones, rate)):  # fmt: skip
        assert abs(float(dropped.mean()) - 1) < spread < 0.0121
        np.testing.assert_allclose(np.unique(dropped), [0, 1 / (1 - rate)], rtol=1e-6)
    # 256 masks, of which a call uses 16: the mean over features and masks.
    masks = jnp.ones((16, 60_000), jnp.float32)
    assert abs(float(gyro(KEY, masks, rate, "layer").mean()) - 1) < 4 * math.sqrt(rate / (1 - rate) / masks.size)


def test_spatial_dropout_drops_whole_channels_of_single_examples():
    y = np.asarray(channels(KEY, jnp.ones((50, 4, 4, 20)), 0.5))
    assert (y == y[:, :1, :1]).all()
    share = (y[:, 0, 0] == 0).mean()
    assert 0.4 < share < 0.6
    assert len(np.unique(y[:, 0, 0], axis=0)) > 40


def test_alpha_dropout_keeps_mean_zero_and_variance_one():
    x = jax.random.normal(jax.random.key(0), (1000, 1000))
    for rate in (0.05, 0.1, 0.5):
        y = alpha(KEY, x, rate)
        # Four deviations of the mean and of the variance (kurtosis below 10) of a million numbers.
        assert abs(float(y.mean())) < 0.004
        assert abs(float(y.var()) - 1) < 0.012
    # The published correction for a rate of .05 and SELU's limit: a = .9266, b = .0816 (to four digits, by the formula).
    keep, limit = 0.95, -1.7580993408473766
    a = (keep + limit**2 * keep * 0.05) ** -0.5
    np.testing.assert_allclose(
        np.unique(alpha(KEY, jnp.zeros(100), 0.05)),
        sorted((a * limit - a * 0.05 * limit, -a * 0.05 * limit)),
        rtol=1e-5,
    )


def test_gyro_dropout_uses_few_masks_again_and_again():
    def rows(key):
        return np.unique(np.asarray(gyro(key, jnp.ones((64, 40)), 0.5, "layer")), axis=0)

    seen = {row.tobytes() for key in jax.random.split(KEY, 40) for row in rows(key)}
    assert len(rows(KEY)) == MASKS_A_STEP
    assert 180 < len(seen) <= 256
    other = np.asarray(gyro(KEY, jnp.ones((64, 40)), 0.5, "another layer"))
    assert not {row.tobytes() for row in other} & seen


@pytest.mark.parametrize(
    "kind", ["gyro", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("channels", "alpha"))]
)
def test_the_kind_of_dropout_is_used_in_training_only(kind):
    model = RCNN(features=4, stages=1, steps=1, dropout=0.5, outputs=3)
    wrapped = Layered(model, Layers(dropout=kind))
    variables = drawn(model, IMAGES)
    np.testing.assert_array_equal(wrapped.apply(variables, IMAGES), model.apply(variables, IMAGES))
    train = [m.apply(variables, IMAGES, train=True, rngs={"dropout": KEY}) for m in (wrapped, model)]
    assert np.isfinite(train[0]).all()
    assert np.abs(train[0] - train[1]).max() > 1e-3


def test_drop_connect_drops_weights_in_training_and_is_off_in_evaluation():
    model = MLP(widths=(6,), outputs=2)
    wrapped, x = Layered(model, Layers(drop_connect=0.5, at="hidden_0")), IMAGES[:, 0, 0]
    variables = drawn(model, x)
    np.testing.assert_array_equal(wrapped.apply(variables, x), model.apply(variables, x))
    gradient = jax.grad(lambda v: jnp.square(wrapped.apply(v, x, train=True, rngs={"dropout": KEY})).sum())(variables)
    share = (np.asarray(gradient["params"]["hidden_0"]["kernel"]) == 0).mean()
    assert 0.2 < share < 0.8
    assert (np.asarray(gradient["params"]["output"]["kernel"]) != 0).any(axis=0).all()


@pytest.mark.smoke
def test_ghost_batch_norm_equals_batch_norm_on_each_part():
    x = jnp.asarray(5 + RNG.normal(size=(12, 4, 4, 3)), jnp.float32)
    plain = BatchNorm(use_running_average=False, momentum=0.9)
    variables = drawn(plain, x)

    def run(module, x):
        return module.apply(variables, x, mutable=["batch_stats"])

    whole, parts = plain.clone(ghost=12), plain.clone(ghost=4)
    # Rounding alone: both are of order one, with sums over 192 numbers.
    assert_close(run(whole, x), run(plain, x), atol=3e-6)
    apart = [run(plain, x[i : i + 4]) for i in (0, 4, 8)]
    y, stats = run(parts, x)
    np.testing.assert_allclose(y, np.concatenate([y for y, _ in apart]), atol=3e-6)
    for name in ("mean", "var"):
        mean = np.mean([one["batch_stats"][name] for _, one in apart], axis=0)
        np.testing.assert_allclose(stats["batch_stats"][name], mean, rtol=1e-6)
    evaluation = plain.clone(use_running_average=True)
    np.testing.assert_array_equal(evaluation.clone(ghost=4).apply(variables, x), evaluation.apply(variables, x))
    with pytest.raises(ValueError, match="ghost 5 divides the batch"):
        run(plain.clone(ghost=5), x)


def test_ghost_statistics_of_a_model_are_those_of_its_parts():
    model = CNN(features=(4,), dense=(), outputs=3, batch_norm=True)
    variables = drawn(model, IMAGES)
    wrapped = Layered(model, Layers(ghost=4))
    got, _ = wrapped.apply(variables, IMAGES, train=True, mutable=["batch_stats"])
    halves = [model.apply(variables, part, train=True, mutable=["batch_stats"])[0] for part in (IMAGES[:4], IMAGES[4:])]
    np.testing.assert_allclose(got, np.concatenate(halves), atol=1e-5)


def test_factors_begin_as_the_best_approximation_of_the_kernel_that_a_layer_would_have():
    model = CNN(features=(8,), dense=(16,), outputs=10)
    layers = Layers(rank=3)
    whole, split = (jax.jit(m.init)(KEY, IMAGES)["params"] for m in (model, Layered(model, layers)))
    assert split["conv_0_0"]["kernel"].shape == (3, 3, 3, 3)
    assert split["conv_0_0"]["right_kernel"].shape == (3, 8)
    assert split["dense_0"]["kernel"].shape == (128, 3)
    for made in (split, jax.jit(factorised)(whole, split)):
        for name in ("conv_0_0", "dense_0"):
            kernel = np.asarray(whole[name]["kernel"], np.float64).reshape(-1, whole[name]["kernel"].shape[-1])
            product = np.asarray(made[name]["kernel"]).reshape(-1, 3) @ np.asarray(made[name]["right_kernel"])
            tail = np.linalg.svd(kernel, compute_uv=False)[3:]
            # The Frobenius norm of the error is that of the singular values that are cut off.
            np.testing.assert_allclose(np.linalg.norm(kernel - product), np.sqrt((tail**2).sum()), rtol=1e-4)
    # With the rank of the data nothing is lost: a kernel of rank 3 stays the same function.
    thin = jax.tree.map(lambda a: a, whole)
    for name, own in split.items():
        flat = np.asarray(own["kernel"]).reshape(-1, 3) @ np.asarray(own["right_kernel"])
        thin[name]["kernel"] = jnp.asarray(flat.reshape(whole[name]["kernel"].shape))
    got = Layered(model, layers).apply({"params": jax.jit(factorised)(thin, split)}, IMAGES)
    np.testing.assert_allclose(got, model.apply({"params": thin}, IMAGES), atol=1e-5)


@pytest.mark.slow
def test_factors_in_scanned_layers():
    model = LanguageModel(vocab_size=7, width=16, heads=2, layers=2, length=8, blocks="scanned", embedding="untied")
    tokens = jnp.arange(8)[None] % 7
    wrapped = Layered(model, Layers(rank=2, at=".*(up|down)"))
    split = jax.eval_shape(wrapped.init, KEY, tokens)["params"]
    assert split["blocks"]["up"]["kernel"].shape == (2, 16, 2)
    assert split["blocks"]["up"]["right_kernel"].shape == (2, 2, 64)
    made = jax.eval_shape(lambda: factorised(model.init(KEY, tokens)["params"], split))
    assert made == split


def test_squeeze_and_excitation_weighs_the_channels_of_each_convolution():
    model = CNN(features=(4,), dense=(), outputs=3)
    wrapped = Layered(model, Layers(squeeze=2))
    variables = drawn(wrapped, IMAGES)
    own = {name: np.asarray(a) for name, a in variables["params"]["conv_0_0"].items()}
    y = nn.Conv(4, (3, 3)).apply({"params": {name: own[name] for name in ("kernel", "bias")}}, IMAGES)
    z = np.maximum(np.asarray(y).mean((1, 2)) @ own["squeeze_kernel"] + own["squeeze_bias"], 0)
    y = y * (1 / (1 + np.exp(-(z @ own["excite_kernel"] + own["excite_bias"]))))[:, None, None]
    pooled = np.maximum(y, 0).reshape(8, 4, 2, 4, 2, 4).max((2, 4)).reshape(8, -1)
    out = {name: np.asarray(a) for name, a in variables["params"]["output"].items()}
    np.testing.assert_allclose(wrapped.apply(variables, IMAGES), pooled @ out["kernel"] + out["bias"], atol=1e-5)


def test_a_scaled_output_has_the_gradient_of_a_loss_divided_by_the_square():
    """Chizat et al. 2019, eq. 2: the loss `R(alpha h(w)) / alpha^2`."""
    model, x, factor = MLP(widths=(5,), outputs=2), IMAGES[:, 0, 0], 7.0
    variables = drawn(model, x)
    wrapped = Layered(model, Layers(output_scale=factor))

    def risk(y):
        return jnp.square(y - 1).sum()

    np.testing.assert_allclose(wrapped.apply(variables, x), factor * model.apply(variables, x), rtol=1e-6)
    got = jax.grad(lambda v: risk(wrapped.apply(v, x)))(variables)
    wanted = jax.grad(lambda v: risk(factor * model.apply(v, x)) / factor**2)(variables)
    assert_close(got, wanted, rtol=1e-4, atol=1e-6)


def test_large_scales_train_lazily_and_small_ones_learn_features():
    """The weights move by the order of 1 / alpha, while the loss falls alike (Chizat et al. 2019, theorem 2.4)."""
    x = jnp.asarray(RNG.normal(size=(32, 4)), jnp.float32)
    target = jnp.sin(x[:, :1])
    moves = {}
    for factor in (0.5, 50.0):
        model = Layered(MLP(widths=(64,), activation="tanh", outputs=1), Layers(output_scale=factor))
        start = variables = jax.jit(model.init)(KEY, x)
        zero = jax.jit(model.apply)(variables, x)

        def loss(v, model=model, zero=zero):
            return jnp.square(model.apply(v, x) - zero - target).mean()

        step = jax.jit(lambda v, loss=loss: jax.tree.map(lambda a, g: a - 0.05 * g, v, jax.grad(loss)(v)))
        before = float(loss(variables))
        for _ in range(100):
            variables = step(variables)
        assert float(loss(variables)) < 0.6 * before
        moves[factor] = float(
            jnp.linalg.norm(variables["params"]["hidden_0"]["kernel"] - start["params"]["hidden_0"]["kernel"])
        )
    assert moves[0.5] > 20 * moves[50.0]


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (lambda: Layers(kernels="standardized"), "layers.kernels is 'standardized', but MLP has no convolution"),
        (lambda: Layers(ghost=4), "but MLP has no batch normalisation"),
        (lambda: Layers(dropout="alpha"), "but MLP has no dropout"),
        (lambda: Layers(rank=300), "but MLP has no layer that it makes smaller"),
        (lambda: Layers(drop_connect=0.5, at="conv.*"), "matches layers.at 'conv"),
    ],
)
def test_a_technique_for_no_layer_is_an_error(layers, said):
    with pytest.raises(UsageError, match=said):
        Layered(MLP(widths=(5,)), layers()).init(KEY, IMAGES)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"drop_connect": 1.0}, r"a probability in \[0, 1\), got 1.0"),
        ({"rank": -1}, "rank is at least 1, or 0 for none; got -1"),
        ({"output_scale": 0.0}, "output_scale is positive, got 0.0"),
        ({"at": "("}, "a regular expression"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields, said):
    with pytest.raises(UsageError, match=said):
        Layers(**fields)
    with pytest.raises(ValueError, match="kernels is one of 'free', 'standardized', got 'fixed'"):
        Layers(kernels="fixed")
