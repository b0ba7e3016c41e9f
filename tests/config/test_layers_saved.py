"""What changes layers, initial weights and rates is saved with a run, and by default has no part in its name."""

import dataclasses

import jax.numpy as jnp

from jaxnets.config.experiment import Experiment
from jaxnets.config.serialize import digest, from_data, to_data
from jaxnets.data import InMemory
from jaxnets.models import MLP, Layers
from jaxnets.ops import Initialiser
from jaxnets.optim import Adam, StochasticRounding, mup
from jaxnets.steps.precision import Precision
from jaxnets.tasks import Classification


def test_settings_are_loaded_as_they_were_saved():
    optimizer, initialiser = mup(Adam(1e-2), MLP(widths=(8, 8)), MLP(widths=(4, 4)), jnp.zeros((1, 3)))
    plain = Experiment(task=Classification(model=MLP(widths=(8, 8))), data=InMemory("blobs"))
    scaled = dataclasses.replace(plain, optimizer=optimizer, initialiser=initialiser, layers=Layers(drop_connect=0.1))
    narrow = dataclasses.replace(
        plain, precision=Precision(weights="bfloat16"), optimizer=StochasticRounding(Adam(1e-2))
    )
    for experiment in (plain, scaled, narrow):
        assert from_data(to_data(experiment)) == experiment
    assert len({digest(experiment) for experiment in (plain, scaled, narrow)}) == 3


def test_a_run_saved_before_these_fields_is_the_same_run():
    plain = Experiment(task=Classification(model=MLP(widths=(8,))), data=InMemory("blobs"))
    old = to_data(plain)
    for name in ("layers", "initialiser"):
        del old[name]
    del old["precision"]["weights"]
    assert from_data(old) == plain
    assert digest(plain) != digest(dataclasses.replace(plain, layers=Layers(ghost=4), initialiser=Initialiser("he")))
