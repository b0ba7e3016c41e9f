"""`jaxnets estimate`: memory, exchanges and floors of a run on accelerators that are not there."""

import dataclasses
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import run_cli, run_here

from jaxnets.accelerators.estimate import Compiled, estimate, prepare
from jaxnets.accelerators.hlo import Collective
from jaxnets.accelerators.tiles import size_on
from jaxnets.accelerators.topology import parse
from jaxnets.config import load
from jaxnets.data.feed import ResidentFeed
from jaxnets.parallel import MeshShape
from jaxnets.parallel.chips import chip_named
from jaxnets.runs.build import assemble
from jaxnets.runs.memory import needed_bytes


def estimated(on="h100:8", mesh=None, name="digits_cnn", **options):
    experiment = dataclasses.replace(load(name).experiment, mesh=mesh or MeshShape())
    return estimate(prepare(experiment, jax.devices()), parse(on), **options)


def facts(lowered):
    """The arguments of a program with their shardings, and the compiler's account of it."""
    compiled = lowered.compile()
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    sizes = {name: getattr(memory, name) for name in dir(memory) if name.endswith("_in_bytes")}
    main = re.search(r"func.func public @main\((.*)\{$", lowered.as_text(), re.MULTILINE)[1]
    return main, sizes, {name: value for name, value in cost.items() if "flops" in name or "bytes" in name}


def test_the_command_says_what_is_exchanged_and_what_fits(tmp_path):
    done = run_cli("estimate", "digits_cnn", "--on", "h100:8", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "devices of the CPU in place of h100:8" in done.stderr
    said = json.loads(done.stdout)
    assert said["fits"] is True
    assert said["mesh"] == {"data": 8, "fsdp": 1, "tensor": 1}
    assert said["account"]["parameters"] == 4 * said["parameters"]
    assert said["account"]["optimizer"] == pytest.approx(8 * said["parameters"], abs=64)  # two moments and a counter
    (exchange,) = said["collectives"]
    assert (exchange["kind"], exchange["axes"]) == ("all-reduce", ["data"])
    # Every gradient once, with a few numbers for the metrics.
    assert exchange["sent_bytes"] == pytest.approx(2 * 7 / 8 * 4 * said["parameters"], abs=256)
    assert said["step_seconds"] == max(said["floors_seconds"].values())


def test_mistakes_of_the_command(tmp_path):
    for arguments, said in (
        ([], "say on which accelerators: --on v5e:2x4"),
        (["--on", "v5x:4"], "no accelerator 'v5x'"),
        (["--on", "h100:8", "--price", "-1"], "price"),
        (["--on", "h100:8", "--mesh.data", "3"], "3"),
    ):
        done = run_here("estimate", "digits_cnn", *arguments, "--no-compile", cwd=tmp_path)
        if arguments[-1:] == ["3"]:  # a mesh may leave devices out
            assert done.returncode == 0, done.stderr
        else:
            assert done.returncode == 2
            assert said in done.stderr


def test_state_on_a_device_falls_with_fsdp_and_the_total_stays():
    whole, cut = (estimated(mesh=MeshShape(data=-1, fsdp=n), compile=False).account for n in (1, 8))
    assert whole.state / cut.state > 6
    assert whole.saved == cut.saved  # the batch is split over all eight either way


def test_what_is_kept_grows_with_the_batch_and_falls_with_micro_batches():
    experiment = load("digits_cnn").experiment

    def saved(**changes):
        parts = prepare(dataclasses.replace(experiment, **changes), jax.devices())
        return estimate(parts, parse("h100:8"), compile=False).account.saved

    assert saved(batch_size=128) == 2 * saved(batch_size=64)
    assert saved(batch_size=128, micro_batches=2) == saved(batch_size=64)


def test_flops_are_those_of_all_devices_and_count_what_is_computed_again():
    plain = estimated(name="shakespeare_char", compile=False)
    experiment = load("shakespeare_char").experiment
    again = dataclasses.replace(experiment.task, model=dataclasses.replace(experiment.task.model, remat="blocks"))
    parts = prepare(dataclasses.replace(experiment, task=again), jax.devices())
    remat = estimate(parts, parse("h100:8"), compile=False)
    assert remat.flops > 1.2 * plain.flops
    assert remat.model_flops == plain.model_flops
    assert remat.account.saved < plain.account.saved / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layers", "positions"), [("reverse_words", 6, 13), ("cifar10_vit", 4, 64), ("shakespeare_hybrid", 1, 64)]
)
def test_flash_attention_keeps_no_scores_and_needs_those_of_a_block(name, layers, positions):
    experiment = dataclasses.replace(load(name).experiment, mesh=MeshShape(data=1), batch_size=8, micro_batches=1)
    model = experiment.task.model

    def counted(kind):
        task = dataclasses.replace(experiment.task, model=dataclasses.replace(model, attention=kind))
        parts = prepare(dataclasses.replace(experiment, task=task), jax.devices()[:1])
        return estimate(parts, parse("h100:1"), compile=False)

    plain, flash = counted("plain"), counted("flash")
    # Of float32, two arrays of the scores of a block, and queries, keys and values; two more scores in the dtype of the layers.
    sums, scores = positions * 3 * model.width * 4, model.heads * positions**2
    width = jnp.dtype(experiment.precision.compute).itemsize
    assert flash.account.again == 8 * (sums + scores * (2 * 4 + 2 * width))
    assert plain.account.again == 0
    assert flash.flops > plain.flops  # scores a second time in the backward pass
    less = plain.account.saved - flash.account.saved
    assert less > layers * 8 * scores * width / 2


def test_floors_are_work_divided_by_peaks():
    found = estimated(on="v5e:2x4", compile=False)
    chip = chip_named("v5e")
    move = Collective("all-reduce", 8_000_000, 3, ("data",), 8, 7, ("f32[2000000]",), "")
    compiled = Compiled("tpu", 1.0, 100, 1000, 1100, (move,))
    full = dataclasses.replace(found, compiled=compiled)
    assert full.floors["compute"] == pytest.approx(found.flops / 8 / chip.flops)
    assert full.floors["interconnect"] == pytest.approx(3 * 8e6 * 2 * 7 / 8 / chip.link)
    assert full.floors["memory"] == pytest.approx(2 * (found.account.state + 1000) / chip.bandwidth)
    assert full.step_seconds == max(full.floors.values())
    assert full.mfu == pytest.approx(found.model_flops / 8 / chip.flops / full.step_seconds)
    assert full.cost(2.0) == pytest.approx(2 * 8 * full.step_seconds * found.steps / 3600)
    # Two hosts of GPUs: what all sixteen exchange goes over the network.
    far = dataclasses.replace(
        full,
        topology=parse("h100:16"),
        compiled=dataclasses.replace(compiled, collectives=(dataclasses.replace(move, devices=16, reach=15),)),
    )
    assert far.floors["network"] > far.floors["interconnect"]


def test_a_program_that_does_not_fit_is_an_answer():
    found = estimated(on="v5e:2x4", compile=False)
    large = dataclasses.replace(found, compiled=Compiled("tpu", 1.0, 0, 20 << 30, 20 << 30, ()))
    assert not large.fits
    assert found.fits


@pytest.mark.parametrize(
    ("said", "bytes_"),
    [
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Used 20.50G of 15.75G hbm. Exceeded by 4.75G",
            20.5 * 2**30,
        ),
        (
            "Ran out of memory on HBM, the total memory required for HLO temporaries (17.38G) exceeds available",
            17.38 * 2**30,
        ),
        ("INVALID_ARGUMENT: something else", None),
    ],
)
def test_what_a_compiler_says_of_too_large_a_program_is_read(said, bytes_):
    assert needed_bytes(said) == (None if bytes_ is None else int(bytes_))


def test_the_tiles_of_a_tpu_are_counted():
    tpu, gpu = chip_named("v5e"), chip_named("h100")

    def array(shape, dtype=np.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    assert size_on(gpu, array((10, 100))) == 4000
    assert size_on(tpu, array((10, 100))) == 4 * 16 * 128
    assert size_on(tpu, array((16, 256))) == 4 * 16 * 256
    # Three rows of three channels: the compiler takes the batch and the height for its tiles.
    assert size_on(tpu, array((128, 32, 32, 3))) == 4 * math.prod((128, 32, 32, 3))
    assert (
        size_on(tpu, array((8, 8), np.dtype("bfloat16") if hasattr(np, "bfloat16") else jax.numpy.bfloat16))
        == 2 * 16 * 128
    )


@pytest.mark.parametrize("placement", ["device", "host"])
def test_the_program_is_the_one_that_training_dispatches(placement):
    """Described data and state give the program of the real ones."""
    experiment = dataclasses.replace(load("digits_softmax").experiment, placement=placement)
    parts = assemble(experiment)
    assert isinstance(parts.feed, ResidentFeed) == (placement == "device")
    described = parts.program.lower(parts.abstract)
    again = assemble(experiment)
    with jax.set_mesh(again.mesh):
        payload = again.feed.load(0, again.program.capacity, again.program.capacity)
        shapes = jax.tree.map(lambda a: (a.shape, a.dtype, a.sharding), payload)
        assert shapes == jax.tree.map(
            lambda a: (a.shape, a.dtype, a.sharding), again.feed.describe(again.program.capacity)
        )
        real = again.program._run.lower(again.fresh_state(), payload, jax.device_put(np.int32(1), again.program._whole))
    assert facts(described) == facts(real)
