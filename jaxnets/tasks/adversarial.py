"""Generative adversarial networks (Goodfellow et al. 2014) and more stable variants.

One training step has `critic_steps` turns of the critic and one turn of the generator. Each turn is the ordinary training
step on that player's part of the state, so guards, precision and micro-batches work as usual.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import DataError
from jaxnets.core.types import Aux, Batch, Card, Exhibit, Gallery, Mean, Variables
from jaxnets.ops.random import batch_keys
from jaxnets.steps.recipe import TAKEN, Metrics, Recipe, Step
from jaxnets.steps.state import TrainState
from jaxnets.tasks.base import Task, with_outputs
from jaxnets.tasks.calls import call_model, init_model
from jaxnets.tasks.players import all_or_none, play, share_of
from jaxnets.tasks.reconstruction import with_shape
from jaxnets.tasks.variational import sampler, samples_gallery

PLAYERS = ("critic", "generator")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adversarial(Task):
    """Train `model`, the generator, to make examples that `critic` cannot distinguish from real ones.

    The generator takes noise `[B, latent]` and returns examples (or as many numbers, flat); the critic takes examples and
    returns `[B, 1]`. With `conditional` both also get the one-hot label (Mirza and Osindero 2014): the generator appended
    to the noise, the critic appended to the last dim, for images as constant channels.
    """

    critic: nn.Module
    """The network that scores examples as real or generated."""
    latent: int = 64
    """Size of the noise of each example."""
    objective: Literal["logistic", "wasserstein"] = "logistic"
    """logistic: the non-saturating loss of Goodfellow et al. 2014. wasserstein: a difference of scores (Arjovsky et al.
    2017)."""
    penalty: float = 0.0
    """Weight of a penalty on the critic's gradient. wasserstein: `(norm - 1)^2` between real and generated examples, usually
    10 (Gulrajani et al. 2017). logistic: half the squared norm at real examples (R1, Mescheder et al. 2018)."""
    critic_steps: int = 1
    """Turns of the critic per turn of the generator; each uses an equal part of the batch."""
    conditional: bool = False
    """Give both players the label."""
    classes: int = 0
    """Number of labels; 0 takes it from the data."""
    shape: tuple[int, ...] = ()
    """Shape of an example; () takes it from the data."""
    modes: tuple[tuple[float, ...], ...] = ()
    """Centres of the data's modes, if they are known: evaluation then counts the modes that the generator reaches."""
    mode_radius: float = 1.0
    """A generated example counts for a centre up to this distance."""

    headline = "loss"

    def __post_init__(self) -> None:
        for name, least in (("latent", 1), ("critic_steps", 1), ("penalty", 0), ("classes", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is at least {least}, got {getattr(self, name)}")
        if not self.penalty < math.inf:
            raise ValueError(f"penalty is a number, got {self.penalty}")
        if self.penalty and getattr(self.critic, "norm", None) == "batch":
            raise ValueError(
                f"a penalty on the critic's gradient is defined per example, but {type(self.critic).__name__} with norm "
                f"'batch' mixes examples (Gulrajani et al. 2017); set critic.norm to 'layer' or 'none'"
            )

    @property
    def players(self) -> tuple[str, ...]:
        """critic and generator; `{"critic/.*": optax.adam(4e-4), "generator/.*": optax.adam(1e-4)}` gives them two rates."""
        return PLAYERS

    def bind(self, card: Card) -> Self:
        """Set the sizes of both players; raise `DataError` for data outside the generator's output range."""
        classes = len(card.class_names) if self.conditional else 0
        if self.conditional and not classes:
            raise DataError(f"conditional needs labels, but the targets of {card.name!r} are numbers; leave it out")
        reach, (low, high) = getattr(self.model, "reach", None), card.input_range
        if reach is not None and math.isfinite(low) and not reach[0] <= low <= high <= reach[1]:
            raise DataError(
                f"{type(self.model).__name__} makes values in [{reach[0]:g}, {reach[1]:g}], but the inputs of {card.name!r} "
                f'run from {low:.3g} to {high:.3g}; set data.scale to "signed"'
            )
        size = math.prod(card.input_shape)
        made = with_outputs(self.model, size, exact=True, reason=f"an example of {card.name!r} has {size} numbers")
        return dataclasses.replace(
            self,
            model=with_shape(made, card),
            critic=with_outputs(self.critic, 1, exact=True, reason="a critic gives one score"),
            classes=classes,
            shape=card.input_shape,
        )

    def init(self, key: Array, batch: Batch) -> Variables:
        """Variables of both players, by collection and player: `{"params": {"critic": ..., "generator": ...}, ...}`."""
        for_critic, for_generator = jax.random.split(key)
        rows = batch["inputs"].shape[0]
        labels = jnp.zeros((rows,), jnp.int32)
        z = self._with_label(jnp.zeros((rows, self.latent)), labels)
        x = self._with_label(batch["inputs"], labels)
        own = {
            "critic": init_model(self.critic, for_critic, x),
            "generator": init_model(self.model, for_generator, z),
        }
        names = {"params", *own["critic"], *own["generator"]}
        return {name: {who: tree[name] for who, tree in own.items() if name in tree} for name in names}

    def init_optimizer(self, optimizer: Any, params: Any) -> Any:
        """One optimizer state per player."""
        own = optimizer if isinstance(optimizer, Mapping) else dict.fromkeys(PLAYERS, optimizer)
        return {who: own[who].init(params[who]) for who in PLAYERS}

    def _with_label(self, x: Array, labels: Array | None) -> Array:
        """With `conditional`: `x` with the one-hot label appended to its last dim; labels of None are zeros."""
        if not self.classes:
            return x
        hot = jnp.zeros((x.shape[0], self.classes), x.dtype)
        if labels is not None:
            hot = (labels[:, None] == jnp.arange(self.classes)[None, :]).astype(x.dtype)
        hot = hot.reshape(x.shape[0], *(1,) * (x.ndim - 2), self.classes)
        return jnp.concatenate([x, jnp.broadcast_to(hot, (*x.shape[:-1], self.classes))], axis=-1)

    def _call(self, who: str, own: Variables, x: Array, labels: Array | None, key: Array | None) -> tuple[Array, Any]:
        """A player's outputs in float32, and its other collections after the call; training mode if there is a key."""
        player = self.critic if who == "critic" else self.model
        x = self._with_label(x, labels)
        outputs, kept = call_model(player, own, x, key=key)
        outputs = outputs.astype(jnp.float32)
        return outputs.reshape(-1, *self.shape) if who == "generator" else outputs[:, 0], kept

    def _noise(self, key: Array, batch: Batch, purpose: str, turn: Array | int = 0) -> Array:
        """Noise `[B, latent]` in the inputs' dtype, drawn with one key per example."""
        dtype, keys = batch["inputs"].dtype, batch_keys(key, batch, purpose, turn)
        return jax.vmap(lambda one: jax.random.normal(one, (self.latent,), dtype))(keys)

    def critic_loss(
        self, own: Variables, batch: Batch, key: Array, train: bool, *, other: Variables, turn: Array | int = 0
    ) -> tuple[Mean, Aux]:
        """The critic's loss; `other` are the generator's variables, and `turn` is the number of the turn within the step."""
        real, mask, labels = batch["inputs"], batch["mask"], batch.get("targets")
        keys = jax.random.split(jax.random.fold_in(key, turn), 5)
        made, _ = self._call(
            "generator", other, self._noise(keys[0], batch, "critic", turn), labels, keys[1] if train else None
        )
        made = made.astype(real.dtype)
        for_real, for_made = (keys[2], keys[3]) if train else (None, None)
        on_real, kept = self._call("critic", own, real, labels, for_real)
        on_made, kept = self._call("critic", {**own, **kept}, made, labels, for_made)
        losses = on_made - on_real
        if self.objective == "logistic":
            losses = jax.nn.softplus(-on_real) + jax.nn.softplus(on_made)
        metrics = {"margin": Mean.of(on_real - on_made, mask)}
        if self.penalty and train:
            dims = (1,) * (real.ndim - 1)
            share = jax.vmap(lambda one: jax.random.uniform(one, dims, real.dtype))(
                batch_keys(keys[4], batch, "penalty", turn)
            )
            at = real if self.objective == "logistic" else share * real + (1 - share) * made

            def total(x: Array) -> Array:
                return self._call("critic", own, x, labels, for_real)[0].sum()

            slope = jax.grad(total)(at).astype(jnp.float32).reshape(len(real), -1)
            square = jnp.square(slope).sum(axis=-1)
            # The square root has no gradient at 0, which a critic with dead units can reach.
            off = 0.5 * square if self.objective == "logistic" else jnp.square(jnp.sqrt(square + 1e-12) - 1)
            losses = losses + self.penalty * off
            metrics["penalty"] = Mean.of(off, mask)
        return Mean.of(losses, mask), Aux(metrics, kept)

    def generator_loss(
        self, own: Variables, batch: Batch, key: Array, train: bool, *, other: Variables
    ) -> tuple[Mean, Aux]:
        """The generator's loss; `other` are the critic's variables."""
        keys = jax.random.split(jax.random.fold_in(key, self.critic_steps), 3)
        labels, inputs = batch.get("targets"), batch["inputs"]
        made, kept = self._call(
            "generator", own, self._noise(keys[0], batch, "generator"), labels, keys[1] if train else None
        )
        score, _ = self._call("critic", other, made.astype(inputs.dtype), labels, keys[2] if train else None)
        losses = jax.nn.softplus(-score) if self.objective == "logistic" else -score
        return Mean.of(losses, batch["mask"]), Aux({}, kept)

    def make_step(self, recipe: Recipe) -> Step:
        """The critic's turns, then the generator's turn. If one turn is skipped (a number is not finite), all are."""

        def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            def critic_turn(now: TrainState, part: tuple[Batch, Array]) -> tuple[TrainState, Metrics]:
                loss = functools.partial(self.critic_loss, other=share_of(now.variables, "generator"), turn=part[1])
                return play(recipe, "critic", loss, now, part[0], turn=part[1])

            count = self.critic_steps
            # Turn i takes rows i, i + count, ..., so that every device has rows of every turn.
            parts = jax.tree.map(
                lambda a: jnp.moveaxis(a.reshape(a.shape[0] // count, count, *a.shape[1:]), 1, 0), batch
            )
            after, critic_turns = jax.lax.scan(critic_turn, state, (parts, jnp.arange(count)))
            critic = jax.tree.map(lambda a: a.sum(axis=0), critic_turns)
            worst = critic_turns["bad_leaf"].sum.max() if "bad_leaf" in critic_turns else None
            loss = functools.partial(self.generator_loss, other=share_of(after.variables, "critic"))
            after, generator = play(recipe, "generator", loss, after, batch)
            new, taken = all_or_none(state, after, (critic_turns, generator))
            metrics = {**critic, "generator_loss": generator["loss"], TAKEN: taken}
            if worst is not None:
                one = jnp.ones(())
                # Leaves are numbered over both players, the critic first.
                first = len(jax.tree.leaves(state.params["critic"]))
                theirs = generator["bad_leaf"].sum
                bad = jnp.where(worst > 0, worst, jnp.where(theirs > 0, theirs + first, 0.0))
                refused = (new.guard["skipped"] > state.guard["skipped"]).astype(jnp.float32)
                metrics |= {"bad_leaf": Mean(bad, one), "skipped": Mean(refused, one)}
            return dataclasses.replace(new, step=state.step + 1), metrics

        return step

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """The critic's loss without penalty, its margin and, with `modes`, the shares of generated examples near each mode."""
        key, mask = jax.random.key(0), batch["mask"]
        own, other = share_of(variables, "critic"), share_of(variables, "generator")
        loss, aux = self.critic_loss(own, batch, key, False, other=other)
        found = {"loss": loss, **aux.metrics}
        if self.modes:
            noise = self._noise(key, batch, "modes")
            made, _ = self._call("generator", other, noise, batch.get("targets"), None)
            centres = jnp.asarray(self.modes, jnp.float32)
            away = jnp.linalg.norm(made.reshape(len(made), 1, -1) - centres[None], axis=-1)
            near = (away <= self.mode_radius).astype(jnp.float32)
            found |= {f"mode_{index}": Mean.of(near[:, index], mask) for index in range(len(self.modes))}
            found["near"] = Mean.of(near.max(axis=-1), mask)
        return found

    def derive(self, values: Mapping[str, float]) -> dict[str, float]:
        """`modes`: the number of modes that get at least a quarter of their share under a uniform distribution."""
        if "near" not in values:
            return dict(values)
        shares = [share for name, share in values.items() if name.startswith("mode_")]
        rest = {name: value for name, value in values.items() if not name.startswith("mode_")}
        return {**rest, "modes": float(sum(share >= 0.25 / len(shares) for share in shares))}

    def outputs(self, variables: Variables, batch: Batch) -> Array:
        """The critic's scores of the inputs, `[B, 1]`; with `conditional` but no targets, the label is all zeros."""
        return self._call("critic", share_of(variables, "critic"), batch["inputs"], batch.get("targets"), None)[0][
            :, None
        ]

    def sample(self, variables: Variables, key: Array, count: int, labels: Array | None = None) -> Array:
        """`count` generated examples `[count, *shape]` float32; pure. With `conditional` and no `labels`, the labels cycle."""
        z = jax.random.normal(key, (count, self.latent))
        if labels is None and self.classes:
            labels = jnp.arange(count) % self.classes
        return self._call("generator", share_of(variables, "generator"), z, labels, None)[0]

    def check_outputs(self, variables: Variables, batch: Batch, card: Card) -> None:
        """Check the shapes of generated examples and scores, and that `critic_steps` divides the batch."""
        rows = batch["inputs"].shape[0]
        if rows % self.critic_steps:
            raise DataError(
                f"a batch of {rows} examples cannot be divided among {self.critic_steps} turns of the critic; set batch_size "
                f"to a multiple of task.critic_steps"
            )
        made = jax.eval_shape(lambda v: self.sample(v, jax.random.key(0), rows), variables)
        scores = jax.eval_shape(self.outputs, variables, batch)
        if made.shape != batch["inputs"].shape or scores.shape != (rows, 1):
            raise DataError(
                f"the generator makes {made.shape} and the critic gives {scores.shape}, but {card.name!r} needs "
                f"{batch['inputs'].shape} and {(rows, 1)}; change their last layers"
            )

    def exhibit_rows(self, examples: int) -> np.ndarray:
        """No rows: the report shows samples."""
        return np.arange(0)

    def drawn(self, variables: Variables) -> Sequence[Exhibit]:
        """Samples of images; for points in the plane, a density plot."""
        if len(self.shape) == 3:
            return samples_gallery(self, variables)
        if self.shape != (2,):
            return ()
        points = np.asarray(sampler(self, 4096)(variables, jax.random.key(0)))
        edge = 1.1 * float(np.abs(points).max())
        counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=64, range=[(-edge, edge)] * 2)
        return [
            Gallery("Where samples fall", np.sqrt(counts)[None, ::-1, :, None].astype(np.float32), ("4,096 samples",))
        ]
