"""Denoising diffusion (Ho et al. 2020) with the cosine schedule (Nichol and Dhariwal 2021), and DDIM (Song et al. 2021).

Shapes: `B` batch, `T` diffusion steps. An example at time t is `sqrt(a_t) x + sqrt(1 - a_t) noise`, with `a_0` near 1 and
`a_(T-1)` near 0.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import DataError
from jaxnets.core.types import Aux, Batch, Card, Exhibit, Mean, Variables
from jaxnets.core.wide import wide
from jaxnets.ops.random import batch_keys
from jaxnets.tasks.base import Task
from jaxnets.tasks.calls import call_model, init_model
from jaxnets.tasks.reconstruction import check_same_shape
from jaxnets.tasks.variational import samples_gallery


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diffusion(Task):
    """Minimise the squared error of the predicted noise, for examples noised to a random time.

    The model is called as `model(noised, times, train=...)` with times in [0, 1], like `models.UNet`, and returns the shape
    of the inputs. Inputs should lie in [-1, 1].

    With `conditional` the model is called as `model(noised, times, labels)` with one-hot labels. In some training examples
    the label is replaced by zeros, so that the model also predicts without labels and samples can be guided (classifier-free
    guidance, Ho and Salimans 2022).
    """

    times: int = 1000
    """Number of diffusion steps, `T`."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """Noise schedule: cosine (Nichol and Dhariwal 2021) or linear betas (Ho et al. 2020)."""
    sample_steps: int = 50
    """Steps of the sampler, at most `times`."""
    eta: float = 0.0
    """Noise that the sampler adds: 0 is DDIM; 1 with `sample_steps = times` is DDPM."""
    conditional: bool = False
    """Give the model the label."""
    drop_label: float = 0.1
    """Share of the training examples whose label is dropped, in [0, 1]; unused without `conditional`."""
    guidance: float = 1.0
    """Guidance scale of the sampler: `unconditional + guidance (conditional - unconditional)`; 1 uses the conditional noise
    alone. Above 1, samples fit their class better and vary less, at twice the cost."""
    shape: tuple[int, ...] = ()
    """Shape of an example; () takes it from the data."""
    classes: int = 0
    """Number of labels, taken from the data."""

    def __post_init__(self) -> None:
        if self.times < 2 or not 1 <= self.sample_steps <= self.times:
            raise ValueError(
                f"times is at least 2 and sample_steps between 1 and times; got {self.times} and {self.sample_steps}"
            )
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta is in [0, 1], got {self.eta}")
        if not 0 <= self.drop_label <= 1:
            raise ValueError(f"drop_label is a share in [0, 1], got {self.drop_label}")
        if not 0 <= self.guidance < math.inf:
            raise ValueError(f"guidance is at least 0, got {self.guidance}")
        if self.guidance != 1 and not self.conditional:
            raise ValueError(f"guidance {self.guidance} needs a model with labels as input; set conditional=True")

    def bind(self, card: Card) -> Self:
        """Take the shape of an example; raise `DataError` for inputs outside [-1, 1]."""
        low, high = card.input_range
        if math.isfinite(low) and not -1 <= low <= high <= 1:
            raise DataError(
                f"diffusion needs inputs in [-1, 1], but those of {card.name!r} run from {low:.3g} to {high:.3g}; "
                f'set data.scale to "signed"'
            )
        classes = len(card.class_names) if self.conditional and card.target_kind == "class" else 0
        if self.conditional and not classes:
            raise DataError(f"conditional needs one label for each example, and {card.name!r} has none; leave it out")
        return dataclasses.replace(self, shape=card.input_shape, classes=classes)

    def init(self, key: Array, batch: Batch) -> Variables:
        """Initial variables; with labels, the model is initialised with them."""
        given = (
            (batch["inputs"], jnp.zeros(batch["inputs"].shape[0]), self._hot(batch["targets"])) if self.classes else ()
        )
        return init_model(self.model, key, *(given or (batch["inputs"],)))

    @property
    def shares(self) -> np.ndarray:
        """`a_t`, the share of the example's variance left at each time, `[T]` float64, decreasing."""
        if self.schedule == "linear":
            # The end points of Ho et al. for T = 1000, rescaled for other T.
            betas = np.linspace(1e-4, 0.02, self.times) * 1000 / self.times
        else:
            clock = (np.arange(self.times + 1) / self.times + 0.008) / 1.008
            level = np.cos(clock * np.pi / 2) ** 2
            betas = 1 - level[1:] / level[:-1]
        return np.cumprod(1 - np.minimum(betas, 0.999))

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """Mean squared error of the predicted noise, with one time and one noise draw per example."""
        inputs, (for_noise, for_model) = batch["inputs"], jax.random.split(key)

        def draw(one: Array) -> tuple[Array, Array]:
            for_time, for_pixels = jax.random.split(one)
            return jax.random.randint(for_time, (), 0, self.times), jax.random.normal(for_pixels, inputs.shape[1:])

        t, noise = jax.vmap(draw)(batch_keys(for_noise, batch, "time and noise"))
        share = jnp.asarray(self.shares, jnp.float32)[t].reshape(-1, *(1,) * (inputs.ndim - 1))
        noised = jnp.sqrt(share) * inputs.astype(jnp.float32) + jnp.sqrt(1 - share) * noise
        label = self._hot(batch["targets"]) if self.classes else None
        if label is not None and train:
            keys = batch_keys(for_noise, batch, "label")
            label *= jax.vmap(lambda one: jax.random.bernoulli(one, 1 - self.drop_label))(keys)[:, None]
        predicted, model_state = self._noise_in(
            variables, noised.astype(inputs.dtype), t, label, for_model if train else None
        )
        loss = Mean.of(jnp.square(predicted - noise), batch["mask"])
        return loss, Aux({"loss": loss}, model_state)

    def _hot(self, labels: Array) -> Array:
        """Labels `[B]` as one-hot `[B, classes]` float32; all zeros for a label of -1."""
        return (labels[:, None] == jnp.arange(self.classes)[None, :]).astype(jnp.float32)

    def _noise_in(
        self, variables: Variables, x: Array, t: Array, label: Array | None, key: Array | None
    ) -> tuple[Array, Variables]:
        """The noise that the model predicts in `x` at times `t` `[B]`, float32, and its other collections."""
        clock = t.astype(jnp.float32) / (self.times - 1)
        given = (x, clock) if label is None else (x, clock, label)
        predicted, kept = call_model(self.model, variables, *given, key=key)
        return wide(predicted), kept

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """The loss, with times and noise that depend only on the row number of the example."""
        return {"loss": self.loss(variables, batch, jax.random.key(0), False)[0]}

    def outputs(self, variables: Variables, batch: Batch) -> Array:
        """The noise that the model predicts in the inputs at time 0, without labels, `[B, *shape]`."""
        t = jnp.zeros(batch["inputs"].shape[0], jnp.int32)
        label = self._hot(t - 1) if self.classes else None
        return self._noise_in(variables, batch["inputs"], t, label, None)[0]

    def sample(self, variables: Variables, key: Array, count: int, labels: Array | None = None) -> Array:
        """`count` samples `[count, *shape]` float32, from pure noise in `sample_steps` steps; pure.

        With `conditional` the samples have the `labels` `[count]` (a label outside the classes, e.g. -1: no label); None
        cycles through the classes.

        Equation 12 of Song et al. 2021, with times evenly spaced from the last to 0. The predicted clean example is clipped
        to [-1, 1], the range of the data, at each step.
        """
        shares = jnp.asarray(self.shares, jnp.float32)
        t = jnp.asarray(np.linspace(self.times - 1, 0, self.sample_steps).round().astype(np.int32))
        now = shares[t]
        after = jnp.concatenate([now[1:], jnp.ones((1,))])
        keys = jax.random.split(key, self.sample_steps + 1)
        label = self._hot(jnp.arange(count) % self.classes if labels is None else labels) if self.classes else None
        guided = label is not None and self.guidance != 1

        def noise_in(x: Array, t: Array) -> Array:
            if not guided:
                return self._noise_in(variables, x, t, label, None)[0]
            assert label is not None
            both = jnp.concatenate([label, jnp.zeros_like(label)])  # with and without label
            labelled, unlabelled = jnp.split(
                self._noise_in(variables, jnp.tile(x, (2,) + (1,) * (x.ndim - 1)), jnp.tile(t, 2), both, None)[0], 2
            )
            return unlabelled + self.guidance * (labelled - unlabelled)

        def step(x: Array, at: Any) -> tuple[Array, None]:
            t, a, a_next, one = at
            noise = noise_in(x, jnp.full((count,), t))
            clean = jnp.clip((x - jnp.sqrt(1 - a) * noise) / jnp.sqrt(a), -1, 1)
            noise = (x - jnp.sqrt(a) * clean) / jnp.sqrt(1 - a)
            sigma = self.eta * jnp.sqrt((1 - a_next) / (1 - a) * (1 - a / a_next))
            kept = jnp.sqrt(jnp.maximum(1 - a_next - sigma**2, 0))
            fresh = jax.random.normal(one, x.shape)
            return jnp.sqrt(a_next) * clean + kept * noise + sigma * fresh, None

        x = jax.random.normal(keys[0], (count, *self.shape))
        return jax.lax.scan(step, x, (t, now, after, keys[1:]))[0]

    def check_outputs(self, variables: Variables, batch: Batch, card: Card) -> None:
        """Check that the outputs have the shape of the inputs."""
        check_same_shape(self, jax.eval_shape(self.outputs, variables, batch).shape, batch, card)

    def exhibit_rows(self, examples: int) -> np.ndarray:
        """No rows: the report shows samples."""
        return np.arange(0)

    def drawn(self, variables: Variables) -> Sequence[Exhibit]:
        """Samples."""
        return samples_gallery(self, variables)
