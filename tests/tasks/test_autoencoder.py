"""Autoencoders against principal components and numpy; the evidence lower bound against its definition."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import replace

from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import DataError
from jaxnets.core.types import Card
from jaxnets.data import Digits, InMemory, from_arrays
from jaxnets.models import MLP, VAE, VQVAE, Autoencoder, ConvAutoencoder
from jaxnets.ops.random import batch_keys, example_keys
from jaxnets.optim import Adam, WarmupCosine
from jaxnets.runs.build import assemble
from jaxnets.runs.train import train
from jaxnets.tasks import Reconstruction, Variational, VectorQuantization
from jaxnets.tasks.variational import gaussian_divergence

CASES = {
    "linear": (Autoencoder(widths=(), code=2, shape=(7,)), (5, 7), 7 * 2 + 2 + 2 * 7 + 7),
    "dense": (Autoencoder(widths=(6, 5), code=3, shape=(2, 4)), (5, 2, 4), 54 + 35 + 18 + 20 + 36 + 56),
    "conv": (ConvAutoencoder(features=(3, 4), code=5, shape=(9, 7, 2)), (5, 9, 7, 2), 57 + 112 + 125 + 144 + 111 + 56),
    "vae": (VAE(widths=(6, 5), latent=3, shape=(2, 4)), (5, 2, 4), 54 + 35 + 36 + 20 + 36 + 56),
    "vqvae": (
        VQVAE(features=(3, 4), codes=6, width=2, shape=(8, 4, 1)),
        (5, 8, 4, 1),
        30 + 112 + 10 + 12 + 76 + 111 + 28,
    ),
}


@pytest.fixture(params=CASES, scope="module")
def case(request):
    model, shape, parameters = CASES[request.param]
    x = jax.random.normal(jax.random.key(1), shape)
    return model, x, jax.jit(model.init)(jax.random.key(0), x), parameters


@pytest.mark.smoke
def test_shapes_dtypes_counts_and_precision(case):
    model, x, variables, parameters = case
    y = jax.jit(model.apply)(variables, x)
    assert y.shape == x.shape
    assert y.dtype == jnp.float32
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == parameters
    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), variables)
    y_low = jax.jit(model.apply)(low, x.astype(jnp.bfloat16))
    assert y_low.dtype == jnp.bfloat16
    if not isinstance(model, VQVAE):  # rounding may choose another code
        np.testing.assert_allclose(y_low.astype(jnp.float32), y, atol=0.1 * float(jnp.abs(y).max()) + 0.05)


@pytest.mark.parametrize("name", CASES)
def test_a_gradient_reaches_every_parameter(name):
    model, shape, _ = CASES[name]
    kind = {"vae": Variational, "vqvae": VectorQuantization}.get(name, Reconstruction)
    task = kind(model=model, **({"likelihood": "gaussian"} if name == "vae" else {}))
    batch = {"inputs": jax.random.normal(jax.random.key(1), shape), "mask": jnp.ones(shape[0])}
    variables = jax.jit(task.init)(jax.random.key(0), batch)

    def loss(params):
        return task.loss({"params": params}, batch, jax.random.key(2), True)[0].value

    gradients = jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(variables["params"]))
    assert not [jax.tree_util.keystr(path) for path, g in gradients if not np.abs(g).max() > 0]


def angle(a, b):
    """Sine of the largest angle between the spans of two orthonormal bases."""
    return float(np.sqrt(max(0.0, 1 - np.linalg.svd(a.T @ b, compute_uv=False).min() ** 2)))


@pytest.mark.slow
def test_a_linear_autoencoder_spans_the_principal_components(one_device):
    data = Digits().open()
    run = train(
        experiment_for(data, Autoencoder(widths=(), code=5), steps=3000, batch_size=1438, rate=2e-2),
        dataset=data,
        mesh=one_device,
        progress="none",
    )
    x = (data.train["inputs"].reshape(1438, -1) - 4.9) / 6.0
    components = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:5].T
    decoder = np.asarray(run.variables["params"]["output"]["kernel"])
    reached = np.linalg.qr(decoder.T)[0]
    print("\nlargest sine of an angle to the principal components:", angle(reached, components))
    assert angle(reached, components) <= 1e-2
    best = ((x - x.mean(0)) ** 2).mean() - ((x - x.mean(0)) @ components).var(0).sum() / 64
    assert run.history.last("train")["loss"] == pytest.approx(best, rel=1e-3)


def experiment_for(data, model, *, steps, batch_size, rate):
    return Experiment(
        task=Reconstruction(model=model),
        data=InMemory(data.name, data.fingerprint),
        optimizer=Adam(learning_rate=rate, schedule=WarmupCosine(warmup=0.0)),
        steps=steps,
        batch_size=batch_size,
    )


def test_the_vae_and_its_bound_equal_a_numpy_reference():
    task = Variational(model=VAE(widths=(6,), latent=3, shape=(2, 4)), beta=0.5)
    x = np.random.default_rng(0).uniform(0, 1, (5, 2, 4)).astype(np.float32)
    batch = {"inputs": jnp.asarray(x), "mask": jnp.array([1.0, 1, 0, 1, 1])}
    variables = jax.jit(task.init)(jax.random.key(0), batch)
    key = jax.random.key(7)
    keys = batch_keys(jax.random.split(key)[0], batch, "latent")
    noise = np.stack([jax.random.normal(k, (3,)) for k in keys])

    def reference(params):
        p = {name: (layer["kernel"], layer["bias"][None]) for name, layer in params.items()}
        h = jnp.maximum(x.reshape(5, -1) @ p["encoder_0"][0] + p["encoder_0"][1], 0)
        h = h @ p["posterior"][0] + p["posterior"][1]
        mean, log_variance = h[:, :3], h[:, 3:]
        z = mean + jnp.exp(log_variance / 2) * noise
        z = jnp.maximum(z @ p["decoder_0"][0] + p["decoder_0"][1], 0) @ p["output"][0] + p["output"][1]
        q = 1 / (1 + jnp.exp(-z))
        flat = x.reshape(5, -1)
        missed = -(flat * jnp.log(q) + (1 - flat) * jnp.log(1 - q)).sum(-1)
        # The divergence of two Gaussians, from the general formula.
        variance = jnp.exp(log_variance)
        kl = (jnp.log(1 / jnp.sqrt(variance)) + (variance + mean**2) / 2 - 0.5).sum(-1)
        kept = np.array([0, 1, 3, 4])
        return (missed + 0.25 * kl)[kept].mean(), (-(missed + kl))[kept].mean()

    def ours(params):
        loss, aux = task.loss({"params": params}, batch, key, True, weight=0.25)
        return loss.value, aux.metrics["elbo"].value

    for index in range(2):
        value, gradient = jax.jit(jax.value_and_grad(lambda p, i=index: ours(p)[i]))(variables["params"])
        expected, wanted = jax.jit(jax.value_and_grad(lambda p, i=index: reference(p)[i]))(variables["params"])
        assert float(value) == pytest.approx(float(expected), rel=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradient, wanted)


def test_divergence_by_sampling():
    mean, log_variance = jnp.array([[0.3, -0.5]]), jnp.array([[-0.2, 0.4]])
    rng = np.random.default_rng(0)
    std = np.exp(np.asarray(log_variance) / 2)
    z = np.asarray(mean) + std * rng.normal(size=(400_000, 2))
    log_q = (-0.5 * ((z - np.asarray(mean)) / std) ** 2 - np.log(std)).sum(-1)
    log_p = (-0.5 * z**2).sum(-1)
    assert float(gaussian_divergence(mean, log_variance)[0]) == pytest.approx((log_q - log_p).mean(), rel=0.02)


def test_the_gaussian_likelihood_is_a_density():
    task = Variational(model=VAE(shape=(1,)), likelihood="gaussian", sigma=0.7)
    x = jnp.linspace(-8, 8, 4001)[:, None]
    density = jnp.exp(-task._negative_log_likelihood(jnp.full_like(x, 0.4), x))
    assert float(density.sum() * 16 / 4000) == pytest.approx(1.0, rel=1e-4)


def unit_pictures(pictures):
    prepare = dataclasses.replace(pictures.prepare, mean=(0.0,), std=(255.0,))
    return dataclasses.replace(pictures, prepare=prepare)


@pytest.mark.slow
def test_the_weight_of_the_divergence_grows_with_the_step(experiment, pictures, one_device):
    """The first step of a warm-up weighs nothing, so it does what beta=0 does; the step number is the state's."""
    data = unit_pictures(pictures)
    model = VAE(widths=(), latent=2)
    warm, none = (Variational(model=model, **options) for options in ({"warmup": 10}, {"beta": 0.0}))
    np.testing.assert_allclose([warm.weight(jnp.asarray(s)) for s in (0, 5, 10, 99)], [0.0, 0.5, 1.0, 1.0])
    states = {}
    for name, task in (("warm", warm), ("none", none)):
        parts = assemble(replace(experiment, task=task), data, mesh=one_device)
        step, state = jax.jit(parts.task.make_step(parts.recipe)), parts.fresh_state()
        batch = {"inputs": jnp.asarray(data.train["inputs"][:24]) / 255.0, "mask": jnp.ones(24)}
        first, metrics = step(state, batch)
        later, _ = step(dataclasses.replace(state, step=jnp.asarray(10)), batch)
        states[name] = first.params, later.params
        assert float(metrics["skipped"].sum) == 0
        assert metrics.keys() >= {"loss", "elbo", "reconstruction", "kl"}
    jax.tree.map(np.testing.assert_array_equal, states["warm"][0], states["none"][0])
    differ = jax.tree.map(lambda a, b: bool((a != b).any()), states["warm"][1], states["none"][1])
    assert any(jax.tree.leaves(differ))


@pytest.mark.slow
def test_evaluation_noise_depends_on_the_example_alone(pictures):
    data = unit_pictures(pictures)
    task = Variational(model=VAE(widths=(8,), latent=2)).bind(data.card)
    x = jnp.asarray(data.test["inputs"]) / 255.0
    variables = jax.jit(task.init)(jax.random.key(0), {"inputs": x})
    whole = task.metrics(variables, {"inputs": x, "mask": jnp.ones(len(x))})["elbo"]
    order = np.random.default_rng(0).permutation(len(x))
    halves = [
        task.metrics(variables, {"inputs": x[rows], "mask": jnp.ones(len(rows)), "index": jnp.asarray(rows)})["elbo"]
        for rows in np.split(order, 2)
    ]
    assert float(whole.value) == pytest.approx(float((halves[0] + halves[1]).value), rel=1e-6)


def test_samples_are_a_pure_function_of_the_key():
    task = Variational(model=VAE(widths=(8,), latent=2, shape=(4, 3)))
    variables = task.init(jax.random.key(0), {"inputs": jnp.zeros((1, 4, 3))})
    a, b, c = (np.asarray(task.sample(variables, jax.random.key(s), 6)) for s in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert a.shape == (6, 4, 3)
    assert a.dtype == np.float32
    assert not np.array_equal(a, c)
    assert 0 < a.min() < a.max() < 1


@pytest.mark.slow
def test_the_nearest_code_is_chosen_and_the_gradient_passes_straight_through():
    model = VQVAE(features=(3,), codes=5, width=2, shape=(4, 4, 1))
    x = jax.random.normal(jax.random.key(1), (3, 4, 4, 1))
    variables = jax.jit(model.init)(jax.random.key(0), x)
    said = model.apply(variables, x, method="quantise")
    book = np.asarray(variables["params"]["book"])
    distance = ((np.asarray(said.encoded)[..., None, :] - book) ** 2).sum(-1)
    np.testing.assert_array_equal(said.indices, distance.argmin(-1))
    np.testing.assert_array_equal(said.chosen, book[distance.argmin(-1)])

    # Codes that 16 bits cannot hold apart by their products: compared in 32, the nearest is found all the same.
    low = jnp.asarray(np.random.default_rng(1).normal(3, 0.3, book.shape), jnp.bfloat16)
    near = np.asarray(low, np.float32)[np.arange(4) % len(low)].reshape(1, 2, 2, -1)
    within = {"params": {**variables["params"], "book": low}}
    found = model.apply(within, jnp.asarray(near, jnp.bfloat16), method="nearest")
    np.testing.assert_array_equal(np.ravel(found), np.arange(4) % len(low))

    def decoded(codes):
        return model.apply(variables, codes, method="decode").sum()

    # The reconstruction's gradient for the encoder's last bias is that for the code, summed over positions.
    def through(params):
        return model.apply({"params": params}, x).sum()

    wanted = jax.jit(jax.grad(decoded))(said.chosen).sum(axis=(0, 1, 2))
    got = jax.jit(jax.grad(through))(variables["params"])
    np.testing.assert_allclose(got["to_code"]["bias"], wanted, rtol=1e-4, atol=1e-5)
    assert not np.abs(got["book"]).any()


@pytest.mark.slow
def test_vq_trains_and_measures_how_many_codes_it_uses(experiment, pictures, one_device):
    task = VectorQuantization(model=VQVAE(features=(8,), codes=8, width=4))
    run = replace(experiment, task=task, steps=150, eval_every=0, optimizer=Adam(learning_rate=1e-2))
    done = train(run, dataset=pictures, mesh=one_device, progress="none")
    final = done.evaluate()
    assert final["explained"] > 0.3
    assert 1 < final["perplexity"] <= 8
    assert not [name for name in final if name.startswith("code_")]


@pytest.mark.slow
def test_denoising_is_better_than_keeping_the_noise(experiment, one_device):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(512, 2)) @ rng.normal(size=(2, 10))).astype(np.float32)
    data = from_arrays(x[:400], np.zeros(400, int), test=(x[400:], np.zeros(112, int)), standardize=False)
    task = Reconstruction(model=Autoencoder(widths=(16,), code=2), noise=0.5)
    run = replace(experiment, task=task, steps=400, batch_size=50, optimizer=Adam(learning_rate=1e-2))
    done = train(run, dataset=data, mesh=one_device, progress="none")
    assert done.evaluate()["loss"] < 0.6 * 0.5**2
    spoilt = done.parts.task.spoil(jnp.asarray(x), example_keys(jax.random.key(0), len(x)))
    assert float(jnp.square(spoilt - x).mean()) == pytest.approx(0.25, rel=0.1)
    hidden = Reconstruction(model=MLP(), masked=0.3).spoil(jnp.ones((64, 50)), example_keys(jax.random.key(0), 64))
    assert float((hidden == 0).mean()) == pytest.approx(0.3, abs=0.03)


def card(**fields):
    return Card(name="c", input_shape=(4, 4, 1), target_kind="class", examples={"train": 8, "test": 4}, **fields)


def test_bind_and_checks_report_contradictions(experiment, pictures, one_device):
    assert Reconstruction(model=Autoencoder()).bind(card()).model.shape == (4, 4, 1)
    with pytest.raises(DataError, match=r"shape=\(9,\).*\(4, 4, 1\).*leave it out"):
        Reconstruction(model=Autoencoder(shape=(9,))).bind(card())
    with pytest.raises(DataError, match=r"inputs in \[0, 1\].*-0\.42.*data\.scale"):
        Variational(model=VAE()).bind(card(input_range=(-0.42, 2.8)))
    with pytest.raises(ValueError, match="masked is a probability"):
        Reconstruction(model=Autoencoder(), masked=1.0)
    with pytest.raises(ValueError, match="beta is at least 0"):
        Variational(model=VAE(), beta=-1.0)
    for task, message in (
        (Variational(model=Autoencoder(), likelihood="gaussian"), "needs a model with 'infer'"),
        (VectorQuantization(model=Autoencoder()), "needs a model with 'quantise'"),
        (Reconstruction(model=MLP(outputs=3)), "returns its input's shape"),
        (VectorQuantization(model=VQVAE(features=(2, 2, 2, 2))), "divisible by 16"),
    ):
        with pytest.raises(DataError, match=message):
            assemble(replace(experiment, task=task), pictures, mesh=one_device)


def test_image_scales():
    ranges = {scale: Digits(scale=scale).open().card.input_range for scale in ("standard", "unit", "signed")}
    assert ranges["unit"] == (0.0, 1.0)
    assert ranges["signed"] == (-1.0, 1.0)
    assert ranges["standard"] == pytest.approx((-4.9 / 6, 11.1 / 6))


@pytest.mark.slow
def test_the_report_shows_reconstructions_and_samples(experiment, pictures, one_device, tmp_path):
    run = replace(experiment, task=Variational(model=VAE(widths=(), latent=2)), steps=2, eval_every=0)
    train(run, dataset=unit_pictures(pictures), mesh=one_device, run_dir=tmp_path / "run", progress="none")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Reconstructions (test)" in page
    assert "Samples" in page
