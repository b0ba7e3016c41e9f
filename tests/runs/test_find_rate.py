"""The learning rate and the batch of experiments: scaled optimizers are the optimizers, groups, and what cannot be scaled."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import run_cli

import jaxnets
from jaxnets.checkpoints.digest import read_digests, start_digests
from jaxnets.core.errors import UsageError
from jaxnets.models import MLP
from jaxnets.optim import SGD, Adam, AdamW, ByDepth, Constant, Frozen, Later, Named, Plateau, as_optimizer
from jaxnets.optim.given import NAMES
from jaxnets.runs.find_rate import at_rate_one, peak_step, scaled

PARAMS = {
    "layer_0": {"kernel": jnp.arange(12.0).reshape(3, 4) / 10 - 0.5, "bias": jnp.ones(4)},
    "output": {"kernel": jnp.full((4, 2), 0.3), "bias": jnp.zeros(2)},
}
OPTIMIZERS = [
    SGD(weight_decay=0.1, nesterov=True),
    Adam(clip_norm=0.5),
    AdamW(weight_decay=0.3),
    pytest.param(AdamW(weight_decay=0.3, moments="bfloat16"), marks=pytest.mark.slow),
    ByDepth(AdamW(weight_decay=0.3), decay=0.5),
    Plateau(Adam()),
    *(pytest.param(Named(kind), marks=() if kind == "lion" else pytest.mark.slow) for kind in NAMES),
]


def problem():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6)).astype(np.float32)
    return x, (x[:, :3].argmax(axis=1))


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: getattr(o, "kind", type(o).__name__))
def test_an_update_at_rate_one_times_the_rate_is_the_update_at_that_rate(optimizer):
    """The schedule is left out: what is compared is the constant rate 0.02."""
    unit, _ = at_rate_one(optimizer)
    inner = getattr(optimizer, "optimizer", None)
    constant = {"learning_rate": 0.02, "schedule": Constant()}
    at = dataclasses.replace(optimizer, **constant) if inner is None else dataclasses.replace(
        optimizer, optimizer=dataclasses.replace(inner, **constant)
    )  # fmt: skip
    whole, factors = at.build(10), jnp.array([0.02])
    mine = scaled(unit.build(10), factors, lambda params: jax.tree.map(lambda _: 0, params))
    states = [whole.init(PARAMS), mine.init(PARAMS)]
    params, key = PARAMS, jax.random.key(0)
    for step in range(3):
        gradients = jax.tree.map(lambda p, step=step: jax.random.normal(jax.random.fold_in(key, step), p.shape), params)
        want, states[0] = whole.update(gradients, states[0], params)
        got, states[1] = mine.update(gradients, states[1], params)
        # The rate is multiplied in another order: some roundings of float32.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7), want, got)
        params = optax.apply_updates(params, want)


def test_schedules_inside_a_transformation_stand_at_their_peak():
    schedule = optax.warmup_cosine_decay_schedule(0, 0.01, 30, 96)
    assert int(peak_step(optax.adam(schedule), PARAMS, 97)) == 30  # 33 steps are tried: every third
    assert int(peak_step(optax.adam(0.01), PARAMS, 97)) == 0


@pytest.mark.smoke
def test_the_suggested_rate_trains_and_the_arguments_are_not_changed():
    data = problem()
    before = [array.copy() for array in data]
    options = {"optimizer": Adam(), "batch_size": 40}
    found = jaxnets.find_lr(MLP(widths=(16,)), data, tries=80, repeats=2, **options)
    assert found.given == 1e-3
    assert found.groups == {}
    assert 1e-3 < found.rate < 0.3
    for kept, array in zip(before, data, strict=True):
        np.testing.assert_array_equal(kept, array)
    run = jaxnets.fit(MLP(widths=(16,)), data, steps=100, batch_size=40, optimizer=Adam(found.rate), progress="none")
    assert run.history.last("test")["accuracy"] > 0.85


def test_a_transformation_gets_a_multiple_of_its_own_rate():
    """Adam with 1e-3 inside: the multiple is a thousand times the rate of the same Adam that says its rate."""
    options = {"tries": 60, "repeats": 1, "batch_size": 40, "low": 1e-5, "high": 1.0}
    known = jaxnets.find_lr(MLP(widths=(16,)), problem(), optimizer=Adam(1.0), **options)
    ramp = optax.linear_schedule(0.0, 1.0, 20)
    steps = {"steps": 40}
    hidden = jaxnets.find_lr(MLP(widths=(16,)), problem(), optimizer=optax.adam(ramp), **options, **steps)
    assert hidden.given is None
    assert hidden.rate == pytest.approx(known.rate, rel=1e-3)


def test_groups_are_tested_together_and_alone():
    optimizer = {"hidden.*": Adam(1e-3), "output/bias": Frozen(), ".*": Later(Adam(1e-2), 5)}
    found = jaxnets.find_lr(MLP(widths=(16,)), problem(), optimizer=optimizer, tries=50, repeats=1, batch_size=40)
    assert found.given == 1e-2
    assert list(found.groups) == ["hidden.*", ".*"]
    # The same factors are tried, in each group from its own rate on.
    np.testing.assert_allclose(found.groups["hidden.*"].rates, found.test.rates / 10, rtol=1e-5)
    np.testing.assert_allclose(found.groups[".*"].rates, found.test.rates, rtol=1e-5)
    assert found.rate > 0


@pytest.mark.parametrize(
    ("optimizer", "why"),
    [
        (optax.contrib.schedule_free_adamw(1e-3), "average of its weights"),
        (optax.lookahead(optax.sgd(0.1), 5, 0.5), "slow weights"),
        (optax.lbfgs(), "length of each step"),
        (optax.contrib.prodigy(), "its own learning rate"),
        ({"hidden.*": optax.contrib.prodigy(), ".*": "adam"}, "its own learning rate"),
    ],
    ids=["schedule-free", "lookahead", "lbfgs", "prodigy", "a group"],
)
def test_optimizers_without_a_rate_to_multiply_are_refused(optimizer, why):
    with pytest.raises(UsageError, match=why):
        jaxnets.find_lr(MLP(widths=(4,)), problem(), optimizer=optimizer, batch_size=40)


@pytest.mark.slow
def test_an_initial_state_is_used_and_not_changed():
    run = jaxnets.fit(MLP(widths=(16,)), problem(), steps=60, optimizer=Adam(0.01), batch_size=40, progress="none")
    before = read_digests(start_digests(run.state))
    found = jaxnets.find_lr(
        MLP(widths=(16,)), problem(), initial=run, tries=30, repeats=1, batch_size=40, optimizer="adam"
    )
    assert read_digests(start_digests(run.state)) == before
    trained = run.history.last("train")["loss"]
    assert found.test.losses[0, 0] < 3 * trained + 0.1  # not that of fresh weights, about log 3


def test_the_command_prints_a_rate_as_data_and_as_a_picture(tmp_path):
    picture = tmp_path / "rates.png"
    flags = ["--tries", "40", "--repeats", "2", "--output", str(picture)]
    done = run_cli("find-lr", "digits_softmax", *flags, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["given"] == 0.01
    assert 1e-3 < data["rate"] < 1
    assert picture.read_bytes().startswith(b"\x89PNG")
    bad = run_cli("find-lr", "digits_softmax", "--low", "5", "--high", "1", cwd=tmp_path)
    assert bad.returncode == 2
    assert "low < high" in bad.stderr


def test_as_optimizer_of_a_unit_optimizer_returns_it():
    unit, rates = at_rate_one(as_optimizer("lion"))
    assert at_rate_one(unit) == (unit, {"": 1.0})
    assert rates == {"": 1e-4}
