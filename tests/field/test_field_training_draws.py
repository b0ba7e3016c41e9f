"""Random draws: by the example's row in the data and the step, and by the name of a stream."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnets
from jaxnets import models, optim, tasks
from jaxnets.data import from_arrays
from jaxnets.data.augment import Augment
from jaxnets.data.feed import ResidentFeed, StreamFeed, Transform
from jaxnets.data.order import Shuffled
from jaxnets.errors import UsageError
from jaxnets.parallel.mesh import placement
from jaxnets.training.state import create_state
from jaxnets.training.step import Recipe

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


def losses(task, variables, rows, key=None):
    """The loss of each example of a batch, by masking all others."""

    def one(mask):
        batch, at = batch_of(rows, mask), jax.random.key(3) if key is None else key
        if isinstance(task, tasks.Adversarial):
            own, other = ({name: tree[who] for name, tree in variables.items()} for who in ("critic", "generator"))
            return task.critic_loss(own, batch, at, True, other=other)[0].value
        return task.loss(variables, batch, at, True)[0].value

    return np.asarray(jax.jit(jax.vmap(one))(jnp.eye(len(rows))))


@pytest.mark.parametrize("task", generative(), ids=lambda task: type(task).__name__)
def test_noise_goes_by_row_and_step(task):
    variables = task.init(jax.random.key(0), batch_of(ROWS))
    a = losses(task, variables, ROWS)
    assert len(np.unique(a.round(6))) == 4  # equal examples draw different numbers
    np.testing.assert_array_equal(a, losses(task, variables, ROWS))
    # Another place in another batch: the same draw.
    np.testing.assert_allclose(
        losses(task, variables, [11, 2, 5]), [losses(task, variables, [11])[0], a[2], a[0]], rtol=1e-5
    )
    assert abs(a - losses(task, variables, ROWS, jax.random.key(4))).max() > 1e-4
    # An evaluation: the same numbers however it is cut into batches.
    whole = task.metrics(variables, batch_of(ROWS))["loss"]
    parts = [task.metrics(variables, batch_of(ROWS[rows]))["loss"] for rows in ([3], [0, 2, 1])]
    np.testing.assert_allclose(whole.value, (parts[0] + parts[1]).value, rtol=1e-5)


def test_micro_batches_draw_what_the_whole_batch_draws():
    task = generative()[1]
    batch, moved = batch_of(np.arange(8)), []
    for count in (1, 2, 4):
        recipe = Recipe(optimizer=optim.SGD(learning_rate=0.1).build(5), micro_batches=count)
        state = create_state(task, recipe, batch)
        moved.append(jax.jit(task.make_step(recipe))(state, batch)[0].params)
    for other in moved[1:]:
        for a, b in zip(jax.tree.leaves(moved[0]), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_dropout_of_micro_batches_differs():
    class Mask(nn.Module):
        outputs: int | None = None

        @nn.compact
        def __call__(self, x, *, train=False):
            seen = self.variable("state", "seen", lambda: jnp.zeros((2, 4)))
            if train:
                kept = nn.Dropout(0.5, deterministic=False)(jnp.ones((4,)))
                seen.value = jnp.stack([seen.value[1], kept])
            return nn.Dense(1)(x)

    task = tasks.Regression(model=Mask(), mean=0.0, std=1.0)
    recipe = Recipe(optimizer=optim.SGD().build(5), micro_batches=2)
    batch = {**batch_of(np.arange(64)), "targets": jnp.zeros(64)}
    masks = [
        jax.jit(task.make_step(recipe))(create_state(task, Recipe(recipe.optimizer, seed), batch), batch)
        for seed in range(5)
    ]
    assert any((s.model_state["state"]["seen"][0] != s.model_state["state"]["seen"][1]).any() for s, _ in masks)


@pytest.mark.parametrize("road", [ResidentFeed, StreamFeed])
def test_every_batch_says_which_rows_it_holds_and_augments_by_them(road, one_device):
    images = np.random.default_rng(0).normal(size=(20, 4, 4, 1)).astype(np.float32)
    data = from_arrays(images, np.arange(20), standardize=False)
    augment = Augment(shift=1, noise=0.1)
    order, transform = Shuffled(20, 5, 0), Transform(data.prepare, augment, 0)
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


@pytest.mark.parametrize("options", [{}, {"micro_batches": 2, "batch_size": 16}])
def test_streams_of_any_name_are_new_at_each_step_and_reproducible(options):
    x, y = arrays()
    runs = [
        jaxnets.fit(Noisy(), (x, y), steps=steps, progress="none", seed=seed, **options)
        for steps, seed in ((2, 0), (2, 0), (3, 0), (2, 1))
    ]
    drawn = [np.asarray(run.variables["state"]["drawn"]) for run in runs]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert len(np.unique(np.concatenate([drawn[0], drawn[2], drawn[3]]))) == 6  # by name, step and seed
    assert set(runs[0].variables) == {"params", "state"}  # what is sown is no state


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
        (CountsLate(), "CountsLate makes or changes a variable where it cannot"),
        (Resizes(), r"collection 'state' with last float32\[1\], and leaves last float32\[32\]"),
    ],
    ids=["draws", "late", "resizes"],
)
def test_what_cannot_be_trained_is_refused_in_words(model, said):
    with pytest.raises(UsageError, match=said):
        jaxnets.fit(model, arrays(), steps=2, progress="none")
