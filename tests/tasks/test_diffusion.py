"""The U-Net against numpy; the diffusion's schedule, loss and samplers against what is known exactly for Gaussian data."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import replace

from jaxnets.core.errors import DataError
from jaxnets.models import MLP, UNet
from jaxnets.models.unet import waves
from jaxnets.ops.patches import from_patches, to_patches
from jaxnets.optim import Adam
from jaxnets.runs.build import assemble
from jaxnets.runs.train import train
from jaxnets.tasks import Diffusion


def stirred(model, *inputs):
    """Variables in which nothing is 0, as the last convolutions of fresh blocks are."""
    params = jax.jit(model.init)(jax.random.key(0), *inputs)["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    pairs = zip(leaves, keys, strict=True)
    return {"params": jax.tree.unflatten(tree, [a + 0.2 * jax.random.normal(k, a.shape) for a, k in pairs])}


@pytest.fixture(scope="module")
def unet():
    model, x = UNet(features=(4, 6), groups=2), jax.random.normal(jax.random.key(1), (3, 7, 6, 2))
    return model, x, jnp.array([0.0, 0.3, 1.0]), stirred(model, x)


def correlate(x, layer, stride=1):
    """Convolution by its definition, padded so that the output has ceil(n / stride) rows, more at the end where it is odd."""
    kernel = layer["kernel"]
    window = kernel.shape[0]
    sizes = [-(-n // stride) for n in x.shape[1:3]]
    pads = [max((m - 1) * stride + window - n, 0) for m, n in zip(sizes, x.shape[1:3], strict=True)]
    x = np.pad(x, ((0, 0), *((p // 2, p - p // 2) for p in pads), (0, 0)))
    out = np.zeros((len(x), *sizes, kernel.shape[-1]))
    for i in range(sizes[0]):
        for j in range(sizes[1]):
            patch = x[:, i * stride : i * stride + window, j * stride : j * stride + window]
            out[:, i, j] = np.einsum("bhwc,hwcf->bf", patch, kernel)
    return out + layer["bias"]


def silu(x):
    return x / (1 + np.exp(-x))


def group_norm(x, layer, groups):
    parts = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
    mean, var = parts.mean((1, 3), keepdims=True), parts.var((1, 3), keepdims=True)
    return ((parts - mean) / np.sqrt(var + 1e-6)).reshape(x.shape) * layer["scale"] + layer["bias"]


def dense(x, layer):
    return x @ layer["kernel"] + layer["bias"]


def block(p, x, emb):
    h = correlate(silu(group_norm(x, p["norm_0"], 2)), p["conv_0"])
    h = h + dense(silu(emb), p["time"])[:, None, None]
    h = correlate(silu(group_norm(h, p["norm_1"], 2)), p["conv_1"])
    return h + (correlate(x, p["shortcut"]) if "shortcut" in p else x)


@pytest.mark.slow
def test_unet_equals_a_numpy_reference(unet):
    model, x, time, variables = unet
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    frequencies = 1000.0 ** np.array([0.0, 1.0])
    angles = np.asarray(time)[:, None] * frequencies
    emb = dense(silu(dense(np.concatenate([np.sin(angles), np.cos(angles)], 1), p["time_0"])), p["time_1"])
    first = block(p["down_0_0"], correlate(np.asarray(x), p["stem"]), emb)
    second = block(p["down_1_0"], correlate(first, p["shrink_1"], 2), emb)
    h = block(p["middle"], second, emb)
    h = block(p["up_1_0"], np.concatenate([h, second], -1), emb)
    h = h.repeat(2, axis=1).repeat(2, axis=2)[:, :7, :6]
    h = block(p["up_0_0"], np.concatenate([h, first], -1), emb)
    expected = correlate(silu(group_norm(h, p["norm"], 2)), p["output"])
    got = jax.jit(model.apply)(variables, x, time)
    # Nine normalisations in float32 lie between; the reference has 64 bits.
    assert np.abs(got - expected).max() <= 2e-5 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.smoke
def test_unet_shapes_precision_count_and_gradients(unet):
    model, x, time, variables = unet
    y = jax.jit(model.apply)(variables, x, time)
    assert y.shape == x.shape
    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), variables)
    assert jax.jit(model.apply)(low, x.astype(jnp.bfloat16), time).dtype == jnp.bfloat16

    def timed_block(c, f):
        return 2 * c + 9 * c * f + f + 16 * f + f + 2 * f + 9 * f * f + f + (c * f + f if c != f else 0)

    blocks = timed_block(4, 4) + 2 * timed_block(6, 6) + timed_block(12, 6) + timed_block(10, 4)
    rest = (4 * 16 + 16) + (16 * 16 + 16) + (9 * 2 * 4 + 4) + (9 * 4 * 6 + 6) + 8 + (9 * 4 * 2 + 2)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == blocks + rest
    gradient = jax.jit(jax.grad(lambda v: (model.apply(v, x, time) * y).sum()))(variables)
    assert not [path for path, g in jax.tree_util.tree_leaves_with_path(gradient) if not np.abs(g).max() > 0]


@pytest.mark.slow
def test_patches_are_put_together_and_taken_apart():
    x = jax.random.normal(jax.random.key(2), (2, 6, 4, 3))
    whole = np.asarray(to_patches(x, 2))
    assert whole.shape == (2, 3, 2, 12)
    np.testing.assert_array_equal(whole[1, 2, 1], np.asarray(x)[1, 4:6, 2:4].reshape(-1))
    np.testing.assert_array_equal(from_patches(whole, 2), x)
    model, inner = UNet(features=(4, 6), groups=2, patch=2), UNet(features=(4, 6), groups=2)
    variables = stirred(model, x)
    said = jax.jit(model.apply)(variables, x, jnp.array([0.2, 0.9]))
    np.testing.assert_allclose(
        to_patches(said, 2),
        jax.jit(inner.apply)(variables, to_patches(x, 2), jnp.array([0.2, 0.9])),
        rtol=1e-5,
        atol=1e-5,
    )
    with pytest.raises(ValueError, match="patch 4 does not divide images of 6x4 pixels"):
        jax.eval_shape(model.clone(patch=4).apply, variables, x)


@pytest.mark.slow
def test_a_label_changes_the_embedding_and_none_does_not(unet):
    model, x, time, _ = unet
    hot = jnp.eye(4)[jnp.array([3, 0, 1])]
    params = jax.jit(model.init)(jax.random.key(0), x, time, hot)["params"]
    assert params["label"]["kernel"].shape == (4, 16)
    variables = stirred(model, x, time, hot)
    told = jax.jit(model.apply)(variables, x, time, hot)
    untold = {"params": {k: v for k, v in variables["params"].items() if k != "label"}}
    np.testing.assert_allclose(
        jax.jit(model.apply)(variables, x, time, jnp.zeros_like(hot)), jax.jit(model.apply)(untold, x, time), rtol=1e-6
    )
    # As if the time's second layer had the row of the label for a bias as well, one example at a time.
    for i in range(3):
        moved = jax.tree.map(lambda a: a, untold)
        bias = moved["params"]["time_1"]["bias"] + variables["params"]["label"]["kernel"][hot[i].argmax()]
        moved["params"]["time_1"] = {**moved["params"]["time_1"], "bias": bias}
        np.testing.assert_allclose(
            told[i], jax.jit(model.apply)(moved, x[i : i + 1], time[i : i + 1])[0], rtol=1e-5, atol=1e-5
        )


def test_time_embeddings_of_different_times_differ():
    said = np.asarray(waves(jnp.linspace(0, 1, 1000), 32))
    assert said.shape == (1000, 32)
    away = np.linalg.norm(said[:, None] - said[None], axis=-1) + 9 * np.eye(1000)
    assert away.min() > 0.1


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_share_of_the_example_falls_from_one_to_zero(schedule):
    shares = Diffusion(model=UNet(), schedule=schedule).shares
    assert shares.shape == (1000,)
    assert (np.diff(shares) < 0).all()
    assert shares[0] > 0.999
    assert shares[-1] < 1e-4
    if schedule == "cosine":  # half of the way by the paper's formula
        at = [np.cos((c + 0.008) / 1.008 * np.pi / 2) ** 2 for c in (0.0, 0.5)]
        assert shares[499] == pytest.approx(at[1] / at[0], rel=1e-6)


class Told(nn.Module):
    """The best answer where an example is its label's number, and 0 where no label is told: `targets` -1, 0 and 1."""

    shares: tuple[float, ...]

    @nn.compact
    def __call__(self, x: Any, time: Any, label: Any, *, train: bool = False) -> Any:
        a = jnp.asarray(self.shares)[jnp.round(time * (len(self.shares) - 1)).astype(int)][:, None]
        clean = (label * jnp.array([[-0.5, 0.0, 0.25]])).sum(-1, keepdims=True)
        return (x - jnp.sqrt(a) * clean) / jnp.sqrt(1 - a)


@pytest.mark.parametrize(("guidance", "factor"), [(1.0, 1.0), (0.0, 0.0), (1.5, 1.5)])
def test_samples_match_their_label_and_guidance_strengthens_it(guidance, factor):
    shares = tuple(float(s) for s in Diffusion(model=UNet(), times=200).shares)
    task = Diffusion(
        model=Told(shares), times=200, shape=(2,), sample_steps=20, conditional=True, classes=3, guidance=guidance
    )
    draw = jax.jit(task.sample, static_argnums=2)
    wanted = np.array([-0.5, 0, 0.25]) * factor
    in_turn = np.asarray(draw({}, jax.random.key(0), 6))
    np.testing.assert_allclose(in_turn, np.tile(wanted, 2)[:, None] * [1, 1], atol=2e-3)
    chosen = np.asarray(draw({}, jax.random.key(0), 3, jnp.array([2, 0, -1])))
    np.testing.assert_allclose(chosen, np.array([wanted[2], wanted[0], 0])[:, None] * [1, 1], atol=2e-3)


@pytest.mark.slow
def test_labels_are_dropped_for_a_share_of_the_training_examples():
    seen = []

    class Listens(nn.Module):
        @nn.compact
        def __call__(self, x: Any, time: Any, label: Any, *, train: bool = False) -> Any:
            seen.append(label)
            return x

    x, y = jax.random.normal(jax.random.key(0), (4000, 2)), jnp.arange(4000) % 3
    task = Diffusion(model=Listens(), shape=(2,), conditional=True, classes=3, drop_label=0.25)
    task.loss({}, {"inputs": x, "targets": y, "mask": jnp.ones(4000)}, jax.random.key(1), True)
    label = np.asarray(seen.pop())
    told = label.sum(-1) == 1
    assert 0.22 < 1 - told.mean() < 0.28
    np.testing.assert_array_equal(label[told].argmax(-1), np.asarray(y)[told])
    assert not label[~told].any()
    task.metrics({}, {"inputs": x, "targets": y, "mask": jnp.ones(4000)})
    np.testing.assert_array_equal(seen.pop().sum(-1), 1)
    task.outputs({}, {"inputs": x})
    assert not np.asarray(seen.pop()).any()


class Oracle(nn.Module):
    """The best answer there is for Gaussian data of standard deviation `spread`: the expected noise."""

    shares: tuple[float, ...]
    spread: float = 0.3

    @nn.compact
    def __call__(self, x: Any, time: Any, *, train: bool = False) -> Any:
        a = jnp.asarray(self.shares)[jnp.round(time * (len(self.shares) - 1)).astype(int)][:, None]
        return jnp.sqrt(1 - a) * x / (a * self.spread**2 + 1 - a)


def oracle(**options):
    shares = tuple(float(s) for s in Diffusion(model=UNet(), times=200).shares)
    return Diffusion(model=Oracle(shares), times=200, shape=(2,), **options)


@pytest.mark.parametrize(("steps", "eta"), [(200, 1.0), (200, 0.0), (40, 0.0), (40, 0.5)])
def test_sampling_with_the_optimal_model_gives_the_data_distribution(steps, eta):
    task = oracle(sample_steps=steps, eta=eta)
    x = np.asarray(jax.jit(task.sample, static_argnums=2)({}, jax.random.key(0), 20_000))
    assert x.shape == (20_000, 2)
    # Fewer steps are a coarser solution of the same equation.
    assert x.std() == pytest.approx(0.3, rel=0.06 if steps == 200 else 0.1)
    assert abs(x.mean()) < 0.01
    # Four standard deviations over three times the square of the second: 1 for a Gaussian.
    assert (x**4).mean() / (3 * (x**2).mean() ** 2) == pytest.approx(1.0, abs=0.06)
    again = np.asarray(jax.jit(task.sample, static_argnums=2)({}, jax.random.key(0), 20_000))
    np.testing.assert_array_equal(x, again)


@pytest.mark.slow
def test_the_loss_of_the_optimal_model_equals_its_theoretical_value():
    task = oracle()
    x = 0.3 * jax.random.normal(jax.random.key(1), (20_000, 2))
    batch = {"inputs": x, "mask": jnp.ones(len(x))}
    a = task.shares
    expected = (a * 0.09 / (a * 0.09 + 1 - a)).mean()
    assert float(task.loss({}, batch, jax.random.key(2), False)[0].value) == pytest.approx(expected, rel=0.03)
    whole = task.metrics({}, batch)["loss"]
    halves = [{"inputs": half, "mask": jnp.ones(len(half))} for half in jnp.split(x, 2)]
    halves[1]["index"] = jnp.arange(len(x) // 2, len(x))
    parts = [task.metrics({}, half)["loss"] for half in halves]
    assert float(whole.value) == pytest.approx(float((parts[0] + parts[1]).value), rel=1e-5)
    masked = task.loss(
        {}, {"inputs": x.at[0].set(jnp.nan), "mask": batch["mask"].at[0].set(0)}, jax.random.key(2), False
    )
    assert np.isfinite(float(masked[0].value))


def signed(pictures):
    return dataclasses.replace(pictures, prepare=dataclasses.replace(pictures.prepare, mean=(127.5,), std=(127.5,)))


@pytest.mark.slow
def test_diffusion_trains_and_the_report_shows_samples(experiment, pictures, one_device, tmp_path):
    task = Diffusion(model=UNet(features=(8,), groups=4, patch=2), sample_steps=4, conditional=True, guidance=1.5)
    run = replace(experiment, task=task, steps=80, batch_size=16, eval_every=0, optimizer=Adam(learning_rate=3e-3))
    done = train(run, dataset=signed(pictures), mesh=one_device, run_dir=tmp_path / "run", progress="none")
    assert done.evaluate()["loss"] < 0.7  # 1 says nothing
    assert "Samples" in (tmp_path / "run" / "report.html").read_text()
    images = done.parts.task.sample(done.variables, jax.random.key(0), 3)
    assert images.shape == (3, 8, 8, 1)
    assert float(jnp.abs(images).max()) <= 1


def test_contradictions_are_named(experiment, pictures, one_device):
    with pytest.raises(DataError, match=r"inputs in \[-1, 1\].*data\.scale"):
        assemble(replace(experiment, task=Diffusion(model=UNet())), pictures, mesh=one_device)
    with pytest.raises(DataError, match="cannot take"):
        assemble(replace(experiment, task=Diffusion(model=MLP(outputs=3))), signed(pictures), mesh=one_device)
    with pytest.raises(ValueError, match="sample_steps between 1 and times"):
        Diffusion(model=UNet(), times=10)
    with pytest.raises(ValueError, match="guidance 2.0 needs a model with labels as input"):
        Diffusion(model=UNet(), guidance=2.0)
    with pytest.raises(ValueError, match="guidance is at least 0, got -1"):
        Diffusion(model=UNet(), conditional=True, guidance=-1.0)
    with pytest.raises(ValueError, match=r"drop_label is a share in \[0, 1\], got 1.5"):
        Diffusion(model=UNet(), conditional=True, drop_label=1.5)
    with pytest.raises(DataError, match="conditional needs one label for each example"):
        Diffusion(model=UNet(), conditional=True).bind(
            dataclasses.replace(pictures.card, target_kind="number", input_range=(-1, 1))
        )
    with pytest.raises(ValueError, match="eta is in"):
        Diffusion(model=UNet(), eta=2.0)
    with pytest.raises(ValueError, match="needs images"):
        jax.eval_shape(lambda: UNet().init(jax.random.key(0), jnp.zeros((1, 4))))
