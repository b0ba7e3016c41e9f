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
# # Training dynamics
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxnets/jaxnets/blob/main/notebooks/training_dynamics.ipynb)
#
# This notebook has one experiment for each of rates, batches, averages, noise and width. Predict the result before you run it.
# The notebook takes about a minute on a CPU.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("jaxnets") is None:
    source = "jaxnets @ git+https://github.com/jaxnets/jaxnets"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source], check=True)

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import jaxnets
from jaxnets import data, models, optim

# %% [markdown]
# ## 1. Rates: where does gradient descent diverge?
#
# A linear model with the squared error has the same curvature everywhere, so the largest step size that does not diverge is 2 divided by
# the largest eigenvalue of the Hessian. The loss of `tasks.Regression` is the mean of the squared error, so its Hessian is 2 XᵀX/N, where
# X has a column of ones for the bias.
#
# **Your prediction:** trained 100 steps at .98 and at 1.02 times that rate, how far apart are the two losses?

# %%
rng = np.random.default_rng(0)
x = rng.normal(size=(256, 6)).astype(np.float32) * np.array([1, 1, 2, 2, 3, 3], np.float32)
y = (x @ rng.normal(size=6) + rng.normal(size=256) * 0.1).astype(np.float32)


def descend(rate, steps=100):
    plain = optim.SGD(rate, momentum=0.0, schedule=optim.Constant())
    return jaxnets.fit(
        models.MLP(widths=()),
        (x, y),
        test=(x, y),
        optimizer=plain,
        steps=steps,
        batch_size=256,
        log_every=10,
        progress="none",
    )


first = descend(1e-6, steps=1)
seen = np.asarray(first.parts.feed.batch(first.parts.feed.load(0, 1, 1), 0, np.int32(0))["inputs"])
columns = np.concatenate([seen, np.ones((len(seen), 1))], axis=1)
largest = np.linalg.eigvalsh(2 * columns.T @ columns / len(columns))[-1]
losses = {share: descend(share * 2 / largest).history.last("train")["loss"] for share in (0.5, 0.98, 1.02, 1.1)}
for share, loss in losses.items():
    print(f"{share:4} of 2 / largest eigenvalue: loss {loss:.3g}")

# %% [markdown]
# The component along the steepest direction is multiplied by 1 - rate · eigenvalue in every step: by -.96 or by -1.04. After 100 steps
# these are factors of .017 and 50.
#
# ## 2. Batches: how does the noise of the gradient fall?
#
# The gradient of a batch is the mean over its examples. **Your prediction:** from batches of 4 to batches of 64, how many times smaller is the
# variance of the gradient?

# %%
digits = jaxnets.load("digits")
run = jaxnets.fit(models.MLP(widths=(32,)), digits, steps=20, batch_size=32, progress="none")
task, params = run.parts.task, run.params
whole = run.parts.dataset.train


def batch_of(size, step):
    """A batch of the run's own kind, drawn without replacement."""
    rows = np.random.default_rng(step).choice(len(whole["inputs"]), size, replace=False)
    inputs = whole["inputs"][rows].astype(np.float32) / 16
    return {"inputs": inputs, "targets": whole["targets"][rows].astype(np.int32), "mask": np.ones(size, np.float32)}


@jax.jit
def gradient(batch):
    def loss(params):
        mean, _ = task.loss({"params": params}, batch, jax.random.key(0), True)
        return mean.sum / mean.weight

    return jax.flatten_util.ravel_pytree(jax.grad(loss)(params))[0]


sizes = (4, 16, 64)
variances = [np.stack([gradient(batch_of(size, step)) for step in range(200)]).var(axis=0).sum() for size in sizes]
for size, variance in zip(sizes, variances, strict=True):
    print(f"batches of {size:2}: variance {variance:.4f}, times the size {variance * size:.3f}")

# %% [markdown]
# 16 times smaller: the variance is that of one example divided by the batch size. So its root, the noise, is only 4 times
# smaller, and very large batches gain little.
#
# ## 3. Averages: a rate that stays high, and the mean of its path
#
# With a constant rate the weights never settle: they wander around a minimum. **Your prediction:** which has the lowest test
# loss after the same number of steps: the last weights with the constant rate, the mean of the weights in the last quarter
# (SWA), or a rate that falls to 0?

# %%
options = {"steps": 600, "batch_size": 16, "progress": "none"}


def trained(schedule, average=None, seed=0):
    average = average or optim.EMA()
    optimizer = optim.SGD(0.1, momentum=0.9, schedule=schedule)
    made = jaxnets.fit(models.MLP(widths=(64,)), digits, optimizer=optimizer, average=average, seed=seed, **options)
    return made.evaluate()["loss"]


found = {
    "constant, last weights": [trained(optim.Constant(), seed=s) for s in range(2)],
    "constant, SWA": [trained(optim.Constant(), optim.SWA(start=0.75), seed=s) for s in range(2)],
    "falling to 0": [trained(optim.WarmupCosine(), seed=s) for s in range(2)],
}
for name, values in found.items():
    print(f"{name:24} {np.mean(values):.4f}  ({', '.join(f'{v:.4f}' for v in values)})")

# %% [markdown]
# The mean of the path is near the minimum that the weights wander around, so it has most of the gain of a falling rate.
# Training can continue from the last weights.
#
# ## 4. Noise on the inputs: what does it do to a linear model?
#
# A linear model has many more inputs than it needs, and new noise of standard deviation s is added to them in every step.
# **Your prediction:** to what do the weights converge?

# %%
deviation, count = 0.7, 40
few_x = rng.normal(size=(count, 10)).astype(np.float32)
few_x = (few_x - few_x.mean(axis=0)) / few_x.std(axis=0)
few_y = few_x @ rng.normal(size=10).astype(np.float32)
few_y = (few_y - few_y.mean()).astype(np.float32)
noisy = data.from_arrays(few_x, few_y, augment=data.Augment(noise=deviation), test=(few_x, few_y))
slow = optim.SGD(0.02, momentum=0.0, schedule=optim.WarmupLinear(warmup=0.0))
run = jaxnets.fit(models.MLP(widths=()), noisy, optimizer=slow, steps=6000, batch_size=count, progress="none")
scale = few_y.std()
weights = np.asarray(run.params["output"]["kernel"])[:, 0] * scale
ridge = np.linalg.solve(few_x.T @ few_x + count * deviation**2 * np.eye(10), few_x.T @ few_y)
plain = np.linalg.lstsq(few_x, few_y, rcond=None)[0]
print("to ridge regression:", np.abs(weights - ridge).max().round(3))
print("to least squares   :", np.abs(weights - plain).max().round(3))

# %% [markdown]
# To ridge regression with a penalty of N s²: the expected squared error with noise is the error without it plus s² times the squared weights
# (Bishop 1995).
#
# ## 5. Width: how far does a unit have to move?
#
# **Your prediction:** a network ten times as wide is trained to the same loss. Do its weights move more or less, relative to
# their initial size?

# %%
moved = {}
for width in (16, 64, 256, 1024):
    options = {"batch_size": 64, "seed": 1, "progress": "none"}
    optimizer = optim.SGD(0.1, momentum=0.0, schedule=optim.Constant())
    run = jaxnets.fit(models.MLP(widths=(width,)), digits, optimizer=optimizer, steps=300, **options)
    start = run.parts.fresh_state().params["hidden_0"]["kernel"]
    moved[width] = float(np.linalg.norm(run.params["hidden_0"]["kernel"] - start) / np.linalg.norm(start))
    print(f"width {width:4}: moved by {moved[width]:.1%}, test accuracy {run.evaluate()['accuracy']:.3f}")
plt.figure(figsize=(4, 3))
plt.loglog(list(moved), list(moved.values()), "o-")
plt.xlabel("width")
plt.ylabel("relative change of the first layer")
plt.tight_layout()
plt.show()

# %% [markdown]
# Less: many units share the work. A network so wide that its weights hardly move is linear in its weights around the start (the lazy
# regime); the features of its first layer stay almost the initial ones.

# %%
assert losses[0.98] < 0.1
assert losses[1.02] > 100
assert 10 < variances[0] / variances[2] < 24
assert np.mean(found["constant, SWA"]) < 0.8 * np.mean(found["constant, last weights"])
assert np.abs(weights - ridge).max() < 0.3 * np.abs(weights - plain).max()
assert moved[1024] < moved[256] < moved[64] < moved[16]
