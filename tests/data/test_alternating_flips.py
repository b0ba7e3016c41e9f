"""Flips that alternate: each image is turned in every second epoch, whatever feeds it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import UsageError
from jaxnets.data import Augment, InMemory, from_arrays
from jaxnets.data.augment.base import turned
from jaxnets.models import MLP
from jaxnets.runs.build import assemble
from jaxnets.tasks import Classification
from jaxnets.training.ramp import Ramp


def test_a_pair_of_epochs_shows_both_orientations_with_equal_probability():
    rows = jnp.arange(1000)
    first, second, third = (np.asarray(turned(3, epoch, rows)) for epoch in range(3))
    np.testing.assert_array_equal(first, ~second)
    np.testing.assert_array_equal(first, third)
    assert abs(first.mean() - 0.5) < 0.08  # five deviations of the mean of 1000 coins
    assert (np.asarray(turned(4, 0, rows)) != first).any()
    np.testing.assert_array_equal(turned(3, 0, rows[500:]), first[500:])  # of the row, not of its place


def flips(order, *, placement="device", **fields):
    """An experiment on images whose rows of pixels rise to the right, so that a flip is seen."""
    x = np.broadcast_to(np.arange(4, dtype=np.float32)[None, None, :, None], (24, 4, 4, 1)).copy()
    augment = Augment(flip=True, flip_order=order)
    experiment = Experiment(
        task=Classification(model=MLP(widths=(4,))),
        data=InMemory(),
        steps=18,
        batch_size=10,
        placement=placement,
        **fields,
    )
    return experiment, from_arrays(x, np.arange(24) % 2, test=(x, np.arange(24) % 2), augment=augment)


def seen(feed, examples=24, steps=18):
    """Whether each example is flipped in each of the batches that it is in, in turn, `{row: [(step, flipped), ...]}`."""
    found = {row: [] for row in range(examples)}
    batch = jax.jit(lambda payload, step: feed.batch(payload, 0, step))
    for step in range(steps):
        made = batch(feed.load(step, 1, 1), np.int32(step))
        assert "turned" not in made
        for row, image in zip(np.asarray(made["index"]), np.asarray(made["inputs"]), strict=True):
            found[int(row)].append((step, bool(image[0, 0, 0] > image[0, -1, 0])))
    return found


@pytest.mark.smoke
def test_in_a_run_the_orientation_is_that_of_the_epoch(one_device):
    experiment, data = flips("alternating")
    found = seen(assemble(experiment, data, mesh=one_device).feed)
    for row, turns in found.items():
        # Two batches of 10 are an epoch of 24 examples; some are left out of some epochs.
        sides = {flipped ^ (step // 2 % 2 == 1) for step, flipped in turns}
        assert len(sides) == 1, row
    assert {turns[0][1] ^ (turns[0][0] // 2 % 2 == 1) for turns in found.values()} == {True, False}
    streamed = dataclasses.replace(experiment, placement="host")
    assert seen(assemble(streamed, data, mesh=one_device).feed) == found


def test_without_epochs_flips_are_random_and_a_ramp_of_batches_is_refused(one_device):
    images = jnp.broadcast_to(jnp.arange(4.0)[None, None, :, None], (64, 4, 4, 1))
    key = jax.random.key(0)
    alternating, plain = Augment(flip=True, flip_order="alternating"), Augment(flip=True)
    np.testing.assert_array_equal(alternating(images, key), plain(images, key))
    sides = jnp.arange(64) % 2 == 0
    made = alternating(images, key, turned=sides)
    np.testing.assert_array_equal(made[:, 0, 0, 0] > made[:, 0, -1, 0], sides)
    experiment, data = flips("alternating", ramp=Ramp(batch_size=(4,)))
    with pytest.raises(
        UsageError, match=r"flip_order 'alternating' needs epochs of equally many steps, and ramp.batch_size"
    ):
        assemble(experiment, data, mesh=one_device)
    with pytest.raises(ValueError, match="flip_order"):
        Augment(flip_order="sometimes")
