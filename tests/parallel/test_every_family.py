"""Every shipped configuration on eight devices: the training of one device, state in its place, one compilation."""

import contextlib
import functools
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import replace
from jax.experimental.compilation_cache import compilation_cache
from small_data import small_data

from jaxnets import config
from jaxnets.checkpoints.digest import leaf_paths
from jaxnets.config.find import shipped
from jaxnets.core.errors import UsageError
from jaxnets.parallel import MeshShape, make_mesh
from jaxnets.runs.build import assemble
from jaxnets.training.loop import fit

# Too large to train here; `tests/parallel/test_axes.py` and `test_pipeline.py` train smaller ones of their family.
LARGE = ("gpt2_124m", "gpt2_xl", "llama_1b", "llama_8b", "llama_70b", "mixtral_8x7b", "vit_l16", "resnet50", "resnet50_torchvision",
         "shakespeare_char_gpu", "cifar10_resnet", "cifar10_resnet9", "cifar10_airbench")  # fmt: skip
# Its first layer has the eigenvectors of the data. Those of random pixels have almost equal eigenvalues, so a rounding of 1e-7
# in the second moments turns them by 3e-4.
TURNED = ("digits_airbench",)
NAMES = sorted(set(shipped()) - set(LARGE) - set(TURNED))
MESHES = {
    "data": MeshShape(data=8),
    "fsdp": MeshShape(data=1, fsdp=8),
    "data, fsdp": MeshShape(data=2, fsdp=4),
    "tensor, fsdp": MeshShape(data=1, fsdp=4, tensor=2),
    "expert, data": MeshShape(data=2, expert=4),
    "sequence, data": MeshShape(data=4, sequence=2),
}


def assembled(name, shape):
    """The parts of a run of four steps."""
    experiment = config.load(name).experiment
    size = min(experiment.batch_size, 16)
    experiment = replace(experiment, steps=4, batch_size=size, micro_batches=1, mesh=shape, validation=0, log_every=4)
    devices = jax.devices()[:1] if shape.data == 1 and shape.fsdp == shape.tensor == 1 else None
    mesh = make_mesh(shape, devices=devices)
    with tempfile.TemporaryDirectory() as folder:
        return assemble(experiment, small_data(name, Path(folder)), mesh=mesh)


@contextlib.contextmanager
def compiled_anew():
    """In this context programs are compiled, not taken from a cache, whose programs come without the compiler's warnings."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def trained(name, shape, *, unit=0.0):
    """Four steps; with `unit` every weight begins that much of itself away."""
    parts = assembled(name, shape)
    with jax.set_mesh(parts.mesh):
        state = parts.fresh_state()
        if unit:
            moved = jax.tree.map(lambda a: (a * (1 + unit)).astype(a.dtype), state.params)
            state = replace(state, params=moved)
        state = fit(parts.program, state, start=0, stop=4)
    return parts, jax.device_get(state.params)


def apart(a, b):
    """The largest difference of two trees of weights."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(x.astype(np.float64) - y).max(initial=0)) for x, y in pairs)


@functools.cache
def on_one_device(name):
    """The weights, and how far they move where every weight begins a unit of rounding away."""
    one = trained(name, MeshShape(data=1))[1]
    return one, max(apart(one, trained(name, MeshShape(data=1), unit=sign * 2.0**-23)[1]) for sign in (1, -1))


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", NAMES)
def test_the_training_is_that_of_one_device(name, mesh, capfd):
    try:
        with compiled_anew():
            parts, split = trained(name, MESHES[mesh])
    except UsageError as error:
        # Axes that split nothing of this model, or a batch that they do not divide where masked rows would count.
        if "tensor" in mesh or "expert" in mesh or "sequence" in mesh:
            assert f"mesh.{mesh.split(',')[0]} is" in str(error)
        else:
            assert "batch_size" in str(error)
        return
    one, spread = on_one_device(name)
    # Four steps magnify a rounding by as much as the control shows; several are made in each step.
    assert apart(one, split) <= max(20 * spread, 2e-6)
    assert parts.program.traces == 1
    assert "full rematerialization" not in capfd.readouterr().err
    if mesh == "fsdp":
        whole, each = 0, 0
        placed = leaf_paths(parts.shardings)
        for path, leaf in leaf_paths(parts.abstract).items():
            whole += leaf.size * leaf.dtype.itemsize
            each += np.prod(placed[path].shard_shape(leaf.shape)) * leaf.dtype.itemsize
        # Biases and other small leaves stay whole, which counts in models of less than a megabyte.
        assert 4 * parts.parameters < 1_000_000 or whole / each >= 7.5


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["fsdp", "data, fsdp"])
def test_the_gradient_of_a_flattened_image_keeps_its_rows(mesh, capfd):
    """The kernel of the layer behind it is split, so the compiler would split its pixels, and then gather all rows of them."""
    parts = assembled("digits_simclr", MESHES[mesh])
    with compiled_anew(), jax.set_mesh(parts.mesh):
        parts.program.lower(parts.abstract).compile()
    assert "full rematerialization" not in capfd.readouterr().err
