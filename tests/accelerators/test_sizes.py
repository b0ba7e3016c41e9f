"""Advice about sizes: what a TPU pads to 128 and a GPU to 8."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jaxnets import models, tasks
from jaxnets.accelerators.estimate import estimate, prepare
from jaxnets.accelerators.sizes import Size, unsuited
from jaxnets.accelerators.topology import parse
from jaxnets.cli.estimate import as_data, show
from jaxnets.config import load
from jaxnets.parallel.chips import CHIPS


class Parts:
    """A bound task and the shapes of its parameters."""

    def __init__(self, model, inputs):
        self.task = tasks.Classification(model=model)
        variables = jax.eval_shape(model.init, jax.random.key(0), inputs)
        self.abstract = type("State", (), {"params": variables["params"]})


MLP = Parts(models.MLP(widths=(60, 64, 100, 256, 1000), outputs=1001), jnp.ones((2, 5)))


@pytest.mark.parametrize(
    ("chip", "sizes"),
    [
        # 1,001 of 1,024 leaves 2.2% idle and 1,000 2.3%: too little to say.
        ("v5e", [("widths", 64, 128, 0.5), ("widths", 100, 128, 0.21875)]),
        ("h100", [("widths", 100, 104, 4 / 104), ("outputs", 1001, 1008, 7 / 1008)]),
    ],
)
def test_sizes_that_leave_a_part_of_the_units_idle_are_named(chip, sizes):
    found = unsuited(MLP, CHIPS[chip])
    assert [(one.field, one.size, one.better) for one in found] == [(f"task.model.{f}", a, b) for f, a, b, _ in sizes]
    assert [one.idle for one in found] == pytest.approx([idle for *_, idle in sizes])


def test_the_estimate_says_so_for_a_tpu_and_for_a_gpu(capsys):
    for on, said in (
        ("v5e:1", "size: task.model.widths 100 takes the time of 128; 22% of that is padding"),
        ("h100:1", "size: task.model.widths 100 is no multiple of 8; 104 (4.0% more) suits tensor cores"),
    ):
        experiment = load("digits_softmax").experiment
        task = dataclasses.replace(experiment.task, model=models.MLP(widths=(100,)))
        found = estimate(
            prepare(dataclasses.replace(experiment, task=task), jax.devices()[:1]), parse(on), compile=False
        )
        show("small", found)
        assert said in capsys.readouterr().out
        assert as_data("small", found)["sizes"][0]["field"] == "task.model.widths"


def test_vocabularies_count_and_what_is_no_dim_of_a_matrix_does_not():
    model = models.LanguageModel(vocab_size=50257, width=128, layers=1, heads=2, length=100)
    found = unsuited(Parts(model, jnp.ones((1, 100), jnp.int32)), CHIPS["a100"])
    assert found == (Size("task.model.vocab_size", 50257, 50264),)
    assert unsuited(Parts(model, jnp.ones((1, 100), jnp.int32)), CHIPS["v5p"]) == ()
