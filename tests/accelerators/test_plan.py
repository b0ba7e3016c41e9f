"""`jaxnets plan`: what fits, what is fastest, and what is asked of a backward pass."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import run_here

from jaxnets.accelerators.account import Account, kept_of, of_block
from jaxnets.accelerators.cuts import cuts_of
from jaxnets.accelerators.estimate import estimate, prepare
from jaxnets.accelerators.plan import Way, others, plan
from jaxnets.accelerators.saved import Saved
from jaxnets.accelerators.topology import parse
from jaxnets.cli.plan import show
from jaxnets.config import load
from jaxnets.core.errors import UsageError
from jaxnets.parallel import MeshShape
from jaxnets.parallel.chips import chip_named


def plain_size(array):
    return int(np.prod(array.shape)) * array.dtype.itemsize


def saved(function, *arguments):
    def leaves(*args):
        return jax.tree.leaves(jax.vjp(function, *args)[1])

    return Saved(jax.make_jaxpr(leaves)(*arguments).jaxpr).bytes(plain_size)[:2]


A = jax.ShapeDtypeStruct((32, 64), jnp.float32)
W = jax.ShapeDtypeStruct((64, 64), jnp.float32)


def test_a_product_of_inputs_saves_nothing_more():
    assert saved(lambda x, w: x @ w, A, W) == (0, 0)


@pytest.mark.smoke
def test_element_by_element_work_on_one_product_is_counted_once():
    total, _ = saved(lambda x, w: jnp.sum(jnp.tanh(jnp.exp(jnp.sin(x @ w)) * 2 + 1)), A, W)
    assert total == 32 * 64 * 4


@pytest.mark.smoke
def test_each_product_of_a_chain_counts_also_inside_of_functions_that_are_called_twice():
    layer = jax.jit(lambda x, w: jax.nn.gelu(x @ w))
    total, _ = saved(lambda x, w: layer(layer(layer(x, w), w), w).sum(), A, W)
    assert total == 3 * 32 * 64 * 4


@pytest.mark.smoke
def test_a_loop_counts_its_rounds_and_remat_leaves_its_carry():
    def loop(body):
        def run(x, w):
            return jax.lax.scan(lambda x, _: (body(x, w), None), x, None, length=5)[0].sum()

        return run

    def layer(x, w):
        return jnp.tanh(jnp.tanh(x @ w) @ w)

    one = 32 * 64 * 4
    assert saved(loop(layer), A, W)[0] >= 5 * 3 * one
    assert saved(loop(jax.checkpoint(layer)), A, W)[0] == 5 * one


@pytest.mark.smoke
def test_a_loop_keeps_each_value_that_it_stacks_and_unrolled_rounds_only_their_products():
    def layer(x, w):
        return jnp.tanh(jnp.exp(x @ w))

    def loop(x, w):
        return jax.lax.scan(lambda x, _: (layer(x, w), None), x, None, length=5)[0].sum()

    def leaves(x, w):
        return jax.tree.leaves(jax.vjp(loop, x, w)[1])

    found, one = Saved(jax.make_jaxpr(leaves)(A, W).jaxpr), 32 * 64 * 4
    stacked = [leaf for leaf in jax.eval_shape(leaves, A, W) if leaf.shape == (5, 32, 64)]
    assert len(stacked) > 2  # its input, the exponential, and the derivative of tanh
    assert found.bytes(plain_size)[0] == len(stacked) * 5 * one
    assert found.bytes(plain_size, stacked=False)[0] == 2 * 5 * one  # of the product and of the input


@pytest.mark.smoke
def test_the_largest_counts_as_wide_as_it_is_kept():
    def loss(x, w):
        return jax.nn.logsumexp((x @ w).astype(jnp.float32), axis=-1).sum()

    half = [jax.ShapeDtypeStruct(array.shape, jnp.bfloat16) for array in (A, W)]
    found = Saved(jax.make_jaxpr(lambda *a: jax.tree.leaves(jax.vjp(loss, *a)[1]))(*half).jaxpr).bytes(plain_size)
    assert found[1:] == (32 * 64 * 4, 32 * 64 * 2)


def test_the_best_way_fits_and_no_other_that_fits_is_faster():
    experiment = load("shakespeare_char").experiment
    ways = plan(experiment, parse("v5e:4"), jax.devices()[:4], compile=0)
    fitting = [way for way in ways if not way.reason]
    assert ways[: len(fitting)] == fitting
    assert all(fitting[0].seconds <= way.seconds for way in fitting)
    for way in ways:
        sizes = way.mesh.data * way.mesh.fsdp * way.mesh.tensor
        assert sizes == 4
        assert experiment.batch_size % (way.micro_batches * way.mesh.data * way.mesh.fsdp) == 0
        assert experiment.task.model.heads % way.mesh.tensor == 0
    # A small network on fast links: what needs the fewest exchanges and nothing again.
    assert fitting[0].remat == "none"
    assert fitting[0].micro_batches == 1


def test_what_is_split_takes_less_and_what_is_computed_again_takes_longer():
    ways = plan(load("llama_1b").experiment, parse("v5e:8"), jax.devices(), compile=0)
    by = {way.flags(): way for way in ways}
    full = by["--mesh.data 8 --mesh.fsdp 1 --mesh.tensor 1 --micro-batches 1 --task.model.remat blocks"]
    assert "it needs" in full.reason  # 1.2 billion parameters with two moments on each chip of 16 GiB
    cut = by["--mesh.data 1 --mesh.fsdp 8 --mesh.tensor 1 --micro-batches 1 --task.model.remat blocks"]
    assert not cut.reason
    assert cut.account.state < full.account.state / 7.5
    plain = by["--mesh.data 1 --mesh.fsdp 8 --mesh.tensor 1 --micro-batches 1 --task.model.remat none"]
    assert plain.account.saved > 2 * cut.account.saved
    assert plain.compute < cut.compute


def test_zero_1_takes_more_memory_and_fewer_exchanges_the_more_micro_batches_there_are():
    experiment = load("shakespeare_char").experiment
    ways = plan(dataclasses.replace(experiment, batch_size=16), parse("v5e:4"), jax.devices()[:4], compile=0)
    by = {way.flags(): way for way in ways}

    def way(micro, zero=""):
        return by[f"--mesh.data 1 --mesh.fsdp 4 --mesh.tensor 1{zero} --micro-batches {micro} --task.model.remat none"]

    for micro in (1, 2, 4):
        cut, whole = way(micro), way(micro, " --mesh.zero 1")
        assert whole.name == "fsdp 4, ZeRO 1"
        assert whole.account.parameters > 3.5 * cut.account.parameters
        assert whole.account.optimizer == cut.account.optimizer
    assert way(4).exchange == pytest.approx(4 * way(1).exchange)
    # One exchange a step; only the sums over several micro-batches are wider.
    assert way(4, " --mesh.zero 1").exchange == way(2, " --mesh.zero 1").exchange < way(2).exchange


def test_a_block_that_is_computed_again_holds_its_attention_twice_and_the_gradients_of_its_mlp():
    experiment = load("shakespeare_char").experiment
    model = experiment.task.model.clone(remat="blocks", mlp="swiglu", mlp_dim=96)

    def parts(**fields):
        task = dataclasses.replace(experiment.task, model=model.clone(**fields))
        cut = dataclasses.replace(experiment, task=task, batch_size=8, mesh=MeshShape(data=1))
        return prepare(cut, jax.devices()[:1])

    length, width = experiment.data.length, 4
    scores = 8 * model.heads * length**2 * width
    assert of_block(parts(), 8, 1) == scores + 8 * 4 * length * 96 * width
    assert of_block(parts(mlp="relu"), 8, 1) == scores + 8 * 3 * length * 96 * width
    # Scores in float32 beside them, and what else a block would have stored.
    assert kept_of(parts(), chip_named("h100"), 8).again > of_block(parts(), 8, 1) + scores


def test_what_a_mesh_axis_splits_is_followed_through_pairs_of_layers():
    """The first layer of a pair splits its outputs, the second sums over them; a loop's rounds too."""

    def layer(x, up, down):
        return jnp.tanh(
            jnp.tanh(x @ up).reshape(32, 8, 16).transpose(1, 0, 2).transpose(1, 0, 2).reshape(32, 128) @ down
        )

    up, down = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((64, 128), (128, 64)))

    def bytes_of(run, split, *weights, cuts):
        def leaves(x, *weights):
            return jax.tree.leaves(jax.vjp(lambda *a: run(*a).sum(), x, *weights)[1])

        return Saved(jax.make_jaxpr(leaves)(A, *weights).jaxpr, (None, *cuts)).bytes(plain_size, split=split)

    inside, outside = 32 * 128 * 4, 32 * 64 * 4
    for split in (1, 4):
        assert bytes_of(layer, split, up, down, cuts=(1, 0))[0] == inside // split + outside
        assert bytes_of(layer, split, up, down, cuts=(None, None))[0] == inside + outside

    def loop(x, ups, downs):
        return jax.lax.scan(lambda x, one: (layer(x, *one), None), x, (ups, downs))[0]

    stacks = [jax.ShapeDtypeStruct((5, *one.shape), jnp.float32) for one in (up, down)]
    whole, halved = (bytes_of(loop, split, *stacks, cuts=(2, 1))[0] for split in (1, 2))
    # Of each round: tanh, its derivative and the operand of the second product, of hidden units; tanh and its derivative of
    # the outputs, and the input.
    assert whole == 5 * (3 * inside + 3 * outside)
    assert halved == 5 * (3 * inside // 2 + 3 * outside)


def test_parameters_are_split_as_the_partition_table_says():
    params = {
        "block": {
            "query": {"kernel": jnp.zeros((64, 64))},
            "merge": {"kernel": jnp.zeros((64, 64)), "bias": jnp.zeros(64)},
        },
        "blocks": {"up": {"kernel": jnp.zeros((3, 64, 256))}},
        "embedding": {"embedding": jnp.zeros((65, 64))},
        "mixture": {"up_kernel": jnp.zeros((4, 64, 128))},
    }
    assert cuts_of(params) == [None, 0, 1, 2, 0, 2]


def split_after(run, *arguments, cuts):
    """The split dim of the result of a function whose arguments are split so."""
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in arguments]
    found = Saved(jax.make_jaxpr(run)(*shapes).jaxpr, cuts)
    return found._values[id(found._jaxpr.outvars[0])].cut


def test_where_the_split_dim_goes():
    heads, other = (2, 10, 4, 16), (2, 4, 10, 16)
    scores = split_after(lambda q, k: jnp.einsum("bthd,bshd->bhts", q, k), heads, heads, cuts=(2, 2))
    assert scores == 1
    assert split_after(lambda p, v: jnp.einsum("bhts,bshd->bthd", p, v), (2, 4, 10, 10), heads, cuts=(1, 2)) in (1, 2)
    assert split_after(lambda x: x.reshape(2, 10, 64), heads, cuts=(2,)) == 2
    assert split_after(lambda x: x.reshape(2, 10, 4, 16), (2, 10, 64), cuts=(2,)) == 2
    assert split_after(lambda x: x.max(-1), other, cuts=(1,)) == 1
    assert split_after(lambda x: x.max(1), other, cuts=(1,)) is None
    assert split_after(lambda x: jnp.cumsum(x, 2), other, cuts=(1,)) == 1
    assert split_after(lambda x: jnp.split(x, 2, axis=-1)[0], heads, cuts=(2,)) == 2  # as rotary positions do
    assert (
        split_after(lambda x, i: x[i.astype(int)], (64, 16), (5,), cuts=(0, None)) is None
    )  # rows that were looked up

    def convolved(x, kernel, groups=1):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
        )

    image, kernel = (2, 8, 8, 16), (3, 3, 16, 16)
    assert split_after(convolved, image, kernel, cuts=(None, 3)) == 3
    assert split_after(convolved, image, kernel, cuts=(3, 2)) is None  # channels are summed
    assert split_after(lambda x, k: convolved(x, k, 16), image, (3, 3, 1, 16), cuts=(3, 3)) == 3
    # Of an operation that is not known the result counts as whole.
    branch = split_after(lambda x: jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x), (8, 8), cuts=(1,))
    assert branch is None
    sums = split_after(
        lambda x, w: jax.lax.ragged_dot(x, w, jnp.full(4, 8, jnp.int32)), (32, 64), (4, 64, 128), cuts=(None, 2)
    )
    assert sums == 1


def test_a_dim_that_the_devices_do_not_divide_is_whole():
    def run(x, w):
        return jax.nn.logsumexp(x @ w).sum()

    def leaves(x, w):
        return jax.tree.leaves(jax.vjp(run, x, w)[1])

    table = jax.ShapeDtypeStruct((64, 30), jnp.float32)
    found = Saved(jax.make_jaxpr(leaves)(A, table).jaxpr, (None, 1))
    whole = found.bytes(plain_size)[0]
    assert found.bytes(plain_size, split=4)[0] == whole
    assert found.bytes(plain_size, split=5)[0] < whole / 4


def test_a_loop_that_is_called_twice_counts_twice():
    @jax.jit
    def loop(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=5)[0]

    once, twice = saved(lambda x, w: loop(x, w).sum(), A, W)[0], saved(lambda x, w: loop(loop(x, w), w).sum(), A, W)[0]
    assert twice >= 2 * once > 0


def way(seconds, exchanged=None, memory=1, reason="", waits=0.0, **sizes):
    account = Account(memory << 30, 0, 0, 0, 0, 0, 0, 0, 0)
    return Way(MeshShape(**{"data": 1} | sizes), 2, "blocks", account, seconds, exchanged or {}, waits, reason)


def test_each_axis_that_is_not_used_has_its_best_way_and_a_reason(capsys):
    experiment = load("llama_1b").experiment
    best = way(1.0, {"fsdp": 0.1}, fsdp=8)
    ways = [
        best,
        way(1.0, {"fsdp": 0.2, "tensor": 0.1}, fsdp=4, tensor=2),
        way(1.3, waits=0.25, pipeline=8),
        way(1.0, {"data": 4.0, "fsdp": 0.5}, data=4, fsdp=2),
        way(1.0, memory=30, reason="it needs 30.0 GiB", fsdp=4, sequence=2),
        way(1.0, memory=20, reason="it needs 20.0 GiB", fsdp=2, sequence=4),
    ]
    found = others(ways, experiment, parse("v5e:8"))
    assert {axis: one.why(best) for axis, one in found.ways.items()} == {
        "tensor": "more exchanges, mostly fsdp",
        "pipeline": "stages wait 25% of the time",
        "data": "exchanges, mostly data",
        "sequence": "it needs 20.0 GiB",  # of those that do not fit the nearest
    }
    assert found.untried == {"expert": "the model has no experts"}
    show("llama_1b", experiment, parse("v5e:8"), ways, found)
    said = capsys.readouterr().out
    assert "6 ways to run llama_1b (batch of 16) on v5e:2x4: 4 fit into 16.00 GiB a device, 2 do not" in said
    assert (
        "2 that fit are slower, most of all data 4 x fsdp 2 with 2 micro-batches: 4.5 s, exchanges, mostly data" in said
    )
    assert "not tried: expert, since the model has no experts" in said
    flags = "--mesh.data 1 --mesh.fsdp 8 --mesh.tensor 1 --micro-batches 2 --task.model.remat blocks"
    assert said.rstrip().endswith(f"jaxnets train llama_1b {flags}")
    assert "--mesh.tensor 1 --mesh.sequence 4 --micro-batches" in ways[-1].flags()


@pytest.mark.slow
def test_a_mixture_is_divided_by_its_experts_where_that_exchanges_less():
    ways = plan(load("mixtral_8x7b").experiment, parse("v5p:32"), jax.devices(), compile=0)
    best = ways[0]
    assert best.mesh.expert > 1
    # As fast by its work, and without experts on their own devices more is exchanged.
    without = next(way for way in ways if way.mesh.expert == 1 and not way.reason)
    assert without.seconds == pytest.approx(best.seconds, rel=0.02)
    assert without.exchange > 1.5 * best.exchange
    # 46.7 billion parameters and two moments are nowhere whole.
    assert all(way.reason for way in ways if way.mesh.data == 32)
    said = others(ways, load("mixtral_8x7b").experiment, parse("v5p:32"))
    assert "experts" in said.untried["pipeline"]
    assert said.ways["sequence"].compute > best.compute  # scores of the ring, once more in the backward pass


@pytest.mark.slow
def test_windows_of_32k_tokens_are_divided():
    experiment = load("llama_1b").experiment
    model = experiment.task.model.clone(length=32_768)
    long = dataclasses.replace(
        experiment,
        data=dataclasses.replace(experiment.data, length=32_768),
        task=dataclasses.replace(experiment.task, model=model),
        batch_size=8,
    )
    ways = plan(long, parse("v5e:16"), jax.devices(), compile=0)
    assert ways[0].mesh.sequence > 1
    # Scores of one head of one window are 4 GiB in float32, and there are 32 heads.
    whole = [way for way in ways if way.mesh.sequence == 1]
    assert all(way.reason for way in whole)
    assert "--mesh.sequence" in ways[0].flags()
    assert min(way.account.again for way in whole if way.remat == "blocks") > 4 * 4 * 2**30
    # Windows of 1,024 tokens are not.
    short = plan(load("gpt2_124m").experiment, parse("v5e:4"), jax.devices()[:4], compile=0)
    assert {way.mesh.sequence for way in short} == {1}


@pytest.mark.slow
@pytest.mark.nightly
def test_stages_of_a_pipeline_are_tried_where_the_model_has_them_and_wait():
    experiment = load("llama_1b").experiment
    ways = plan(experiment, parse("v5e:8"), jax.devices(), compile=0)
    stages = [way for way in ways if way.mesh.pipeline > 1]
    assert {way.mesh.pipeline for way in stages} == {2, 4, 8}
    one = next(way for way in stages if way.mesh.pipeline == 8 and way.remat == "blocks")
    plain = next(way for way in ways if way.mesh.fsdp == 8 and way.remat == "blocks")
    assert one.waits > 0
    assert plain.compute < one.compute < plain.compute / (1 - one.waits)
    # A stage has an eighth of the blocks, and all of the embedding and the output layer.
    assert plain.account.parameters < one.account.parameters < 3 * plain.account.parameters
    said = others(ways, experiment, parse("v5e:8"))
    assert said.untried["expert"] == "the model has no experts"


@pytest.mark.slow
@pytest.mark.nightly
def test_rows_in_one_trace_count_as_rows_traced():
    """The plan traces once and puts other numbers in the place of the rows; `estimate` traces what it asks for."""
    experiment = load("shakespeare_char").experiment
    ways = plan(experiment, parse("v5e:4"), jax.devices()[:4], compile=0)
    for way in ways:
        if way.mesh.tensor == 1 and way.remat in ("none", "blocks") and way.micro_batches in (1, 4):
            found = estimate(prepare(way.applied(experiment), jax.devices()[:4]), parse("v5e:4"), compile=False)
            assert way.account.saved == pytest.approx(found.account.saved, rel=0.01)
            assert way.account.peak == pytest.approx(found.account.peak, rel=0.01)
            assert way.compute == pytest.approx(found.floors["compute"])


def test_where_nothing_fits_the_smallest_way_is_named():
    with pytest.raises(UsageError, match=r"no way to run it on v5e:1x1 fits: the smallest needs"):
        plan(load("llama_1b").experiment, parse("v5e:1"), jax.devices()[:1], compile=0)


def test_the_command_prints_the_flags_and_mistakes_are_said(tmp_path):
    wrong = run_here("plan", "digits_cnn", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "--chips v5e:2x4" in wrong.stderr
    wrong = run_here("plan", "digits_cnn", "--chips", "v5e:8", "--compile", -1, cwd=tmp_path)
    assert wrong.returncode == 2
