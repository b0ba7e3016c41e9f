"""Descriptions of GPUs, and what their compiler says; the latter needs it (`pip install "jaxnets[cuda12]"`), and no GPU."""

import subprocess
import sys

import pytest

from jaxnets.accelerators.gpu import DEVICES, described
from jaxnets.accelerators.topology import has_compiler, parse
from jaxnets.parallel.chips import CHIPS

GPUS = [name for name, chip in CHIPS.items() if chip.platform == "gpu"]


def test_every_gpu_of_the_table_is_described():
    assert set(DEVICES) == set(GPUS)
    for name in GPUS:
        text = described(name)
        assert text.count("{") == text.count("}") == 3
        assert f"device_memory_size: {CHIPS[name].memory}\n" in text
    assert "major: 9 minor: 0 feature_extension: ACCELERATED_FEATURES }" in described("h100")
    assert "major: 8 minor: 0 }" in described("a100")


PROGRAM = """
from jaxnets.accelerators.topology import devices_of, parse
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from jaxnets.parallel import MeshShape, make_mesh
devices = devices_of(parse("h100:16"))
mesh = make_mesh(MeshShape(data=16), devices=devices)
rows = jax.ShapeDtypeStruct((64, 128), jnp.bfloat16, sharding=NamedSharding(mesh, P("data")))
compiled = jax.jit(lambda x: (x @ x.T).sum()).lower(rows).compile()
print(len(devices), devices[0].platform, "all-" in compiled.as_text(), compiled.memory_analysis().argument_size_in_bytes)
"""


@pytest.mark.compiler
@pytest.mark.skipif(not has_compiler(parse("h100:1")), reason="the compiler of a GPU is not installed")
def test_a_program_is_compiled_for_two_hosts_of_gpus():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, encoding="utf-8", timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["16", "gpu", "True", str(64 * 128 * 2 // 16)]
