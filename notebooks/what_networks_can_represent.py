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
# # What networks can represent
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxnets/jaxnets/blob/main/notebooks/what_networks_can_represent.ipynb)
#
# This notebook has six questions. Write down your prediction before each experiment: you learn most from the results that
# surprise you. It takes less than a minute on a CPU.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("jaxnets") is None:
    source = "jaxnets @ git+https://github.com/jaxnets/jaxnets"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source], check=True)

# %%
import numpy as np

import jaxnets
from jaxnets import theory

# %% [markdown]
# ## 1. How many of the 16 functions of two bits does one neuron compute?
#
# **Your prediction:** 16, 15, 14 or fewer?
#
# The experiment searches for a separating line with a linear program, which finds one if there is one.

# %%
corners = theory.bits(2)
tables = theory.bits(4).astype(int)
lines = [theory.separating_plane(np.c_[corners, np.ones(4)], 2 * table - 1) for table in tables]
alone = [table.tolist() for table, line in zip(tables, lines, strict=True) if line is None]
print("one neuron computes", 16 - len(alone), "and not", alone)

# %% [markdown]
# 14: all but XOR and its negation. Two hidden units suffice for XOR. In this network, two lines enclose the corners where XOR
# is 1.

# %%
model, variables = theory.xor()
print(model)
print(model.apply(variables, corners)[:, 0])
theory.decision_boundary(theory.xor(), low=-0.5, high=1.5, points=corners, labels=np.array([0, 1, 1, 0]))

# %% [markdown]
# ## 2. Two units can represent XOR. How often does training find it?
#
# **Your prediction:** from what share of 40 seeds does a network with two hidden tanh units learn XOR? With three? With four?

# %%
shares = {units: theory.xor_learned(units, seeds=40) for units in (2, 3, 4)}
shares

# %% [markdown]
# With the smallest possible number of units, about half of the seeds fail: the loss has stationary points with two or three
# right answers. Representing and learning are different questions; the additional units help learning.
#
# ## 3. Parity of 8 bits: how many step units in one hidden layer?
#
# The construction for any table has a unit for each true row. **Your prediction:** how many does the smallest network that you can think of
# have?

# %%
odd = theory.bits(8).sum(axis=1) % 2
by_rows, by_counting = theory.boolean_function(odd), theory.parity(8)
print("units:", by_rows.units(), "by rows,", by_counting.units(), "by counting")
print(
    "wrong rows:",
    int((by_rows.fires(theory.bits(8)) != odd).sum()),
    int((by_counting.fires(theory.bits(8)) != odd).sum()),
)

# %% [markdown]
# Unit `k` fires if at least `k` bits are 1, and the signs of the output weights alternate. So an exponential construction does
# not show that the problem needs exponentially many units.
#
# ## 4. Twice as many ReLU units: by how much does the error of a smooth function fall?
#
# **Your prediction:** by 2, by 4, or exponentially? And for a staircase of sigmoids?


# %%
def wave(x):
    return 0.5 + 0.5 * np.sin(2 * np.pi * x)


relu = [theory.largest_error(theory.relu_interpolation(wave, n), wave) for n in (16, 32)]
stairs = [theory.largest_error(theory.sigmoid_staircase(wave, n), wave) for n in (16, 32)]
print(f"ReLU: {relu[0] / relu[1]:.2f} times less, sigmoid staircase: {stairs[0] / stairs[1]:.2f} times less")
theory.approximation_error(wave, lipschitz=np.pi, second_derivative=2 * np.pi**2)

# %% [markdown]
# Piecewise lines are one order better than steps. The points are on their bounds: for this function the bounds cannot be
# improved.
#
# ## 5. 16 ReLU units: how many linear pieces can a function of one input have?
#
# **Your prediction:** in one layer of 16? In eight layers of two?

# %%
shallow = theory.initialised([16], 1, seed=0, biases=1.0)
print("one layer:", len(theory.pieces_1d(shallow, low=-100, high=100)) - 1)
print("eight layers:", len(theory.pieces_1d(theory.tent(8))) - 1)
theory.folding(4)

# %% [markdown]
# Each layer folds the interval, so the next layers repeat their pieces in both halves. How many pieces does a network with
# random weights have?

# %%
random = [
    len(theory.pieces_1d(theory.initialised([2] * 8, 1, seed=seed, biases=0.3), low=-3, high=3)) - 1
    for seed in range(20)
]
print("eight random layers of two: from", min(random), "to", max(random), "pieces")

# %% [markdown]
# The *maximum* grows exponentially with depth. A random network has a few pieces. The next plot shows them in two dims.

# %%
theory.regions_in_the_plane(theory.initialised([8, 8], 2, seed=3, biases=0.3))

# %% [markdown]
# ## 6. In 20 dims, how many points with random labels can a hyperplane separate?
#
# **Your prediction:** 10, 20, 40 or 80?

# %%
theory.cover_curve((5, 20, 100), trials=50)

# %% [markdown]
# Up to `d` points always, `2 d` points in half of all cases, more points hardly ever; the fall is steeper in higher dims. In high
# dims nearly every labelling of fewer than `2 d` points is separable, so a separating hyperplane is weak evidence.
#
# ## Training can start from a construction
#
# The interpolation by eight ReLU units is an ordinary model. Its knots are equally spaced; training moves them to where the function
# bends.

# %%
x = np.linspace(0, 1, 512, dtype=np.float32)[:, None]
model, variables = theory.relu_interpolation(wave, 8)
task = jaxnets.tasks.Regression(model=model, target_mean=0.0, target_std=1.0)
data = jaxnets.from_arrays(
    x, wave(x[:, 0]).astype(np.float32), test=(x, wave(x[:, 0]).astype(np.float32)), standardize=False
)
before = float(np.square(np.asarray(theory.Construction(model, variables)(x)[:, 0]) - wave(x[:, 0])).mean())
optimizer = jaxnets.optim.Adam(learning_rate=1e-3)
run = jaxnets.fit(task, data, initial=variables, steps=1000, batch_size=128, optimizer=optimizer, progress="none")
print(f"mean squared error {before:.1e}, after training {run.evaluate()['mse']:.1e}")

# %%
assert len(alone) == 2
assert shares[2] < shares[4]
assert by_counting.units() == 8
assert by_rows.units() == 128
assert 3.8 < relu[0] / relu[1] < 4.2
assert 1.8 < stairs[0] / stairs[1] < 2.2
assert max(random) < 2**8
assert run.evaluate()["mse"] < before / 2
print("done")
