"""Planted bugs are found, by the check that names them; a sound run has no finding."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnets
from jaxnets import models, optim, tasks
from jaxnets.core.types import Aux, Mean
from jaxnets.data import Dataset, from_arrays
from jaxnets.data.dataset import TokenIds

RNG = np.random.default_rng(0)
CENTRES, LABELS = RNG.normal(size=(4, 12)) * 1.5, RNG.integers(0, 4, 600)
INPUTS = (CENTRES[LABELS] + RNG.normal(size=(600, 12))).astype(np.float32)
NUMBERS = (INPUTS @ RNG.normal(size=12)).astype(np.float32)
PLAIN = models.MLP(widths=(32,))


class Bugged(nn.Module):
    """Two layers and a bug by name."""

    bug: str = ""
    outputs: int = 4

    @nn.compact
    def __call__(self, x, train=False):
        dead = nn.initializers.constant(-100.0)
        if self.bug == "transposed":
            x = x.T.reshape(x.shape)
        h = nn.Dense(32, bias_init=dead if self.bug == "dead units" else nn.initializers.zeros)(x)
        h = jax.lax.stop_gradient(h) if self.bug == "frozen layer" else h
        if self.bug == "norm over the batch":
            h = (h - h.mean(axis=0, keepdims=True)) / (h.std(axis=0, keepdims=True) + 1e-5)
        if self.bug == "statistics that never move":
            h = nn.BatchNorm(use_running_average=not train, momentum=1.0)(5 + 30 * h)
        h = nn.relu(h)
        if self.bug == "dropout in evaluation":
            h = nn.Dropout(0.5, deterministic=False)(h)
        if self.bug == "fixed dropout":
            h = h * jax.random.bernoulli(jax.random.key(0), 0.5, h.shape)
        if self.bug == "dropout that does nothing":
            h = nn.Dropout(0.5, deterministic=True)(h)
        y = nn.Dense(self.outputs)(h)
        last = {
            "softmax over the batch": lambda y: jnp.log(jax.nn.softmax(y, axis=0)),
            "double softmax": jax.nn.softmax,
            "relu last": nn.relu,
            "sigmoid last": nn.sigmoid,
            "tanh last": nn.tanh,
            "clipped": lambda y: jnp.clip(y, -0.1, 0.1),
            "another gradient": lambda y: 2 * jax.lax.stop_gradient(y) - y,
        }
        return last.get(self.bug, lambda y: y)(y)


def entropy(outputs, batch):
    return optax.softmax_cross_entropy_with_integer_labels(outputs, batch["targets"])


def classes(inputs=INPUTS, labels=LABELS):
    """The data, of which the last 150 examples are the test split."""
    return from_arrays(inputs[:450], labels[:450], test=(inputs[450:], labels[450:]), standardize=True)


def unscaled():
    pixels = RNG.integers(0, 100, (600, 8, 8, 1)).astype(np.uint8)
    pixels[:, 0] += (LABELS * 30).astype(np.uint8)[:, None, None]
    made = [{"inputs": pixels[part], "targets": LABELS[part]} for part in (slice(450), slice(450, None))]
    return Dataset("bytes", *made, class_names=tuple("abcd"))


def with_label():
    return classes(np.concatenate([INPUTS, np.eye(4, dtype=np.float32)[LABELS]], axis=1))


def repeated_in_test():
    return from_arrays(INPUTS[:450], LABELS[:450], test=(INPUTS[200:350], LABELS[200:350]))


def other_scale():
    return from_arrays(INPUTS[:450], LABELS[:450], test=(INPUTS[450:] * 20 + 30, LABELS[450:]))


def torn():
    return from_arrays(np.repeat(INPUTS[:150], 3, 0), LABELS[:450], test=(INPUTS[450:], LABELS[450:]))


def numbers():
    return from_arrays(INPUTS[:450], NUMBERS[:450], test=(INPUTS[450:], NUMBERS[450:]))


def no_last_class():
    kept = np.where(LABELS[:450] == 3, 0, LABELS[:450])
    return from_arrays(INPUTS[:450], kept, test=(INPUTS[450:], LABELS[450:]), class_names=list("abcd"))


# Bug -> model, data, arguments, the check that finds it, a word of what it says.
BUGS = {
    "labels shifted": (PLAIN, lambda: classes(labels=np.roll(LABELS, 1)), {}, "baselines", "shifted"),
    "labels shuffled": (PLAIN, lambda: classes(labels=RNG.permutation(LABELS)), {}, "baselines", "shuffled"),
    "loss sign": (PLAIN, classes, {"loss": lambda o, b: -entropy(o, b)}, "overfit", "sign"),
    "rate too high": (PLAIN, classes, {"optimizer": optim.SGD(learning_rate=10.0)}, "overfit", "far too high"),
    "rate of adam too high": (
        PLAIN,
        classes,
        {"optimizer": optim.AdamW(learning_rate=0.1)},
        "overfit",
        "rate of learning is",
    ),
    "rate too low": (PLAIN, classes, {"optimizer": optim.AdamW(learning_rate=1e-7)}, "overfit", "far too low"),
    "updates clipped away": (PLAIN, classes, {"optimizer": optim.SGD(clip_norm=1e-7)}, "overfit", "which is nothing"),
    "decay too strong": (PLAIN, classes, {"optimizer": optim.AdamW(weight_decay=300.0)}, "overfit", "shrink"),
    "broadcast": (
        models.MLP(widths=(32,), outputs=1),
        numbers,
        {"loss": lambda o, b: ((o - b["targets"]) ** 2).mean(-1)},
        "loss",
        "shapes (16, 1) (16,)",
    ),
    "summed": (
        PLAIN,
        classes,
        {"loss": lambda o, b: Mean((entropy(o, b) * b["mask"]).sum(), jnp.ones(()))},
        "loss",
        "is a sum",
    ),
    "mask ignored": (
        PLAIN,
        classes,
        {"loss": lambda o, b: Mean(entropy(o, b).sum(), jnp.float32(o.shape[0]))},
        "loss",
        "mask is 0 count",
    ),
    "class without weight": (PLAIN, classes, {"class_weight": {0: 0.0}}, "loss", "weight 0"),
    "labels in the input": (PLAIN, with_label, {}, "giveaways", "target in another form"),
    "bytes": (PLAIN, unscaled, {}, "scales", "bytes that were not scaled"),
    "test in training": (PLAIN, repeated_in_test, {}, "splits", "are in training"),
    "test on another scale": (PLAIN, other_scale, {}, "alike", "scaled or made in another way"),
    "class only in test": (PLAIN, no_last_class, {}, "alike", "no example"),
    "equal inputs": (PLAIN, torn, {}, "consistent", "another target"),
    "deep sigmoid": (models.MLP(widths=(32,) * 12, activation="sigmoid"), classes, {}, "gradients", "vanishes"),
    "softmax over the batch": (None, classes, {}, "mixing", "examples mix"),
    "norm over the batch": (None, classes, {}, "mixing", "examples mix"),
    "transposed": (None, classes, {}, "mixing", "examples mix"),
    "frozen layer": (None, classes, {}, "parameters", "Dense_0/bias, Dense_0/kernel"),
    "dead units": (None, classes, {}, "units", "100%"),
    "double softmax": (None, classes, {}, "output_range", "softmax is applied twice"),
    "relu last": (None, classes, {}, "output_range", "ReLU"),
    "sigmoid last": (None, classes, {}, "output_range", "sigmoid"),
    "tanh last": (None, classes, {}, "output_range", "tanh"),
    "clipped": (None, classes, {}, "output_range", "cut off"),
    "another gradient": (None, classes, {}, "derivatives", "another gradient"),
    "dropout in evaluation": (None, classes, {}, "shapes", "random numbers in evaluation"),
    "fixed dropout": (None, classes, {}, "order", "fixed random mask"),
    "dropout that does nothing": (None, classes, {}, "modes", "has dropout"),
    "statistics that never move": (None, classes, {}, "modes", "momentum is 1"),
}
KEPT = (
    "labels shifted",
    "broadcast",
    "labels in the input",
    "norm over the batch",
    "frozen layer",
    "relu last",
)


@pytest.mark.parametrize("bug", [pytest.param(bug, marks=() if bug in KEPT else pytest.mark.slow) for bug in BUGS])
def test_a_planted_bug_is_found_and_named(bug):
    model, data, arguments, check, word = BUGS[bug]
    model = Bugged(bug) if model is None else model
    only = () if check == "shapes" else (check,)
    with jax.numpy_rank_promotion("allow"):  # as users have it; the tests refuse it otherwise
        report = jaxnets.check(model, data(), only=only, progress="none", **arguments)
    assert report[check].colour in ("red", "amber")
    assert word in report[check].text


@pytest.mark.smoke
def test_a_sound_run_has_no_finding_and_every_check_is_made():
    report = jaxnets.check(PLAIN, classes(), progress="none")
    assert report.passed
    assert not report.of("red") + report.of("amber"), str(report)
    assert {one.check for one in report.of("skipped")} <= {"causal", "padding", "devices"}
    assert report["devices"].colour == "green"
    assert report["overfit"].figure.curves[0, 0, -1] < 0.05


class Attention(nn.Module):
    """A language model of one layer, with or without the mask."""

    mask: str = "causal"
    vocab_size: int | None = None

    @nn.compact
    def __call__(self, tokens):
        h = nn.Embed(self.vocab_size, 16)(tokens)
        scores = jnp.einsum("btd,bsd->bts", nn.Dense(16)(h), h)
        later = jnp.tril(jnp.ones(scores.shape[1:], bool))[None]
        if self.mask == "causal":
            scores = jnp.where(later, scores, -1e9)
        weights = jax.nn.softmax(scores)
        weights = weights * later if self.mask == "after the softmax" else weights
        return nn.Dense(self.vocab_size)(h + jnp.einsum("bts,bsd->btd", weights, h))


def words(shift=1):
    ids = np.cumsum(np.random.default_rng(1).integers(1, 3, (300, 9)), axis=1).astype(np.int32) % 12
    parts = [
        {"inputs": ids[part, :8], "targets": ids[part, shift : 8 + shift]} for part in (slice(200), slice(200, None))
    ]
    return Dataset("words", *parts, class_names=tuple(map(str, range(12))), target_kind="token", prepare=TokenIds())


@pytest.mark.parametrize(
    ("mask", "shift", "said"),
    [
        ("none", 1, "sees"),
        pytest.param("after the softmax", 1, "sees", marks=pytest.mark.slow),
        pytest.param("causal", 0, "reads there", marks=pytest.mark.slow),
    ],
)
def test_a_look_ahead_is_found(mask, shift, said):
    model = tasks.NextToken(model=Attention(mask))
    found = jaxnets.check(model, words(shift), only=["causal"], progress="none")["causal"]
    assert found.colour == "red"
    assert said in found.text


@pytest.mark.slow
def test_a_model_without_a_look_ahead_is_not_blamed():
    report = jaxnets.check(tasks.NextToken(model=Attention()), words(), progress="none")
    assert report["causal"].colour == "green"
    assert report.passed, str(report)


class Hinted(nn.Module):
    """Takes something more where it is given."""

    outputs: int = 4

    @nn.compact
    def __call__(self, x, hint=None):
        h = nn.Dense(16)(x)
        h = h if hint is None else h + nn.Dense(16, name="hint")(hint)
        return nn.Dense(self.outputs)(nn.relu(h))


class Hints(tasks.Classification):
    """Gives it in the loss, as diffusion gives the label, and not in an evaluation."""

    def init(self, key, batch):
        return self.model.init(key, batch["inputs"], batch["inputs"][:, :2])

    def loss(self, variables, batch, key, train):
        logits = self.model.apply(variables, batch["inputs"], batch["inputs"][:, :2])
        loss = Mean.of(entropy(logits, batch), batch["mask"])
        return loss, Aux({"loss": loss}, {})


@pytest.mark.slow
def test_a_layer_for_what_the_loss_alone_gives_the_model_is_not_called_dead():
    found = jaxnets.check(Hints(model=Hinted()), classes(), only=["units"], progress="none")["units"]
    assert found.colour == "green", found.text
