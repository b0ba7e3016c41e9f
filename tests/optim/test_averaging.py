"""Averages of the weights: by their definitions, on any mesh, and with the batch statistics of the averaged model."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.config.experiment import Experiment
from jaxnets.config.serialize import from_data, to_data
from jaxnets.core.errors import UsageError
from jaxnets.data import InMemory, from_arrays
from jaxnets.models import MLP
from jaxnets.optim import EMA, SGD, SWA, Constant
from jaxnets.parallel import MeshShape, make_mesh
from jaxnets.runs.build import assemble
from jaxnets.runs.train import train
from jaxnets.tasks import Classification
from jaxnets.training.loop import fit


def path(average, count, steps=8, dtype=np.float32):
    """Weights drawn at random after each update, and the average after each."""
    weights = np.random.default_rng(0).normal(size=(count + 1, 3)).astype(dtype)
    in_run, averages = average.in_run(steps), [{"w": jnp.asarray(weights[0])}]
    for update in range(count):
        averages.append(in_run.update(averages[-1], {"w": jnp.asarray(weights[update + 1])}, jnp.int32(update)))
    return weights, np.stack([a["w"] for a in averages])


@pytest.mark.smoke
@pytest.mark.parametrize(("start", "every", "first"), [(0.5, 1, 4), (0.25, 2, 2), (0.0, 3, 1)])
def test_swa_is_the_mean_of_the_weights_from_its_start(start, every, first):
    weights, averages = path(SWA(start=start, every=every), 8)
    np.testing.assert_array_equal(averages[: first + 1], weights[: first + 1], "until then the newest weights")
    for update in range(first, 9):
        chosen = weights[first : update + 1 : every]
        # A running mean rounds once an update.
        np.testing.assert_allclose(averages[update], chosen.mean(axis=0), rtol=1e-6, atol=1e-6)


def test_ema_by_its_closed_form():
    weights, averages = path(EMA(0.7), 8)
    decays = [min(0.7, (1 + n) / (10 + n)) for n in range(8)]
    wanted = weights[0].astype(np.float64)
    for decay, new in zip(decays, weights[1:], strict=True):
        wanted = decay * wanted + (1 - decay) * new
    np.testing.assert_allclose(averages[-1], wanted, rtol=1e-6)


def test_a_number_that_cannot_be_averaged_is_the_newest():
    in_run = SWA(start=0.0).in_run(10)
    old = {"count": jnp.int32(1), "most": jnp.float32(-jnp.inf)}
    new = in_run.update(old, {"count": jnp.int32(5), "most": jnp.float32(2)}, jnp.int32(3))
    assert (int(new["count"]), float(new["most"])) == (5, 2)


@pytest.mark.parametrize("average", [EMA(0.8), SWA(start=0.3)])
def test_a_sharded_average_equals_the_dense_one_bit_for_bit(average):
    mesh = make_mesh(MeshShape(fsdp=8))
    rng = np.random.default_rng(0)
    trees = [{"kernel": rng.normal(size=(64, 128)).astype(np.float32)} for _ in range(6)]
    places = jax.tree.map(lambda _: jax.NamedSharding(mesh, jax.P("fsdp")), trees[0])
    update = jax.jit(average.in_run(6).update)
    dense, parted = trees[0], jax.device_put(trees[0], places)
    for number, tree in enumerate(trees[1:]):
        dense = update(dense, tree, jnp.int32(number))
        parted = update(parted, jax.device_put(tree, places), jnp.int32(number))
    assert parted["kernel"].sharding.is_equivalent_to(places["kernel"], 2)
    np.testing.assert_array_equal(dense["kernel"], np.asarray(parted["kernel"]))


def normed(**fields):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 5)).astype(np.float32) * 3 + 1, rng.integers(0, 3, 64)
    task = Classification(model=MLP(widths=(8,), norm="batch"))
    options = {"steps": 12, "batch_size": 16, "optimizer": SGD(0.3, schedule=Constant())}
    return Experiment(task=task, data=InMemory(), **options | fields), from_arrays(x, y)


def states(experiment, data, mesh, cuts=()):
    """The states after each step of a run that is cut at `cuts`."""
    parts = assemble(experiment, data, mesh=mesh)
    seen = [parts.fresh_state()]
    for step in range(experiment.steps):
        seen.append(fit(parts.program, seen[-1], start=step, stop=step + 1))
    return parts, seen


def test_the_averaged_model_measures_its_own_batch_statistics(one_device):
    """By hand: the batches of the last steps, run through the averaged weights of each step."""
    experiment, data = normed(average=SWA(start=0.5))
    parts, seen = states(experiment, data, one_device)
    for state in seen[:7]:
        jax.tree.map(np.testing.assert_array_equal, state.average, dict(state.variables))
    mine = seen[6].average["batch_stats"]
    for step in range(6, 12):
        batch = parts.feed.batch(parts.feed.load(step, 1, 1), 0, jnp.int32(step))
        params = jax.tree.map(lambda *w: np.mean(w, axis=0), *(s.params for s in seen[6 : step + 2]))
        variables = {"params": params, "batch_stats": mine}
        _, new = parts.task.model.apply(variables, batch["inputs"], train=True, mutable=["batch_stats"])
        mine = new["batch_stats"]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), mine, seen[12].average["batch_stats"]
    )
    plain = states(replace(experiment, average=SWA(start=0.5, statistics="averaged")), data, one_device)[1][12].average
    mean = jax.tree.map(lambda *w: np.mean(w, axis=0), *(s.model_state["batch_stats"] for s in seen[6:13]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), mean, plain["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, seen[12].average["params"], plain["params"])
    different = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()), plain["batch_stats"], seen[12].average["batch_stats"]
    )
    assert max(jax.tree.leaves(different)) > 1e-3, "the two ways differ"


def test_an_average_does_not_change_training_and_works_with_micro_batches(one_device):
    experiment, data = normed(average=SWA(start=0.5), micro_batches=2)
    with_it = states(experiment, data, one_device)[1][-1]
    without = states(replace(experiment, average=EMA()), data, one_device)[1][-1]
    jax.tree.map(np.testing.assert_array_equal, with_it.variables, without.variables)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(with_it.average))


def test_an_interrupted_run_resumes_with_the_same_bits(tmp_path, one_device):
    experiment, data = normed(average=SWA(start=0.4))
    whole = train(experiment, dataset=data, run_dir=tmp_path / "whole", progress="none", mesh=one_device)
    train(experiment, dataset=data, run_dir=tmp_path / "cut", stop_at=7, progress="none", mesh=one_device)
    cut = train(experiment, dataset=data, run_dir=tmp_path / "cut", progress="none", mesh=one_device)
    jax.tree.map(np.testing.assert_array_equal, whole.state.average, cut.state.average)
    assert from_data(to_data(experiment)).average == SWA(start=0.4)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"start": "3 eons"}, "SWA.start: a duration is a share of the run"),
        ({"every": 0}, "SWA.every is a number of updates"),
        ({"statistics": "none"}, "SWA.statistics is"),
    ],
)
def test_invalid_settings_are_refused(fields, said):
    with pytest.raises((ValueError, UsageError), match=said):
        SWA(**fields)


def test_it_begins_after_any_duration(one_device):
    experiment, data = normed(average=SWA(start="2ep"))
    examples = data.card.examples["train"]
    in_run = assemble(experiment, data, mesh=one_device).recipe.average
    assert in_run == SWA(start=f"{2 * (examples // 16)}ba").in_run(12)
