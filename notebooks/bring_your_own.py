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
# # Bring your own model, optimizer, loss and weights
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxnets/jaxnets/blob/main/notebooks/bring_your_own.ipynb)
#
# `jaxnets.fit` trains Flax Linen modules without changes. This notebook uses a module with two inputs, an Optax optimizer, a
# custom loss, custom metrics and initial weights. It takes less than two minutes on a CPU.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("jaxnets") is None:
    source = "git+https://github.com/jaxnets/jaxnets"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source], check=True)

# %%
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax

import jaxnets

# %% [markdown]
# ## A module
#
# The data are the digits that come with jaxnets: images of 8 x 8 pixels. The module below has dropout, which the argument
# `train` switches on and off; jaxnets sets this argument.

# %%
digits = jaxnets.load("digits")
images, labels = digits.train["inputs"], digits.train["targets"]
new_images, new_labels = digits.test["inputs"], digits.test["targets"]


class Reader(nn.Module):
    @nn.compact
    def __call__(self, image, train: bool = False):
        hidden = nn.relu(nn.Dense(64, name="body")(image.reshape(image.shape[0], -1)))
        hidden = nn.Dropout(0.1, deterministic=not train)(hidden)
        return nn.Dense(10, name="output")(hidden)


reader = jaxnets.fit(Reader(), (images, labels), test=(new_images, new_labels), epochs=5, progress="none")
reader.evaluate()

# %% [markdown]
# ## An optimizer, a loss and metrics
#
# The optimizer can be any Optax transformation. A loss returns one number for each example. `batch` holds the prepared arrays
# of the batch.


# %%
def focal(outputs, batch):
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, batch["targets"])
    return (1 - jnp.exp(-losses)) ** 2 * losses


def margin(outputs, batch):
    chosen = jnp.take_along_axis(outputs, batch["targets"][:, None], axis=1)[:, 0]
    return chosen - outputs.mean(axis=1)


focused = jaxnets.fit(
    Reader(),
    (images, labels),
    test=(new_images, new_labels),
    optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.lion(1e-3)),
    loss=focal,
    metrics={"margin": margin, "f1": jaxnets.tasks.F1()},
    epochs=5,
    progress="none",
)
focused.evaluate()

# %% [markdown]
# ## Two inputs
#
# The task is to predict whether the sum of two digits is even. One digit is an image, the other a number, which stays a whole
# number. With a dict, each input is passed to the argument with its name. Values that the module sows in "losses" are added to
# the loss.


# %%
class Sum(nn.Module):
    @nn.compact
    def __call__(self, image, number, train: bool = False):
        hidden = nn.relu(nn.Dense(64, name="body")(image.reshape(image.shape[0], -1)))
        seen = nn.softmax(nn.Dense(10, name="digit")(nn.Dropout(0.1, deterministic=not train)(hidden)))
        known = nn.Embed(10, 10, name="number")(number)
        self.sow("losses", "small", 1e-4 * jnp.square(known).sum(axis=-1))
        return nn.Dense(2, name="output")(nn.relu(nn.Dense(32, name="both")(jnp.concatenate([seen, known], axis=-1))))


rng = np.random.default_rng(0)
numbers, new_numbers = rng.integers(0, 10, len(labels)), rng.integers(0, 10, len(new_labels))
even, new_even = (labels + numbers) % 2, (new_labels + new_numbers) % 2
pairs, new_pairs = {"image": images, "number": numbers}, {"image": new_images, "number": new_numbers}

scratch = jaxnets.fit(Sum(), (pairs, even), test=(new_pairs, new_even), epochs=20, progress="none")
scratch.evaluate()

# %% [markdown]
# ## Weights to begin with
#
# The body of the first run is a good start, because it was trained on digits. `Initial` lists the leaves that are initialised
# anew and those that are ignored, and `freeze` keeps the body unchanged, bit for bit.

# %%
begun = jaxnets.fit(
    Sum(),
    (pairs, even),
    test=(new_pairs, new_even),
    initial=jaxnets.Initial(
        reader.variables,
        renames=(("^params/output/", "params/digit/"),),
        fresh=("params/number/.*", "params/both/.*", "params/output/.*"),
    ),
    freeze="body/.*",
    optimizer=optax.adam(3e-3),
    epochs=20,
    progress="none",
)
scores = {"from scratch": scratch.evaluate()["accuracy"], "from the reader": begun.evaluate()["accuracy"]}
scores

# %% [markdown]
# ## Checks of the results

# %%
assert reader.evaluate()["accuracy"] > 0.9
assert focused.evaluate()["f1"] > 0.9
assert scores["from the reader"] > 0.85
kept, before = begun.state.params["body"]["kernel"], reader.state.params["body"]["kernel"]
assert np.array_equal(kept, before)
assert (begun.predict(new_pairs) == new_even).mean() == scores["from the reader"]
