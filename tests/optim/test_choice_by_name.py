"""Optimizers and schedules chosen on the command line, with their fields as flags; players and replicas with all of it."""

import dataclasses

import jax
import numpy as np
import pytest
from conftest import replace

from jaxnets import config
from jaxnets.cli.fast_parse import with_choices, with_flags
from jaxnets.core.errors import UsageError
from jaxnets.optim import (
    EMA,
    SAM,
    SGD,
    SWA,
    WSD,
    AdamW,
    Gradient,
    InverseSquareRoot,
    Lion,
    LocalSGD,
    Lookahead,
    Named,
    OneCycle,
    Penalty,
)
from jaxnets.runs.build import assemble
from jaxnets.training.loop import fit


@dataclasses.dataclass(frozen=True)
class Nothing:
    """No options beside the experiment's."""


def read(*flags, name="digits_cnn"):
    loaded = config.load(name)
    return with_flags(loaded, "jaxnets train", flags, Nothing)[0], loaded.experiment


@pytest.mark.smoke
def test_flags_choose_a_class_and_then_its_fields():
    found, plain = read("--optimizer", "lion", "--optimizer.schedule", "wsd", "--optimizer.schedule.warmup", "500ba",
                        "--optimizer.b2=0.95", "--gradient.clip-value", "1", "--penalty.l1", "1e-5")  # fmt: skip
    assert found == replace(plain, optimizer=Lion(b2=0.95, schedule=WSD(warmup="500ba")),
                            gradient=Gradient(clip_value=1.0), penalty=Penalty(l1=1e-5))  # fmt: skip
    assert read("--optimizer.schedule.warmup", "0.3")[0].optimizer.schedule.warmup == 0.3
    assert read("--average", "swa", "--average.start", "2ep")[0].average == SWA(start="2ep")


def test_wrappers_wrap_the_optimizer_of_the_configuration():
    found, plain = read("--optimizer", "SAM", "--optimizer.rho=0.1", "--optimizer.optimizer.schedule=one-cycle")
    assert found.optimizer == SAM(replace(plain.optimizer, schedule=OneCycle()), rho=0.1)
    twice, _ = read("--optimizer=sgd", "--optimizer=lookahead", "--optimizer.every", "3")
    assert twice.optimizer == Lookahead(SGD(), every=3)
    assert read("--optimizer", "radam")[0].optimizer == Named("radam")
    assert read("--optimizer.schedule", "inverse_square_root")[0].optimizer.schedule == InverseSquareRoot()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--optimizer", "lyon"), "no optimizer 'lyon'. Did you mean .*'Lion'"),
        (("--optimizer.schedule", "adam"), "no schedule 'adam'. "),
        (("--optimizer",), "--optimizer takes the name of one"),
        (("--optimizer.schedule", "--steps", "3"), "--optimizer.schedule takes the name of one"),
    ],
)
def test_unknown_and_missing_names_are_refused(flags, said):
    with pytest.raises(UsageError, match=said):
        with_choices(config.load("digits_cnn").experiment, flags)


def test_other_flags_are_left_as_they_are():
    experiment = config.load("digits_cnn").experiment
    flags = ["--steps", "3", "--optimizer.learning-rate=0.1", "--optimizers", "lion", "--task.model", "x", "optimizer"]
    assert with_choices(experiment, flags) == (experiment, flags)


@pytest.mark.slow
def test_both_players_have_every_gradient_change_and_penalty(one_device):
    loaded = config.load("ring_gan").experiment
    plain = replace(loaded, task=replace(loaded.task, critic_steps=2), optimizer=SGD(0.01), batch_size=16, steps=2,
                    steps_per_call=2, average=EMA())  # fmt: skip
    every = {"gradient": Gradient(clip_value=1e-3, noise=1e-8), "penalty": Penalty(l1=1e-4, l2=0.1, weight_noise=0.01)}
    states = []
    for changes in (every, {"penalty": Penalty(l1=1e3, on=("critic/*",))}):
        parts = assemble(replace(plain, **changes), mesh=one_device)
        with jax.set_mesh(one_device):
            states.append(fit(parts.program, parts.fresh_state(), start=0, stop=2))
    assert int(states[0].guard["skipped"]) == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states[0].params))
    # A threshold of rate * 1000 makes every number of the player that the pattern names 0, and no weight of the other's.
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(states[1].params["critic"]))
    assert all(np.all(leaf) for leaf in jax.tree.leaves(states[1].params["generator"]) if leaf.ndim > 1)


@pytest.mark.slow
def test_replicas_of_local_sgd_have_their_own_noise(experiment, blobs, one_device):
    apart = replace(experiment, local=LocalSGD(replicas=2, every=2), steps=2, steps_per_call=1, optimizer=AdamW(1e-2))
    changed = replace(apart, gradient=Gradient(clip_value=1e-2, noise=1e-6), penalty=Penalty(l2=0.1, weight_noise=0.01))
    parts = assemble(changed, blobs, mesh=one_device)
    with jax.set_mesh(one_device):
        state = fit(parts.program, parts.fresh_state(), start=0, stop=2)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
