"""The VQ-VAE objective: reconstruction, codebook loss and commitment loss."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.errors import DataError
from jaxnets.core.types import Aux, Batch, Card, Mean, Variables
from jaxnets.core.wide import wide
from jaxnets.tasks.calls import call_model
from jaxnets.tasks.reconstruction import Reconstruction


@dataclasses.dataclass(frozen=True, kw_only=True)
class VectorQuantization(Reconstruction):
    """Minimise equation 3 of van den Oord et al. 2017, as means over all numbers.

    The model has `quantise(inputs, train=...)`, like `models.VQVAE`. Inputs are not corrupted.
    """

    commitment: float = 0.25
    """Weight of the term that keeps the encoder's outputs near the chosen codes."""

    more_is_better = ("perplexity",)  # perplexity of the code usage, not of a prediction

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.commitment < 0:
            raise ValueError(f"commitment is at least 0, got {self.commitment}")
        if self.noise or self.masked:
            raise ValueError("VectorQuantization does not corrupt its inputs; leave noise and masked at 0")

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """The sum of the three terms; the metrics also hold the reconstruction term."""
        result, model_state = self._quantise(variables, batch, key if train else None)
        mask = batch["mask"]
        encoded, chosen = wide(result.encoded), wide(result.chosen)
        missed = self._missed(result, batch)
        to_encoder = jnp.square(jax.lax.stop_gradient(encoded) - chosen)
        to_code = jnp.square(encoded - jax.lax.stop_gradient(chosen))
        quantising = Mean.of(to_encoder + self.commitment * to_code, mask)
        loss = Mean(missed.sum + quantising.sum, missed.weight)
        return loss, Aux({"loss": loss, "reconstruction": missed}, model_state)

    def _quantise(self, variables: Variables, batch: Batch, key: Array | None) -> tuple[Any, Variables]:
        return call_model(self.model, variables, batch["inputs"], key=key, method="quantise")

    def _missed(self, result: Any, batch: Batch) -> Mean:
        error = wide(result.reconstruction) - wide(batch["inputs"])
        return Mean.of(jnp.square(error), batch["mask"])

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """The metrics of `Reconstruction`, and the share of each code, for `derive`."""
        result, mask = self._quantise(variables, batch, None)[0], batch["mask"]
        inputs = batch["inputs"].astype(jnp.float32)
        shares = {
            f"code_{index}": Mean.of((result.indices == index).astype(jnp.float32), mask)
            for index in range(self.model.codes)
        }
        return {"loss": self._missed(result, batch), **self.moments(inputs, mask), **shares}

    def derive(self, values: Mapping[str, float]) -> dict[str, float]:
        """`explained`, and `perplexity`: the effective number of codes in use."""
        if "second" not in values:
            return dict(values)
        shares = [share for name, share in values.items() if name.startswith("code_") and share > 0]
        return {**super().derive(values), "perplexity": math.exp(-sum(share * math.log(share) for share in shares))}

    def check_outputs(self, variables: Variables, batch: Batch, card: Card) -> None:
        """Check that the model has `quantise`, and the shape of its outputs."""
        if not hasattr(self.model, "quantise"):
            raise DataError(
                f"VectorQuantization needs a model with 'quantise', as VQVAE has; got {type(self.model).__name__}"
            )
        super().check_outputs(variables, batch, card)
