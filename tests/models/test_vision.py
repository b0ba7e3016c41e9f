"""Residual networks for large images and the vision transformer, against plain implementations of their own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, drawn, output_and_gradient

from jaxnets.models import ResNet, ViT

IMAGES = jax.random.normal(jax.random.key(5), (3, 34, 38, 3))


def conv(x, kernel, stride):
    """A centred convolution as one product of each window's numbers, side by side, and the kernel's."""
    w = kernel.shape[0]
    x = jnp.pad(x, ((0, 0), (w // 2, w // 2), (w // 2, w // 2), (0, 0)))
    h, v = ((n - w) // stride + 1 for n in x.shape[1:3])
    windows = [
        x[:, i : i + h * stride : stride, j : j + v * stride : stride][:, :h, :v] for i in range(w) for j in range(w)
    ]
    return jnp.concatenate(windows, -1) @ kernel.reshape(-1, kernel.shape[-1])


def blurred(x):
    x, (h, v) = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect"), x.shape[1:3]
    w = (0.25, 0.5, 0.25)
    return sum(w[i] * w[j] * x[:, i : i + h : 2, j : j + v : 2] for i in range(3) for j in range(3))


def plain_resnet(model, variables, x):
    p, s, blur = variables["params"], variables["batch_stats"], model.downsample == "blur"

    def halving(x, kernel, stride):
        return conv(blurred(x) if stride == 2 else x, kernel, 1) if blur else conv(x, kernel, stride)

    def norm(x, at):
        w, m = at(p), at(s)
        return (x - m["mean"]) / jnp.sqrt(m["var"] + 1e-5) * w["scale"] + w["bias"]

    x = jax.nn.relu(norm(conv(x, p["stem"]["kernel"], 2), lambda t: t["stem_norm"]))
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    t = 1 if blur else 2
    h, v = ((n - 3) // t + 1 for n in x.shape[1:3])
    parts = (x[:, i : i + t * h : t, j : j + t * v : t][:, :h, :v] for i in range(3) for j in range(3))
    x = functools.reduce(jnp.maximum, parts)
    x = blurred(x) if blur else x
    for name in sorted(k for k in p if k.startswith("stage")):
        b, y = p[name], x
        stride = 2 if name.endswith("_block_0") and "stage_0" not in name else 1
        count = sum(k.startswith("conv") for k in b)
        for i in range(count):
            here = stride if i == (1 if count == 3 else 0) else 1
            y = norm(
                conv(y, b[f"conv_{i}"]["kernel"], 1 if blur else here), lambda t, i=i, name=name: t[name][f"norm_{i}"]
            )
            y = jax.nn.relu(y) if i < count - 1 else y
            y = blurred(y) if blur and here == 2 else y
        if "squeeze" in b:
            z = jax.nn.relu(y.mean((1, 2)) @ b["squeeze"]["kernel"] + b["squeeze"]["bias"])
            y = y * jax.nn.sigmoid(z @ b["excite"]["kernel"] + b["excite"]["bias"])[:, None, None]
        if "shortcut" in b:
            x = norm(halving(x, b["shortcut"]["kernel"], stride), lambda t, name=name: t[name]["shortcut_norm"])
        x = jax.nn.relu(x + y)
    return x.mean((1, 2)) @ p["output"]["kernel"] + p["output"]["bias"]


def plain_vit(model, variables, x):
    p, P = variables["params"], model.patch

    def norm(x, w):
        x = x - x.mean(-1, keepdims=True)
        return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * w["scale"] + w["bias"]

    def linear(x, w):
        return x @ w["kernel"] + w["bias"]

    rows, columns = x.shape[1] // P, x.shape[2] // P
    patches = [
        x[:, r * P : r * P + P, c * P : c * P + P].reshape(len(x), -1) for r in range(rows) for c in range(columns)
    ]
    x = linear(jnp.stack(patches, 1), p["embedding"])
    if model.pool == "token":
        x = jnp.concatenate([jnp.tile(p["token"], (len(x), 1, 1)), x], 1)
    x = x + p["positions"]
    for i in range(model.layers):
        w, K = p[f"block_{i}"], model.width // model.heads
        y = norm(x, w["attention_norm"])
        q, k, v = (linear(y, w[n]) for n in ("query", "key", "value"))
        heads = []
        for h in range(model.heads):
            part = slice(h * K, h * K + K)
            score = jnp.einsum("btk,bsk->bts", q[..., part], k[..., part]) / K**0.5
            heads.append(jax.nn.softmax(score) @ v[..., part])
        x = x + linear(jnp.concatenate(heads, -1), w["merge"])
        x = x + linear(jax.nn.gelu(linear(norm(x, w["mlp_norm"]), w["up"]), approximate=False), w["down"])
    x = norm(x, p["final_norm"])
    return linear(x[:, 0] if model.pool == "token" else x.mean(1), p["output"])


CASES = {
    "resnet18": (ResNet(depth=18, width=3, outputs=4), plain_resnet, IMAGES),
    "resnet50": (ResNet(depth=50, width=2, outputs=4), plain_resnet, IMAGES),
    "squeeze": (ResNet(depth=18, width=4, squeeze=2, outputs=4), plain_resnet, IMAGES[:2]),
    "blur": (ResNet(depth=18, width=3, downsample="blur", outputs=4), plain_resnet, IMAGES[:2]),
    "vit": (ViT(patch=2, layers=2, width=12, heads=3, outputs=4), plain_vit, IMAGES),
    "vit mean": (
        ViT(patch=2, layers=1, width=12, heads=2, mlp_dim=20, pool="mean", outputs=4),
        plain_vit,
        IMAGES[:, :8, :6],
    ),
}


# The deepest takes as long as the others together; squeeze-and-excitation is in CoAtNet's blocks as well.
SLOW = ("resnet50", "squeeze", "blur", "resnet18")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in CASES])
def test_outputs_and_gradients_equal_those_of_a_plain_implementation(name):
    model, plain, x = CASES[name]
    variables = drawn(model, x)

    with jax.numpy_rank_promotion("allow"):
        (ours, g), (theirs, h) = (
            output_and_gradient(lambda p, f=f: f({**variables, "params": p}), variables["params"])
            for f in (lambda v: model.apply(v, x), lambda v: plain(model, v, x))
        )
    scale = float(np.abs(theirs).max())
    np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-5)
    top = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(h))
    # Through 50 layers of float32, added up in another order, 2.6e-7 of the largest was seen.
    assert_close(jax.tree.map(lambda a: a / top, g), jax.tree.map(lambda a: a / top, h), atol=1e-5)
    # A bias of the keys moves every score of a query alike, so softmax does not see it.
    silent = [jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_leaves_with_path(g)
              if not float(np.abs(leaf).max()) > 0 and "['key']['bias']" not in jax.tree_util.keystr(path)]  # fmt: skip
    assert not silent
    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), variables)
    low = jax.eval_shape(model.apply, low, x.astype(jnp.bfloat16))
    assert low.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("model", "size", "count"),
    [
        (ResNet(depth=18, outputs=1000), 224, 11_689_512),
        (ResNet(depth=34, outputs=1000), 224, 21_797_672),
        (ResNet(depth=50, outputs=1000), 224, 25_557_032),
        (ResNet(depth=101, outputs=1000), 224, 44_549_160),
        (ResNet(depth=152, outputs=1000), 224, 60_192_808),
        (ViT(patch=16, layers=12, width=384, heads=6, outputs=1000), 224, 22_050_664),
        (ViT(patch=16, layers=12, width=768, heads=12, outputs=1000), 224, 86_567_656),
        (ViT(patch=32, layers=12, width=768, heads=12, outputs=1000), 224, 88_224_232),
    ],
    ids=["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "vit-s/16", "vit-b/16", "vit-b/32"],
)
def test_parameter_counts_of_the_named_architectures(model, size, count):
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, size, size, 3))))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count


@pytest.mark.slow
def test_stochastic_depth_leaves_out_whole_branches_in_training_only():
    model = ResNet(depth=18, width=2, stochastic_depth=0.9, outputs=4)
    x = jax.random.normal(jax.random.key(0), (6, 32, 32, 3))
    variables = jax.jit(model.init)(jax.random.key(0), x)
    still = [model.apply(variables, x) for _ in range(2)]
    np.testing.assert_array_equal(*still)
    apply = jax.jit(
        lambda key: model.apply(variables, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"])[0]
    )
    assert float(jnp.abs(apply(jax.random.key(1)) - apply(jax.random.key(2))).max()) > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResNet(depth=20), "depth is one of 18, 34, 50, 101, 152, got 20"),
        (lambda: ResNet(stochastic_depth=1.0), r"stochastic_depth is a probability in \[0, 1\)"),
        (
            lambda: jax.eval_shape(ResNet(depth=18).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3))),
            "at least 32x32 pixels",
        ),
        (lambda: ViT(width=10, heads=3), "width 10 is not divisible by heads 3"),
        (lambda: ViT(layers=0), "layers is at least 1"),
        (
            lambda: jax.eval_shape(ViT().init, jax.random.key(0), jnp.zeros((1, 30, 32, 3))),
            "patches of 4x4 pixels, which do not fit",
        ),
    ],
)
def test_misfits_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
