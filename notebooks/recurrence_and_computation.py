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
# # Recurrence and computation
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxnets/jaxnets/blob/main/notebooks/recurrence_and_computation.ipynb)
#
# A network with cycles is a computer. This notebook has five questions. Write down your prediction before each experiment. It
# takes less than a minute on a CPU.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("jaxnets") is None:
    source = "jaxnets @ git+https://github.com/jaxnets/jaxnets"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source], check=True)

# %%
from fractions import Fraction

import jax
import numpy as np

from jaxnets import theory

# %% [markdown]
# ## 1. All units at once: when does a network stop?
#
# A network is a directed graph. Under the parallel rule all units are updated at the same time, again and again.
#
# **Your prediction:** after how many updates does a network with layers 2-4-3-2 reach its output? And a single unit that inhibits itself?

# %%
hidden = theory.layers_of(theory.initialised([4, 3], 2, seed=3))[:2]
network = theory.of_layers([*hidden, (np.array([[1, -1], [1, 0], [1, 1]]), np.zeros(2))], "relu")
net = theory.from_mlp(network)
layered = theory.run(net, net.start([0.3, -0.7]), rule="layered")
parallel = theory.run(net, net.start([0.3, -0.7]))
print("layered", layered.outputs, "parallel", parallel.outputs, "after", int(parallel.steps), "updates")

inhibited = theory.Digraph(np.array([[-1.0]]), np.array([1.0]), inputs=(), outputs=(0,))
ended = theory.run(inhibited, [0.0], budget=1000)
print("inhibited unit: stopped", bool(ended.stopped), "after", int(ended.steps), "updates")

# %% [markdown]
# Without cycles: as many updates as there are layers, and the result of the forward pass. With a cycle it may never stop, so `run` has a
# budget.
#
# ## 2. A word as one number: how long a word does float32 hold?
#
# The code `delta(w) = sum_i w_i 2^-i + 2^-(n + 1)` gives each word of bits a number of its own. **Your prediction:** what is
# the longest word of ones that can be decoded from float32? (Its numbers have 24 significant bits.)

# %%
print("delta(11001) =", theory.binary_code("11001"))
survives = []
for bits in range(1, 40):
    code = theory.binary_code("1" * bits)
    if Fraction(float(np.float32(code.numerator / code.denominator))) == code:
        survives.append(bits)
print("float32 holds up to", max(survives), "bits")

# %% [markdown]
# The final 1 that marks the end takes the 24th bit.
#
# ## 3. A network that reads a word
#
# `automaton_net` turns a finite automaton into a network of saturated-linear units: the word is a stack in one number, and two updates read
# one bit. With the code `delta` the unit that compares the number with 1/2 needs a gain of `2^(n + 1)`.
#
# **Your prediction:** with a gain for words of 4 bits, what share of the words of 7 bits is misjudged?

# %%
short = theory.automaton_net(theory.PARITY, code="binary", gain=2.0**5)
words = [f"{number:07b}" for number in range(128)]
wrong = sum(theory.run_exactly(short.net, short.start(word)).outputs[0] != word.count("1") % 2 for word in words)
print("delta:", wrong, "of 128 wrong")

cantor = theory.automaton_net(theory.PARITY)
long = "1011" * 100 + "0"
ended = theory.run_exactly(cantor.net, cantor.start(long), budget=2000)
print("Cantor code:", len(long), "bits, accepted", ended.outputs[0], "after", ended.steps, "updates")

# %% [markdown]
# The Cantor code `sum_i (2 w_i + 1) 4^-i` leaves a gap of 1/4 between first bits at any length. The weights then do not depend on the length.
#
# ## 4. How many units does a Turing machine need?
#
# The busy beaver with four states runs 107 steps on an empty tape and leaves 13 ones. No machine with four states leaves more.
#
# **Your prediction:** how many saturated-linear units simulate it: about 30, 300 or 3,000? Is the result right in float32, in
# float64, in fractions?

# %%
machine = theory.BUSY_BEAVERS[4]
computer = theory.turing_net(machine)
exact = computer.run(exactly=True)
print(len(computer.net.bias), "units,", exact.steps, "updates,", theory.ones(exact), "ones in fractions")
with jax.enable_x64(True):
    double = computer.run()
print(theory.ones(double), "ones in float64")
try:
    single = theory.ones(computer.run())
except ValueError as error:
    single = None
    print("float32:", str(error)[:60], "...")

# %%
theory.tape(machine)

# %% [markdown]
# Two bits of a number for each cell: float64 holds 26 cells on each side of the head, float32 loses the tape. The theorem is about rational numbers. In floats,
# the network is a machine with a finite tape.
#
# The next plot shows the left stack of the exact run over time:

# %%
stacks = []
for steps in range(0, 108, 12):
    state = theory.run_exactly(computer.net, computer.start(), budget=3 * steps + 3).state
    stacks.append(float(sum(state[unit] for name, unit in computer.units.items() if name.startswith("left, went"))))
np.round(stacks, 4)

# %% [markdown]
# ## 5. An associative memory: how many patterns before it forgets?
#
# In a Hopfield network each update of a unit lowers an energy, so the network stops. If there are few patterns, they are the
# minima.
#
# **Your prediction:** how many random patterns can 100 units store: 5, 14, 50 or 100?

# %%
remembered = {patterns: theory.recalled_fraction(patterns, 100) for patterns in (5, 10, 14, 20, 40)}
remembered

# %% [markdown]
# About .14 for each unit. With more patterns it forgets all of them, not only the last.

# %%
assert bool(parallel.stopped)
assert int(parallel.steps) <= 3
np.testing.assert_allclose(parallel.outputs, network(np.array([[0.3, -0.7]]))[0], rtol=1e-5)
assert max(survives) == 23
assert wrong > 0
assert ended.outputs[0] == long.count("1") % 2
assert theory.ones(exact) == theory.ones(double) == 13
assert single is None
assert remembered[5] == 1
assert remembered[40] < 0.5
print("done")
