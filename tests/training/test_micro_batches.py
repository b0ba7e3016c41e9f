"""What micro-batches change and what they do not: the draws of dropout, and the sizes that a batch may have."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets.core.errors import UsageError
from jaxnets.parallel import MeshShape, check_batch, make_mesh
from jaxnets.steps import Recipe
from jaxnets.tasks import Regression
from jaxnets.training.initial import create_state


class Drawn(nn.Module):
    """Gives back its dropout mask: every example of a call has the same inputs, so what differs is drawn."""

    @nn.compact
    def __call__(self, inputs, *, train=False):
        scale = self.param("scale", nn.initializers.ones, (1, inputs.shape[-1]))
        return nn.Dropout(0.5, deterministic=not train)(inputs * scale).sum(-1, keepdims=True)


def test_micro_batches_draw_different_dropout():
    """Four micro-batches of the same two examples: with one key for all of them their losses would be the same."""
    seen = []

    class Watched(Regression):
        def loss(self, variables, batch, key, train):
            mean, aux = super().loss(variables, batch, key, train)
            jax.debug.callback(lambda loss: seen.append(float(loss)), mean.sum)
            return mean, aux

    task = Watched(model=Drawn())
    batch = {
        "inputs": jnp.tile(1 + jnp.arange(64) / 7, (8, 1)),
        "targets": jnp.zeros((8,)),
        "mask": jnp.ones((8,)),
        "index": jnp.arange(8),
    }
    recipe = Recipe(optimizer=optax.sgd(0.1), micro_batches=4)
    state = create_state(task, recipe, batch)
    jax.block_until_ready(jax.jit(task.make_step(recipe))(state, batch))
    jax.effects_barrier()
    assert len(seen) == 4
    assert len(set(seen)) == 4


@pytest.mark.parametrize(("size", "micro", "hint"), [(20, 2, 16), (36, 4, 32), (100, 4, 96), (3, 3, 24), (40, 4, 32)])
def test_the_batch_size_that_is_proposed_fits_the_micro_batches(size, micro, hint):
    mesh = make_mesh(MeshShape(), devices=jax.devices())
    assert len(jax.devices()) == 8
    with pytest.raises(UsageError, match=rf"set batch_size to {hint}\b"):
        check_batch(size, mesh, micro_batches=micro)
    check_batch(hint, mesh, micro_batches=micro)
    assert np.lcm(8 * micro, hint) == hint
