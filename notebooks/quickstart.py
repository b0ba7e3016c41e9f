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
# # Quickstart
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxnets/jaxnets/blob/main/notebooks/quickstart.ipynb)
#
# This notebook trains a network, shows its report, makes predictions, continues the run, compares it with a second one, and
# exports a program that does not need jaxnets. It takes less than two minutes on a CPU.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("jaxnets") is None:
    source = "jaxnets[export] @ git+https://github.com/jaxnets/jaxnets"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source], check=True)

# %%
import json
import tempfile
from pathlib import Path

import numpy as np
from IPython.display import Image
from jax import export

import jaxnets
from jaxnets.interop import read_safetensors
from jaxnets.runs.export import export_programs

# %% [markdown]
# ## Train
#
# The digits come with jaxnets: 1,797 images of 8 x 8 pixels. `fit` takes a model, data and a length. With `run_dir` it writes
# checkpoints, the log and a report. If the notebook was interrupted, the same call continues from the newest checkpoint.

# %%
folder = Path(tempfile.mkdtemp()) / "runs"
digits = jaxnets.load("digits")
run = jaxnets.fit(jaxnets.models.CNN(), digits, epochs=5, validation=0.1, run_dir=folder / "cnn", progress="none")
run.evaluate()

# %% [markdown]
# ## Look
#
# The cell below plots the curves. `report.html` has the curves too, and the confusion matrix, calibration, the most wrong
# examples, the settings and a breakdown of the time.

# %%
run.history.plot()

# %%
print("the report is", run.directory / "report.html")

# %% [markdown]
# ## Predict
#
# `predict` takes raw images, as in training.

# %%
images, labels = digits.test["inputs"][:5], digits.test["targets"][:5]
print("predicted", run.predict(images, names=True), "true", labels)
run.top_k(images, 3)[0]

# %% [markdown]
# ## Train further
#
# `run.fit` continues from the last step. The schedule of the learning rate spans all steps, so its value changes at this
# point; the console prints both values.

# %%
longer = run.fit(epochs=3)
print(longer)

# %% [markdown]
# ## A second run, and both side by side
#
# `jaxnets runs`, `jaxnets compare` and `jaxnets ui` do the same in a terminal, without starting JAX.

# %%
mlp = jaxnets.fit(
    jaxnets.models.MLP(widths=(64,)), digits, epochs=5, validation=0.1, run_dir=folder / "mlp", progress="none"
)
command = [sys.executable, "-m", "jaxnets"]
curves = folder / "curves.png"
compare = [*command, "compare", str(folder / "cnn"), str(folder / "mlp"), "--output", str(curves)]
print(subprocess.run([*command, "runs", str(folder)], capture_output=True, text=True, check=True).stdout)
print(subprocess.run(compare, capture_output=True, text=True, check=True).stdout)

# %%
Image(curves.read_bytes())

# %% [markdown]
# ## Take it elsewhere
#
# `jaxnets export RUN FOLDER --format stablehlo` writes the predictor and the training step as programs for CPU, GPU and TPU.
# They need JAX but not jaxnets; `example.py` in the folder shows how to run them.

# %%
export_programs(longer, folder / "served", train_step=False)
predictor = export.deserialize(bytearray((folder / "served" / "predictor.stablehlo").read_bytes()))
weights = dict(read_safetensors(folder / "served" / "weights.safetensors"))
outputs = predictor.call(weights, {"inputs": images})
print(json.loads((folder / "served" / "about.json").read_text())["platforms"])

# %%
np.testing.assert_allclose(outputs, longer.outputs(images), rtol=1e-5, atol=1e-5)
assert longer.evaluate()["accuracy"] > 0.95
print("done")
