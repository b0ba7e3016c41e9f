"""Models against the same networks in PyTorch: outputs and the gradient of every parameter, in float64 on its side."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, drawn, output_and_gradient

from jaxnets.models import (
    CNN,
    MLP,
    RBF,
    RCNN,
    RNN,
    VAE,
    VQVAE,
    Autoencoder,
    CifarResNet,
    ConvAutoencoder,
    ConvLSTMForecaster,
    DCGANCritic,
    DCGANGenerator,
    Hopfield,
    Perceptron,
    UNet,
)
from jaxnets.models.mixture_of_experts import Experts, MixtureOfExperts

torch = pytest.importorskip("torch")
F = torch.nn.functional


# --- what the networks are made of; images are [B, H, W, C] here too


def dense(x, p):
    return x @ p["kernel"] + p.get("bias", 0)


def conv(x, p, stride=1):
    """Torch's convolution, after padding to ceil(n / stride) outputs, more at the end where it is odd."""
    kernel = p["kernel"].permute(3, 2, 0, 1)
    sides = []
    for n, k in zip(x.shape[1:3], kernel.shape[2:], strict=True):
        total = max((-(-n // stride) - 1) * stride + k - n, 0)
        sides = [total // 2, total - total // 2, *sides]
    y = F.conv2d(F.pad(x.permute(0, 3, 1, 2), sides), kernel, stride=stride)
    return y.permute(0, 2, 3, 1) + p.get("bias", 0)


def max_pool(x):
    return F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def batch_norm(x, p, s):
    return (x - s["mean"]) / torch.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"]


def layer_norm(x, p):
    return F.layer_norm(x, x.shape[-1:], p["scale"], p["bias"], 1e-6)


def group_norm(x, p, groups):
    y = F.group_norm(x.permute(0, 3, 1, 2), math.gcd(groups, x.shape[-1]), p["scale"], p["bias"], 1e-6)
    return y.permute(0, 2, 3, 1)


def twice(x):
    return x.repeat_interleave(2, 1).repeat_interleave(2, 2)


# --- the networks


def perceptron(m, p, s, x):
    return dense(x, p["neuron"])


def mlp(m, p, s, x):
    x = x.reshape(len(x), -1)
    for i in range(len(m.widths)):
        x = dense(x, p[f"hidden_{i}"])
        if m.norm == "batch":
            x = batch_norm(x, p[f"norm_{i}"], s[f"norm_{i}"])
        elif m.norm == "layer":
            x = layer_norm(x, p[f"norm_{i}"])
        x = {"tanh": torch.tanh, "relu": F.relu, "gelu": lambda x: F.gelu(x, approximate="tanh"), "silu": F.silu}[
            m.activation
        ](x)
    return dense(x, p["output"])


def cnn(m, p, s, x):
    for stage in range(len(m.features)):
        for i in range(m.convolutions):
            x = conv(x, p[f"conv_{stage}_{i}"])
            if m.batch_norm:
                x = batch_norm(x, p[f"norm_{stage}_{i}"], s[f"norm_{stage}_{i}"])
            x = F.relu(x)
        x = max_pool(x)
    x = x.reshape(len(x), -1)
    for i in range(len(m.dense)):
        x = F.relu(dense(x, p[f"dense_{i}"]))
    return dense(x, p["output"])


def cifar_resnet(m, p, s, x):
    def three(x, p, stride=1):  # a window centred on every stride-th pixel
        kernel = p["kernel"].permute(3, 2, 0, 1)
        return F.conv2d(x.permute(0, 3, 1, 2), kernel, stride=stride, padding=1).permute(0, 2, 3, 1)

    x = F.relu(batch_norm(three(x, p["stem"]), p["stem_norm"], s["stem_norm"]))
    for name in sorted(k for k in p if k.startswith("stage")):
        q, t = p[name], s[name]
        stride = 2 if name.endswith("block_0") and not name.startswith("stage_0") else 1
        y = F.relu(batch_norm(three(x, q["conv_0"], stride), q["norm_0"], t["norm_0"]))
        y = batch_norm(three(y, q["conv_1"]), q["norm_1"], t["norm_1"])
        extra = y.shape[-1] - x.shape[-1]
        x = F.relu(F.pad(x[:, ::stride, ::stride], (extra // 2, extra - extra // 2)) + y)
    return dense(x.mean((1, 2)), p["output"])


def rbf(m, p, s, x):
    far = torch.cdist(x.reshape(len(x), -1), p["centres"]) / torch.exp(p["log_widths"])
    return dense(torch.exp(-(far**2)) if m.basis == "gaussian" else 1 / (1 + far**2), p["output"])


def rcnn(m, p, s, x):
    def activate(x, p, s, name):
        if m.norm == "batch":
            return F.relu(batch_norm(x, p[name], s[name]))
        size = m.features // 8 + 1
        y = F.local_response_norm(F.relu(x).permute(0, 3, 1, 2), size, alpha=0.001, beta=0.75, k=1.0)
        return y.permute(0, 2, 3, 1)

    x = activate(conv(x, p["stem"]), p, s, "stem_norm")
    for layer in range(2 * m.stages):
        x = x if layer % 2 else max_pool(x)
        q, t = p[f"layer_{layer}"], s.get(f"layer_{layer}", {})
        fed = conv(x, q["feed_forward"])
        x = activate(fed, q, t, "norm_0")
        for step in range(m.steps):
            x = activate(fed + conv(x, q["recurrent"]), q, t, f"norm_{step + 1}")
    return dense(x.amax((1, 2)), p["output"])


def conv_lstm(m, p, s, x):
    def walk(q, h, c, inputs):
        said = []
        for fed in inputs:
            i, f, g, o = torch.split(fed + conv(h, {"kernel": q["recurrent"]}), h.shape[-1], dim=-1)
            i, f = i + q["peephole_input"] * c, f + q["peephole_forget"] * c
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o + q["peephole_output"] * c) * torch.tanh(c)
            said.append(h)
        return said, h, c

    B, _, H, W, C = x.shape
    P = m.patch
    frames = [
        torch.cat([x[:, t, r::P, c::P] for r, c in itertools.product(range(P), range(P))], -1)
        for t in range(x.shape[1])
    ]
    memories = []
    for layer, features in enumerate(m.features):
        q, zero = p[f"encoder_{layer}"], torch.zeros(B, H // P, W // P, features, dtype=x.dtype)
        frames, h, c = walk(q, zero, zero, [conv(frame, q["input"]) for frame in frames])
        memories.append((h, c))
    below, states = None, []
    for layer, (h, c) in enumerate(memories):
        q = p[f"forecaster_{layer}"]
        fed = [q["bias"]] * m.ahead if below is None else [conv(frame, q["input"]) for frame in below]
        below, _, _ = walk(q, h, c, fed)
        states.append(below)
    out = torch.zeros(B, m.ahead, H, W, C, dtype=x.dtype)
    for k in range(m.ahead):
        y = conv(torch.cat([layer[k] for layer in states], -1), p["output"])
        for index, (r, c) in enumerate(itertools.product(range(P), range(P))):
            out[:, k, r::P, c::P] = y[..., index * C : index * C + C]
    return out


def autoencoder(m, p, s, x):
    y = x.reshape(len(x), -1)
    for i in range(len(m.widths)):
        y = F.relu(dense(y, p[f"encoder_{i}"]))
    y = dense(y, p["code_layer"])
    for i in range(len(m.widths)):
        y = F.relu(dense(y, p[f"decoder_{i}"]))
    return dense(y, p["output"]).reshape(x.shape)


def conv_autoencoder(m, p, s, x):
    y = x
    for i in range(len(m.features)):
        y = F.relu(conv(y, p[f"down_{i}"], 2))
    small = y.shape
    y = F.relu(dense(dense(y.reshape(len(x), -1), p["code_layer"]), p["seed"])).reshape(small)
    for i in range(len(m.features)):
        y = conv(twice(y), p[f"up_{i}"])
        y = F.relu(y) if i + 1 < len(m.features) else y
    return y[:, : x.shape[1], : x.shape[2]]


def vae(m, p, s, x):
    y = x.reshape(len(x), -1)
    for i in range(len(m.widths)):
        y = torch.tanh(dense(y, p[f"encoder_{i}"]))
    y = dense(y, p["posterior"])[:, : m.latent]
    for i in range(len(m.widths)):
        y = torch.tanh(dense(y, p[f"decoder_{i}"]))
    return dense(y, p["output"]).reshape(x.shape)


def vqvae(m, p, s, x):
    y = x
    for i in range(len(m.features)):
        y = F.relu(conv(y, p[f"down_{i}"], 2))
    y = conv(y, p["to_code"])
    nearest = torch.cdist(y.reshape(-1, m.width), p["book"]).argmin(-1)
    y = y + (p["book"][nearest].reshape(y.shape) - y).detach()
    y = F.relu(conv(y, p["from_code"]))
    for i in range(len(m.features)):
        y = conv(twice(y), p[f"up_{i}"])
        y = F.relu(y) if i + 1 < len(m.features) else y
    return y


def hopfield(m, p, s, x):
    q = dense(x.reshape(len(x), -1), p["query"])
    for _ in range(m.steps):
        q = torch.softmax(m.beta * q @ p["patterns"].T, -1) @ p["patterns"]
    return dense(q, p["output"])


def generator(m, p, s, x):
    height, width, _ = m.shape
    shrink = 2 ** len(m.features)
    y = dense(x, p["seed"]).reshape(len(x), -(-height // shrink), -(-width // shrink), m.features[0])
    y = F.relu(batch_norm(y, p["norm_seed"], s["norm_seed"]))
    for i in range(len(m.features)):
        kernel = p[f"up_{i}"]["kernel"].flip(0, 1).permute(2, 3, 0, 1)
        y = F.conv_transpose2d(y.permute(0, 3, 1, 2), kernel, stride=2, padding=1).permute(0, 2, 3, 1)
        y = y + p[f"up_{i}"].get("bias", 0)
        if i + 1 < len(m.features):
            y = F.relu(batch_norm(y, p[f"norm_{i}"], s[f"norm_{i}"]))
    return torch.tanh(y)[:, :height, :width]


def critic(m, p, s, x):
    for i in range(len(m.features)):
        x = conv(x, p[f"down_{i}"], 2)
        if i and m.norm == "batch":
            x = batch_norm(x, p[f"norm_{i}"], s[f"norm_{i}"])
        elif i and m.norm == "layer":
            x = layer_norm(x, p[f"norm_{i}"])
        x = F.leaky_relu(x, 0.2)
    return dense(x.reshape(len(x), -1), p["output"])


def unet(m, p, s, x):
    P, groups = m.patch, m.groups
    half = -(-m.features[0] // 2)
    angles = 0.0 * torch.logspace(0, 3, half, dtype=x.dtype).expand(len(x), half)  # time 0
    emb = torch.cat([torch.sin(angles), torch.cos(angles)], -1)[:, : m.features[0]]
    emb = dense(F.silu(dense(emb, p["time_0"])), p["time_1"])

    def block(h, q):
        y = conv(F.silu(group_norm(h, q["norm_0"], groups)), q["conv_0"])
        y = y + dense(F.silu(emb), q["time"])[:, None, None]
        y = conv(F.silu(group_norm(y, q["norm_1"], groups)), q["conv_1"])
        return y + (conv(h, q["shortcut"]) if "shortcut" in q else h)

    h = torch.cat([x[:, r::P, c::P] for r, c in itertools.product(range(P), range(P))], -1)
    h, passed = conv(h, p["stem"]), []
    for level in range(len(m.features)):
        h = conv(h, p[f"shrink_{level}"], 2) if level else h
        for i in range(m.blocks):
            h = block(h, p[f"down_{level}_{i}"])
            passed.append(h)
    h = block(h, p["middle"])
    for level in reversed(range(len(m.features))):
        for i in range(m.blocks):
            beside = passed.pop()
            h = block(torch.cat([h[:, : beside.shape[1], : beside.shape[2]], beside], -1), p[f"up_{level}_{i}"])
        h = twice(h) if level else h
    h = conv(F.silu(group_norm(h, p["norm"], groups)), p["output"])
    out, C = torch.zeros_like(x), x.shape[-1]
    for index, (r, c) in enumerate(itertools.product(range(P), range(P))):
        out[:, r::P, c::P] = h[..., index * C : index * C + C]
    return out


def rnn(m, p, s, x):
    """Torch's own layers, given our weights under their names."""
    kind = {"simple": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[m.cell]
    theirs = kind(x.shape[-1], m.widths[0], len(m.widths), bidirectional=True, batch_first=True).double()
    weights = {}
    for layer, direction in itertools.product(range(len(m.widths)), ("", "_reverse")):
        q, at = p[f"layer_{layer}{direction}"], f"l{layer}{direction}"
        weights[f"weight_ih_{at}"], weights[f"bias_ih_{at}"] = q["input"]["kernel"].T, q["input"]["bias"]
        weights[f"weight_hh_{at}"] = q["recurrent"].T
        hidden = torch.zeros_like(q["input"]["bias"])
        if m.cell == "gru":
            hidden = torch.cat([hidden[: 2 * m.widths[0]], q["candidate_bias"]])
        weights[f"bias_hh_{at}"] = hidden
    return dense(torch.func.functional_call(theirs, weights, (x,))[0], p["output"])


def mixture(m, p, s, x):
    """Token by token, choice by choice, in the order in which they ask for a place."""

    def linear(row, own, name):
        return row @ own[f"{name}_kernel"] + own.get(f"{name}_bias", 0)

    e, (B, T, _) = m.experts, x.shape
    weights, chosen = torch.topk(torch.softmax(x @ p["router"]["kernel"], -1), e.per_token)
    if e.weights == "chosen":
        weights = weights / weights.sum(-1, keepdim=True)
    places = e.places(T) if e.routing == "capacity" else T
    y, served = torch.zeros_like(x), torch.zeros(B, e.count)
    for b, t, i in itertools.product(range(B), range(T), range(e.per_token)):
        expert = chosen[b, t, i]
        if served[b, expert] == places:
            continue
        served[b, expert] += 1
        own = {name: leaf[expert] for name, leaf in p.items() if name != "router"}
        h = linear(x[b, t], own, "up")
        h = F.silu(linear(x[b, t], own, "gate")) * h if m.mlp == "swiglu" else F.gelu(h, approximate="tanh")
        y[b, t] = y[b, t] + weights[b, t, i] * linear(h, own, "down")
    return y


CASES = {
    "perceptron": (Perceptron(outputs=3), perceptron, (5, 7)),
    "mlp": (MLP(widths=(9, 6), outputs=3, activation="tanh"), mlp, (5, 7)),
    "mlp batch": (MLP(widths=(9, 6), outputs=3, activation="gelu", norm="batch"), mlp, (5, 2, 4)),
    "mlp layer": (MLP(widths=(9,), outputs=3, activation="silu", norm="layer"), mlp, (5, 7)),
    "cnn": (CNN(features=(4, 6), dense=(8,), outputs=3), cnn, (3, 9, 8, 2)),
    "cnn batch": (CNN(features=(5,), convolutions=2, batch_norm=True, dense=(), outputs=3), cnn, (3, 7, 6, 1)),
    "cifar resnet": (CifarResNet(depth=14, width=3, outputs=4), cifar_resnet, (2, 9, 10, 3)),
    "rbf": (RBF(centres=6, outputs=2), rbf, (5, 3)),
    "rbf far": (RBF(centres=6, outputs=2, basis="inverse_quadratic"), rbf, (5, 3)),
    "rcnn": (RCNN(features=16, stages=1, steps=2, outputs=3), rcnn, (2, 7, 6, 2)),
    "rcnn batch": (RCNN(features=5, stages=2, steps=1, norm="batch", outputs=3), rcnn, (2, 9, 8, 2)),
    "conv lstm": (ConvLSTMForecaster(features=(3, 2), patch=2, ahead=3), conv_lstm, (2, 3, 6, 8, 2)),
    "autoencoder": (Autoencoder(widths=(8, 5), code=3, shape=(4, 3)), autoencoder, (5, 4, 3)),
    "conv autoencoder": (ConvAutoencoder(features=(3, 4), code=5, shape=(7, 10, 2)), conv_autoencoder, (3, 7, 10, 2)),
    "vae": (VAE(widths=(8, 5), latent=3, activation="tanh", shape=(4, 3)), vae, (5, 4, 3)),
    "vqvae": (VQVAE(features=(3, 4), codes=7, width=3, shape=(8, 12, 2)), vqvae, (3, 8, 12, 2)),
    "hopfield": (Hopfield(patterns=6, width=5, beta=0.7, steps=2, outputs=3), hopfield, (4, 7)),
    "generator": (DCGANGenerator(features=(5, 4), shape=(7, 10, 2)), generator, (3, 6)),
    "critic": (DCGANCritic(features=(3, 4, 5)), critic, (3, 9, 10, 2)),
    "critic layer": (DCGANCritic(features=(3, 4), norm="layer"), critic, (3, 9, 10, 2)),
    "unet": (UNet(features=(4, 6), groups=2), unet, (2, 7, 6, 2)),
    "unet patches": (UNet(features=(4, 6), groups=3, blocks=2, patch=2), unet, (2, 6, 10, 1)),
    "simple": (RNN(cell="simple", widths=(5, 5), bidirectional=True, answer="every", outputs=2), rnn, (3, 6, 4)),
    "lstm": (RNN(cell="lstm", widths=(5, 5), bidirectional=True, answer="every", outputs=2), rnn, (3, 6, 4)),
    "gru": (RNN(cell="gru", widths=(5, 5), bidirectional=True, answer="every", outputs=2), rnn, (3, 6, 4)),
    "experts": (MixtureOfExperts(Experts(4, products="dense"), mlp_dim=6, mlp="swiglu"), mixture, (2, 5, 7)),
    "experts sorted": (
        MixtureOfExperts(Experts(4, products="grouped", weights="all"), mlp_dim=6, biased=True),
        mixture,
        (2, 5, 7),
    ),
    "experts in places": (
        MixtureOfExperts(Experts(4, routing="capacity", capacity=0.7), mlp_dim=6, biased=True),
        mixture,
        (2, 9, 7),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_equal_those_of_torch(name):
    model, plain, shape = CASES[name]
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    variables = drawn(model, jnp.asarray(x))
    others = {k: v for k, v in variables.items() if k != "params"}
    ours, g = output_and_gradient(lambda p: model.apply({**others, "params": p}, jnp.asarray(x)), variables["params"])

    def tensors(tree, **options):
        return jax.tree.map(lambda a: torch.tensor(np.asarray(a, np.float64), **options), tree)

    params = tensors(variables["params"], requires_grad=True)
    theirs = plain(model, params, tensors(others.get("batch_stats", {})), torch.tensor(x.astype(np.float64)))
    (torch.sin(theirs) ** 2).sum().backward()
    h = jax.tree.map(lambda a: np.zeros(a.shape) if a.grad is None else a.grad.numpy(), params)
    theirs = theirs.detach().numpy()
    scale, top = np.abs(theirs).max(), max(np.abs(leaf).max() for leaf in jax.tree.leaves(h))
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-5)
    assert_close(jax.tree.map(lambda a: a / top, g), jax.tree.map(lambda a: a / top, h), atol=1e-5)
    # The book of codes learns from a loss of its own.
    silent = {k for k, v in jax.tree_util.tree_leaves_with_path(g) if not np.abs(v).max() > 0}
    assert {jax.tree_util.keystr(k) for k in silent} <= {"['book']"}
