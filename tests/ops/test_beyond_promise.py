"""What jaxnets uses of JAX beyond its stability promise: one test for each row of the table in `ops/beyond_promise.py`."""

import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from jaxnets.ops import beyond_promise, conv_general_dilated, dot_general
from jaxnets.ops.beyond_promise import (
    compiled_for,
    current_trace,
    devices_started,
    equations,
    is_traced,
    multihost,
    primitive_tools,
)

ROOT = pathlib.Path(__file__).parents[2]
FILE = "jaxnets/ops/beyond_promise.py"
DENSE = (((1,), (0,)), ((), ()))


def test_no_other_file_reaches_beyond_the_promise():
    beyond = re.compile(r"jax\.(extend|interpreters|core|experimental|_src)\b|default_backend|\.eqns\b|\"xla_backend_")
    for path in (ROOT / "jaxnets").rglob("*.py"):
        if path != ROOT / FILE:
            lines = [line for line in path.read_text().splitlines() if beyond.search(line)]
            asks_about_a_started_device = "devices_started() and jax.default_backend()"
            lines = [line for line in lines if asks_about_a_started_device not in line]
            assert not lines, (
                f"{path}: {lines}. Reach it through a function of {FILE}, with a row in its table and a test here"
            )


def test_primitives_can_be_defined():
    assert primitive_tools() is not None, (
        f"this JAX has moved jax.extend.core.Primitive or a part of jax.interpreters: find their new place in primitive_tools of {FILE}. "
        f"Until then training is right and convolutions on the CPU are slow in a loop"
    )


def test_without_primitives_products_are_plain():
    code = """
import flax, jax.extend.core
del jax.extend.core.Primitive
import jax, jax.numpy as jnp, numpy as np
from jaxnets.ops import conv_general_dilated, dot_general
x, k = jax.random.normal(jax.random.key(0), (4, 9, 9, 8)), jax.random.normal(jax.random.key(1), (3, 3, 8, 8))
f = lambda convolve: lambda k: (convolve(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) ** 2).sum()
assert "jaxnets" not in str(jax.make_jaxpr(f(conv_general_dilated))(k))
for derivative in (jax.grad, jax.jacfwd):
    got, want = (derivative(f(c))(k) for c in (conv_general_dilated, jax.lax.conv_general_dilated))
    np.testing.assert_array_equal(got, want)
a, w = jnp.ones((256, 128)), jnp.ones((128, 8))
np.testing.assert_array_equal(dot_general(a, w, (((1,), (0,)), ((), ()))), a @ w)
"""
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=env, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_traced_value_is_recognised():
    seen = []
    jax.jit(lambda x: seen.append(is_traced(x)) or x)(1.0)
    assert [*seen, is_traced(jnp.ones(())), is_traced(np.ones(()))] == [True, False, False], f"mend is_traced of {FILE}"


def test_the_bodies_of_scans_and_checkpoints_have_traces_of_their_own():
    seen = []

    def outer(x):
        def inner(x):
            seen.append(current_trace() == here)
            return x

        here = current_trace()
        inner(x)
        jax.checkpoint(inner)(x)
        return jax.lax.scan(lambda c, _: (inner(c), None), x, None, length=2)[0]

    jax.jit(outer)(1.0)
    assert seen[0], f"mend current_trace of {FILE}"
    assert not any(seen[1:]), f"mend current_trace of {FILE}"


def tpu() -> AbstractMesh:
    device = jax.sharding.AbstractDevice(device_kind="TPU v5 lite", platform="tpu", num_cores=1)
    return AbstractMesh((1,), ("data",), abstract_device=device)


def test_the_platform_is_that_of_the_mesh_and_not_of_this_machine():
    assert compiled_for() == jax.default_backend()
    with jax.set_mesh(jax.make_mesh((1,), ("data",))):
        assert jax.jit(lambda: jnp.ones(()) * (compiled_for() == "cpu"))() == 1
    seen = []
    with jax.sharding.use_abstract_mesh(tpu()):
        jax.make_jaxpr(lambda x: seen.append(compiled_for()) or x)(1.0)
    assert seen == ["tpu"], f"a mesh of other devices is not seen: read its platform in compiled_for of {FILE}"


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_the_form_of_a_product_depends_on_the_platform_that_it_is_compiled_for(platform):
    x, kernel, w = jnp.ones((4, 9, 9, 8)), jnp.ones((3, 3, 8, 8)), jnp.ones((324, 8))

    def products(x, kernel, w):
        y = conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return dot_general(jnp.tile(y.reshape(-1, 324), (8, 1)), w, DENSE)

    mesh = tpu() if platform == "tpu" else jax.make_mesh((1,), ("data",)).abstract_mesh
    with jax.sharding.use_abstract_mesh(mesh):
        names = str(jax.make_jaxpr(products)(x, kernel, w))
    ours = {"jaxnets_convolution" in names, "jaxnets_dense" in names}
    assert ours == {platform == "cpu"}, names


def test_started_devices_are_seen():
    code = (
        "from jaxnets.ops.beyond_promise import devices_started as d; import jax; a = d(); jax.devices(); print(a, d())"
    )
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=env, timeout=120
    ).stdout
    assert out.split() == ["False", "True"], f"mend devices_started of {FILE}: got {out!r}"
    assert devices_started()


def test_values_pass_between_processes():
    names = ("broadcast_one_to_all", "process_allgather", "sync_global_devices")
    missing = [name for name in names if not hasattr(multihost(), name)]
    assert not missing, f"multihost_utils has no {missing}: mend multihost of {FILE} and its uses in parallel/hosts.py"


def test_a_jaxpr_is_read():
    def loop(x):
        return jax.lax.scan(lambda c, _: (jax.named_call(jnp.dot, name="here")(c, c), None), x, None, length=3)[0]

    (outer,) = equations(jax.make_jaxpr(loop)(jnp.ones((2, 2))).jaxpr)
    read = outer.primitive.name, outer.params["length"]
    assert read == ("scan", 3), f"mend equations of {FILE} and training/program.py"
    from jaxnets.training.program import count_flops

    assert count_flops(jax.make_jaxpr(loop)(jnp.ones((2, 2))).jaxpr) == 3 * 2 * 2 * 2 * 2


def test_the_attention_kernels_of_a_tpu_are_where_they_were():
    assert beyond_promise.splash_attention() is not None, (
        f"splash attention or a part of it has moved: find its new place in splash_attention of {FILE}. Until then flash "
        f"attention on a TPU is in blocks; with another signature, adapt ops/attention_kernels.py"
    )


def test_the_compiler_takes_the_options():
    options = beyond_promise.quick_compilation("cpu")
    assert jax.jit(lambda x: x + 1, compiler_options=options)(1) == 2, f"mend quick_compilation of {FILE}"
    assert beyond_promise.quick_compilation("tpu") is None


def test_the_compiler_option_for_absent_gpus_exists():
    options = beyond_promise.untimed_compilation("gpu")
    # Every compiler knows the options of all platforms.
    compiled = jax.jit(lambda x: x + 1).lower(1).compile(compiler_options=options)
    assert compiled(1) == 2, f"mend untimed_compilation of {FILE}"
    assert beyond_promise.untimed_compilation("tpu") is None


def test_devices_are_arranged_in_groups():
    devices = jax.devices()
    grid = beyond_promise.device_grid([devices[:4], devices[4:8]], (2, 2))
    assert grid.shape == (2, 2, 2), f"mesh_utils.create_device_mesh has changed: adapt device_grid of {FILE}"
    assert {device.id for device in grid[0].flat} == {device.id for device in devices[:4]}


def test_topologies_have_devices():
    pytest.importorskip("libtpu", reason="the compiler of a TPU is not installed")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    found = beyond_promise.topology_devices("tpu", "v5e:2x2")
    assert len(found) == 4, f"jax.experimental.topologies has changed: adapt topology_devices of {FILE}"
    assert found[0].platform == "tpu"
