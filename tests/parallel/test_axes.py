"""Every axis of a mesh: the results of one device, what is split, and what is refused."""

import re

import jax
import numpy as np
import optax
import pytest
from conftest import assert_close

import jaxnets
from jaxnets.checkpoints.digest import leaf_paths
from jaxnets.config import Experiment
from jaxnets.core.errors import UsageError
from jaxnets.data import Digits, from_arrays
from jaxnets.data.sources.text import from_tokens
from jaxnets.data.text.tokenizers import Characters
from jaxnets.models import MLP, Experts, LanguageModel
from jaxnets.optim import AdamW
from jaxnets.parallel import MeshShape, make_mesh
from jaxnets.runs.train import train
from jaxnets.steps.precision import Precision
from jaxnets.tasks import NextToken

SMALL = {"layers": 2, "heads": 4, "width": 32, "length": 16}


def text():
    ids = np.random.default_rng(0).integers(0, 16, 900)
    return from_tokens(ids[:800], ids[800:], Characters(tuple("abcdefghijklmnop")), name="t", source="s", length=16)


def trained(mesh, model=None, optimizer=None, **options):
    model = model or {}
    given = {"steps": 4, "batch_size": 16, "seed": 1, "progress": "none"}
    return jaxnets.fit(
        NextToken(model=LanguageModel(**SMALL | model)),
        text(),
        mesh=mesh,
        optimizer=optimizer or optax.sgd(0.1, momentum=0.9),
        **given | options,
    )


ROTARY = {"positions": "rotary", "kv_heads": 2, "norm": "rms", "mlp": "swiglu", "biases": "none", "blocks": "scanned"}
CAPACITY = Experts(count=4, routing="capacity", capacity=1.0)
CASES = {
    "sequence, ring": (MeshShape(data=2, sequence=4), {}, {}),
    "sequence, heads": (MeshShape(data=2, sequence=4), {"split_attention": "heads"}, {}),
    "sequence, a length that it does not divide": (MeshShape(data=1, sequence=3), {}, {}),
    "sequence, documents": (MeshShape(data=1, sequence=4), {"separator": 3, "positions": "alibi"}, {}),
    "sequence, scanned": (MeshShape(data=1, fsdp=2, sequence=2, tensor=2), ROTARY, {}),
    "sequence, rematerialised": (MeshShape(data=2, sequence=2), {"remat": "blocks"}, {"micro_batches": 2}),
    "sequence, flash": (MeshShape(data=1, fsdp=2, sequence=2, tensor=2), ROTARY | {"attention": "flash"}, {}),
    "flash, own rows": (MeshShape(data=2, tensor=2), ROTARY | {"attention": "flash"}, {"micro_batches": 2}),
    "flash, pipeline": (MeshShape(data=2, pipeline=2), ROTARY | {"attention": "flash", "separator": 3}, {}),
    "expert, dropless": (MeshShape(data=2, expert=4), {"experts": Experts(count=4)}, {}),
    "expert, capacity": (MeshShape(data=1, fsdp=2, expert=4), {"experts": CAPACITY}, {}),
    "expert, tensor": (MeshShape(data=2, expert=2, tensor=2), {"experts": CAPACITY, "mlp": "swiglu"}, {}),
    "zero 1": (MeshShape(data=2, fsdp=4, zero=1), {}, {"micro_batches": 2}),
    "zero 1, scanned": (MeshShape(data=2, fsdp=4, zero=1), {"blocks": "scanned"}, {"micro_batches": 2}),
    "zero 2": (MeshShape(data=2, fsdp=4, zero=2), {}, {"micro_batches": 2}),
    "zero 3": (MeshShape(data=2, fsdp=4, zero=3), {}, {"micro_batches": 2}),
    "zero 3, documents": (MeshShape(data=2, fsdp=4), {"separator": 3, "blocks": "scanned"}, {"micro_batches": 2}),
    "zero 3, tensor": (MeshShape(data=2, fsdp=2, tensor=2), {}, {"micro_batches": 4}),
    "expert, micro-batches": (MeshShape(data=2, expert=4), {"experts": CAPACITY}, {"micro_batches": 2}),
    "replica": (MeshShape(replica=2, data=2, fsdp=2), {}, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_result_is_that_of_one_device(case):
    mesh, model, options = CASES[case]
    one, split = trained(MeshShape(data=1), model, **options), trained(mesh, model, **options)
    # Sums over devices are rounded otherwise; the spread of one device, whose weights moved by a unit, is 2e-6.
    assert_close(split.state.params, one.state.params, rtol=1e-4, atol=1e-5)
    assert split.evaluate()["loss"] == pytest.approx(one.evaluate()["loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["flash, pipeline", "flash, own rows"])
def test_bfloat16_is_summed_over_devices_of_the_cpu_too(case):
    """Its compiler ends the process where a `shard_map` has such a sum."""
    mesh, model, options = CASES[case]
    options = options | {"precision": Precision(compute="bfloat16")}
    one, split = (trained(where, model, **options).evaluate()["loss"] for where in (MeshShape(data=1), mesh))
    assert split == pytest.approx(one, rel=2e-3)  # four steps in 8 bits, summed in another order


@pytest.mark.slow
def test_each_stage_of_zero_splits_its_part_of_the_state():
    def bytes_of(zero):
        parts = trained(MeshShape(data=1, fsdp=8, zero=zero), optimizer=optax.adam(1e-3)).parts
        placed, whole = leaf_paths(parts.shardings), leaf_paths(parts.abstract)

        def held(prefix):
            return sum(np.prod(placed[p].shard_shape(a.shape)) for p, a in whole.items() if p.startswith(prefix))

        return held("params/"), held("opt_state/"), parts

    (whole, moments, first), (second_params, second_moments, second), (cut, cut_moments, third) = map(
        bytes_of, (1, 2, 3)
    )
    assert whole == second_params == third.parameters
    assert moments == second_moments == cut_moments
    assert cut < whole / 5
    assert moments < 2 * whole / 5
    split = [
        any("fsdp" in one.spec for one in jax.tree.leaves(parts.recipe.gradients)) for parts in (first, second, third)
    ]
    assert split == [False, True, True]
    assert [parts.recipe.sums_whole for parts in (first, second, third)] == [True, False, False]


@pytest.mark.slow
def test_experts_are_spread_and_a_mesh_without_experts_is_refused():
    parts = trained(MeshShape(data=2, expert=4), {"experts": CAPACITY}, steps=1).parts
    placed = leaf_paths(parts.shardings)
    kernels = [placed[path].spec for path in placed if re.search(r"mixture/\w+_kernel$", path)]
    assert kernels
    assert all(spec[0] == "expert" for spec in kernels)
    with pytest.raises(UsageError, match="mesh.expert is 4"):
        trained(MeshShape(data=2, expert=4))


def test_a_model_that_needs_whole_sequences_says_so():
    rng = np.random.default_rng(0)
    table = from_arrays(rng.normal(size=(64, 8)).astype(np.float32), rng.integers(0, 4, 64), name="table")
    with pytest.raises(UsageError, match=r"mesh.sequence is 2, but MLP needs whole sequences"):
        jaxnets.fit(MLP(widths=(16,)), table, mesh=MeshShape(sequence=2), steps=1, batch_size=16, progress="none")


def test_axes_of_size_1_are_left_out_but_for_the_usual_three():
    assert dict(make_mesh(MeshShape(data=8)).shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    found = make_mesh(MeshShape(replica=2, data=-1, sequence=2, tensor=2))
    assert dict(found.shape) == {"replica": 2, "data": 1, "fsdp": 1, "sequence": 2, "tensor": 2}
    # The groups that a slower network joins are whole machines: neighbours are in one group.
    assert [device.id for device in found.devices[0].flat] == [0, 1, 2, 3]


def test_slices_that_replicas_do_not_divide_are_refused():
    class Device:
        platform, process_index = "tpu", 0

        def __init__(self, slice_index):
            self.slice_index = slice_index

    with pytest.raises(UsageError, match=r"mesh.replica is 2, but the devices are 3 slices"):
        make_mesh(MeshShape(replica=2), devices=[Device(i // 2) for i in range(6)])


@pytest.mark.slow
def test_a_run_is_saved_on_one_mesh_and_resumes_on_another(tmp_path):
    """What is saved does not depend on how sequences, experts and parameters were split."""

    def run(mesh, directory, **options):
        experiment = Experiment(
            data=Digits(),  # `dataset` takes its place
            task=NextToken(model=LanguageModel(**SMALL, experts=CAPACITY)),
            optimizer=AdamW(learning_rate=1e-3),
            steps=6,
            batch_size=16,
            save_every=3,
            eval_every=6,
            mesh=mesh,
        )
        return train(experiment, dataset=text(), run_dir=tmp_path / directory, progress="none", **options)

    whole = run(MeshShape(data=1), "whole")
    cut = run(MeshShape(data=2, expert=2, sequence=2), "cut", stop_at=3)
    assert int(cut.state.step) == 3
    on = run(MeshShape(data=1, fsdp=4, tensor=2), "cut")
    assert int(on.state.step) == 6
    # AdamW moves a weight by its sign where gradients are near 0, so a unit of rounding shows as a part of the rate.
    assert_close(on.state.params, whole.state.params, rtol=1e-3, atol=1e-4)
