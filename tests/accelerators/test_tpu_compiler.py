"""What the compiler of a TPU says: these tests need it (`pip install "jaxnets[tpu]"`), and no TPU."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.accelerators.estimate import estimate, prepare
from jaxnets.accelerators.topology import devices_of, parse
from jaxnets.config.experiment import Experiment
from jaxnets.data.dataset import Source
from jaxnets.data.sources.text import from_tokens
from jaxnets.data.text.tokenizers import Characters
from jaxnets.models import Experts, LanguageModel
from jaxnets.ops.attention_blocks import real_keys
from jaxnets.ops.flash_attention import flash_attention
from jaxnets.ops.split_attention import split_attention
from jaxnets.optim import AdamW
from jaxnets.parallel import MeshShape, make_mesh
from jaxnets.steps.precision import Precision
from jaxnets.tasks import NextToken

pytest.importorskip("libtpu", reason="the compiler of a TPU is not installed")
pytestmark = pytest.mark.compiler

VOCABULARY, LENGTH, WIDTH, BATCH = 2048, 64, 128, 32


@dataclasses.dataclass(frozen=True)
class Tokens(Source):
    """A source of tokens without a file."""

    def outline(self):
        ids = np.arange(20_000) % VOCABULARY
        letters = Characters(tuple(chr(0x4E00 + i) for i in range(VOCABULARY)))
        return from_tokens(ids, ids[:2000], letters, name="t", source="s", length=LENGTH)


@functools.cache
def compiled(on="v5e:2x4", mesh=None, micro_batches=1, **fields):
    model = LanguageModel(layers=2, heads=4, width=WIDTH, length=LENGTH, **fields)
    experiment = Experiment(
        data=Tokens(),
        task=NextToken(model=model),
        optimizer=AdamW(learning_rate=1e-3),
        batch_size=BATCH,
        micro_batches=micro_batches,
        steps=100,
        mesh=mesh or MeshShape(),
        precision=Precision(compute="bfloat16"),
    )
    topology = parse(on)
    return estimate(prepare(experiment, devices_of(topology)), topology)


LOGITS = BATCH * LENGTH * VOCABULARY
ACTIVATIONS = BATCH * LENGTH * WIDTH


def sizes(one):
    return [
        np.prod([int(n) for n in shape.split("[")[1].rstrip("]").split(",") if n], dtype=int) for shape in one.shapes
    ]


@pytest.mark.parametrize("mesh", [MeshShape(data=8), MeshShape(data=1, fsdp=8), MeshShape(data=2, tensor=4)], ids=str)
def test_neither_logits_nor_the_activations_of_all_devices_are_exchanged(mesh):
    found = compiled(mesh=mesh)
    for one in found.compiled.collectives:
        assert one.kind != "all-to-all" or max(sizes(one)) < ACTIVATIONS / 8, one
        assert max(sizes(one)) < LOGITS / 8, one
        if one.kind == "all-gather":
            assert max(sizes(one)) < ACTIVATIONS, one


def test_data_parallel_reduces_each_gradient_once():
    found = compiled(mesh=MeshShape(data=8))
    reduced = sum(one.sent for one in found.compiled.collectives)
    once = 2 * 7 / 8 * found.parameters
    assert 2 * once < 1.01 * reduced < 1.1 * 4 * once  # in bfloat16 or in float32
    assert {one.kind for one in found.compiled.collectives} == {"all-reduce"}


@pytest.mark.parametrize("blocks", ["unrolled", "scanned"])
def test_gradients_are_summed_once_a_step_whatever_the_micro_batches(blocks):
    """Those of the tied embedding too, whose two uses have a gradient each, and of blocks in a loop."""
    found = compiled(mesh=MeshShape(data=8), micro_batches=4, blocks=blocks)
    large = [one for one in found.compiled.collectives if max(sizes(one)) >= WIDTH**2]
    assert {(one.kind, one.repeats) for one in large} == {("all-reduce", 1)}
    assert sum(one.bytes for one in large) < 1.02 * 4 * found.parameters
    if blocks == "scanned":
        # Parts that `fsdp` makes are scattered for each micro-batch; over `data` they are summed once.
        moved = compiled(mesh=MeshShape(data=2, fsdp=4), micro_batches=4, blocks=blocks).compiled.collectives
        assert {one.repeats for one in moved if "data" in one.axes and max(sizes(one)) >= WIDTH**2 / 4} == {1}


def test_zero_1_scatters_gradients_once_a_step_whatever_the_micro_batches():
    """Each device updates its part with its part of the sums, and the parameters are gathered."""
    found = compiled(mesh=MeshShape(data=1, fsdp=8, zero=1), micro_batches=4, blocks="scanned")
    large = [one for one in found.compiled.collectives if max(sizes(one)) >= WIDTH**2 / 8]
    assert {(one.kind, one.repeats) for one in large} == {("reduce-scatter", 1), ("all-gather", 1)}
    for kind in ("reduce-scatter", "all-gather"):
        assert sum(one.sent for one in large if one.kind == kind) < 1.02 * 7 / 8 * 4 * found.parameters


def test_experts_get_their_tokens_by_all_to_all():
    """Four a layer: to the experts and back, forward and backward. Neither hidden units nor whole batches are gathered."""
    routing = Experts(count=4, routing="capacity")
    found = compiled(mesh=MeshShape(data=1, fsdp=2, expert=4), experts=routing, mlp="swiglu")
    moved = [one for one in found.compiled.collectives if one.kind == "all-to-all"]
    assert {one.axes for one in moved} == {("expert",)}
    assert sum(one.repeats for one in moved) == 2 * 4
    places = routing.places(LENGTH)
    assert all(max(sizes(one)) == BATCH // 2 // 4 * 4 * places * WIDTH for one in moved)
    gathered = [one for one in found.compiled.collectives if one.kind == "all-gather"]
    assert all(max(sizes(one)) < ACTIVATIONS for one in gathered)


def test_tensor_parallel_reduces_twice_a_layer_forward_and_back():
    found = compiled(mesh=MeshShape(data=2, tensor=4))
    layers = [one for one in found.compiled.collectives if "tensor" in one.axes and "block_" in one.source]
    assert sum(one.repeats for one in layers if max(sizes(one)) >= ACTIVATIONS / 2) <= 2 * 2 * 2


def test_fsdp_holds_an_eighth_and_the_program_fits():
    whole, cut = compiled(mesh=MeshShape(data=8)), compiled(mesh=MeshShape(data=1, fsdp=8))
    assert whole.account.state / cut.account.state > 7.5
    assert cut.compiled.arguments < whole.compiled.arguments / 4
    assert cut.fits
    assert cut.compiled.compiler == "tpu"


@pytest.mark.parametrize("mesh", [MeshShape(data=2, tensor=2), MeshShape(data=2, sequence=2)], ids=str)
def test_flash_attention_is_three_kernels_on_each_device(mesh):
    """One forward and two backward; in a ring of two devices each half of the pairs has its own."""
    devices = make_mesh(mesh, devices=devices_of(parse("v5e:2x2")))
    ring = mesh.sequence > 1
    place = jax.sharding.NamedSharding(devices, jax.sharding.PartitionSpec("data", "sequence" if ring else None))
    query, key = (jax.ShapeDtypeStruct((2, 1024, heads, 64), jnp.bfloat16, sharding=place) for heads in (4, 2))

    def loss(q, k, v):
        y = split_attention(q, k, v, causal=True, flash=True) if ring else flash_attention(q, k, v, causal=True)
        return y.astype(jnp.float32).sum()

    with jax.set_mesh(devices):
        program = jax.jit(jax.grad(loss, (0, 1, 2))).lower(query, key, key).compile()
    assert program.as_text().count('custom_call_target="tpu_custom_call"') == (6 if ring else 3)
    scores = (
        1024 * 1024 * 2 * 4
    )  # of the heads of a device, in float32; a ring has twice the heads and half the queries
    assert program.memory_analysis().temp_size_in_bytes < scores


@pytest.mark.parametrize(
    ("queries", "options"), [(1024, {"causal": True, "window": 256}), (256, {})], ids=["window", "padding"]
)
def test_windows_and_padded_sources_are_kernels_too(queries, options):
    devices = make_mesh(MeshShape(data=2, tensor=2), devices=devices_of(parse("v5e:2x2")))
    place = jax.sharding.NamedSharding(devices, jax.sharding.PartitionSpec("data"))
    query, key = (
        jax.ShapeDtypeStruct((2, T, heads, 64), jnp.bfloat16, sharding=place) for T, heads in ((queries, 4), (1024, 2))
    )
    real = jax.ShapeDtypeStruct((2, 1024), bool, sharding=place)

    def loss(q, k, v, real):
        documents = None if options else real_keys(real, queries)
        return flash_attention(q, k, v, documents=documents, **options).astype(jnp.float32).sum()

    with jax.set_mesh(devices):
        program = jax.jit(jax.grad(loss, (0, 1, 2))).lower(query, key, key, real).compile()
    assert program.as_text().count('custom_call_target="tpu_custom_call"') == 3


def test_a_mesh_may_divide_the_axes_of_a_torus():
    mesh = make_mesh(MeshShape(data=64, fsdp=64), devices=devices_of(parse("v5p:4096")))
    assert dict(mesh.shape) == {"data": 64, "fsdp": 64, "tensor": 1}
    assert len({device.id for device in mesh.devices.flat}) == 4096


def test_more_chips_take_less_memory_and_time_each():
    small, large = (compiled(on, mesh=MeshShape(data=1, fsdp=-1)) for on in ("v5e:2x2", "v5e:4x4"))
    assert large.compiled.peak < small.compiled.peak
    assert large.floors["compute"] == pytest.approx(small.floors["compute"] / 4)


def test_optimizer_state_on_the_host_is_gone_from_the_device():
    here, there = (
        compiled(mesh=MeshShape(data=1, fsdp=8, offload=kind), blocks="scanned") for kind in ("none", "optimizer")
    )
    moved = there.account.host
    assert moved == pytest.approx(here.account.optimizer, rel=0.03)  # all but small leaves
    # What the compiler counts as arguments are the state and the data.
    assert here.compiled.arguments - there.compiled.arguments == pytest.approx(moved, rel=0.03)


def test_stages_sum_their_gradients_once_a_step():
    found = compiled(mesh=MeshShape(data=4, pipeline=2), blocks="scanned", micro_batches=2)
    kinds = {(one.kind, one.axes) for one in found.compiled.collectives}
    assert ("collective-permute", ("pipeline",)) in kinds
    # A stage has one block, of 12 WIDTH^2 numbers, which four devices sum: once for each micro-batch at most, not every turn.
    sums = [one for one in found.compiled.collectives if one.kind == "all-reduce" and one.axes == ("data",)]
    assert 0 < sum(one.bytes * one.repeats for one in sums) <= 2 * 1.1 * 12 * WIDTH**2 * 4
