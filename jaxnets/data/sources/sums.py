"""Sums as tokens: a prompt such as `7+5=` and its answer, `12`, which a reward can verify."""

import dataclasses

import numpy as np

from jaxnets.core.errors import DataError
from jaxnets.data.dataset import Arrays, Dataset, Source, TokenIds

# The tokens, by number.
SYMBOLS = (*"0123456789", "+", "=")


@dataclasses.dataclass(frozen=True)
class Sums(Source):
    """All sums of two numbers of so many digits; some are held out for the test."""

    digits: int = 1
    """Digits of each number, 1 to 3."""
    holdout: float = 0.2
    """Share of the sums in the test split, in (0, 1)."""
    seed: int = 0
    """Seed of the choice of these."""

    def open(self) -> Dataset:
        """Prompts `[N, 2 digits + 2]` and answers `[N, digits + 1]`, filled up with zeros in front; int32 tokens."""
        if not 1 <= self.digits <= 3 or not 0 < self.holdout < 1:
            raise DataError(f"Sums.digits is 1 to 3 and holdout in (0, 1), got {self.digits} and {self.holdout}")
        size = 10**self.digits
        order = np.random.default_rng(self.seed).permutation(size * size)
        held = round(self.holdout * len(order))
        train, test = (self._spelt(*divmod(numbers, size)) for numbers in (order[held:], order[:held]))
        return Dataset(
            name="sums",
            train=train,
            test=test,
            class_names=SYMBOLS,
            target_kind="token",
            target_name="answer",
            prepare=TokenIds(),
            source="made here",
        )

    def _spelt(self, first: np.ndarray, second: np.ndarray) -> Arrays:
        def spell(numbers: np.ndarray, places: int) -> np.ndarray:
            return (numbers[:, None] // 10 ** np.arange(places - 1, -1, -1)[None] % 10).astype(np.int32)

        plus, equal = (np.full((len(first), 1), SYMBOLS.index(sign), np.int32) for sign in "+=")
        inputs = np.concatenate([spell(first, self.digits), plus, spell(second, self.digits), equal], axis=1)
        return {"inputs": inputs, "targets": spell(first + second, self.digits + 1)}
