"""GRPO: advantages, the clipped objective and the first gradient by their equations; rewards that rise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, assert_same_bits, replace

import jaxnets
from jaxnets.core.errors import DataError
from jaxnets.data import Sums
from jaxnets.models import LanguageModel
from jaxnets.optim import SGD, Adam, Constant
from jaxnets.tasks import GRPO
from jaxnets.tasks.group_policy import clipped_objective, group_advantages

MODEL = LanguageModel(layers=1, width=16, heads=2, length=8)


@pytest.fixture(scope="module")
def sums():
    return Sums().open()


def test_sums_are_spelt_and_no_sum_is_in_both_splits(sums):
    names = sums.class_names
    said = []
    for split in (sums.train, sums.test):
        for prompt, answer in zip(split["inputs"], split["targets"], strict=True):
            text = "".join(names[i] for i in prompt)
            first, second = text[:-1].split("+")
            assert int("".join(names[i] for i in answer)) == int(first) + int(second)
            said.append(text)
    assert len(set(said)) == len(said) == 100
    assert Sums(digits=2).open().train["inputs"].shape == (8000, 6)
    with pytest.raises(DataError, match="Sums.digits is 1 to 3"):
        Sums(digits=4).open()


@pytest.mark.smoke
def test_advantages_are_standardised_in_each_group_and_equal_rewards_have_none():
    rewards = np.array([[0.0, 1.0, 1.0, 0.5], [0.3, 0.3, 0.3, 0.3]], np.float32)
    got = np.asarray(group_advantages(jnp.asarray(rewards)))
    np.testing.assert_allclose(got[0], (rewards[0] - rewards[0].mean()) / (rewards[0].std() + 1e-4), rtol=1e-5)
    np.testing.assert_allclose(got[1], 0, atol=1e-3)


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "value", "slope"),
    [
        (0.0, 2.0, 2.0, 2.0),
        (np.log(1.5), 2.0, 2.4, 0.0),  # gains no more above 1 + clip
        (np.log(0.5), 2.0, 1.0, 1.0),
        (np.log(0.5), -2.0, -1.6, 0.0),  # nor below 1 - clip
        (np.log(1.5), -2.0, -3.0, -3.0),
    ],
)
def test_the_objective_is_clipped_on_the_side_that_would_gain(log_ratio, advantage, value, slope):
    got = jax.value_and_grad(lambda r: clipped_objective(r, advantage, clip=0.2))(jnp.float32(log_ratio))
    np.testing.assert_allclose(got, (value, slope), rtol=1e-5)


def batch_of(data, count):
    made = {name: jnp.asarray(array[:count]) for name, array in data.train.items()}
    return {**made, "mask": jnp.ones(count), "index": jnp.arange(count)}


def test_the_first_update_is_that_of_the_policy_gradient(sums):
    task = GRPO(model=MODEL, group=4).bind(sums.card)
    batch = batch_of(sums, 3)
    variables = task.init(jax.random.key(0), batch)
    sampled, rewards = task.rollout(variables, batch, jax.random.key(1))
    assert rewards.shape == (3, 4)
    tokens = np.asarray(sampled["inputs"])
    right = (tokens[:, -2:] == np.repeat(np.asarray(batch["targets"]), 4, axis=0)).mean(axis=1)
    np.testing.assert_allclose(rewards.reshape(-1), right)
    known = sampled["targets"]

    def reinforce(params):
        logits = task.model.apply({"params": params}, known["tokens"][:, :-1])[:, -2:]
        logs = jnp.take_along_axis(jax.nn.log_softmax(logits), known["tokens"][:, -2:, None], axis=-1)[..., 0]
        return -(logs * known["advantage"][:, None]).mean()

    def ours(params):
        return task.loss({"params": params}, sampled, jax.random.key(2), True)[0].value

    wanted, got = jax.jit(jax.grad(reinforce))(variables["params"]), jax.jit(jax.grad(ours))(variables["params"])
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(wanted)) > 1e-3
    assert_close(got, wanted, atol=1e-6)


def test_the_divergence_is_0_at_the_reference_and_its_estimate_elsewhere(sums):
    task = GRPO(model=MODEL, group=4, kl=0.5).bind(sums.card)
    batch = batch_of(sums, 3)
    variables = task.init(jax.random.key(0), batch)
    sampled, _ = task.rollout(variables, batch, jax.random.key(1))
    assert float(task.loss(variables, sampled, jax.random.key(2), True)[1].metrics["kl"].value) < 1e-9
    moved = {**variables, "params": jax.tree.map(lambda a: a * 1.5 + 0.02, variables["params"])}
    now = task.log_probabilities({"params": moved["params"]}, sampled["targets"]["tokens"], 2, None)[0]
    behind = np.asarray(sampled["targets"]["reference"] - now, np.float64)
    got = task.loss(moved, sampled, jax.random.key(2), True)[1].metrics["kl"].value
    assert float(got) == pytest.approx((np.exp(behind) - behind - 1).mean(), rel=1e-3)


@pytest.mark.slow
def test_rewards_rise_and_the_run_opens_again(sums, tmp_path):
    task = GRPO(model=MODEL, group=8, turns=2, kl=0.01)
    options = {"optimizer": Adam(learning_rate=3e-3, schedule=Constant()), "batch_size": 16, "progress": "none"}
    run = jaxnets.fit(task, sums, steps=60, log_every=10, run_dir=tmp_path / "run", **options)
    rewards = [record["reward"] for record in run.history.records if record.get("split") == "train"]
    assert rewards[0] < 0.2  # guessing among twelve tokens gives .08
    assert rewards[-1] > 0.35
    assert_same_bits(run.state.model_state["reference"], run.parts.fresh_state().params)
    again = jaxnets.open_run(tmp_path / "run", dataset=sums)
    assert again.evaluate() == run.evaluate()


def test_a_custom_reward_is_called(sums):
    def nines(prompt, completion, answer):
        return (completion == 9).mean()

    task = GRPO(model=MODEL, reward=nines).bind(sums.card)
    made = jnp.array([[9, 9], [9, 0], [1, 2]])
    np.testing.assert_allclose(task.rewards(batch_of(sums, 3), made), [1, 0.5, 0])
    # All samples alike: nothing moves.
    flat = replace(task, reward=lambda *_: jnp.float32(1.0))
    run = jaxnets.fit(flat, sums, steps=1, optimizer=SGD(learning_rate=1.0), progress="none", batch_size=8)
    assert_close(run.state.params, run.parts.fresh_state().params, atol=1e-6)


def test_mistakes_are_named(sums):
    with pytest.raises(ValueError, match="group is at least 2 and turns at least 1, got 1 and 1"):
        GRPO(model=MODEL, group=1)
    with pytest.raises(ValueError, match="clip is in"):
        GRPO(model=MODEL, clip=1.0)
    task = GRPO(model=replace(MODEL, length=5)).bind(sums.card)
    batch = batch_of(sums, 2)
    with pytest.raises(DataError, match="prompts and answers have 6 tokens, the model takes 5"):
        task.check_outputs(task.init(jax.random.key(0), batch), batch, sums.card)
