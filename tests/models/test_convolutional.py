"""Convolutional families against plain implementations of their own: ResNet-9, LeNet-5, ConvNeXt, CoAtNet, capsules; and an
MLP written as a list of sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_close, drawn, output_and_gradient

from jaxnets.data import Digits
from jaxnets.models import MLP, CapsNet, CoAtNet, ConvNeXt, LeNet5, ResNet, ResNet9
from jaxnets.models.capsules import length, route, squash
from jaxnets.ops import blur_pool, conv_general_dilated
from jaxnets.tasks import MarginClassification
from jaxnets.tasks.margin import margin

IMAGES = jax.random.normal(jax.random.key(5), (3, 18, 21, 3))


def conv(x, kernel, *, stride=1, pad=0):
    """A convolution: all windows, gathered by number, times the kernel."""
    w = kernel.shape[0]
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = (stride * np.arange((n - w) // stride + 1)[:, None] + np.arange(w) for n in x.shape[1:3])
    return jnp.einsum("bhivjc,ijcf->bhvf", x[:, rows][:, :, :, columns], kernel)


def pool(x, how="max"):
    """Over windows of 2x2; a ragged edge is dropped."""
    h, v = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    a, b, c, d = (x[:, i:h:2, j:v:2] for i in (0, 1) for j in (0, 1))
    return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d)) if how == "max" else (a + b + c + d) / 4


def linear(x, w):
    return x @ w["kernel"] + w.get("bias", 0)


def batch_norm(x, w, stats):
    return (x - stats["mean"]) / jnp.sqrt(stats["var"] + 1e-5) * w["scale"] + w["bias"]


def plain_resnet9(model, variables, x):
    p, s = variables["params"], variables["batch_stats"]

    def step(x, name):
        return jax.nn.relu(batch_norm(conv(x, p[name]["conv"]["kernel"], pad=1), p[name]["norm"], s[name]["norm"]))

    x = step(x, "prep")
    for layer in (1, 2, 3):
        x = pool(step(x, f"layer_{layer}"))
        if layer != 2:
            x = x + step(step(x, f"layer_{layer}_residual_0"), f"layer_{layer}_residual_1")
    return linear(jnp.sort(x.reshape(len(x), -1, x.shape[-1]), axis=1)[:, -1], p["output"]) / 8


def layer_norm(x, w):
    x = x - x.mean(-1, keepdims=True)
    return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * w["scale"] + w["bias"]


def plain_lenet(model, variables, x):
    p = variables["params"]
    act = jnp.tanh if model.activation == "tanh" else jax.nn.relu
    x = jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0))) if x.shape[1] == 28 else x
    for name in ("conv_0", "conv_1"):
        x = pool(act(conv(x, p[name]["kernel"]) + p[name]["bias"]), model.pool)
    x = x.reshape(len(x), -1)
    for name in ("dense_0", "dense_1"):
        x = act(linear(x, p[name]))
    return linear(x, p["output"])


def depthwise(x, kernel, **options):
    """The convolution whose matrix between channels is diagonal."""
    return conv(x, kernel * jnp.eye(x.shape[-1]), **options)


def plain_convnext(model, variables, x):
    p = variables["params"]
    x = layer_norm(conv(x, p["stem"]["kernel"], stride=model.patch) + p["stem"]["bias"], p["stem_norm"])
    for stage, depth in enumerate(model.depths):
        if stage:
            w = p[f"down_{stage}"]
            x = conv(layer_norm(x, p[f"down_norm_{stage}"]), w["kernel"], stride=2) + w["bias"]
        for i in range(depth):
            w = p[f"stage_{stage}_block_{i}"]
            y = layer_norm(depthwise(x, w["depthwise"]["kernel"], pad=3) + w["depthwise"]["bias"], w["norm"])
            y = linear(jax.nn.gelu(linear(y, w["up"]), approximate=False), w["down"])
            x = x + y * w.get("layer_scale", 1)
    return linear(layer_norm(x.mean((1, 2)), p["final_norm"]), p["output"])


def plain_coatnet(model, variables, x):
    p, s = variables["params"], variables["batch_stats"]

    def shorten(x, w, stride):
        x = pool(x, "average") if stride == 2 else x
        return linear(x, w["shortcut"]) if "shortcut" in w else x

    def bottleneck(x, w, s, stride):
        y = conv(batch_norm(x, w["norm"], s["norm"]), w["up"]["kernel"])
        y = depthwise(
            jax.nn.gelu(batch_norm(y, w["up_norm"], s["up_norm"])), w["depthwise"]["kernel"], stride=stride, pad=1
        )
        y = jax.nn.gelu(batch_norm(y, w["depthwise_norm"], s["depthwise_norm"]))
        if "squeeze" in w:
            z = jax.nn.sigmoid(linear(jax.nn.gelu(linear(y.mean((1, 2)), w["squeeze"])), w["excite"]))
            y = y * z[:, None, None]
        return shorten(x, w, stride) + conv(y, w["down"]["kernel"]) + w["down"]["bias"]

    def attention(x, w, stride):
        y = layer_norm(x, w["attention_norm"])
        y = pool(y, "average") if stride == 2 else y
        B, H, W, _ = y.shape
        places = [(r, c) for r in range(H) for c in range(W)]
        # Row: who looks; column: at whom.
        down = np.array([[r - a + H - 1 for r, _ in places] for a, _ in places])
        right = np.array([[c - b + W - 1 for _, c in places] for _, b in places])
        y = y.reshape(B, H * W, -1)
        q, k, v = (linear(y, w[n]) for n in ("query", "key", "value"))
        K, heads = q.shape[-1] // model.heads, []
        for h in range(model.heads):
            far = w["relative"][h].reshape(2 * H - 1, 2 * W - 1)[down, right]
            part = slice(h * K, h * K + K)
            score = jnp.einsum("btk,bsk->bts", q[..., part], k[..., part]) / K**0.5 + far
            heads.append(jax.nn.softmax(score) @ v[..., part])
        y = linear(jnp.concatenate(heads, -1), w["merge"]).reshape(B, H, W, -1)
        x = shorten(x, w, stride) + y
        return x + linear(jax.nn.gelu(linear(layer_norm(x, w["mlp_norm"]), w["up"])), w["down"])

    x = jax.nn.gelu(batch_norm(conv(x, p["stem_0"]["kernel"], stride=2, pad=1), p["stem_norm"], s["stem_norm"]))
    x = conv(x, p["stem_1"]["kernel"], pad=1)
    for stage, kind in enumerate(model.layout):
        for i in range(model.blocks[stage]):
            name, stride = f"stage_{stage}_block_{i}", model.strides[stage] if i == 0 else 1
            x = bottleneck(x, p[name], s[name], stride) if kind == "convolution" else attention(x, p[name], stride)
    return linear(layer_norm(x.mean((1, 2)), p["final_norm"]), p["output"])


def plain_capsules(model, variables, x):
    p = variables["params"]

    def squashed(s):
        square = (s**2).sum(-1, keepdims=True)
        return square / (1 + square) * s / jnp.sqrt(square)

    x = jax.nn.relu(conv(x, p["conv"]["kernel"]) + p["conv"]["bias"])
    x = conv(x, p["primary"]["kernel"], stride=2) + p["primary"]["bias"]
    below = squashed(x.reshape(len(x), -1, model.below))
    votes = (below[:, :, None, :, None] * p["transformations"]).sum(3)
    logits = jnp.zeros(votes.shape[:3])
    for left in reversed(range(model.rounds)):
        above = squashed((jax.nn.softmax(logits)[..., None] * votes).sum(1))
        logits = logits + (votes * above[:, None]).sum(-1) if left else logits
    return jnp.sqrt((above**2).sum(-1))


HYBRID = CoAtNet(
    stem=3, layout=("convolution", "attention", "attention"), widths=(5, 6, 4), blocks=(2, 1, 1), strides=(2, 1, 2), heads=2,
    expansion=2, squeeze=2, outputs=4,
)  # fmt: skip
CASES = {
    "resnet9": (ResNet9(width=3, outputs=4), plain_resnet9, IMAGES),
    "lenet": (LeNet5(outputs=4), plain_lenet, jax.random.normal(jax.random.key(6), (3, 28, 28, 1))),
    "lenet relu": (
        LeNet5(activation="relu", pool="max", outputs=4), plain_lenet, jax.random.normal(jax.random.key(7), (2, 32, 32, 2))
    ),
    "convnext": (ConvNeXt(depths=(1, 1), widths=(3, 5), patch=3, layer_scale=0.5, outputs=4), plain_convnext, IMAGES),
    "coatnet": (HYBRID, plain_coatnet, jax.random.normal(jax.random.key(8), (3, 16, 24, 3))),
    "coatnet stride 1": (
        CoAtNet(stem=2, widths=(3, 4), blocks=(1, 1), heads=1, squeeze=0, outputs=4), plain_coatnet, IMAGES[:, :12, :20]
    ),
    "capsules": (
        CapsNet(width=5, window=3, maps=2, below=3, above=4, outputs=3), plain_capsules, IMAGES[:, :9, :8]
    ),
}  # fmt: skip


SLOW = ("coatnet stride 1", "lenet relu", "convnext")  # variants of what the others show, and the longest


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in CASES])
def test_outputs_and_gradients_equal_those_of_a_plain_implementation(name):
    model, plain, x = CASES[name]
    variables = drawn(model, x)

    def both(apply):
        return output_and_gradient(lambda p: apply({**variables, "params": p}), variables["params"])

    with jax.numpy_rank_promotion("allow"):
        (ours, g), (theirs, h) = both(lambda v: model.apply(v, x)), both(lambda v: plain(model, v, x))
    assert ours.dtype == jnp.float32
    scale = float(np.abs(theirs).max())
    np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-5)
    top = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(h))
    assert_close(jax.tree.map(lambda a: a / top, g), jax.tree.map(lambda a: a / top, h), atol=1e-5)
    # A bias of the keys moves every score of a query alike, so softmax does not see it.
    silent = [jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_leaves_with_path(g)
              if not float(np.abs(leaf).max()) > 0 and "['key']['bias']" not in jax.tree_util.keystr(path)]  # fmt: skip
    assert not silent
    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), variables)
    low = jax.jit(model.apply)(low, x.astype(jnp.bfloat16))
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32) / scale, ours / scale, atol=0.1)


@pytest.mark.parametrize(
    ("model", "shape", "count"),
    [
        # Page's dawn.py: 6,568,640 weights of convolutions and the last layer, two numbers for each of 2,240 normalised channels.
        (ResNet9(outputs=10), (32, 32, 3), 6_573_120),
        # 156 + 2,416 + 48,120 + 10,164 + 850.
        (LeNet5(outputs=10), (32, 32, 1), 61_706),
        # The paper's 6.8 million without its decoder: 20,992 + 5,308,672 + 1,152 x 10 x 8 x 16.
        (CapsNet(outputs=10), (28, 28, 1), 6_804_224),
        # torchvision's, and the 29, 50 and 89 million of the paper's table 1.
        (ConvNeXt(outputs=1000), (224, 224, 3), 28_589_128),
        (ConvNeXt(depths=(3, 3, 27, 3), outputs=1000), (224, 224, 3), 50_223_688),
        (ConvNeXt(depths=(3, 3, 27, 3), widths=(128, 256, 512, 1024), outputs=1000), (224, 224, 3), 88_591_464),
    ],
    ids=["resnet9", "lenet-5", "capsnet", "convnext-t", "convnext-s", "convnext-b"],
)
def test_parameter_counts_of_the_named_architectures(model, shape, count):
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *shape))))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count


@pytest.mark.parametrize(("window", "stride", "low", "high"), [(3, 1, 1, 1), (3, 2, 1, 0), (7, 1, 3, 3), (2, 3, 0, 2)])
def test_depthwise_convolution_equals_the_compilers_own(window, stride, low, high):
    x = jax.random.normal(jax.random.key(0), (3, 11, 14, 5))
    kernel = jax.random.normal(jax.random.key(1), (window, window, 1, 5))

    def score(apply):
        def whole(x, kernel):
            y = apply(
                x, kernel, (stride, stride), ((low, high), (low, high)), dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=5,
            )  # fmt: skip
            return (jnp.sin(y) ** 2).sum(), y

        gradients, y = jax.jit(jax.grad(whole, argnums=(0, 1), has_aux=True))(x, kernel / window)
        return [a / np.abs(a).max() for a in (*gradients, y)]

    assert_close(score(conv_general_dilated), score(jax.lax.conv_general_dilated), atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 6, 9, 3), (1, 2, 5, 1), (2, 7, 7, 2)])
def test_blur_pool_equals_its_definition_in_numpy(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    window = np.outer([1, 2, 1], [1, 2, 1]) / 16
    places = [(i, j) for i in range(0, shape[1], 2) for j in range(0, shape[2], 2)]
    wanted = [np.einsum("bijc,ij->bc", padded[:, i : i + 3, j : j + 3], window) for i, j in places]
    got = blur_pool(jnp.asarray(x))
    assert got.shape == (shape[0], -(-shape[1] // 2), -(-shape[2] // 2), shape[3])
    np.testing.assert_allclose(got.reshape(shape[0], -1, shape[3]), np.stack(wanted, 1), atol=1e-6)


def test_a_blur_makes_halving_less_sensitive_to_a_shift():
    """Zhang's example: stripes two pixels wide, the maximum of neighbours, every second one; then all shifted by one pixel."""
    stripes = jnp.tile(jnp.array([0.0, 0.0, 1.0, 1.0]), 8).reshape(1, 1, 32, 1).repeat(4, axis=1)

    def gap(halve):
        means = [
            halve(jnp.maximum(x, jnp.roll(x, -1, 2)))[:, :, 1:-1].mean() for x in (stripes, jnp.roll(stripes, 1, 2))
        ]
        return abs(float(means[0] - means[1]))

    assert gap(lambda x: x[:, ::2, ::2]) == 0.5
    assert gap(blur_pool) < 1e-6


def test_an_mlp_written_as_a_list_of_sizes():
    model = MLP.of(2, 4, 3, 2, activation="tanh")
    assert model == MLP(widths=(4, 3), inputs=2, outputs=2, activation="tanh")
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((5, 2)))["params"]
    assert [shapes[n]["kernel"].shape for n in ("hidden_0", "hidden_1", "output")] == [(2, 4), (4, 3), (3, 2)]


def test_routing_equals_numpy():
    votes = np.random.default_rng(0).normal(size=(2, 7, 3, 5)).astype(np.float32)

    def squashed(s):
        square = (s**2).sum(-1, keepdims=True)
        return square / (1 + square) * s / np.sqrt(square)

    logits = np.zeros((2, 7, 3))
    for left in (2, 1, 0):
        shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        above = squashed((shares[..., None] * votes).sum(1))
        if left:
            logits = logits + (votes * above[:, None]).sum(-1)
    np.testing.assert_allclose(route(jnp.asarray(votes), 3), above, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_capsules_keep_their_lengths_in_half_precision(dtype):
    x = jnp.asarray([[120.0] * 8, [0.0] * 8, [0.01] * 8])
    np.testing.assert_allclose(squash(x.astype(dtype)).astype(jnp.float32), squash(x), rtol=0.01, atol=1e-4)
    np.testing.assert_allclose(length(x.astype(dtype)), length(x), rtol=0.01, atol=1e-5)


@pytest.mark.slow
def test_capsules_learn_digits():
    data = Digits().open()
    task = MarginClassification(model=CapsNet(width=16, window=3, maps=4, below=4, above=6)).bind(data.card)
    inputs = np.asarray(data.prepare(jnp.asarray(data.train["inputs"])))
    variables, optimizer = task.init(jax.random.key(0), {"inputs": inputs[:1]}), optax.adam(1e-2)
    moments, rng = optimizer.init(variables["params"]), np.random.default_rng(0)

    @jax.jit
    def step(params, moments, batch):
        def loss(p):
            mean, aux = task.loss({"params": p}, batch, jax.random.key(0), True)
            return mean.sum / mean.weight, aux

        gradient, aux = jax.grad(loss, has_aux=True)(params)
        updates, moments = optimizer.update(gradient, moments)
        return optax.apply_updates(params, updates), moments, aux.metrics["accuracy"].sum

    params, hits = variables["params"], []
    for _ in range(80):
        rows = rng.integers(0, len(inputs), 64)
        batch = {"inputs": inputs[rows], "targets": data.train["targets"][rows], "mask": np.ones(64, np.float32)}
        params, moments, right = step(params, moments, batch)
        hits.append(float(right) / 64)
    assert np.mean(hits[-10:]) > 0.85


def test_the_margin_loss_by_hand():
    lengths = jnp.array([[0.95, 0.3, 0.05], [0.2, 0.5, 0.1]])
    np.testing.assert_allclose(margin(lengths, jnp.array([0, 1])), [0.5 * 0.2**2, 0.4**2 + 0.5 * 0.1**2], atol=1e-6)


def test_convnext_leaves_out_whole_branches_in_training_only():
    model = ConvNeXt(depths=(1, 1), widths=(4, 6), patch=2, layer_scale=0.5, stochastic_depth=0.5, outputs=4)
    x = IMAGES[:, :8, :8]
    variables = jax.jit(model.init)(jax.random.key(0), x)
    apply = jax.jit(lambda key, train: model.apply(variables, x, train=train, rngs={"dropout": key}), static_argnums=1)
    keys = list(jax.random.split(jax.random.key(1), 12))
    assert len({np.asarray(apply(key, True)).tobytes() for key in keys}) > 1
    assert len({np.asarray(apply(key, False)).tobytes() for key in keys[:3]}) == 1


def starting(model, *shape):
    return lambda: jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResNet9(logit_scale=0.0), "logit_scale is positive, got 0.0"),
        (lambda: ResNet9(width=0), "ResNet9.width is at least 1"),
        (starting(ResNet9(), 1, 7, 9, 3), r"at least 8x8 pixels, got \(1, 7, 9, 3\)"),
        (starting(LeNet5(), 1, 30, 30, 1), "of 28x28 or 32x32 pixels, got"),
        (lambda: ConvNeXt(depths=(3, 3)), "as many depths as widths"),
        (lambda: ConvNeXt(stochastic_depth=1.0), r"stochastic_depth is a probability in \[0, 1\)"),
        (starting(ConvNeXt(), 1, 28, 28, 3), "at least 32x32 pixels"),
        (lambda: CoAtNet(blocks=(2,)), "one layout, width, number of blocks and stride for each stage"),
        (lambda: CoAtNet(strides=(1, 3)), "strides of 1 or 2"),
        (lambda: CoAtNet(heads=3), "the width 64 is not divisible by heads 3"),
        (starting(CapsNet(), 1, 16, 28, 1), "at least 17x17 pixels"),
        (lambda: CapsNet(rounds=0), "CapsNet.rounds is at least 1"),
        (lambda: MarginClassification(model=CapsNet(), label_smoothing=0.1), "has no label_smoothing"),
        (lambda: MLP.of(3), "the numbers of inputs and outputs, as in MLP.of"),
        (lambda: MLP.of(2, 0, 1), "MLP.widths is at least 1"),
        (starting(MLP.of(2, 4, 2), 5, 3), "MLP has inputs=2, but an example has 3 numbers; set inputs=3"),
        (lambda: ResNet(downsample="blurred"), "downsample is one of 'stride', 'blur', got 'blurred'"),
        (starting(CoAtNet(), 1, 30, 32, 3), "sides are multiples of 4, got"),
    ],
)
def test_misfits_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
