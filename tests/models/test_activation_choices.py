"""Activations as a choice of every model that has one: values, gradients, and that the choice changes the model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import drawn
from scipy.special import erf, expit

from jaxnets.models import (
    CNN,
    GAT,
    GCN,
    GIN,
    MLP,
    VAE,
    Autoencoder,
    CifarResNet,
    CoAtNet,
    ConvAutoencoder,
    ConvNeXt,
    Graph,
    GraphSAGE,
    HybridLanguageModel,
    LanguageModel,
    LeNet5,
    ResNet,
    ResNet9,
    Seq2SeqTransformer,
    TransformerEncoder,
    UNet,
    ViT,
)  # fmt: skip
from jaxnets.models.activations import ACTIVATIONS, GATES, activation, feed_forward, sparsemax
from jaxnets.models.transformer import Pair

X = np.linspace(-4, 4, 41)
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772  # Klambauer et al. 2017, section 2
NUMPY = {
    "relu": np.maximum(X, 0),
    "gelu": 0.5 * X * (1 + np.tanh(np.sqrt(2 / np.pi) * (X + 0.044715 * X**3))),
    "gelu_exact": X * (1 + erf(X / np.sqrt(2))) / 2,
    "tanh": np.tanh(X),
    "half_tanh": (1 - np.exp(-X)) / (1 + np.exp(-X)),
    "sigmoid": expit(X),
    "steep_sigmoid": expit(10 * X),
    "silu": X * expit(X),
    "leaky_relu": np.where(X > 0, X, 0.01 * X),
    "elu": np.where(X > 0, X, np.expm1(X)),
    "selu": SELU_SCALE * np.where(X > 0, X, SELU_ALPHA * np.expm1(X)),
    "softplus": np.log1p(np.exp(X)),
    "mish": X * np.tanh(np.log1p(np.exp(X))),
    "hard_swish": X * np.clip(X + 3, 0, 6) / 6,
    "squared_relu": np.maximum(X, 0) ** 2,
    "step": X >= 0,
    "clip": np.clip(X, 0, 1),
}


@pytest.mark.smoke
@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "sparsemax"])
def test_values_are_those_of_numpy(name):
    # float32: some multiples of its relative precision for values up to 16.
    np.testing.assert_allclose(activation(name)(jnp.asarray(X, jnp.float32)), NUMPY[name], rtol=3e-6, atol=2e-6)


def test_sparsemax_is_the_projection_on_the_simplex_and_its_jacobian_that_of_the_paper():
    """Martins and Astudillo 2016, algorithm 1 and eq. 11; (3, 1, .2) has one winner, (.5, .4, .1) is on the simplex."""
    np.testing.assert_allclose(
        sparsemax(jnp.array([[3, 1, 0.2], [0.5, 0.4, 0.1]])), [[1, 0, 0], [0.5, 0.4, 0.1]], atol=1e-6
    )
    rows = np.random.default_rng(0).normal(size=(2, 5, 7))
    z = -np.sort(-rows, axis=-1)
    count = (1 + np.arange(1, 8) * z > np.cumsum(z, axis=-1)).sum(-1)
    threshold = (np.take_along_axis(np.cumsum(z, axis=-1), count[..., None] - 1, -1) - 1) / count[..., None]
    got = jax.jit(sparsemax)(jnp.asarray(rows, jnp.float32))
    np.testing.assert_allclose(got, np.maximum(rows - threshold, 0), atol=1e-6)
    support = (np.asarray(got[0, 0]) > 0).astype(float)
    wanted = np.diag(support) - np.outer(support, support) / support.sum()
    np.testing.assert_allclose(
        jax.jit(jax.jacobian(sparsemax))(jnp.asarray(rows[0, 0], jnp.float32)), wanted, atol=1e-6
    )


def test_gates_are_the_product_of_an_activation_and_a_second_map():
    up, gate = jnp.asarray(X, jnp.float32), jnp.asarray(X[::-1].copy(), jnp.float32)
    inner = {"glu": NUMPY["sigmoid"], "reglu": NUMPY["relu"], "geglu": NUMPY["gelu"], "swiglu": NUMPY["silu"]}
    for name in GATES:
        np.testing.assert_allclose(feed_forward(name, up, lambda: gate), inner[name][::-1] * X, rtol=3e-6, atol=5e-6)


def test_an_error_about_a_wrong_name_suggests_similar_names():
    with pytest.raises(ValueError, match="no activation 'rellu'. Did you mean 'relu'"):
        activation("rellu")
    with pytest.raises(ValueError, match="prelu learns its slope"):
        activation("prelu")
    with pytest.raises(ValueError, match=r"CNN.activation is one of 'relu', .*, got 'swish'"):
        CNN(activation="swish")
    with pytest.raises(ValueError, match="VAE has no prelu"):
        VAE(activation="prelu")


IMAGES = jnp.ones((1, 32, 32, 3))
TOKENS = jnp.array([[1, 2, 3, 4]])
GRAPH = Graph(jnp.ones((1, 3, 2)), jnp.array([[[0, 1], [1, 0]]]), jnp.ones((1, 3), bool), jnp.ones((1, 2), bool))
SMALL = {"layers": 1, "width": 8, "heads": 2}
MODELS = {
    "mlp": (MLP(widths=(4,)), "activation", IMAGES),
    "cnn": (CNN(features=(2,), dense=(3,)), "activation", IMAGES),
    "lenet": (LeNet5(), "activation", IMAGES),
    "resnet": (ResNet(depth=18, width=2), "activation", IMAGES),
    "cifar": (CifarResNet(depth=8, width=2), "activation", IMAGES),
    "resnet9": (ResNet9(width=2), "activation", IMAGES),
    "convnext": (ConvNeXt(depths=(1,), widths=(4,)), "activation", IMAGES),
    "coatnet": (CoAtNet(stem=2, widths=(4, 4), blocks=(1, 1), heads=2), "activation", IMAGES),
    "unet": (UNet(features=(4,)), "activation", IMAGES),
    "vae": (VAE(widths=(4,), latent=2, shape=(32, 32, 3)), "activation", IMAGES),
    "autoencoder": (Autoencoder(widths=(4,), code=2, shape=(32, 32, 3)), "activation", IMAGES),
    "convolutions": (ConvAutoencoder(features=(2,), code=2, shape=(32, 32, 3)), "activation", IMAGES),
    "vit": (ViT(patch=16, **SMALL), "mlp", IMAGES),
    "encoder": (TransformerEncoder(vocab_size=5, **SMALL), "activation", TOKENS),
    "translator": (Seq2SeqTransformer(vocab_size=5, source_vocab_size=5, **SMALL), "activation", Pair(TOKENS, TOKENS)),
    "language": (LanguageModel(vocab_size=5, length=4, **SMALL), "mlp", TOKENS),
    "hybrid": (HybridLanguageModel(vocab_size=5, pattern=("attention",), **SMALL), "mlp", TOKENS),
    **{kind.__name__: (kind(widths=(4,)), "activation", GRAPH) for kind in (GCN, GraphSAGE, GAT, GIN)},
}  # fmt: skip


QUICK = ("cnn", "vit", "language", "GAT")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_the_choice_reaches_the_units_of_every_model(name):
    """The program of the model has the operation of the choice; with a gate also one more kernel in a feed-forward layer."""
    model, field, x = MODELS[name]
    choices = {"hybrid": ("swiglu", "reglu")}.get(name, ("tanh", "softplus"))
    programs = []
    for choice in choices:
        chosen = model.clone(**{field: choice})
        shapes = jax.eval_shape(chosen.init, jax.random.key(0), x)
        programs.append(str(jax.make_jaxpr(chosen.apply)(shapes, x)))
    assert programs[0] != programs[1]
    if name in ("vit", "encoder", "translator", "language"):
        gated, plain = (
            jax.eval_shape(model.clone(**{field: c}).init, jax.random.key(0), x)["params"] for c in ("glu", "relu")
        )
        added = {jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(gated)}
        added -= {jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(plain)}
        assert added
        assert all("gate" in path for path in added)


DEEP = {
    "cifar": CifarResNet(depth=8, width=2),
    "vit": ViT(patch=16, layers=2, width=8, heads=2),
    "coatnet": CoAtNet(stem=2, widths=(4, 4), blocks=(1, 1), heads=2),
}


@pytest.mark.parametrize(
    "name", ["vit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cifar", "coatnet"))]
)
def test_stochastic_depth_leaves_out_branches_of_examples_in_training_only(name):
    """Huang et al. 2016: with the rate near 1 the last block is nearly always skipped; the mean over draws stays."""
    model = DEEP[name]
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 32, 32, 3)), jnp.float32)
    variables = drawn(model, x)
    deep = model.clone(stochastic_depth=0.5)
    np.testing.assert_array_equal(jax.jit(deep.apply)(variables, x), jax.jit(model.apply)(variables, x))

    @jax.jit
    def train(key):
        return deep.apply(variables, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"])[0]

    others = np.array([train(jax.random.key(k)) for k in range(1, 9)])
    assert np.unique(np.round(others[:, 0], 4), axis=0).shape[0] > 1
