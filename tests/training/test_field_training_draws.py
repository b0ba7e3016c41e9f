"""Random draws: by the example's row in the data and the step, and by the name of a stream."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnets
from jaxnets import models, tasks
from jaxnets.core.errors import UsageError
from jaxnets.data import from_arrays
from jaxnets.data.augment import Augment
from jaxnets.data.feed import ResidentFeed, StreamFeed, Transform
from jaxnets.data.order import Shuffled
from jaxnets.parallel.mesh import placement
from jaxnets.steps.recipe import Recipe
from jaxnets.training.initial import create_state

ROWS = np.array([5, 9, 2, 7])


def generative():
    """Tasks that draw noise for each example, bound to data of equal rows."""
    data = from_arrays(np.full((16, 2), 0.5, np.float32), np.zeros(16, int), standardize=False)
    mlp = models.MLP(widths=(4,))
    found = [
        tasks.Variational(model=models.VAE(widths=(4,), latent=2)),
        tasks.Reconstruction(model=models.Autoencoder(widths=(4,)), noise=0.5, masked=0.2),
        tasks.Diffusion(model=Timed()),
        tasks.Adversarial(model=mlp, critic=mlp, latent=3, objective="wasserstein", penalty=1.0),
    ]
    return [task.bind(data.card) for task in found]


class Timed(nn.Module):
    @nn.compact
    def __call__(self, x, time=None, *, train=False):
        time = jnp.zeros(len(x)) if time is None else time
        return nn.Dense(2)(jnp.concatenate([x, time[:, None]], axis=1))


def batch_of(rows, mask=None):
    rows = jnp.asarray(rows)
    return {
        "inputs": jnp.full((len(rows), 2), 0.5),
        "targets": jnp.zeros(len(rows), jnp.int32),
        "mask": jnp.ones(len(rows)) if mask is None else mask,
        "index": rows,
    }


def losses(task, variables):
    """A function that gives the loss of each example of a batch, by masking all others."""

    def one(rows, key, mask):
        batch = batch_of(rows, mask)
        if isinstance(task, tasks.Adversarial):
            own, other = ({name: tree[who] for name, tree in variables.items()} for who in ("critic", "generator"))
            return task.critic_loss(own, batch, key, True, other=other)[0].value
        return task.loss(variables, batch, key, True)[0].value

    each = jax.jit(jax.vmap(one, in_axes=(None, None, 0)))
    return lambda rows, key=3: np.asarray(each(np.asarray(rows), jax.random.key(key), jnp.eye(len(rows))))


@pytest.mark.parametrize("task", generative(), ids=lambda task: type(task).__name__)
def test_noise_depends_on_row_and_step(task):
    variables = jax.jit(task.init)(jax.random.key(0), batch_of(ROWS))
    each = losses(task, variables)
    a = each(ROWS)
    assert len(np.unique(a.round(6))) == 4  # equal examples draw different numbers
    np.testing.assert_array_equal(a, each(ROWS))
    # Another place in another batch: the same draw.
    np.testing.assert_allclose(each([11, 2, 5, 30])[1:3], a[[2, 0]], rtol=1e-5)
    assert abs(a - each(ROWS, 4)).max() > 1e-4
    # An evaluation: the same numbers however it is cut into batches.
    measure = jax.jit(lambda rows, mask: task.metrics(variables, batch_of(rows, mask))["loss"])
    whole = measure(ROWS, jnp.ones(4))
    parts = measure(ROWS[[3, 0, 0, 0]], jnp.eye(4)[0]) + measure(ROWS[[0, 2, 1, 3]], jnp.asarray([1.0, 1, 1, 0]))
    np.testing.assert_allclose(whole.value, parts.value, rtol=1e-5)


@pytest.mark.slow
def test_micro_batches_draw_what_the_whole_batch_draws():
    task = generative()[1]
    batch, moved = batch_of(np.arange(8)), []
    for count in (1, 4):
        recipe = Recipe(optimizer=optax.sgd(0.1), micro_batches=count)
        state = jax.jit(lambda recipe=recipe: create_state(task, recipe, batch))()
        moved.append(jax.jit(task.make_step(recipe))(state, batch)[0].params)
    for a, b in zip(*map(jax.tree.leaves, moved), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("road", [ResidentFeed, StreamFeed])
def test_every_batch_has_its_row_numbers_and_augmentation_depends_on_them(road, one_device):
    images = np.random.default_rng(0).normal(size=(20, 4, 4, 1)).astype(np.float32)
    data = from_arrays(images, np.arange(20.0), standardize=False)
    augment = Augment(shift=1, noise=0.1)
    order, transform = Shuffled(20, 5, 0), Transform(data.preparation, augment=augment, seed=0)
    feed = road({"inputs": images, "targets": np.arange(20)}, order, transform, placement(one_device))
    batch = feed.batch(feed.load(6, 1, 1), 0, jnp.asarray(6))
    assert batch["index"].dtype == jnp.int32
    np.testing.assert_array_equal(batch["index"], order.rows(6)[0])
    np.testing.assert_array_equal(batch["index"], batch["targets"])
    # Row 7 at a step is changed alike wherever it stands, and not as its double is.
    key, one = jax.random.key(1), jnp.asarray(images[7])
    alone = augment(one[None], key, jnp.asarray([7]))[0]
    both = augment(jnp.stack([one, one]), key, jnp.asarray([3, 7]))
    np.testing.assert_array_equal(both[1], alone)
    assert (both[0] != both[1]).any()


# --- streams and collections of a module's own


class Noisy(nn.Module):
    """Draws from streams of its own, while training."""

    outputs: int | None = None
    streams: tuple[str, ...] = ("noise", "a stream of my own")

    @nn.compact
    def __call__(self, x, *, train=False):
        drawn = self.variable("state", "drawn", lambda: jnp.zeros((len(self.streams),)))
        if train:
            drawn.value = jnp.stack([jax.random.normal(self.make_rng(name)) for name in self.streams])
            if self.has_rng("noise"):
                x = x + 0.1 * jax.random.normal(self.make_rng("noise"), x.shape)
        self.sow("intermediates", "x", x)
        self.sow("losses", "size", (x**2).sum())
        return nn.Dense(self.outputs or 1)(x)


def arrays():
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    return x, x[:, 0]


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_streams_of_any_name_are_new_at_each_step_and_reproducible(micro_batches):
    x, y = arrays()
    batch = {"inputs": jnp.asarray(x), "targets": jnp.asarray(y), "mask": jnp.ones(40)}
    task, drawn = tasks.Regression(model=Noisy()), []
    for seed in (0, 1):
        recipe = Recipe(optimizer=optax.sgd(0.1), seed=seed, micro_batches=micro_batches)
        state = first = jax.jit(lambda recipe=recipe: create_state(task, recipe, batch))()
        assert set(first.variables) == {"params", "state"}  # what is sown is no state
        step = jax.jit(task.make_step(recipe))
        for _ in range(2):
            state, _ = step(state, batch)
            drawn.append(state.model_state["state"]["drawn"])
        again, _ = step(first, batch)
        np.testing.assert_array_equal(again.model_state["state"]["drawn"], drawn[-2])
    assert len(np.unique(np.concatenate(drawn))) == 8  # by name, step and seed


def test_dropout_of_micro_batches_differs():
    class Mask(nn.Module):
        outputs: int | None = None

        @nn.compact
        def __call__(self, x, *, train=False):
            seen = self.variable("state", "seen", lambda: jnp.ones((2, 64)))
            if train:
                kept = nn.Dropout(0.5, deterministic=False)(jnp.ones((64,)))
                seen.value = jnp.stack([seen.value[1], kept])
            return nn.Dense(1)(x)

    task = tasks.Regression(model=Mask())
    recipe = Recipe(optimizer=optax.sgd(0.1), micro_batches=2)
    batch = {**batch_of(np.arange(8)), "targets": jnp.zeros(8)}
    state = jax.jit(lambda: create_state(task, recipe, batch))()
    seen = jax.jit(task.make_step(recipe))(state, batch)[0].model_state["state"]["seen"]
    assert (seen[0] != seen[1]).any()


class DrawsAlways(nn.Module):
    outputs: int | None = None

    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Dense(1)(x + jax.random.normal(self.make_rng("noise"), x.shape))


class CountsLate(nn.Module):
    outputs: int | None = None

    @nn.compact
    def __call__(self, x, *, train=False):
        if train:
            self.variable("state", "calls", lambda: jnp.zeros((), jnp.int32)).value += 1
        return nn.Dense(1)(x)


class Resizes(nn.Module):
    outputs: int | None = None

    @nn.compact
    def __call__(self, x, *, train=False):
        last = self.variable("state", "last", lambda: jnp.zeros((1,)))
        if train:
            last.value = x.mean(axis=1)
        return nn.Dense(1)(x)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (DrawsAlways(), "DrawsAlways draws random numbers in evaluation .*noise"),
        (CountsLate(), "CountsLate creates or changes a variable where it may not"),
        (Resizes(), r"collection 'state' with last float32\[1\], and has last float32\[32\]"),
    ],
    ids=["draws", "late", "resizes"],
)
def test_unsupported_modules_are_refused_with_the_reason(model, said):
    with pytest.raises(UsageError, match=said):
        jaxnets.fit(model, arrays(), steps=2, progress="none")
