"""Random changes to the rows of a table. Shapes: `B` batch, `F` features."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.types import Batch
from jaxnets.data.augment.base import Augmentation, Facts, check_shares, keys_of, wrong_inputs
from jaxnets.data.augment.mixing import partners, swap


@dataclasses.dataclass(frozen=True)
class TableAugment(Augmentation):
    """Changes of tables `[F]`; the defaults change nothing."""

    drop: float = 0.0
    """Probability that a prepared value becomes 0, which is the mean of its column where inputs are standardised."""
    swap: float = 0.0
    """Probability that a value becomes that of another row of the batch in the same column (swap noise); targets stay."""

    def __post_init__(self) -> None:
        check_shares(self, "drop", "swap")

    @property
    def active(self) -> bool:
        """Whether it changes single examples."""
        return self.drop > 0

    @property
    def mixes(self) -> bool:
        """Whether it changes rows by others."""
        return self.swap > 0

    @property
    def softens(self) -> bool:
        """Swapped values leave the targets as they are."""
        return False

    def check(self, facts: Facts) -> None:
        """See `Augmentation`."""
        if len(facts.shape) != 1 or facts.tokens or facts.several:
            raise wrong_inputs("TableAugment", "one table of real numbers [features]", facts, "Use Augment for images")

    def change(self, batch: Batch, key: Array, facts: Facts) -> Batch:
        """See `Augmentation`."""
        rows = batch["inputs"]
        dropped = jax.vmap(lambda one: jax.random.bernoulli(one, self.drop, rows.shape[1:]))(keys_of(batch, key))
        return {**batch, "inputs": jnp.where(dropped, 0.0, rows)}

    def mix(self, batch: Batch, key: Array, facts: Facts) -> Batch:
        """See `Augmentation`."""
        if not self.swap:
            return batch
        pair_key, draw_key = jax.random.split(key)
        partner = partners(pair_key, batch["mask"])
        return {**batch, "inputs": swap(batch["inputs"], keys_of(batch, draw_key), partner, self.swap)}
