"""Replicas that train apart: against data parallelism and a plain loop, on any mesh, with lost replicas, in int8."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_close

import jaxnets
from jaxnets.accelerators.hlo import collectives
from jaxnets.callbacks import Callback
from jaxnets.checkpoints.digest import leaf_paths
from jaxnets.core.errors import UsageError
from jaxnets.data import from_arrays
from jaxnets.models import MLP
from jaxnets.optim import Adam, LocalSGD
from jaxnets.parallel import MeshShape
from jaxnets.steps.local import whole_step

PLAIN = {"outer_rate": 1.0, "outer_momentum": 0.0}


def trained(local=None, mesh=None, **options):
    rng = np.random.default_rng(0)
    table = from_arrays(rng.normal(size=(256, 8)).astype(np.float32), rng.integers(0, 4, 256), name="table")
    given = {"steps": 8, "batch_size": 32, "seed": 3, "progress": "none", "optimizer": optax.sgd(0.1)}
    local, mesh = local or LocalSGD(), mesh or MeshShape(data=1)
    return jaxnets.fit(MLP(widths=(32, 16)), table, local=local, mesh=mesh, **given | options)


def by_hand(run, params, steps, rows):
    """Plain SGD on some rows of the run's batches."""
    for step in steps:
        batch = run.parts.feed.batch(run.parts.feed.load(step, 1, 1), 0, jnp.asarray(step))
        part = jax.tree.map(lambda a: a[rows], batch)

        def loss(params, part=part):
            mean = run.parts.task.loss({"params": params}, part, jax.random.key(0), True)[0]
            return mean.sum / mean.weight

        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))
    return params


@pytest.mark.smoke
def test_an_exchange_every_step_is_data_parallelism():
    apart = trained(LocalSGD(replicas=4, every=1, **PLAIN))
    assert_close(apart.state.params, trained().state.params, rtol=1e-5, atol=1e-6)


def test_the_outer_update_is_that_of_the_paper():
    """DiLoCo, algorithm 1: SGD inside, Nesterov outside."""
    run = trained(LocalSGD(replicas=2, every=4, outer_rate=0.7, outer_momentum=0.9))
    params = run.parts.fresh_state().params
    momentum = jax.tree.map(jnp.zeros_like, params)
    for first in (0, 4):
        ends = [by_hand(run, params, range(first, first + 4), slice(16 * r, 16 * (r + 1))) for r in range(2)]
        change = jax.tree.map(lambda p, a, b: p - (a + b) / 2, params, *ends)
        momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, change)
        params = jax.tree.map(lambda p, m, g: p - 0.7 * (0.9 * m + g), params, momentum, change)
    assert_close(run.state.params, params, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("exchange", ["float32", "int8"])
def test_the_result_does_not_depend_on_the_mesh(exchange):
    local = LocalSGD(replicas=4, every=2, exchange=exchange)
    one = trained(local, optimizer=Adam(learning_rate=1e-2))
    for mesh in (MeshShape(replica=4, data=2), MeshShape(replica=2, data=1, fsdp=2)):
        several = trained(local, mesh, optimizer=Adam(learning_rate=1e-2))
        assert_close(several.state.params, one.state.params, rtol=1e-4, atol=1e-5)
        placed = leaf_paths(several.parts.shardings)
        kernels = [placed[path].spec for path in placed if re.match(r"opt_state/replicas/params/.*kernel", path)]
        assert kernels
        assert all(spec[0] == "replica" for spec in kernels)


def test_an_exchange_in_int8_is_close_to_float32():
    fine, coarse = (trained(LocalSGD(replicas=4, every=2, exchange=kind)) for kind in ("float32", "int8"))
    for a, b in zip(jax.tree.leaves(fine.state.params), jax.tree.leaves(coarse.state.params), strict=True):
        # A code is a 127th of the largest change (.1 here), with two roundings in each of four exchanges.
        assert 0 < float(jnp.abs(a - b).max()) < 8 * 0.1 / 127
    assert coarse.evaluate()["loss"] == pytest.approx(fine.evaluate()["loss"], rel=0.01)


@pytest.mark.slow
def test_only_changes_travel_between_replicas():
    sent = {}
    for exchange in ("float32", "int8"):
        local = LocalSGD(replicas=2, every=2, exchange=exchange)
        parts = trained(local, MeshShape(replica=2, data=2, fsdp=2), steps=2).parts
        with jax.set_mesh(parts.mesh):
            text = parts.program.lower(parts.abstract).compile().as_text()
        far = [one for one in collectives(text, parts.mesh) if "replica" in one.axes]
        large = [one for one in far if one.bytes > 64]  # more than scales, counters and metrics
        assert large
        assert all("cond" in one.source for one in large), large
        if exchange == "int8":
            assert {shape.split("[")[0] for one in large for shape in one.shapes[:1]} == {"s8"}
        sent[exchange] = sum(one.sent for one in large)
    assert sent["int8"] < 0.3 * sent["float32"]


def test_a_lost_replica_is_left_out_and_continues_from_the_average():
    run = trained(LocalSGD(replicas=2, every=2, **PLAIN))
    parts = run.parts
    state = parts.fresh_state()
    step = jax.jit(whole_step(parts.task, parts.recipe))
    with jax.set_mesh(parts.mesh):
        for number in range(2):
            batch = parts.feed.batch(parts.feed.load(number, 1, 1), 0, jnp.asarray(number))
            state, metrics = step(state, {**batch, "inputs": batch["inputs"].at[16:].set(jnp.nan)})
            assert float(metrics["skipped"].sum) == 1
    alone = by_hand(run, parts.fresh_state().params, range(2), slice(0, 16))
    assert_close(state.params, alone, rtol=1e-5, atol=1e-6)
    for leaf, common in zip(
        jax.tree.leaves(state.opt_state.replicas["params"]), jax.tree.leaves(state.params), strict=True
    ):
        np.testing.assert_array_equal(leaf, jnp.broadcast_to(common, leaf.shape))
    assert int(state.guard["skipped"]) == 0  # the other one took both steps


class StopAt(Callback):
    def __init__(self, step):
        self.step = step

    def stepped(self, run, step, metrics):
        if step == self.step:
            run.stop("enough")


@pytest.mark.slow
def test_an_interrupted_run_resumes_on_other_devices(tmp_path):
    local, adam = LocalSGD(replicas=4, every=4), Adam(learning_rate=1e-2)
    whole = trained(local, run_dir=tmp_path / "whole", optimizer=adam)
    trained(local, run_dir=tmp_path / "cut", optimizer=adam, save_every=3, hooks=[StopAt(3)])
    again = trained(local, MeshShape(replica=2, data=2), run_dir=tmp_path / "cut", optimizer=adam, save_every=3)
    assert int(again.state.step) == 8
    assert_close(again.state.params, whole.state.params, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"local": LocalSGD(replicas=3)}, "batch_size 32 is not divisible into 3 replicas"),
        ({"local": LocalSGD(replicas=2, every=3)}, "steps 8 is not a multiple of local.every 3"),
        ({"local": LocalSGD(replicas=2, every=4), "mesh": MeshShape(replica=4)}, "mesh.replica 4 does not divide"),
    ],
)
def test_incompatible_settings_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        trained(**options)


@pytest.mark.parametrize("wrong", [{"replicas": 0}, {"every": 0}, {"outer_rate": 0.0}, {"outer_momentum": 1.0}])
def test_settings_are_checked(wrong):
    with pytest.raises(UsageError, match=f"local.{next(iter(wrong))}"):
        dataclasses.replace(LocalSGD(), **wrong)
