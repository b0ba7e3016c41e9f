"""The evidence lower bound (Kingma and Welling 2014), with weight beta on the KL term (Higgins et al. 2017)."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import DataError
from jaxnets.core.types import Aux, Batch, Card, Exhibit, Gallery, Mean, Variables
from jaxnets.core.wide import wide
from jaxnets.ops.random import batch_keys
from jaxnets.steps.recipe import Metrics, Recipe, Step
from jaxnets.steps.state import TrainState
from jaxnets.steps.step import make_train_step
from jaxnets.tasks.base import Task
from jaxnets.tasks.calls import call_model
from jaxnets.tasks.reconstruction import SHOWN, check_same_shape, reconstructions, with_shape


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variational(Task):
    """Minimise `-E[log p(x | z)] + beta * KL(q(z | x) || p(z))` in nats per example, with one draw of `z`.

    The model has `infer(inputs, noise, train=...)` and `decode(points)`, like `models.VAE`. The Bernoulli likelihood reads
    pixels in [0, 1] as probabilities, the usual convention for MNIST that is not binarised.
    """

    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    """`p(x | z)`. bernoulli: inputs in [0, 1], outputs are logits. gaussian: any inputs, with standard deviation `sigma`."""
    sigma: float = 1.0
    """Standard deviation of the Gaussian likelihood, in the unit of the prepared inputs."""
    beta: float = 1.0
    """Weight of the KL term in training; evaluation measures the bound with weight 1."""
    warmup: int = 0
    """Steps over which that weight grows linearly from 0 (Bowman et al. 2016); 0: no warm-up."""

    headline = "elbo"
    higher_is_better = True

    def __post_init__(self) -> None:
        for name in ("beta", "warmup"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is at least 0, got {getattr(self, name)}")
        if not self.sigma > 0:
            raise ValueError(f"sigma is a standard deviation, more than 0; got {self.sigma}")

    def bind(self, card: Card) -> Self:
        """Set the model's example shape; with the Bernoulli likelihood raise `DataError` for inputs outside [0, 1]."""
        low, high = card.input_range
        if self.likelihood == "bernoulli" and math.isfinite(low) and not 0 <= low <= high <= 1:
            raise DataError(
                f"the Bernoulli likelihood needs inputs in [0, 1], but those of {card.name!r} run from {low:.3g} to "
                f'{high:.3g}; set data.scale to "unit" for images, or likelihood to "gaussian"'
            )
        return dataclasses.replace(self, model=with_shape(self.model, card))

    def weight(self, step: Array) -> Array:
        """The weight of the KL term at a step."""
        if not self.warmup:
            return jnp.asarray(self.beta, jnp.float32)
        return self.beta * jnp.minimum(1.0, step / self.warmup)

    def make_step(self, recipe: Recipe) -> Step:
        """The default step, with the KL weight of that step in the loss."""

        def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            loss = functools.partial(self.loss, weight=self.weight(state.step))
            return make_train_step(loss, recipe)(state, batch)

        return step

    def loss(
        self, variables: Variables, batch: Batch, key: Array, train: bool, *, weight: Array | float = 1.0
    ) -> tuple[Mean, Aux]:
        """Reconstruction term plus `weight` times the KL term; the metrics hold both terms and the unweighted `elbo`."""
        inputs, mask = batch["inputs"], batch["mask"]
        for_noise, for_model = jax.random.split(key)
        noise = jax.vmap(lambda one: jax.random.normal(one, (self.model.latent,), inputs.dtype))(
            batch_keys(for_noise, batch, "latent")
        )
        parts, model_state = call_model(
            self.model, variables, inputs, noise, key=for_model if train else None, method="infer"
        )
        outputs, mean, log_variance = (wide(part) for part in parts)
        missed = self._negative_log_likelihood(outputs, inputs.astype(jnp.float32))
        divergence = gaussian_divergence(mean, log_variance)
        elbo = Mean.of(-missed - divergence, mask)
        metrics = {"elbo": elbo, "reconstruction": Mean.of(missed, mask), "kl": Mean.of(divergence, mask)}
        loss = Mean.of(missed + weight * divergence, mask)
        return loss, Aux({"loss": loss, **metrics}, model_state)

    def _negative_log_likelihood(self, outputs: Array, inputs: Array) -> Array:
        """`-log p(x | z)` in nats, `[B]`."""
        if self.likelihood == "bernoulli":
            terms = jax.nn.softplus(outputs) - inputs * outputs
        else:
            constant = 0.5 * math.log(2 * math.pi * self.sigma**2)
            terms = 0.5 * jnp.square((inputs - outputs) / self.sigma) + constant
        return terms.reshape(terms.shape[0], -1).sum(axis=-1)

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """The bound and its two terms, with noise that depends only on the row number; the loss is `-elbo`."""
        return self.loss(variables, batch, jax.random.key(0), False)[1].metrics

    def outputs(self, variables: Variables, batch: Batch) -> Array:
        """Means of `p(x | z)` at the posterior mean, `[B, *shape]`."""
        return self._means(self.apply(variables, batch, None)[0])

    def _means(self, outputs: Array) -> Array:
        return jax.nn.sigmoid(outputs) if self.likelihood == "bernoulli" else outputs

    def sample(self, variables: Variables, key: Array, count: int) -> Array:
        """Means of `p(x | z)` for `count` points drawn from the prior, `[count, *shape]` float32; pure."""
        z = jax.random.normal(key, (count, self.model.latent))
        decoded: Any = self.model.apply(variables, z, method="decode")
        return self._means(decoded.astype(jnp.float32))

    def check_outputs(self, variables: Variables, batch: Batch, card: Card) -> None:
        """Check that the outputs have the shape of the inputs, and that the model has `infer`, `decode` and `latent`."""
        missing = [name for name in ("infer", "decode", "latent") if not hasattr(self.model, name)]
        if missing:
            raise DataError(
                f"Variational needs a model with {missing[0]!r}, as VAE has; got {type(self.model).__name__}"
            )
        check_same_shape(self, jax.eval_shape(self.outputs, variables, batch).shape, batch, card)

    def exhibit_rows(self, examples: int) -> np.ndarray:
        """The first images."""
        return np.arange(min(SHOWN, examples))

    def exhibits(self, outputs: np.ndarray, arrays: Mapping[str, np.ndarray], card: Card) -> Sequence[Exhibit]:
        """Test images, each next to its reconstruction."""
        return reconstructions(arrays["inputs"], outputs)

    def drawn(self, variables: Variables) -> Sequence[Exhibit]:
        """Samples from the prior."""
        return samples_gallery(self, variables)


def gaussian_divergence(mean: Array, log_variance: Array) -> Array:
    """`KL(N(mean, variance) || N(0, 1))` in nats, summed over the last dim: `[B]` (Kingma and Welling 2014, appendix B)."""
    return 0.5 * (jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance).sum(axis=-1)


def sampler(task: Any, count: int) -> Callable[[Variables, Array], Array]:
    """`task.sample` as a compiled function of variables and key; for equal tasks the same one, which compiles once."""
    try:
        return _sampler(task, count)
    except TypeError:  # a model with a list among its fields has no hash
        return jax.jit(functools.partial(task.sample, count=count))


@functools.lru_cache(maxsize=8)
def _sampler(task: Any, count: int) -> Callable[[Variables, Array], Array]:
    return jax.jit(functools.partial(task.sample, count=count))


def samples_gallery(task: Any, variables: Variables, count: int = 32) -> list[Exhibit]:
    """Samples of a task that has `sample`; [] if they are not images."""
    images = np.asarray(sampler(task, count)(variables, jax.random.key(0)))
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        return []
    return [Gallery("Samples", images, ("",) * count)]
