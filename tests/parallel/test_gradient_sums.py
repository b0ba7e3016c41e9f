"""Gradients of a tied embedding over micro-batches on several devices: each of its two uses has a sum of its own."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_close

from jaxnets.models import Experts, LanguageModel
from jaxnets.ops.own_rows import summed_later
from jaxnets.optim.penalty import Penalty
from jaxnets.parallel import MeshShape, make_mesh
from jaxnets.steps.precision import Precision
from jaxnets.steps.recipe import Recipe
from jaxnets.tasks import NextToken
from jaxnets.training.initial import create_state

TOKENS, LENGTH, ROWS, PARTS = 48, 8, 8, 2


def batch():
    ids = np.random.default_rng(0).integers(0, TOKENS, (ROWS, LENGTH + 1)).astype(np.int32)
    rows = jnp.arange(ROWS, dtype=jnp.int32)
    return {"inputs": ids[:, :-1], "targets": ids[:, 1:], "mask": jnp.ones(ROWS), "index": rows}


def task(**fields):
    sizes = {"layers": 2, "heads": 2, "width": 16, "length": LENGTH, "vocab_size": TOKENS}
    return NextToken(model=LanguageModel(**sizes | fields))


def recipe(**changes):
    return dataclasses.replace(Recipe(optimizer=optax.sgd(0.5), micro_batches=PARTS), **changes)


def added_first(mesh, own):
    """Paths of parameters to whose sum over micro-batches two gradients are added that were added to each other before."""
    with jax.set_mesh(mesh):
        state = jax.eval_shape(lambda: create_state(own, recipe(), batch()))
        traced = jax.make_jaxpr(own.make_step(recipe()))(state, batch()).jaxpr
    loop = next(one for one in traced.eqns if one.primitive.name == "scan" and one.params["length"] == PARTS)
    body = loop.params["jaxpr"].jaxpr
    made = {id(var): one for one in body.eqns for var in one.outvars}
    shapes = {leaf.shape for leaf in jax.tree.leaves(state.params)}
    found = []
    for var in body.outvars:
        last = made.get(id(var))
        if last is None or last.primitive.name != "add" or var.aval.shape not in shapes:
            continue
        for given in last.invars:
            while (one := made.get(id(given))) is not None and one.primitive.name in ("convert_element_type", "pjit"):
                given = one.invars[0]
            if one is not None and one.primitive.name == "add_any":
                found.append(var.aval.shape)
    return found


def test_no_two_gradients_are_added_before_their_sum_over_micro_batches():
    several, one = (
        make_mesh(MeshShape(data=2), devices=jax.devices()[:2]),
        make_mesh(MeshShape(data=1), devices=jax.devices()[:1]),
    )
    assert added_first(several, task()) == []
    # On one device nothing is summed over devices, and the program is the plain one.
    assert added_first(one, task()) == [(TOKENS, 16)]
    assert added_first(one, task(embedding="untied")) == []


def is_table(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: "embedding" in jax.tree_util.keystr(path), params)


CASES = {
    "plain": ({}, {}),
    "bfloat16": ({"precision": Precision("bfloat16")}, {}),
    "scanned, bfloat16": ({"precision": Precision("bfloat16")}, {"blocks": "scanned"}),
    "noise": ({"penalty": Penalty(weight_noise=0.1, on=("*embedding",))}, {}),
    "frozen": ({"frozen": is_table}, {}),
    "scanned": ({}, {"blocks": "scanned", "remat": "blocks"}),
    "scanned, documents": ({}, {"blocks": "scanned", "separator": 3}),
}


def test_devices_apply_scanned_blocks_to_their_own_rows():
    """In training, where rows do not depend on each other: gradients of all blocks are summed behind the loop over them."""

    def mapped(train, loop=lambda: summed_later(("data",)), **fields):
        with loop(), jax.set_mesh(make_mesh(MeshShape(data=2), devices=jax.devices()[:2])):
            own = task(blocks="scanned", layers=3, **fields)
            state = jax.eval_shape(lambda: create_state(own, recipe(), batch()))
            key = jax.random.key(0)
            loss = jax.grad(lambda params: own.loss({"params": params}, batch(), key, train)[0].sum)
            return str(jax.make_jaxpr(loss)(state.params)).count("shard_map")

    embeddings = mapped(False)
    assert mapped(True) > embeddings
    assert mapped(True, loop=contextlib.nullcontext) == 0  # a single batch: sums inside of the loop cost nothing more
    assert mapped(True, dropout=0.1) == embeddings  # each device would draw the same
    assert mapped(True, experts=Experts(count=2)) == embeddings


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if case in ("scanned, bfloat16", "scanned") else pytest.mark.nightly)
        for case in CASES
    ],
)
def test_the_step_is_that_of_one_device(case):
    changes, fields = CASES[case]
    own, chosen, results = task(**fields), recipe(**changes), []
    for mesh in (
        make_mesh(MeshShape(data=1), devices=jax.devices()[:1]),
        make_mesh(MeshShape(data=2), devices=jax.devices()[:2]),
    ):
        with jax.set_mesh(mesh):
            state = jax.jit(lambda: create_state(own, chosen, batch()))()
            results.append((state.params, jax.jit(own.make_step(chosen))(state, batch())[0].params))
    (start, one), (_, several) = results
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), one, start)
    assert (moved["embedding"]["embedding"] > 1e-3) == (case != "frozen")
    # The embedding moves by up to a tenth; a sum of bfloat16 gradients over other parts is rounded otherwise.
    assert_close(several, one, atol=2e-3 if "bfloat16" in case else 2e-6)
