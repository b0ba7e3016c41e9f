# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# Sharding, and estimates for a TPU
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxnets/jaxnets/blob/main/notebooks/sharding_and_tpu.ipynb)
#
# This notebook splits one configuration over eight devices in six ways; each gives the result of one device. Then it estimates
# memory, communication, time and cost on TPUs, before you rent one. On a CPU, eight threads act as eight devices; on a TPU the
# same cells use its chips. It takes about two minutes.

# %%
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("jaxnets") is None:
    source = "jaxnets @ git+https://github.com/jaxnets/jaxnets"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source], check=True)
os.environ["JAX_NUM_CPU_DEVICES"] = "8"  # before JAX starts; it changes nothing where there is a TPU

# %%
import json

import jax
import numpy as np
import optax

import jaxnets
from jaxnets.data.sources.text import from_tokens
from jaxnets.data.text.tokenizers import Characters
from jaxnets.models import LanguageModel
from jaxnets.parallel import MeshShape
from jaxnets.tasks import NextToken

count = len(jax.devices())
print(count, "devices of", jax.devices()[0].device_kind)

# %% [markdown]
# ## Six ways to split one training
#
# The axes of a mesh have names. `data` splits the batch, `fsdp` the state as well, `tensor` the layers, `sequence` each text.

# %%
letters = Characters(tuple("abcdefghijklmnop"))
ids = np.random.default_rng(0).integers(0, 16, 4000)
text = from_tokens(ids[:3600], ids[3600:], letters, name="letters", source="made here", length=32)


def trained(mesh):
    """Twenty steps of a small language model on a mesh."""
    model = LanguageModel(layers=2, width=64, heads=4, length=32)
    options = {"steps": 20, "batch_size": 32, "seed": 1, "progress": "none"}
    return jaxnets.fit(NextToken(model=model), text, mesh=mesh, optimizer=optax.adam(1e-3), **options)


def bytes_on_a_device(run):
    """The part of the state that one device holds."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(run.state))


# %%
meshes = {"one device": MeshShape(data=1)}
if count % 8 == 0:
    meshes |= {
        "data 8": MeshShape(data=8),
        "fsdp 8": MeshShape(data=1, fsdp=8),
        "fsdp 8, optimizer state alone": MeshShape(data=1, fsdp=8, zero=1),
        "data 2 x tensor 4": MeshShape(data=2, tensor=4),
        "data 2 x sequence 4": MeshShape(data=2, sequence=4),
        "fsdp 2 x sequence 2 x tensor 2": MeshShape(data=1, fsdp=2, sequence=2, tensor=2),
    }
losses = {}
for name, mesh in meshes.items():
    run = trained(mesh)
    losses[name] = run.evaluate()["loss"]
    print(f"{name:<32} loss {losses[name]:.5f}   state on each device {bytes_on_a_device(run):>9,} bytes")

# %% [markdown]
# ## Estimates for a TPU that you do not have
#
# `jaxnets estimate` compiles the training program for a topology and prints the memory and time that it needs. With `pip
# install "jaxnets[tpu]"` it uses the compiler of the TPU. Without it, devices of the CPU stand for the chips, and a note says
# so. Enter the price that you pay for a chip and hour.

# %%
price = 1.20


def asked(*arguments):
    """The output of a command of jaxnets."""
    command = [sys.executable, "-m", "jaxnets", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


for chips in ("v5e:4", "v5e:8", "v6e:8"):
    said = json.loads(asked("estimate", "digits_cnn", "--on", chips, "--price", str(price), "--json"))
    print(
        f"{said['on']:<10} peak {said['peak_bytes'] / 2**20:7.1f} MiB of {said['memory_bytes'] / 2**30:.0f} GiB, a step takes at "
        f"least {said['step_seconds'] * 1e6:.1f} µs, by the compiler of the {said['compiler']}"
    )

# %% [markdown]
# ## A plan for a billion parameters
#
# `jaxnets plan` tries every mesh, every number of micro-batches and rematerialisation. Here it uses arithmetic only, without a
# compiler.

# %%
planned = (
    asked("plan", "llama_1b", "--chips", "v5e:16", "--compile", "0")
    if os.environ.get("JAXNETS_DATA")
    else asked("plan", "digits_cnn", "--chips", "v5e:16", "--compile", "0")
)
print(planned)

# %%
assert max(losses.values()) - min(losses.values()) < 1e-4
assert "jaxnets train" in planned
print("done")
