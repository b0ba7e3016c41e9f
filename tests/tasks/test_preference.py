"""DPO by its formula, where its reference comes from, and the files of pairs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_same_bits, replace

import jaxnets
from jaxnets import Initial
from jaxnets.core.errors import DataError
from jaxnets.data import Preferences
from jaxnets.models import LanguageModel
from jaxnets.optim import Adam
from jaxnets.tasks import DPO
from jaxnets.tasks.preference import dpo_loss, sequence_log_probability

MODEL = LanguageModel(layers=1, width=16, heads=2, length=24)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Pairs whose preferred answer is `yes`."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    lines = [{"prompt": f"q{n}", "chosen": "yes", "rejected": "no"} for n in range(40)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return Preferences(str(path), length=24, holdout=0.2)


@pytest.fixture(scope="module")
def batch(pairs):
    made = {name: jnp.asarray(a[:4]).astype(jnp.int32) for name, a in pairs.open().train.items()}
    return {**made, "mask": jnp.ones(4), "index": jnp.arange(4)}


def log_p(model, params, inputs, targets):
    """The sum of log probabilities of the tokens that count, in numpy."""
    logits = np.asarray(model.apply({"params": params}, inputs), np.float64)
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    targets = np.asarray(targets)
    rows, places = np.nonzero(targets != -100)
    total = np.zeros(len(targets))
    np.add.at(total, rows, logs[rows, places, targets[rows, places]])
    return total


@pytest.mark.smoke
def test_the_loss_is_its_formula_and_log_2_where_policy_and_reference_are_equal(pairs, batch):
    task = DPO(model=MODEL, beta=0.3).bind(pairs.open().card)
    variables = task.init(jax.random.key(0), batch)
    loss, aux = task.loss(variables, batch, jax.random.key(1), True)
    assert float(loss.value) == pytest.approx(np.log(2), rel=1e-6)
    assert float(aux.metrics["margin"].value) == 0
    moved = jax.tree.map(lambda a: a + 0.1 * jnp.sin(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape), variables)
    both = {"params": moved["params"], "reference": variables["params"]}
    gains = [
        log_p(task.model, both["params"], batch[f"{side}inputs"], batch[f"{side}targets"])
        - log_p(task.model, both["reference"], batch[f"{side}inputs"], batch[f"{side}targets"])
        for side in ("", "rejected_")
    ]
    wanted = np.log1p(np.exp(-0.3 * (gains[0] - gains[1])))
    got = task.loss(both, batch, jax.random.key(1), True)[0]
    # The gains are sums of some ten terms of float32.
    assert float(got.value) == pytest.approx(wanted.mean(), rel=1e-4)


def test_the_gradient_is_weighted_by_the_implicit_reward():
    # Section 4: the gradient of -log sigmoid(b (c - r)) with respect to c is -b sigmoid(b (r - c)).
    chosen, rejected = jnp.array([0.5, -3.0, 40.0]), jnp.array([1.0, 2.0, -40.0])
    gradient = jax.grad(lambda c: dpo_loss(c, rejected, beta=0.7).sum())(chosen)
    np.testing.assert_allclose(gradient, -0.7 / (1 + np.exp(0.7 * (chosen - rejected))), rtol=1e-5, atol=1e-9)


def test_prompts_do_not_count(batch):
    logits = jax.random.normal(jax.random.key(0), (4, 24, 256))
    prompt = jnp.arange(24)[None, :] < 3  # "user: q" is longer than that
    assert (np.asarray(batch["targets"])[:, :3] == -100).all()
    other = jnp.where(prompt[..., None], 50.0, logits)
    got = (sequence_log_probability(a, batch["targets"]) for a in (logits, other))
    np.testing.assert_array_equal(*got)


@pytest.mark.slow
def test_the_reference_is_the_initial_policy_of_the_run(pairs, tmp_path):
    data = pairs.open()
    options = {"optimizer": Adam(learning_rate=3e-3), "batch_size": 16, "progress": "none"}
    base = jaxnets.fit(jaxnets.tasks.NextToken(model=MODEL), _without_rejected(data), steps=3, **options)
    begin = Initial(base.variables, fresh=("reference/.*",))
    run = jaxnets.fit(DPO(model=MODEL, beta=0.5), data, steps=25, initial=begin, run_dir=tmp_path / "run", **options)
    assert_same_bits(run.state.model_state["reference"], base.variables["params"])
    scores = run.evaluate()
    assert scores["preferred"] == 1.0
    assert scores["loss"] < 0.5
    again = jaxnets.open_run(tmp_path / "run", dataset=data)
    assert again.evaluate() == scores


def _without_rejected(data):
    keep = ("inputs", "targets")
    splits = {field: {name: getattr(data, field)[name] for name in keep} for field in ("train", "test")}
    return replace(data, **splits)


def test_mistakes_in_a_file_are_named(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": "a", "chosen": "b"}\n')
    with pytest.raises(DataError, match="line 2 needs the texts prompt, chosen, rejected"):
        Preferences(str(path)).open()
    path.write_text("{\n")
    with pytest.raises(DataError, match="line 1 is not JSON"):
        Preferences(str(path)).open()
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    with pytest.raises(DataError, match="has 1 pairs of up to 512 tokens; give at least two"):
        Preferences(str(path)).open()
    with pytest.raises(ValueError, match="beta is above 0, got 0"):
        DPO(model=MODEL, beta=0.0)
