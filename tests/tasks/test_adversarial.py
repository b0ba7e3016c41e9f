"""Adversarial training against its formulas: losses, penalties of second order, turns, refusals, sampling, scores."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_same_bits, replace

from jaxnets.core.errors import DataError, UsageError
from jaxnets.core.types import Card
from jaxnets.data import Ring
from jaxnets.data.sources.ring import ring_centres
from jaxnets.models import CNN, MLP, DCGANCritic, DCGANGenerator
from jaxnets.optim import Adam
from jaxnets.runs.build import assemble
from jaxnets.runs.train import train
from jaxnets.tasks import Adversarial
from jaxnets.tasks.adversarial import share_of
from jaxnets.tasks.sample_scores import class_coverage, features_and_labels, frechet_distance


def linear_game(**options):
    """A linear generator of points and a linear critic: everything has a formula."""
    task = Adversarial(model=MLP(widths=(), outputs=2), critic=MLP(widths=()), latent=2, shape=(2,), **options)
    x = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    batch = {"inputs": jnp.asarray(x), "targets": jnp.zeros(6, jnp.int32), "mask": jnp.ones(6)}
    return task, batch, jax.jit(task.init)(jax.random.key(0), batch)


@pytest.mark.parametrize("objective", ["logistic", "wasserstein"])
def test_losses_and_penalties_by_their_formulas(objective):
    task, batch, variables = linear_game(objective=objective, penalty=3.0)
    own, other = share_of(variables, "critic"), share_of(variables, "generator")
    w = np.asarray(own["params"]["output"]["kernel"])[:, 0]

    def run(params):
        return task.critic_loss({"params": params}, batch, jax.random.key(1), True, other=other)

    loss, aux = run(own["params"])
    # A linear critic has the gradient w everywhere.
    off = 0.5 * (w @ w) if objective == "logistic" else (np.sqrt(w @ w) - 1) ** 2
    assert float(aux.metrics["penalty"].value) == pytest.approx(off, rel=1e-5)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(1), 0), 5)
    z = np.asarray(task._noise(keys[0], batch, "critic"))
    g, c = (jax.tree.map(np.asarray, tree["params"]["output"]) for tree in (other, own))
    real = np.asarray(batch["inputs"]) @ c["kernel"][:, 0] + c["bias"][0]
    made = (z @ g["kernel"] + g["bias"]) @ c["kernel"][:, 0] + c["bias"][0]
    plain = np.log1p(np.exp(-real)) + np.log1p(np.exp(made)) if objective == "logistic" else made - real
    assert float(loss.value) == pytest.approx(plain.mean() + 3 * off, rel=1e-5)
    assert float(aux.metrics["margin"].value) == pytest.approx((real - made).mean(), rel=1e-4)
    # The penalty's gradient goes through a gradient.
    got = jax.grad(lambda p: run(p)[1].metrics["penalty"].value)(own["params"])["output"]["kernel"][:, 0]
    wanted = w if objective == "logistic" else 2 * (1 - 1 / np.sqrt(w @ w)) * w
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)
    mean, _ = task.generator_loss(other, batch, jax.random.key(1), True, other=own)
    z = np.asarray(task._noise(jax.random.split(jax.random.fold_in(jax.random.key(1), 1), 3)[0], batch, "generator"))
    made = (z @ g["kernel"] + g["bias"]) @ c["kernel"][:, 0] + c["bias"][0]
    wanted = (np.log1p(np.exp(-made)) if objective == "logistic" else -made).mean()
    assert float(mean.value) == pytest.approx(wanted, rel=1e-5)


def images(task, rows=4, size=8):
    x = jax.random.uniform(jax.random.key(1), (rows, size, size, 1), minval=-1.0)
    card = Card(
        name="c",
        input_shape=(size, size, 1),
        target_kind="class",
        examples={"train": 8, "test": 4},
        class_names=("a", "b", "c"),
        input_range=(-1.0, 1.0),
    )
    batch = {"inputs": x, "targets": jnp.arange(rows) % 3, "mask": jnp.ones(rows)}
    return task.bind(card), batch


def dcgan(**options):
    return Adversarial(
        model=DCGANGenerator(features=(6, 4)),
        critic=DCGANCritic(features=(4, 6)),
        latent=5,
        conditional=True,
        **options,
    )


@pytest.mark.smoke
@pytest.mark.slow
def test_dcgan_shapes_counts_precision_and_gradients():
    task, batch = images(dcgan())
    variables = jax.jit(task.init)(jax.random.key(0), batch)
    counts = {who: sum(p.size for p in jax.tree.leaves(tree)) for who, tree in variables["params"].items()}
    # seed 8*24, its norm 12, 16*6*4, norm 8, 16*4*1+1; and 16*4*4+4, 16*4*6, norm 12, 24+1
    assert counts == {"generator": 192 + 12 + 384 + 8 + 65, "critic": 260 + 384 + 12 + 25}
    made = jax.jit(task.sample, static_argnums=2)(variables, jax.random.key(0), 7)
    assert made.shape == (7, 8, 8, 1)
    assert made.dtype == jnp.float32
    assert float(jnp.abs(made).max()) <= 1
    key = jax.random.key(2)

    def losses(params, who):
        own = {name: {**tree, who: params} if name == "params" else tree for name, tree in variables.items()}
        other = share_of(variables, "generator" if who == "critic" else "critic")
        loss = task.critic_loss if who == "critic" else task.generator_loss
        return loss(share_of(own, who), batch, key, True, other=other)[0].value

    for who in ("critic", "generator"):
        gradient = jax.jit(jax.grad(losses), static_argnums=1)(variables["params"][who], who)
        silent = [
            jax.tree_util.keystr(path)
            for path, g in jax.tree_util.tree_leaves_with_path(gradient)
            if not np.abs(g).max() > 0
        ]
        assert not silent
    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), share_of(variables, "generator")["params"])
    z = jax.random.normal(key, (3, 8)).astype(jnp.bfloat16)
    whole = {**share_of(variables, "generator"), "params": low}
    assert task.model.apply(whole, z).dtype == jnp.bfloat16


@pytest.mark.slow
def test_the_label_changes_the_outputs_of_generator_and_critic():
    task, batch = images(dcgan())
    variables = jax.jit(task.init)(jax.random.key(0), batch)
    # The labels' kernels start near 0 (DCGAN's start); made larger so that float32 tells.
    variables["params"] = jax.tree.map(lambda a: a * 10, variables["params"])
    key = jax.random.key(3)
    one, two = (task.sample(variables, key, 2, jnp.full((2,), label)) for label in (0, 1))
    assert not np.allclose(one, two)
    np.testing.assert_array_equal(task.sample(variables, key, 2, jnp.array([0, 1])), task.sample(variables, key, 2))
    a = task.outputs(variables, batch)
    b = task.outputs(variables, {**batch, "targets": (batch["targets"] + 1) % 3})
    assert not np.allclose(a, b)


@pytest.fixture(scope="module")
def ring():
    return Ring(examples=1000, deviation=0.05).open()


def small_game(**options):
    return Adversarial(model=MLP(widths=(16,)), critic=MLP(widths=(16,)), latent=4, **options)


def is_schedule(node):
    return isinstance(node, optax.ScaleByScheduleState)


@pytest.mark.slow
def test_the_critic_takes_its_turns_before_the_generator_and_a_non_finite_turn_undoes_the_step(
    experiment, ring, one_device
):
    task = small_game(critic_steps=3, penalty=1.0, objective="wasserstein")
    parts = assemble(replace(experiment, task=task, optimizer=Adam(learning_rate=1e-2)), ring, mesh=one_device)
    state = parts.fresh_state()
    step = jax.jit(parts.task.make_step(parts.recipe))
    batch = {name: jnp.asarray(a[:24]) for name, a in ring.train.items()} | {"mask": jnp.ones(24)}
    new, metrics = step(state, batch)
    assert int(new.step) == 1
    counts = {who: int(new.opt_state[who][0][0].count) for who in ("critic", "generator")}
    assert counts == {"critic": 3, "generator": 1}
    # Adam counts turns; the schedule of the learning rate counts steps, or the critic would be done after a third of the run.
    states = {who: jax.tree.leaves(new.opt_state[who], is_leaf=is_schedule) for who in counts}
    assert [int(n.count) for who in states for n in states[who] if is_schedule(n)] == [1, 1]
    assert float(metrics["loss"].weight) == 24
    assert metrics.keys() >= {"loss", "generator_loss", "margin", "penalty", "gradient_norm", "skipped", "bad_leaf"}
    # Rows 2, 5, ... are the last turn's: by then two turns were taken.
    bad, metrics = step(state, {**batch, "inputs": batch["inputs"].at[5, 0].set(jnp.nan)})
    assert_same_bits((bad.params, bad.opt_state), (state.params, state.opt_state))
    assert (int(bad.guard["skipped"]), int(bad.step), float(metrics["skipped"].sum)) == (1, 1, 1.0)
    empty, metrics = step(state, {**batch, "mask": jnp.zeros(24)})
    assert_same_bits((empty.params, empty.opt_state), (state.params, state.opt_state))
    assert (int(empty.guard["left_out"]), float(metrics["skipped"].sum)) == (1, 0.0)


@pytest.mark.slow
def test_players_have_their_own_rates(experiment, ring, one_device):
    batch = {name: jnp.asarray(a[:24]) for name, a in ring.train.items()} | {"mask": jnp.ones(24)}

    def deltas(optimizer):
        parts = assemble(replace(experiment, task=small_game(), optimizer=optimizer), ring, mesh=one_device)
        state = parts.fresh_state()
        new, _ = jax.jit(parts.task.make_step(parts.recipe))(state, batch)
        return jax.tree.map(lambda a, b: np.asarray(a - b), new.params, state.params)

    same = deltas(optax.sgd(0.04))
    two = deltas({"critic/.*": optax.sgd(0.04), "generator/.*": optax.sgd(0.01)})
    assert_same_bits(two["critic"], same["critic"])
    for slow, fast in zip(jax.tree.leaves(two["generator"]), jax.tree.leaves(same["generator"]), strict=True):
        np.testing.assert_allclose(slow, fast / 4, atol=1e-7)
    fixed = deltas({"critic/.*": optax.set_to_zero(), ".*": optax.sgd(0.04)})
    assert not any(leaf.any() for leaf in jax.tree.leaves(fixed["critic"]))
    assert any(leaf.any() for leaf in jax.tree.leaves(fixed["generator"]))
    with pytest.raises(UsageError, match=r"'crtic/\.\*' has no parameter.*critic/hidden_0"):
        deltas({"crtic/.*": optax.sgd(0.04), ".*": optax.sgd(0.01)})


@pytest.mark.slow
def test_batch_statistics_of_both_players_move(experiment, pictures, one_device):
    data = dataclasses.replace(pictures, prepare=dataclasses.replace(pictures.prepare, mean=(127.5,), std=(127.5,)))
    parts = assemble(replace(experiment, task=dcgan()), data, mesh=one_device)
    state = parts.fresh_state()
    batch = {name: jnp.asarray(a[:24]) for name, a in data.train.items()} | {"mask": jnp.ones(24)}
    batch["inputs"] = data.prepare(batch["inputs"])
    new, _ = jax.jit(parts.task.make_step(parts.recipe))(state, batch)
    still = [
        jax.tree_util.keystr(path)
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(new.model_state), jax.tree.leaves(state.model_state), strict=True
        )
        if np.array_equal(a, b)
    ]
    assert not still


@pytest.mark.slow
def test_a_game_trains_and_counts_modes(experiment, ring, one_device):
    task = small_game(penalty=0.1, modes=ring_centres(8, 2.0), mode_radius=0.5)
    run = replace(experiment, task=task, steps=300, batch_size=64, optimizer=Adam(learning_rate=3e-3, b1=0.0))
    done = train(run, dataset=ring, mesh=one_device, progress="none")
    final = done.evaluate()
    assert final.keys() == {"loss", "margin", "near", "modes", "examples"}
    points = np.asarray(done.parts.task.sample(done.variables, jax.random.key(0), 500))
    assert 1.0 < np.linalg.norm(points, axis=1).mean() < 3.0
    shown = done.parts.task.drawn(done.variables)
    assert shown[0].images.shape == (1, 64, 64, 1)


def test_modes_are_counted_by_their_definition():
    task = small_game(modes=((0.0, 0.0), (1.0, 0.0)))
    values = {"mode_0": 0.2, "mode_1": 0.1, "near": 0.3, "loss": 1.0}
    assert task.derive(values) == {"near": 0.3, "loss": 1.0, "modes": 1.0}


def test_ring_by_its_definition():
    data = Ring(modes=5, radius=3.0, deviation=0.1, examples=5000).open()
    x, y = data.train["inputs"], data.train["targets"]
    centres = np.array(ring_centres(5, 3.0))
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 3.0)
    for mode in range(5):
        np.testing.assert_allclose(x[y == mode].mean(0), centres[mode], atol=0.02)
        np.testing.assert_allclose(x[y == mode].std(0), 0.1, atol=0.01)
    assert data.card.examples == {"train": 5000, "test": 500}
    with pytest.raises(DataError, match="deviation=0"):
        Ring(deviation=0.0).open()


def test_contradictions_are_named(experiment, ring, pictures, one_device):
    with pytest.raises(DataError, match=r"makes values in \[-1, 1\].*data\.scale"):
        assemble(replace(experiment, task=dcgan()), pictures, mesh=one_device)
    with pytest.raises(DataError, match=r"24 examples.*5 turns.*multiple"):
        assemble(replace(experiment, task=small_game(critic_steps=5)), ring, mesh=one_device)
    with pytest.raises(DataError, match="one score"):
        assemble(
            replace(experiment, task=dataclasses.replace(small_game(), critic=MLP(outputs=2))), ring, mesh=one_device
        )
    with pytest.raises(ValueError, match="critic_steps is at least 1"):
        small_game(critic_steps=0)
    with pytest.raises(ValueError, match=r"DCGANCritic with norm 'batch' mixes examples.*set critic\.norm"):
        dataclasses.replace(dcgan(), critic=DCGANCritic(norm="batch"), penalty=10.0)
    with pytest.raises(ValueError, match="penalty is a number, got nan"):
        small_game(penalty=float("nan"))
    with pytest.raises(ValueError, match="needs images"):
        jax.eval_shape(lambda: DCGANCritic().init(jax.random.key(0), jnp.zeros((1, 4))))


def test_frechet_distance_has_the_gaussians_formula():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(200_000, 3)) * [1.0, 2.0, 0.5]
    b = rng.normal(size=(200_000, 3)) * [2.0, 1.0, 0.5] + [1.0, 0.0, 0.0]
    # For diagonal covariances: the squared differences of means and of deviations.
    assert frechet_distance(a, b) == pytest.approx(1 + 1 + 1, rel=0.02)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    mix = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    assert frechet_distance(a @ mix, b @ mix) == pytest.approx(frechet_distance(a, b), rel=1e-9)
    with pytest.raises(ValueError, match="two rows"):
        frechet_distance(a[:1], b)


def test_features_are_the_layers_own_and_coverage_counts_classes():
    model = CNN(features=(2,), dense=(5,), outputs=3)
    x = jax.random.normal(jax.random.key(0), (7, 4, 4, 1))
    variables = jax.jit(model.init)(jax.random.key(1), x)
    features, labels = features_and_labels(model, variables, x, layer="dense_0", batch_size=4)
    output = variables["params"]["output"]
    logits = features @ np.asarray(output["kernel"]) + np.asarray(output["bias"])
    np.testing.assert_allclose(logits, jax.jit(model.apply)(variables, x), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(labels, logits.argmax(-1))
    with pytest.raises(ValueError, match="0 layers called"):
        features_and_labels(model, variables, x, layer="nowhere")
    assert class_coverage(np.array([0, 0, 1, 1, 1, 1, 1, 1]), 4) == 0.5
