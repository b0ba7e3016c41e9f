"""Seeded runs give the weights they gave when their digests were recorded.

A change of layout or names must not change a result; one that means to (another form of a gradient, say) records them anew and
says so in CHANGELOG.md: `PYTHONPATH=tests python tests/runs/test_seeded_digests.py`.

A digest is of bits, which depend on the processor and on the compiler. Where those are not the recorded ones, the norms of the
weights are compared instead: after these few steps they agree to 1e-3 on processors with other vector units and in newer
compilers, and a changed seed, order of the data or learning rate moves them by more.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import ROOT

RECORDED = Path(__file__).with_name("seeded_digests.json")
RUNS = {
    "digits_cnn": ("--steps", "12"),
    "ring_gan": ("--steps", "30"),
    "shakespeare_char": ("--steps", "4", "--batch-size", "4"),
}


def measure(name, folder):
    """The digest and the norms of a short run of a shipped configuration, trained on one device in a process of its own."""
    code = f"""
import json, sys, numpy as np
from jaxnets import config
from jaxnets.checkpoints.digest import leaf_paths, read_digests, start_digests
from jaxnets.cli.main import run
from jaxnets.runs.open import open_run
assert run(["train", {name!r}, *{RUNS[name]!r}, "--run-dir", {str(folder)!r}, "--progress", "none"]) == 0
state = open_run({str(folder)!r}).state
digests = read_digests(start_digests(leaf_paths(state.params)))
norms = {{path: float(np.linalg.norm(np.asarray(leaf, np.float64))) for path, leaf in leaf_paths(state.params).items()}}
print(json.dumps({{"digests": {{k: str(v) for k, v in digests.items()}}, "norms": norms}}))
"""
    options = {
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
    }

    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **options}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def machine():
    """What the bits depend on beside the program: the compiler's version and the processor."""
    file = Path("/proc/cpuinfo")
    lines = dict(line.split(":", 1) for line in file.read_text().split("\n\n")[0].splitlines()) if file.exists() else {}
    about = {key.strip(): value.strip() for key, value in lines.items()}
    vectors = sorted(flag for flag in about.get("flags", "").split() if flag.startswith(("avx", "amx", "fma")))
    return f"jaxlib {jax.lib.__version__}, {platform.machine()} {about.get('model name', '')}, {' '.join(vectors)}"


@pytest.mark.parametrize("name", RUNS)
def test_a_seeded_run_gives_the_recorded_weights(name, tmp_path, monkeypatch):

    if name == "shakespeare_char" and not os.environ.get("JAXNETS_DATA"):
        pytest.skip("needs the text; set JAXNETS_DATA")
    recorded = json.loads(RECORDED.read_text())
    found, wanted = measure(name, tmp_path / "run"), recorded["runs"][name]
    assert found["norms"].keys() == wanted["norms"].keys()
    if machine() == recorded["machine"]:
        assert found["digests"] == wanted["digests"]
    for path, norm in wanted["norms"].items():
        np.testing.assert_allclose(found["norms"][path], norm, rtol=1e-3, atol=1e-4, err_msg=path)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as where:
        runs = {name: measure(name, Path(where) / name) for name in RUNS}
    RECORDED.write_text(json.dumps({"machine": machine(), "runs": runs}, indent=1) + "\n")
