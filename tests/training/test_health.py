"""What is measured of a network while it trains: against the states themselves, and without a trace in the result."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnets
from jaxnets.config import Experiment
from jaxnets.config.serialize import digest
from jaxnets.core.errors import UsageError
from jaxnets.data import Digits, Ring
from jaxnets.models import CNN, MLP, LanguageModel, ViT
from jaxnets.ops.attention import dot_product_attention
from jaxnets.optim import SGD, Adam, AdamW, LocalSGD
from jaxnets.runs.build import assemble
from jaxnets.steps.health import Health, activations
from jaxnets.tasks import Adversarial, Classification

BASE = Experiment(
    task=Classification(model=MLP(widths=(24, 16))),
    data=Digits(),
    optimizer=Adam(0.01),
    steps=12,
    batch_size=32,
    log_every=6,
)


def trained(experiment=BASE, **changes):
    return jaxnets.train(dataclasses.replace(experiment, **changes), progress="none")


def records(run):
    return [record for record in run.history.records if record["split"] == "health"]


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": AdamW(0.01, weight_decay=0.1, clip_norm=1.0)},
        pytest.param(
            {"optimizer": SGD(0.1), "micro_batches": 4, "task": Classification(model=CNN(features=(8,), dense=(16,)))},
            marks=pytest.mark.slow,
        ),
        pytest.param({"optimizer": "lion", "steps_per_call": 1}, marks=pytest.mark.slow),
        pytest.param({"precision": "bfloat16"}, marks=pytest.mark.slow),
        pytest.param({"local": LocalSGD(replicas=2, every=3)}, marks=pytest.mark.slow),
    ],
    ids=["adamw", "sgd in micro-batches", "lion", "bfloat16", "replicas"],
)
@pytest.mark.smoke
def test_measuring_does_not_change_the_bits_of_training(changes):
    plain, looked = trained(**changes), trained(**changes, health=Health(every=4))
    jax.tree.map(np.testing.assert_array_equal, plain.state, looked.state)
    assert [record["step"] for record in records(looked)] == [4, 8, 12]
    assert not records(plain)
    assert looked.history.metrics() == plain.history.metrics()


def test_norms_are_those_of_the_states_and_of_the_gradient():
    """The states before and after update 3, and the gradient of the loss at the first on the same batch."""
    at = {steps: jaxnets.train(BASE, stop_at=steps, progress="none").state for steps in (2, 3)}
    (record,) = records(trained(health=Health(every=3), steps=12))[:1]
    assert record["step"] == 3
    parts = assemble(BASE)
    batch = parts.feed.batch(parts.feed.load(2, 1, 1), 0, jnp.asarray(2))

    def loss(params):
        return parts.task.loss({"params": params}, batch, jax.random.key(0), True)[0].value

    gradients = jax.grad(loss)(at[2].params)
    for layer in ("hidden_0", "hidden_1", "output"):
        old, new, gradient = (tree[layer] for tree in (at[2].params, at[3].params, gradients))
        weight = np.sqrt(sum((np.asarray(a, np.float64) ** 2).sum() for a in old.values()))
        moves = [np.asarray(new[name], np.float64) - np.asarray(old[name], np.float64) for name in old]
        update = np.sqrt(sum((move**2).sum() for move in moves))
        assert record[f"weight_norm/{layer}"] == pytest.approx(weight, rel=1e-5)
        assert record[f"update_norm/{layer}"] == pytest.approx(update, rel=1e-5)
        assert record[f"update_ratio/{layer}"] == pytest.approx(update / weight, rel=1e-5)
        norm = np.sqrt(sum((np.asarray(a, np.float64) ** 2).sum() for a in gradient.values()))
        assert record[f"gradient_norm/{layer}"] == pytest.approx(norm, rel=1e-4)


def test_units_that_never_fire_are_silent():
    model, x = MLP(widths=(8, 4), outputs=3), jax.random.normal(jax.random.key(0), (50, 5))
    params = dict(model.init(jax.random.key(1), x)["params"])
    bias = jnp.where(jnp.arange(8) < 2, -100.0, 100.0)
    params["hidden_0"] = {**params["hidden_0"], "bias": bias}
    found = jax.jit(lambda params: activations(lambda: model.apply({"params": params}, x)))(params)
    assert set(found) == {"silent_units/hidden_0", "silent_units/hidden_1"}
    assert found["silent_units/hidden_0"] == 0.25
    potential = np.maximum(x @ params["hidden_0"]["kernel"] + bias[None], 0) @ params["hidden_1"]["kernel"]
    assert found["silent_units/hidden_1"] == ((potential + params["hidden_1"]["bias"][None]) <= 0).all(axis=0).mean()


def test_the_entropy_of_attention_is_that_of_its_weights():
    """Equal logits spread over all 6 places: log 6; a very large one looks at one place: 0."""
    value = jnp.ones((2, 6, 1, 4))
    found = activations(lambda: dot_product_attention(value, value, value))
    assert found["attention_entropy/0"] == pytest.approx(np.log(6), rel=1e-5)
    assert found["attention_largest/0"] == pytest.approx(1 / 6, rel=1e-5)
    sharp = 100 * jnp.eye(6, 4)[None, :, None, :] * jnp.ones((2, 1, 1, 1))
    found = activations(lambda: dot_product_attention(sharp, sharp, value))
    assert found["attention_entropy/0"] == pytest.approx(np.log(6) / 3, rel=1e-4)  # two of six rows have equal logits


@pytest.mark.parametrize("options", [{}, {"blocks": "scanned"}, {"remat": "blocks"}], ids=["plain", "scanned", "remat"])
def test_layers_whose_values_stay_inside_are_left_out(options):
    model = LanguageModel(vocab_size=11, layers=2, width=16, heads=2, length=8, **options)
    tokens = jnp.ones((3, 8), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), tokens)

    def measured(variables):
        return activations(lambda: model.apply(variables, tokens))

    found = jax.eval_shape(measured, variables)
    jax.jit(measured).lower(variables)  # no value of a trace that has ended is in the program
    inside = [name for name in found if name.startswith("attention_entropy/")]
    assert len(inside) == (0 if options else 2)


@pytest.mark.slow
def test_a_run_that_was_cut_has_the_records_of_one_that_was_not(tmp_path):
    measured = dataclasses.replace(BASE, health=Health(every=3), save_every=4)
    whole = jaxnets.train(measured, run_dir=tmp_path / "whole", progress="none")
    jaxnets.train(measured, run_dir=tmp_path / "cut", stop_at=7, progress="none")
    cut = jaxnets.train(measured, run_dir=tmp_path / "cut", progress="none")
    assert records(cut) == records(whole)
    assert [record["step"] for record in records(cut)] == [3, 6, 9, 12]
    plots = {path.name for path in (tmp_path / "cut" / "plots").iterdir()}
    assert {"norm_of_the_gradient_by_layer.png", "norm_of_the_weights_by_layer.png"} <= plots
    steps, layers, rows = cut.history.health("update_ratio")
    assert (steps, layers) == ([3, 6, 9, 12], ["hidden_0", "hidden_1", "output"])
    assert np.shape(rows) == (3, 4)


@pytest.mark.slow
def test_a_vision_transformer_has_entropies_of_every_layer():
    task = Classification(model=ViT(patch=4, width=16, layers=2, heads=2))
    run = trained(task=task, steps=2, health=Health(every=2))
    (record,) = records(run)
    assert {"attention_entropy/0", "attention_entropy/1", "attention_largest/0"} <= set(record)


def test_health_does_not_change_the_digest_and_is_refused_for_several_players():
    assert digest(BASE) == digest(dataclasses.replace(BASE, health=Health(every=3)))
    with pytest.raises(UsageError, match="at least|or 0"):
        Health(every=-1)
    game = dataclasses.replace(BASE, task=Adversarial(model=MLP(), critic=MLP()), data=Ring(), health=Health(every=3))
    with pytest.raises(UsageError, match="several players"):
        assemble(game)
