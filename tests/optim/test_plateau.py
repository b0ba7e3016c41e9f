"""A learning rate that falls when evaluations do not get better."""

import math
import shutil

import jax
import numpy as np
import optax
import pytest
from conftest import assert_same_bits, replace

import jaxnets
from jaxnets.config.serialize import from_data, to_data
from jaxnets.core.errors import UsageError
from jaxnets.models import MLP
from jaxnets.optim import SGD, Adam, Constant, Plateau
from jaxnets.optim.plateau import PlateauState, with_rate_scale
from jaxnets.optim.reading import rates
from jaxnets.runs.train import train

RATE = SGD(3e-1, momentum=0.5, schedule=Constant())
# So strict that most evaluations are no improvement.
STRICT = Plateau(RATE, factor=0.5, patience=1, min_delta=0.2, cooldown=1, minimum=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(("patience", "min_delta", "cooldown"), [(1, 0.0, 0), (2, 0.1, 0), (3, 0.3, 2), (1, 0.2, 4)])
def test_it_reduces_at_the_same_evaluations_as_torch(mode, patience, min_delta, cooldown):
    torch = pytest.importorskip("torch")
    ours = Plateau(Adam(), 0.5, patience, min_delta=min_delta, cooldown=cooldown, minimum=1e-2)
    theirs = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    # PyTorch reduces when there are more than `patience` evaluations without improvement.
    watch = torch.optim.lr_scheduler.ReduceLROnPlateau(
        theirs, mode, 0.5, patience - 1, min_delta, "abs", cooldown, min_lr=1e-2, eps=0.0
    )
    values = [*np.random.default_rng(0).normal(size=60), math.nan, 0.0]
    for count, value in enumerate(values, start=1):
        watch.step(value)
        scale = ours.scale_after(ours.reductions(values[:count], mode))
        assert scale == theirs.param_groups[0]["lr"]
    assert scale == 1e-2


def test_the_scale_multiplies_the_update():
    params = {"w": np.array([1.0, -2.0], np.float32)}
    whole, plain = optax.with_extra_args_support(STRICT.build(10)), RATE.build(10)
    state = whole.init(jax.tree.map(jax.numpy.asarray, params))
    one, _ = whole.update(params, state, params)
    expected, _ = plain.update(params, plain.init(params), params)
    assert_same_bits(one, expected)
    half, _ = whole.update(params, with_rate_scale(state, 0.5), params)
    assert_same_bits(half, jax.tree.map(lambda u: u / 2, expected))


@pytest.mark.slow
def test_a_run_follows_its_evaluations_and_resumes_with_the_same_bits(experiment, blobs, tmp_path):
    base = replace(experiment, optimizer=STRICT, steps=14, eval_every=2, log_every=1, save_every=3, steps_per_call=2)
    whole = train(base, dataset=blobs, run_dir=tmp_path / "whole", progress="none")
    for stop_at in (5, 8, None):
        cut = train(base, dataset=blobs, run_dir=tmp_path / "cut", stop_at=stop_at, progress="none")
        if stop_at == 8:  # killed: the log is there, and the newest checkpoint is that of step 6
            shutil.rmtree(tmp_path / "cut" / "checkpoints" / "8")
    assert_same_bits(whole.state, cut.state)
    assert [r for r in whole.history.records if r["split"] == "validation"] == [
        r for r in cut.history.records if r["split"] == "validation"
    ]
    steps, losses = whole.history.series("loss", "validation")
    reductions = [STRICT.reductions(losses[:count], "min") for count in range(len(losses) + 1)]
    assert reductions[-1] >= 2
    seen = dict(zip(*whole.history.series("learning_rate_scale"), strict=True))
    for step, scale in seen.items():
        assert scale == np.float32(STRICT.scale_after(reductions[sum(at < step for at in steps)]))
    assert whole.parts.program.traces == 1


def test_a_plateau_may_be_at_any_level_of_an_optimizer_but_only_once(blobs):
    options = {"steps": 8, "batch_size": 24, "eval_every": 2, "log_every": 1, "progress": "none"}
    run = jaxnets.fit(MLP(widths=(4,)), blobs, optimizer=STRICT, freeze="hidden_0/.*", **options)
    assert run.history.series("learning_rate_scale")[1][-1] < 1
    start = jax.device_get(run.parts.fresh_state().params)
    assert_same_bits(run.params["hidden_0"], start["hidden_0"])
    with pytest.raises(UsageError, match="has one Plateau"):
        jaxnets.fit(MLP(), blobs, optimizer={"hidden.*": Plateau(), ".*": Plateau(patience=7)}, **options)
    with pytest.raises(UsageError, match=r"Plateau.metric is 'los', which is not measured. Did you mean 'loss'"):
        jaxnets.fit(MLP(), blobs, optimizer=Plateau(metric="los"), **options)


def test_the_logged_rate_is_scaled_if_the_plateau_wraps_it(blobs):
    options = {"steps": 8, "batch_size": 24, "eval_every": 2, "log_every": 1, "progress": "none"}
    other = optax.inject_hyperparams(optax.adam)(1e-3)
    run = jaxnets.fit(MLP(widths=(4,)), blobs, optimizer={"hidden.*": STRICT, ".*": other}, **options)
    assert run.history.series("learning_rate_scale")[1][-1] < 1
    np.testing.assert_allclose(run.history.series("learning_rate")[1], 1e-3, rtol=1e-6)
    inside = PlateauState(np.float32(0.25), other.init({"w": np.zeros(2, np.float32)}))
    assert float(rates((inside,))["learning_rate"]) == pytest.approx(0.25e-3)


def test_it_is_saved_as_data_and_checks_its_fields():
    assert from_data(to_data(STRICT)) == STRICT
    for wrong in ({"factor": 1.0}, {"patience": 0}, {"cooldown": -1}, {"min_delta": -0.1}, {"minimum": 1.0}):
        with pytest.raises(UsageError, match=f"Plateau.{next(iter(wrong))} is"):
            Plateau(**wrong)
