"""Layers as the stages of a pipeline: forward and gradient of one device, what is spread and sent, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close
from test_axes import CAPACITY, ROTARY, trained

from jaxnets.accelerators.hlo import collectives
from jaxnets.checkpoints.digest import leaf_paths
from jaxnets.core.errors import UsageError
from jaxnets.models import LanguageModel
from jaxnets.ops.pipeline import bubble, parts_in, pipelined
from jaxnets.parallel import MeshShape, make_mesh
from jaxnets.runs.flops import forward_flops, step_flops


def layers(params, x, extras, first):
    """Layers `x -> tanh(x W + b)`, scaled by a number of the row and, a little, by the number of the layer."""

    def one(x, layer):
        (kernel, bias), number = layer
        return jnp.tanh(x @ kernel + bias) * extras[:, None] * (1 + 0.01 * number), None

    return jax.lax.scan(one, x, (params, first + jnp.arange(params[0].shape[0])))[0]


def problem(depth, rows):
    rng = np.random.default_rng(0)
    params = (rng.normal(size=(depth, 8, 8)) / 2, rng.normal(size=(depth, 1, 8)) / 4)
    return jax.tree.map(
        lambda a: jnp.asarray(a, jnp.float32), (params, rng.normal(size=(rows, 8)), rng.uniform(0.5, 1, rows))
    )


@pytest.fixture
def optimized():
    """Sums are rounded as in a user's program, which the compiler optimises."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("mesh", "depth", "rows", "rounds"),
    [
        (MeshShape(data=1, pipeline=4), 4, 16, 1),
        (MeshShape(data=1, pipeline=2), 6, 6, 1),
        (MeshShape(data=2, pipeline=4), 8, 24, 2),
        (MeshShape(data=1, pipeline=8), 24, 8, 3),
        (MeshShape(data=1, pipeline=4), 4, 4, 1),
    ],
)
def test_forward_is_that_of_one_device_and_the_gradient_that_of_float64(mesh, depth, rows, rounds, optimized):
    params, x, extras = problem(depth, rows)

    def loss(run):
        return lambda params, x: jnp.sin(run(params, x)).mean()

    with jax.enable_x64(True):
        exact = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), (params, x, extras))
        whole = jax.value_and_grad(loss(lambda p, x: layers(p, x, exact[2], 0)), argnums=(0, 1))(*exact[:2])
        whole = jax.tree.map(np.asarray, whole)
    with jax.set_mesh(make_mesh(mesh)):
        split = loss(lambda p, x: pipelined(layers, p, x, extras, rounds=rounds))
        staged = jax.jit(jax.value_and_grad(split, argnums=(0, 1)))(params, x)
        forward = jax.jit(lambda p, x: pipelined(layers, p, x, extras, rounds=rounds))(params, x)
    # A product of fewer rows may be summed in another order; measured up to 8e-7, after 24 layers.
    np.testing.assert_allclose(forward, layers(params, x, extras, 0), atol=2e-6)
    for a, b in zip(jax.tree.leaves(staged), jax.tree.leaves(whole), strict=True):
        # Measured up to 1.6e-6 of the largest, after 24 layers, where float32 on one device is up to 8e-6 away.
        assert float(np.abs(a - b).max()) <= 2e-6 * float(np.abs(b).max())


def test_rounds_are_at_least_one():
    with pytest.raises(ValueError, match="LanguageModel.pipeline_rounds is at least 1, got 0"):
        LanguageModel(pipeline_rounds=0)


def test_the_bubble_and_the_number_of_parts():
    assert bubble(4, 16) == pytest.approx(3 / 19)
    assert bubble(4, 16, rounds=2) == pytest.approx(3 / 35)
    assert bubble(1, 4) == 0
    sizes = {"data": 2, "pipeline": 4, "tensor": 2}
    assert parts_in(64, sizes) == 16  # 8 rows a device: four parts of two
    assert parts_in(8, sizes) == 4  # 1 row
    assert parts_in(24, sizes) == 12  # 3 rows
    with pytest.raises(ValueError, match="needs layers that 4 divides"), jax.set_mesh(make_mesh(MeshShape(pipeline=4))):
        pipelined(layers, *problem(6, 16))
    with (
        pytest.raises(ValueError, match="needs a batch that 4 divides"),
        jax.set_mesh(make_mesh(MeshShape(pipeline=4))),
    ):
        pipelined(layers, *problem(4, 6))


DEEP = {"blocks": "scanned", "layers": 4}
CASES = {
    "4 stages": (MeshShape(data=1, pipeline=4), {}, {}),
    "2 rounds": (MeshShape(data=2, pipeline=2), {"pipeline_rounds": 2}, {}),
    "with fsdp and tensor": (MeshShape(data=1, fsdp=2, tensor=2, pipeline=2), ROTARY, {}),
    "documents, rematerialised": (
        MeshShape(data=2, pipeline=4),
        {"separator": 3, "positions": "alibi", "remat": "blocks"},
        {"micro_batches": 2},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_run_is_that_of_one_device(case):
    mesh, model, options = CASES[case]
    one, staged = (trained(shape, DEEP | model, **options) for shape in (MeshShape(data=1), mesh))
    # The spread of one device, whose weights moved by a unit, is 2e-6.
    assert_close(staged.state.params, one.state.params, rtol=1e-4, atol=1e-5)
    assert staged.evaluate()["loss"] == pytest.approx(one.evaluate()["loss"], rel=1e-5)


def test_each_stage_holds_its_layers_and_only_activations_travel():
    parts = trained(MeshShape(data=2, pipeline=4), DEEP, steps=1).parts
    placed, shapes = leaf_paths(parts.shardings), leaf_paths(parts.abstract)
    stacked = [path for path in placed if "blocks/" in path]
    assert len(stacked) > 20  # parameters and moments
    assert all(placed[path].shard_shape(shapes[path].shape)[0] == 1 for path in stacked)
    with jax.set_mesh(parts.mesh):
        text = parts.program.lower(parts.abstract).compile().as_text()
    found = collectives(text, parts.mesh)
    assert any(one.kind == "collective-permute" and one.axes == ("pipeline",) for one in found)
    kernel = 32 * 128 * 4  # of an MLP
    gathered = [one for one in found if one.kind == "all-gather" and "pipeline" in one.axes]
    assert all(one.bytes < kernel for one in gathered), gathered
    # Two rows a device are 8 parts, which take 11 turns; the work of the blocks is counted with the idle ones.
    whole, forward = step_flops(parts), forward_flops(parts)
    assert 1.3 < whole / (3 * forward) < 11 / 8


@pytest.mark.parametrize(
    ("mesh", "model", "message"),
    [
        (MeshShape(pipeline=2), {}, "blocks of LanguageModel are unrolled"),
        (MeshShape(pipeline=4), {"blocks": "scanned", "layers": 6}, "do not divide the 6 layers"),
        (MeshShape(pipeline=2), DEEP | {"pipeline_rounds": 4}, "2 stages in 4 rounds do not divide"),
        (MeshShape(pipeline=2), DEEP | {"experts": CAPACITY}, "losses of experts"),
        (MeshShape(pipeline=2, sequence=2), DEEP, "mesh.sequence is 2"),
    ],
)
def test_models_that_cannot_be_split_into_stages_are_refused(mesh, model, message):
    with pytest.raises(UsageError, match=message):
        trained(mesh, model)
