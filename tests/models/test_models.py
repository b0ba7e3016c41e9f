"""Each family: shapes, dtypes, parameter counts, gradients everywhere, and an independent ten-line reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.models import CNN, MLP, CifarResNet, Perceptron

CASES = {
    "perceptron": (Perceptron(outputs=3), (5, 7)),
    "mlp": (MLP(widths=(9, 6), outputs=3, dropout=0.1, input_dropout=0.1), (5, 7)),
    "mlp_layer_norm": (MLP(widths=(9,), outputs=3, norm="layer"), (5, 7)),
    "mlp_batch_norm": (MLP(widths=(9,), outputs=3, norm="batch"), (5, 7)),
    "linear": (MLP(widths=(), outputs=3), (5, 7)),
    "cnn": (CNN(features=(4, 6), dense=(8,), outputs=3, dropout=0.1), (5, 9, 8, 2)),
    "cnn_batch_norm": (CNN(features=(4,), convolutions=2, batch_norm=True, outputs=3), (5, 6, 6, 1)),
    "resnet": (CifarResNet(depth=8, width=4, outputs=3), (5, 8, 8, 3)),
}


@pytest.fixture(params=CASES, scope="module")
def case(request):
    model, shape = CASES[request.param]
    x = jax.random.normal(jax.random.key(1), shape)
    return model, x, jax.jit(model.init)({"params": jax.random.key(0), "dropout": jax.random.key(0)}, x)


@pytest.mark.smoke
def test_shapes_dtypes_and_precision(case):
    model, x, variables = case
    y = jax.jit(model.apply)(variables, x)
    assert y.shape == (5, 3)
    assert y.dtype == jnp.float32
    assert np.isfinite(y).all()
    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), variables["params"])
    y_low = jax.jit(model.apply)({**variables, "params": low}, x.astype(jnp.bfloat16))
    assert y_low.dtype == jnp.bfloat16
    np.testing.assert_allclose(y_low.astype(jnp.float32), y, atol=0.1 * float(jnp.abs(y).max()) + 0.05)


def test_a_gradient_reaches_every_parameter(case):
    model, x, variables = case
    others = {k: v for k, v in variables.items() if k != "params"}

    def loss(params):
        y, _ = model.apply(
            {"params": params, **others}, x, train=True, rngs={"dropout": jax.random.key(2)}, mutable=list(others)
        )
        return (y * jnp.arange(1.0, 16.0).reshape(5, 3)).sum()

    gradients = jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(variables["params"]))
    silent = [jax.tree_util.keystr(path) for path, g in gradients if not np.abs(g).max() > 0]
    assert not silent


@pytest.mark.parametrize("name", [name for name, (model, _) in CASES.items() if getattr(model, "dropout", 0)])
def test_dropout_acts_in_training_only(name):
    model, shape = CASES[name]
    x = jax.random.normal(jax.random.key(1), shape)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    outputs = [model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(i)}) for i in range(2)]
    assert not np.array_equal(*outputs)
    np.testing.assert_array_equal(model.apply(variables, x), model.apply(variables, x))


def count(model, shape):
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(shape)))
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(
    ("model", "shape", "parameters"),
    [
        (MLP(widths=(512, 512), outputs=10), (1, 784), 669_706),
        # He et al. 2016, table 6: 0.27M and 0.85M; the exact numbers are those of the released weights.
        (CifarResNet(depth=20, outputs=10), (1, 32, 32, 3), 269_722),
        (CifarResNet(depth=56, outputs=10), (1, 32, 32, 3), 853_018),
        (Perceptron(outputs=1), (1, 4), 5),
    ],
)
def test_parameter_counts(model, shape, parameters):
    assert count(model, shape) == parameters


def test_mlp_equals_a_numpy_reference():
    model = MLP(widths=(6, 5), outputs=2, activation="tanh")
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    params = model.init(jax.random.key(0), x)["params"]
    y = x
    for name in ("hidden_0", "hidden_1"):
        y = np.tanh(y @ np.asarray(params[name]["kernel"]) + np.asarray(params[name]["bias"]))
    y = y @ np.asarray(params["output"]["kernel"]) + np.asarray(params["output"]["bias"])
    np.testing.assert_allclose(model.apply({"params": params}, x), y, rtol=1e-5, atol=1e-6)


def correlate(x, kernel, stride=1):
    """3x3 convolution with padding 1, by its definition."""
    B, H, W, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = np.zeros((B, -(-H // stride), -(-W // stride), kernel.shape[-1]))
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            patch = padded[:, i * stride : i * stride + 3, j * stride : j * stride + 3]
            out[:, i, j] = np.einsum("bhwc,hwcf->bf", patch, kernel)
    return out


def test_cnn_equals_a_numpy_reference():
    model = CNN(features=(3,), dense=(), outputs=2)
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 2)).astype(np.float32)
    params = jax.tree.map(np.asarray, model.init(jax.random.key(0), x)["params"])
    y = np.maximum(correlate(x, params["conv_0_0"]["kernel"]) + params["conv_0_0"]["bias"], 0)
    y = y[:, :6, :4].reshape(2, 3, 2, 2, 2, 3).max(axis=(2, 4)).reshape(2, -1)
    y = y @ params["output"]["kernel"] + params["output"]["bias"]
    np.testing.assert_allclose(model.apply({"params": params}, x), y, rtol=1e-5, atol=1e-5)


def test_resnet_equals_a_numpy_reference_in_evaluation():
    model = CifarResNet(depth=8, width=2, outputs=3)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    # Fresh statistics are 0 and 1, which would hide a mistake in them.
    stats = jax.tree.map(lambda a: a + jax.random.uniform(jax.random.key(3), a.shape), variables["batch_stats"])
    p, s = jax.tree.map(np.asarray, variables["params"]), jax.tree.map(np.asarray, stats)

    def norm(y, scale, stat):
        return (y - stat["mean"]) / np.sqrt(stat["var"] + 1e-5) * scale["scale"] + scale["bias"]

    y = np.maximum(norm(correlate(x, p["stem"]["kernel"]), p["stem_norm"], s["stem_norm"]), 0)
    for stage in range(3):
        name, stride = f"stage_{stage}_block_0", 2 if stage else 1
        block, stat = p[name], s[name]
        z = np.maximum(norm(correlate(y, block["conv_0"]["kernel"], stride), block["norm_0"], stat["norm_0"]), 0)
        z = norm(correlate(z, block["conv_1"]["kernel"]), block["norm_1"], stat["norm_1"])
        extra = z.shape[-1] - y.shape[-1]
        y = np.pad(y[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2)))
        y = np.maximum(y + z, 0)
    y = y.mean(axis=(1, 2)) @ p["output"]["kernel"] + p["output"]["bias"]
    got = jax.jit(model.apply)({"params": variables["params"], "batch_stats": stats}, x)
    np.testing.assert_allclose(got, y, rtol=1e-4, atol=1e-5)


def test_perceptron_fires_at_zero_in_both_codings():
    potential = jnp.array([-1.0, 0.0, 2.0])
    np.testing.assert_array_equal(Perceptron().fire(potential), [0, 1, 1])
    np.testing.assert_array_equal(Perceptron(coding="sign").fire(potential), [-1, 1, 1])


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (CNN(features=(2, 2, 2)), (1, 6, 6, 1), "at least 8x8"),
        (CNN(), (1, 64), "needs images"),
        (CifarResNet(depth=21), (1, 8, 8, 3), "6n \\+ 2"),
        (CifarResNet(), (1, 8, 8), "needs images"),
    ],
)
def test_a_model_refuses_unsupported_inputs_by_name(model, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(shape)))
