"""Twelve Linen modules as the public examples of their authors call them, each trained by `jaxnets.fit` for five steps.

Every one equals a hand-written Optax loop on the same batches. The modules are written here after their papers, tiny, with the
signatures of those examples: where the switch between training and evaluation is, which arguments there are, what is returned.
The functions `fit_...` and their losses are what a user writes beside the model; docs/your-own.md has the number of their lines.
"""

import ast
import functools
import inspect
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT

import jaxnets
from jaxnets.data import Dataset
from jaxnets.data.prepare import TokenIds
from jaxnets.ops.random import named_keys, stream_key
from jaxnets.tasks import NextToken, Regression
from jaxnets.tasks.calls import STREAMS

N, STEPS = 40, 5


class MNISTCNN(nn.Module):
    @nn.compact
    def __call__(self, x):
        for features in (4, 8):
            x = nn.avg_pool(nn.relu(nn.Conv(features, (3, 3))(x)), (2, 2), strides=(2, 2))
        return nn.Dense(10)(nn.relu(nn.Dense(16)(x.reshape((x.shape[0], -1)))))


class ResNet(nn.Module):
    """He et al. 2016, two blocks."""

    num_classes: int

    @nn.compact
    def __call__(self, x, train: bool = True):
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        x = nn.relu(norm()(nn.Conv(4, (3, 3), use_bias=False)(x)))
        for stride in (1, 2):
            y = nn.relu(norm()(nn.Conv(4 * stride, (3, 3), (stride, stride), use_bias=False)(x)))
            y = norm(scale_init=nn.initializers.zeros_init())(nn.Conv(4 * stride, (3, 3), use_bias=False)(y))
            if y.shape != x.shape:
                x = norm()(nn.Conv(4 * stride, (1, 1), (stride, stride), use_bias=False)(x))
            x = nn.relu(x + y)
        return nn.Dense(self.num_classes)(x.mean(axis=(1, 2)))


class LM1B(nn.Module):
    """The decoder of a language model (Vaswani et al. 2017): `inputs` are shifted inside, so that targets are the inputs."""

    vocab_size: int = 12
    deterministic: bool | None = None

    @nn.compact
    def __call__(self, inputs, inputs_positions=None, inputs_segmentation=None):
        assert inputs_positions is None
        assert inputs_segmentation is None
        mask = nn.combine_masks(nn.make_attention_mask(inputs > 0, inputs > 0), nn.make_causal_mask(inputs))
        x = nn.Embed(self.vocab_size, 8)(jnp.pad(inputs, ((0, 0), (1, 0)))[:, :-1])
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, inputs.shape[1], 8))
        x = nn.Dropout(0.1)(x, deterministic=self.deterministic)
        x = x + nn.SelfAttention(2, dropout_rate=0.1, deterministic=self.deterministic)(nn.LayerNorm()(x), mask)
        x = x + nn.Dense(8)(nn.relu(nn.Dense(16)(nn.LayerNorm()(x))))
        return nn.Dense(self.vocab_size)(nn.LayerNorm()(x))


class Seq2seq(nn.Module):
    """Sutskever et al. 2014: an encoder and a decoder LSTM, with teacher forcing."""

    vocab_size: int = 7
    hidden_size: int = 8

    @nn.compact
    def __call__(self, encoder_inputs, decoder_inputs):
        state, _ = nn.RNN(nn.OptimizedLSTMCell(self.hidden_size), return_carry=True)(encoder_inputs)
        outputs = nn.RNN(nn.OptimizedLSTMCell(self.hidden_size))(decoder_inputs[:, :-1], initial_carry=state)
        return nn.Dense(self.vocab_size)(outputs)


class VAE(nn.Module):
    """Kingma and Welling 2014: returns the reconstruction, the mean and the log variance."""

    latents: int = 3

    @nn.compact
    def __call__(self, x, train: bool = True):
        hidden = nn.relu(nn.Dense(8)(x))
        mean, logvar = nn.Dense(self.latents)(hidden), nn.Dense(self.latents)(hidden)
        noise = jax.random.normal(self.make_rng("latent"), mean.shape) if train else 0.0
        z = mean + noise * jnp.exp(0.5 * logvar)
        return nn.Dense(x.shape[-1])(nn.relu(nn.Dense(8)(z))), mean, logvar


class SST2(nn.Module):
    """A bidirectional LSTM over words, and attention over its states (Bahdanau et al. 2015)."""

    @nn.compact
    def __call__(self, inputs, lengths, *, deterministic: bool):
        x = nn.Dropout(0.2)(nn.Embed(12, 6)(inputs), deterministic=deterministic)
        rnn = nn.Bidirectional(nn.RNN(nn.OptimizedLSTMCell(4)), nn.RNN(nn.OptimizedLSTMCell(4)))
        x = rnn(x, seq_lengths=lengths)
        real = jnp.arange(inputs.shape[1])[None, :] < lengths[:, None]
        scores = jnp.where(real, nn.Dense(1, use_bias=False)(jnp.tanh(nn.Dense(4)(x)))[..., 0], -1e9)
        x = (nn.softmax(scores)[..., None] * x).sum(axis=1)
        return nn.Dense(2)(nn.Dropout(0.2)(x, deterministic=deterministic))


class GraphNet(nn.Module):
    """Battaglia et al. 2018, one round of messages: senders and receivers as numbers of nodes, padded."""

    deterministic: bool | None = None

    @nn.compact
    def __call__(self, graphs):
        nodes, senders, receivers = nn.Dense(6)(graphs["nodes"]), graphs["senders"], graphs["receivers"]
        pick = jax.vmap(lambda rows, number: rows[number])
        edges = nn.relu(nn.Dense(6)(jnp.concatenate([pick(nodes, senders), pick(nodes, receivers)], axis=-1)))
        edges = nn.Dropout(0.1)(edges * graphs["edge_mask"][..., None], deterministic=self.deterministic)
        heard = jax.vmap(lambda e, to: jax.ops.segment_sum(e, to, nodes.shape[1]))(edges, receivers)
        nodes = nn.LayerNorm()(nodes + nn.Dense(6)(jnp.concatenate([nodes, heard], axis=-1)))
        return nn.Dense(2)(nodes.mean(axis=1))


class VisionTransformer(nn.Module):
    """Dosovitskiy et al. 2021."""

    num_classes: int

    @nn.compact
    def __call__(self, inputs, *, train):
        x = nn.Conv(8, (4, 4), strides=(4, 4), padding="VALID", name="embedding")(inputs)
        x = x.reshape(x.shape[0], -1, 8)
        x = jnp.concatenate([jnp.tile(self.param("cls", nn.initializers.zeros, (1, 1, 8)), (len(x), 1, 1)), x], axis=1)
        x = nn.Dropout(0.1)(
            x + self.param("pos", nn.initializers.normal(0.02), (1, x.shape[1], 8)), deterministic=not train
        )
        y = nn.MultiHeadDotProductAttention(2, dropout_rate=0.1)(nn.LayerNorm()(x), deterministic=not train)
        x = x + y
        x = x + nn.Dense(8)(nn.gelu(nn.Dense(16)(nn.LayerNorm()(x))))
        return nn.Dense(self.num_classes, name="head")(nn.LayerNorm()(x)[:, 0])


class MlpMixer(nn.Module):
    """Tolstikhin et al. 2021, one block."""

    num_classes: int

    @nn.compact
    def __call__(self, inputs, *, train):
        del train
        x = nn.Conv(8, (4, 4), strides=(4, 4), name="stem")(inputs)
        x = x.reshape(x.shape[0], -1, 8)
        y = jnp.swapaxes(nn.LayerNorm()(x), 1, 2)
        x = x + jnp.swapaxes(nn.Dense(x.shape[1])(nn.gelu(nn.Dense(6)(y))), 1, 2)
        x = x + nn.Dense(8)(nn.gelu(nn.Dense(12)(nn.LayerNorm()(x))))
        return nn.Dense(self.num_classes, name="head")(nn.LayerNorm()(x).mean(axis=1))


class UNet(nn.Module):
    """Ronneberger et al. 2015, one level: a logit for every pixel."""

    @nn.compact
    def __call__(self, x, train: bool = True):
        norm = functools.partial(nn.BatchNorm, use_running_average=not train)
        wide = nn.relu(norm()(nn.Conv(4, (3, 3))(x)))
        deep = nn.relu(norm()(nn.Conv(8, (3, 3))(nn.max_pool(wide, (2, 2), strides=(2, 2)))))
        x = jnp.concatenate([wide, nn.ConvTranspose(4, (2, 2), strides=(2, 2))(deep)], axis=-1)
        return nn.Conv(1, (1, 1))(x)[..., 0]


class Nanodo(nn.Module):
    """A decoder whose parameters are in boxes that name mesh axes, and whose activations have logical names."""

    vocab_size: int = 12

    @nn.compact
    def __call__(self, y_BxL):
        init = functools.partial(nn.with_partitioning, nn.initializers.normal(0.1))
        x = nn.Embed(self.vocab_size, 8, embedding_init=init((None, "data")))(y_BxL)
        x = x + nn.Embed(y_BxL.shape[1], 8, embedding_init=init((None, "data")))(jnp.arange(y_BxL.shape[1])[None])
        x = nn.with_logical_constraint(x, ("batch", "length", "embed"))
        y = nn.LayerNorm(use_bias=False)(x)
        heads = nn.DenseGeneral((3, 2, 4), use_bias=False)(y)
        x = x + nn.DenseGeneral(8, axis=(-2, -1), use_bias=False)(
            jax.nn.dot_product_attention(heads[:, :, 0], heads[:, :, 1], heads[:, :, 2], is_causal=True)
        )
        x = x + nn.Dense(8, use_bias=False)(
            nn.gelu(nn.Dense(16, use_bias=False, kernel_init=init(("data", None)))(nn.LayerNorm(use_bias=False)(x)))
        )
        return nn.Dense(self.vocab_size, use_bias=False)(nn.LayerNorm(use_bias=False)(x))


class ActorCritic(nn.Module):
    """The two heads of proximal policy optimisation (Schulman et al. 2017): logarithms of probabilities, and a value."""

    num_outputs: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(16)(nn.relu(nn.Conv(4, (3, 3), strides=(2, 2))(x)).reshape((x.shape[0], -1))))
        return nn.log_softmax(nn.Dense(self.num_outputs, name="logits")(x)), nn.Dense(1, name="value")(x)


# The data: arrays of a user.
rng = np.random.default_rng(0)
PICTURES, CLASSES = rng.integers(0, 255, (N, 8, 8, 1)).astype(np.uint8), np.arange(N) % 10
TOKENS, LENGTHS = rng.integers(1, 12, (N, 6)), rng.integers(1, 7, N)
HOT = np.eye(7, dtype=np.float32)[rng.integers(0, 7, (N, 5))]
ROWS = rng.normal(size=(N, 6))
MASKS = (PICTURES[..., 0] > 127).reshape(N, 64).astype(int)
GRAPHS = {
    "nodes": rng.normal(size=(N, 4, 3)),
    "senders": rng.integers(0, 4, (N, 5)),
    "receivers": rng.integers(0, 4, (N, 5)),
    "edge_mask": rng.random((N, 5)) < 0.8,
}
PLAYED = np.stack([rng.integers(0, 4, N), rng.normal(size=N), rng.normal(size=N)], axis=1)
TEXT = {"inputs": TOKENS, "targets": TOKENS}


# What a user writes beside the model: `fit` is `jaxnets.fit` with the options of this test.


def fit_mnist_cnn(fit):
    return fit(MNISTCNN(), (PICTURES, CLASSES))


def fit_imagenet_resnet(fit):
    return fit(ResNet(num_classes=10), (PICTURES, CLASSES))


def fit_lm1b_decoder(fit):
    data = Dataset("lm1b", TEXT, TEXT, target_kind="token", class_names=tuple("_abcdefghijk"), prepare=TokenIds())
    return fit(NextToken(model=LM1B()), data)


def fit_seq2seq_lstm(fit):
    return fit(Seq2seq(), ({"encoder_inputs": HOT, "decoder_inputs": HOT[:, ::-1]}, CLASSES), loss=after_the_first)


def after_the_first(logits, batch):
    return optax.softmax_cross_entropy(logits, batch["inputs"]["decoder_inputs"][:, 1:]).mean(axis=1)


def fit_vae(fit):
    return fit(VAE(), (ROWS, CLASSES), loss=evidence)


def evidence(outputs, batch):
    made, mean, logvar = outputs
    divergence = -0.5 * (1 + logvar - mean**2 - jnp.exp(logvar)).sum(axis=-1)
    return jnp.square(made - batch["inputs"]).sum(axis=-1) + divergence


def fit_sst2_bilstm(fit):
    return fit(SST2(), ({"inputs": TOKENS, "lengths": LENGTHS}, CLASSES % 2))


def fit_ogbg_graph_network(fit):
    return fit(GraphNet(), (GRAPHS, CLASSES % 2))


def fit_vision_transformer(fit):
    return fit(VisionTransformer(num_classes=10), (PICTURES, CLASSES))


def fit_mlp_mixer(fit):
    return fit(MlpMixer(num_classes=10), (PICTURES, CLASSES))


def fit_unet(fit):
    return fit(UNet(), (PICTURES, MASKS), loss=every_pixel)


def every_pixel(logits, batch):
    return optax.sigmoid_binary_cross_entropy(logits.reshape(batch["targets"].shape), batch["targets"]).mean(axis=1)


def fit_nanodo_decoder(fit):
    data = jaxnets.from_arrays(TOKENS[:, :-1], TOKENS[:, 1:].astype(float), kind="number", input_kind="tokens")
    return fit(Regression(model=Nanodo(), target_mean=0.0, target_std=1.0), data, loss=following)


def following(logits, batch):
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"].astype(int)).mean(axis=1)


def fit_ppo_actor_critic(fit):
    return fit(Regression(model=ActorCritic(4), target_mean=0.0, target_std=1.0), (PICTURES, PLAYED), loss=both_heads)


def both_heads(outputs, batch):
    action, advantage, goal = batch["targets"].T
    chosen = (outputs[0] * nn.one_hot(action, 4)).sum(axis=1)
    return -chosen * advantage + 0.5 * jnp.square(outputs[1][:, 0] - goal)


EXAMPLES = {name.removeprefix("fit_"): made for name, made in list(globals().items()) if name.startswith("fit_")}
# The loss of those that give none.
WRITTEN = {fit_seq2seq_lstm: after_the_first, fit_vae: evidence, fit_unet: every_pixel, fit_nanodo_decoder: following,
           fit_ppo_actor_critic: both_heads}  # fmt: skip


def cross_entropy(logits, batch):
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
    return losses.reshape(len(losses), -1).mean(axis=1)


def sgd():
    """No optimizer that divides by the size of a gradient: a bias of keys, whose gradient is rounding, would move at random."""
    return optax.sgd(0.05, momentum=0.9)


def with_options(model, data, **options):
    if isinstance(data, tuple):
        options["test"] = data
    return jaxnets.fit(model, data, optimizer=sgd(), batch_size=8, steps=STEPS, log_every=1, progress="none", **options)


def by_hand(run, loss):
    """The losses, and the variables at the end, of a plain Optax loop on the batches of the run's feed."""
    model, optimizer, state = run.parts.task.model, sgd(), run.parts.fresh_state()
    takes = inspect.signature(type(model).__call__).parameters
    mode = {"train": True} if "train" in takes else {"deterministic": False} if "deterministic" in takes else {}
    if getattr(model, "deterministic", 0) is None:
        model = model.clone(deterministic=False)

    def mean_loss(params, state, batch, key):
        rngs = {**named_keys(key, STREAMS), "dropout": key}
        inputs = batch["inputs"]
        by_name = isinstance(inputs, dict) and inputs.keys() <= takes.keys()
        arguments, named = ((), inputs) if by_name else ((inputs,), {})
        outputs, new = model.apply(
            {"params": params, **state}, *arguments, **named, **mode, rngs=rngs, mutable=[*state]
        )
        return loss(outputs, batch).mean(), new

    @jax.jit
    def step(params, state, moments, batch, key):
        (value, state), grad = jax.value_and_grad(mean_loss, has_aux=True)(params, state, batch, key)
        updates, moments = optimizer.update(grad, moments, params)
        return optax.apply_updates(params, updates), state, moments, value

    params, state, moments, values = state.params, state.model_state, optimizer.init(state.params), []
    for number in range(STEPS):
        batch = run.parts.feed.batch(run.parts.feed.load(number, 1, 1), 0, jnp.int32(number))
        batch = {name: array for name, array in batch.items() if name in ("inputs", "targets")}
        params, state, moments, value = step(params, state, moments, batch, stream_key(0, "model", number))
        values.append(float(value))
    return values, {"params": params, **state}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_public_example_equals_its_hand_written_loop(name):
    run = EXAMPLES[name](with_options)
    values, variables = by_hand(run, WRITTEN.get(EXAMPLES[name], cross_entropy))
    losses = [record["loss"] for record in run.history.records if record["split"] == "train"]
    # The largest relative difference of a loss was 1.2e-7, of a parameter 6e-8 (the decoder of lm1b; in the others, no bit).
    np.testing.assert_allclose(losses, values, rtol=2e-6)
    for found, wanted in zip(jax.tree.leaves(run.variables), jax.tree.leaves(variables), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert jax.tree.structure(run.variables) == jax.tree.structure(variables)


def lines_of(made):
    """Lines that a user writes beside the model: the body of the function, and the whole of its loss."""
    function = ast.parse(inspect.getsource(made)).body[0]
    count = function.end_lineno - function.body[0].lineno + 1
    return count + (len(inspect.getsource(WRITTEN[made]).strip().splitlines()) if made in WRITTEN else 0)


def test_the_page_counts_the_lines_of_each():
    page = (ROOT / "docs" / "your-own.md").read_text()
    found = {name: int(count) for name, count in re.findall(r"^\| .* \| `(\w+)` \| (\d+) \|$", page, flags=re.M)}
    assert found == {name: lines_of(made) for name, made in EXAMPLES.items()}
    assert max(found.values()) <= 5
