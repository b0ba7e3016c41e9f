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
# # Diagnosing a sick run
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxnets/jaxnets/blob/main/notebooks/diagnosing_a_sick_run.ipynb)
#
# Six runs, each with one fault that raises no error. Look at the curve of each and say what is wrong. `jaxnets.check` then
# finds the fault by measurements before training. The last curve of each part is that of the repaired run. The notebook takes
# less than a minute on a CPU.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("jaxnets") is None:
    source = "jaxnets @ git+https://github.com/jaxnets/jaxnets"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source], check=True)

# %%
import flax.linen as nn
import matplotlib.pyplot as plt
import numpy as np

import jaxnets
from jaxnets import data, models, optim, tasks

# %% [markdown]
# The example is a small network that classifies four clouds of points in twelve dims, 450 points for training and 150 for the
# test. This run is sound. For comparison, guessing has a loss of log 4 = 1.39 and an accuracy of .25.

# %%
rng = np.random.default_rng(0)
centres, labels = rng.normal(size=(4, 12)), rng.integers(0, 4, 600)
points = (centres[labels] + rng.normal(size=(600, 12))).astype(np.float32)
network = models.MLP(widths=(32,))


def clouds(x=points, y=labels):
    return data.from_arrays(x[:450], y[:450], test=(x[450:], y[450:]), standardize=True)


def fit(model=network, given=None, steps=150, **options):
    options = {
        "optimizer": optim.SGD(0.1),
        "batch_size": 50,
        "log_every": 5,
        "eval_every": 15,
        "progress": "none",
        **options,
    }
    return jaxnets.fit(model, clouds() if given is None else given, steps=steps, **options)


def examined(check, model=network, given=None, **options):
    given = clouds() if given is None else given
    finding = jaxnets.check(model, given, only=[check], progress="none", **{"optimizer": optim.SGD(0.1), **options})[
        check
    ]
    print(f"{finding.colour}: {finding.text}")
    return finding.colour


def curves(*runs):
    """The loss of one or two runs: the sick one, and beside it the cured one."""
    figure, axes = plt.subplots(1, len(runs), figsize=(4 * len(runs), 2.4), squeeze=False)
    for axis, run, name in zip(axes.flat, runs, ("sick", "cured"), strict=False):
        axis.plot(*run.history.series("loss", "train"), color="grey", label="training")
        axis.plot(*run.history.series("loss", "test"), color="tab:orange", label="test")
        axis.set(xlabel="step", ylabel="loss", title=name if len(runs) > 1 else "")
        axis.legend()
    figure.tight_layout()
    plt.show()


sound = fit()
curves(sound)
sound.evaluate()

# %% [markdown]
# ## 1. The test loss never falls below that of guessing

# %%
shifted = np.roll(labels, 1)
sick_labels = fit(given=clouds(y=shifted))
curves(sick_labels)
sick_labels.evaluate()

# %% [markdown]
# The training loss falls slowly below 1.39, because the network memorises some examples. The test loss rises. **Your
# prediction:** what is wrong? A wrong rate, too small a network, or the data?

# %%
seen_labels = examined("baselines", given=clouds(y=shifted))

# %% [markdown]
# Simple predictors are no better than a constant either, so the network is not the cause. They are better if the labels are
# shifted by one row. Typical causes are a sort, a header line, or a filter that was applied to the inputs and not to the
# labels. Remedy: take both from the same rows.

# %%
curves(sick_labels, sound)

# %% [markdown]
# ## 2. The loss jumps, and stays high

# %%
wild = optim.SGD(10.0, clip_norm=1.0, schedule=optim.Constant())
sick_rate = fit(optimizer=wild)
curves(sick_rate)
sick_rate.evaluate()

# %% [markdown]
# The data and the network are those of the sound run. The accuracy is quite good, but the loss is tens of times that of
# guessing. **Your prediction:** what is wrong, and how many times too large or too small is it?

# %%
seen_rate = examined("overfit", optimizer=wild)

# %% [markdown]
# A sound network memorises a few examples without a jump of the loss. The loss of this one jumps to ten times that of
# guessing, and the network learns equally well with a hundredth of the rate. The rate was 100 times that of the sound run.
# Gradient clipping only kept the loss finite. `jaxnets.find_lr(model, data)` finds a rate.

# %%
curves(sick_rate, sound)

# %% [markdown]
# ## 3. The loss falls to that of guessing, and not any further


# %%
class Careful(nn.Module):
    """Two layers whose hidden units begin with a bias of this size."""

    bias: float

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(32, bias_init=nn.initializers.constant(self.bias))(x))
        return nn.Dense(4)(x)


sick_units = fit(Careful(-10.0))
curves(sick_units)
sick_units.evaluate()

# %% [markdown]
# All outputs are the same for every example. **Your prediction:** what is wrong? Which parameters still learn?

# %%
seen_units = examined("units", Careful(-10.0))

# %% [markdown]
# The potential of every hidden unit is below 0 for every example. So all ReLUs give 0, and no gradient passes them: only the last
# bias learns, and it learns the shares of the classes. Remedy: initialise the biases with 0. The same happens if the rate is
# too high for some steps; then a warm-up or a smaller rate helps.

# %%
curves(sick_units, fit(Careful(0.0)))

# %% [markdown]
# ## 4. A regression that predicts the mean
#
# The targets are linear in the inputs. The loss is a custom one in plain JAX.

# %%
slopes = rng.normal(size=12)
numbers = data.from_arrays(points[:450], (points @ slopes)[:450], test=(points[450:], (points @ slopes)[450:]))
single = models.MLP(widths=(32,), outputs=1)


def squared(outputs, batch):
    return ((outputs - batch["targets"]) ** 2).mean(axis=-1)


sick_loss = fit(single, numbers, loss=squared)
curves(sick_loss)
print("deviation of the predictions:", sick_loss.predict(numbers.test["inputs"]).std().round(3))
print("deviation of the targets    :", numbers.test["targets"].std().round(3))

# %% [markdown]
# The loss falls smoothly to the variance of the (standardised) targets. **Your prediction:** what is wrong? Write down the
# shapes.

# %%
seen_loss = examined("loss", single, numbers, loss=squared)

# %% [markdown]
# The outputs are `[B, 1]` and the targets `[B]`. Their difference is `[B, B]`: every output is compared with every target, and
# the best single prediction for all targets is their mean. Remedy: `outputs[:, 0]`, or the built-in loss.

# %%
cured_loss = fit(single, numbers, loss=lambda outputs, batch: (outputs[:, 0] - batch["targets"]) ** 2)
curves(sick_loss, cured_loss)

# %% [markdown]
# ## 5. A run that looks perfect
#
# A third of the labels is random now, so no network can be right about more than three quarters of new examples.

# %%
noisy = np.where(rng.random(600) < 1 / 3, rng.integers(0, 4, 600), labels)
clean = clouds(y=noisy)
copied = data.from_arrays(points, noisy, test=(points[450:], noisy[450:]), standardize=True)
wide, longer = models.MLP(widths=(256,)), {"steps": 300, "optimizer": optim.Adam(0.03)}
sick_split = fit(wide, copied, **longer)
curves(sick_split)
sick_split.evaluate()

# %% [markdown]
# Training and test loss fall together, and nearly all predictions are right. **Your prediction:** is it a very good network?

# %%
seen_split = examined("splits", wide, copied)

# %% [markdown]
# The test examples are also in the training split, and the network memorised them. In real data they come from images that
# were augmented before the split, from several rows of one patient, or from a file that was appended twice. Remedy: split
# first, and by groups (`validation=`, `from_arrays(groups=...)`). The correct curve looks worse. It shows overfitting, so
# early stopping or a penalty helps.

# %%
cured_split = fit(wide, clean, **longer)
curves(sick_split, cured_split)
print("test accuracy:", sick_split.evaluate()["accuracy"], "and honestly", round(cured_split.evaluate()["accuracy"], 3))

# %% [markdown]
# ## 6. A language model that is too good
#
# Sentences of random steps, 1 or 2 upwards among twelve symbols. The next symbol is one of two, so no model can have less than
# log 2 = .69 nats a symbol.


# %%
class Convolution(nn.Module):
    """A language model that looks at three symbols."""

    padding: tuple[int, int]
    vocab_size: int | None = None

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(self.vocab_size, 24)(tokens)
        x = nn.relu(nn.Conv(64, kernel_size=(3,), padding=[self.padding])(x))
        return nn.Dense(self.vocab_size)(x)


walks = np.cumsum(rng.integers(1, 3, (600, 9)), axis=1).astype(np.int32) % 12
parts = [{"inputs": walks[rows, :8], "targets": walks[rows, 1:]} for rows in (slice(450), slice(450, None))]
sentences = data.Dataset(
    "walks", *parts, class_names=tuple("abcdefghijkl"), target_kind="token", prepare=data.dataset.TokenIds()
)
options = {"steps": 200, "optimizer": optim.Adam(0.01)}
sick_mask = fit(tasks.NextToken(model=Convolution((1, 1))), sentences, **options)
curves(sick_mask)
sick_mask.evaluate()

# %% [markdown]
# **Your prediction:** what is wrong? Which loss is too low, and could you have noticed it without knowing the true entropy?

# %%
seen_mask = examined("causal", tasks.NextToken(model=Convolution((1, 1))), sentences)

# %% [markdown]
# The convolution is padded by one on both sides, so each position sees the next symbol, which is its target. Attention without
# a mask has the same fault. Such a model generates nonsense, because in generation the next symbol is not available. Remedy:
# all padding on the left (for attention, the causal mask). The loss of the repaired model ends at the entropy of the language.

# %%
cured_mask = fit(tasks.NextToken(model=Convolution((2, 0))), sentences, **options)
curves(sick_mask, cured_mask)

# %% [markdown]
# ## What the curves have in common
#
# | curve | check first |
# | --- | --- |
# | the test loss never below that of guessing | labels |
# | a jump, and high after it | the rate |
# | flat at the best constant, in training too | dead units, a broadcast in the loss |
# | better than anyone expected | overlap of splits, a leak |
#
# `jaxnets.check(model, data)` without `only` runs all of these checks and more
# ([diagnosing](https://github.com/jaxnets/jaxnets/blob/main/docs/diagnosing.md)).

# %%
assert sound.evaluate()["accuracy"] > 0.9
assert {seen_labels, seen_units, seen_loss, seen_split, seen_mask} == {"red"}
assert seen_rate == "amber"
assert sick_labels.evaluate()["accuracy"] < 0.4
assert sick_rate.evaluate()["loss"] > 1.2
assert abs(sick_units.evaluate()["loss"] - np.log(4)) < 0.1
assert sick_loss.predict(numbers.test["inputs"]).std() < 0.3 * numbers.test["targets"].std()
assert cured_loss.predict(numbers.test["inputs"]).std() > 0.9 * numbers.test["targets"].std()
assert sick_split.evaluate()["accuracy"] > 0.85 > 0.75 > cured_split.evaluate()["accuracy"]
assert sick_mask.evaluate()["loss"] < 0.3 < 0.65 < cured_mask.evaluate()["loss"]
