"""Losses refuse shapes that would broadcast."""

import jax.numpy as jnp
import pytest

from jaxnets.tasks import losses


@pytest.mark.parametrize(
    ("loss", "predicted", "wanted"),
    [
        (losses.squared_error, (4, 1), (4,)),
        (losses.huber, (4, 1), (4,)),
        (losses.binary_cross_entropy, (4, 1), (4,)),
        (losses.cross_entropy, (4, 3), (4, 1)),
        (losses.cross_entropy, (4, 3), (1,)),
        (losses.token_cross_entropy, (4, 5, 3), (4, 1)),
    ],
)
def test_shapes_that_would_broadcast_are_refused(loss, predicted, wanted):
    with pytest.raises(AssertionError):
        loss(jnp.ones(predicted), jnp.ones(wanted, jnp.int32))
