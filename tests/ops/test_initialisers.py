"""Initial weights by path: variances by formula, orthogonality, the same numbers on any mesh, and nothing by default."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_same_bits
from jax.sharding import NamedSharding, PartitionSpec

from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import UsageError
from jaxnets.data import InMemory
from jaxnets.models import MLP, LanguageModel
from jaxnets.ops import Initialiser
from jaxnets.ops.initialisers import initialised
from jaxnets.ops.random import stream_key
from jaxnets.parallel import MeshShape, make_mesh
from jaxnets.runs.build import assemble
from jaxnets.tasks import Classification

KEY = jax.random.key(5)
SHAPES = {
    "hidden_0": {"kernel": jnp.ones((300, 500)), "bias": jnp.full((500,), 3.0)},
    "conv_0": {"kernel": jnp.ones((3, 3, 40, 60))},
    "blocks": {"up": {"kernel": jnp.ones((2, 200, 300))}},
    "mixture": {"up_kernel": jnp.ones((4, 100, 300))},
    "embedding": {"embedding": jnp.ones((10, 20))},
    "output": {"kernel": jnp.ones((500, 200))},
}
FANS = {
    "hidden_0": (300, 500),
    "conv_0": (360, 540),
    "blocks/up": (200, 300),
    "mixture": (100, 300),
    "output": (500, 200),
}
CUT_AT_TWO = 0.87962566103423978  # the deviation of a standard normal number that is cut off at 2


SMALL = {
    "hidden_0": {"kernel": jnp.ones((6, 10))},
    "conv_0": {"kernel": jnp.ones((3, 3, 4, 6))},
    "blocks": {"up": {"kernel": jnp.ones((2, 8, 12))}},
    "mixture": {"up_kernel": jnp.ones((4, 8, 12))},
    "output": {"kernel": jnp.ones((10, 6))},
}


def kernels(initialiser):
    """The kernels that it makes, by the path of their layer, in float64."""
    made = jax.jit(lambda: initialised(SHAPES, KEY, initialiser))()
    assert_same_bits(made["hidden_0"]["bias"], SHAPES["hidden_0"]["bias"])
    assert_same_bits(made["embedding"], SHAPES["embedding"])
    found = {"hidden_0": made["hidden_0"]["kernel"], "conv_0": made["conv_0"]["kernel"], "output": made["output"]["kernel"],
             "blocks/up": made["blocks"]["up"]["kernel"], "mixture": made["mixture"]["up_kernel"]}  # fmt: skip
    return {name: np.asarray(a, np.float64) for name, a in found.items()}


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("name", "variance"),
    [
        ("lecun_normal", lambda i, o: 1 / i),
        ("he", lambda i, o: 2 / i),
        ("glorot", lambda i, o: 2 / (i + o)),
        ("truncated", lambda i, o: 0.02**2),
        ("zeros", lambda i, o: 0.0),
    ],
)
def test_the_variance_of_a_kernel_is_that_of_its_formula(name, variance):
    for layer, kernel in kernels(Initialiser(name, gain=3.0, last_gain=0.5)).items():
        wanted = 9 * variance(*FANS[layer]) * (0.25 if layer == "output" else 1)
        # At least 21,600 numbers: their variance is known to 1 %, four times that is allowed.
        np.testing.assert_allclose(kernel.var(), wanted, rtol=0.04)
        assert abs(kernel.mean()) <= 4 * (wanted / kernel.size) ** 0.5
        if name in ("lecun_normal", "he", "truncated"):
            assert np.abs(kernel).max() <= 2.001 / CUT_AT_TWO * wanted**0.5


def test_orthogonal_kernels_have_orthonormal_rows_or_columns_also_each_of_a_stack():
    made = jax.jit(lambda: initialised(SMALL, KEY, Initialiser("orthogonal", gain=2.0)))()
    stacks = {"hidden_0": 1, "conv_0": 1, "blocks": 2, "mixture": 4, "output": 1}
    for layer, stacked in stacks.items():
        whole = np.asarray(jax.tree.leaves(made[layer])[0], np.float64)
        for kernel in whole.reshape(stacked, -1, whole.shape[-1]):
            rows = kernel if kernel.shape[0] <= kernel.shape[1] else kernel.T
            # float32 from a QR decomposition.
            np.testing.assert_allclose(rows @ rows.T, 4 * np.eye(len(rows)), atol=1e-4)
    assert np.abs(made["blocks"]["up"]["kernel"][0] - made["blocks"]["up"]["kernel"][1]).max() > 0.1


def test_a_delta_orthogonal_convolution_keeps_norms():
    kernel = jax.jit(lambda: initialised({"conv": SMALL["conv_0"]}, KEY, Initialiser("delta_orthogonal")))()["conv"][
        "kernel"
    ]
    kernel = np.asarray(kernel)
    assert not kernel[[0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]].any()
    np.testing.assert_allclose(kernel[1, 1] @ kernel[1, 1].T, np.eye(4), atol=1e-5)
    narrow = {"conv": {"kernel": jnp.ones((3, 3, 8, 4))}}
    with pytest.raises(UsageError, match="conv/kernel has 8 inputs and 4 outputs"):
        initialised(narrow, KEY, Initialiser("delta_orthogonal"))


def test_the_gain_of_the_last_layer_scales_the_outputs():
    made = initialised(SHAPES, KEY, Initialiser(last_gain=0.0))
    assert not np.asarray(made["output"]["kernel"]).any()
    assert_same_bits(made["hidden_0"], SHAPES["hidden_0"])
    with pytest.raises(UsageError, match="matches no kernel, so last_gain 0.1 is for none"):
        initialised({"hidden_0": SHAPES["hidden_0"]}, KEY, Initialiser(last_gain=0.1))


def test_a_kernel_depends_on_its_path_and_not_on_other_parameters():
    alone = initialised({"conv_0": SMALL["conv_0"]}, KEY, Initialiser("he"))
    assert_same_bits(alone["conv_0"], initialised(SMALL, KEY, Initialiser("he"))["conv_0"])


@pytest.mark.parametrize("name", ["he", pytest.param("glorot", marks=pytest.mark.slow), "orthogonal"])
def test_kernels_are_the_same_on_one_device_and_spread_over_eight(name):
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    tree = {"hidden_0": {"kernel": jnp.ones((64, 128))}}
    spread = {"hidden_0": {"kernel": NamedSharding(mesh, PartitionSpec("fsdp"))}}
    make = lambda: initialised(tree, KEY, Initialiser(name))  # noqa: E731
    assert_same_bits(jax.jit(make)(), jax.jit(make, out_shardings=spread)())


def experiment(**fields):
    task = Classification(model=MLP(widths=(32, 64)))
    return Experiment(task=task, data=InMemory("blobs"), batch_size=16, steps=2, **fields)


def test_a_run_starts_from_its_initialiser_on_one_device_and_on_eight(blobs):
    states = []
    for mesh in (MeshShape(data=1), MeshShape(data=1, fsdp=8)):
        one = experiment(initialiser=Initialiser("orthogonal"), mesh=mesh)
        devices = make_mesh(mesh, devices=jax.devices()[: mesh.data * mesh.fsdp])
        states.append(assemble(one, blobs, mesh=devices).fresh_state().params)
    assert_same_bits(*states)
    kernel = np.asarray(states[0]["hidden_1"]["kernel"])
    np.testing.assert_allclose(kernel @ kernel.T, np.eye(32), atol=1e-5)


def test_by_default_a_run_starts_from_the_initialisers_of_the_model(blobs):
    parts = assemble(experiment(), blobs, mesh=make_mesh(MeshShape(), devices=jax.devices()[:1]))
    batch = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), parts.batch_spec)
    assert_same_bits(parts.fresh_state().params, parts.task.init(stream_key(0, "init", 0), batch)["params"])


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match="initialiser.gain is at least 0, got -1"):
        Initialiser(gain=-1)
    with pytest.raises(UsageError, match="regular expression"):
        Initialiser(last="(")
    with pytest.raises(ValueError, match="weights is one of 'model'"):
        Initialiser("xavier")


def test_all_kernels_of_models_are_found():
    tokens = jnp.zeros((1, 4), jnp.int32)
    model = LanguageModel(vocab_size=5, width=8, heads=2, layers=1, length=4, embedding="untied")
    made = jax.jit(lambda: initialised(model.init(KEY, tokens)["params"], KEY, Initialiser("zeros")))()
    zero = {
        jax.tree_util.keystr(p, simple=True, separator="/") for p, a in jax.tree.leaves_with_path(made) if not a.any()
    }
    assert {
        "output/kernel",
        *(f"block_0/{name}/kernel" for name in ("query", "key", "value", "merge", "up", "down")),
    } <= zero
    assert "embedding/embedding" not in zero
