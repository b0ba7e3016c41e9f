"""Synthetic problems, generated from a seed."""

import dataclasses
import math
from typing import Literal

import numpy as np

from jaxnets.core.errors import DataError
from jaxnets.data.arrays import from_arrays
from jaxnets.data.dataset import Dataset, Source, TokenIds


@dataclasses.dataclass(frozen=True)
class AddingProblem(Source):
    """Add the two marked numbers of a long sequence (Hochreiter and Schmidhuber 1997, experiment 4).

    Each step holds a number, uniform in [0, 1], and a marker, which is 1 at two steps and 0 elsewhere. One marked step lies
    in the first half of the sequence, one in the second. The target is the sum of the two marked numbers. Always predicting
    1 has a mean squared error of 1/6 = 0.167; a smaller error needs memory.
    """

    length: int = 50
    """Steps of each sequence, at least 2; longer is harder."""
    train: int = 20000
    """Number of training sequences."""
    test: int = 2000
    """Number of test sequences."""
    seed: int = 0
    """Seed of all of them."""

    def open(self) -> Dataset:
        """Inputs `[N, length, 2]` float32 (number, marker); targets `[N]` float32 in [0, 2]."""
        _check_counts(self, length=2, train=1, test=1)
        rng = np.random.default_rng(self.seed)
        splits = [self._draw(rng, count) for count in (self.train, self.test)]
        return Dataset(
            name="adding problem",
            train=splits[0],
            test=splits[1],
            target_name="sum",
            source=f"made from seed {self.seed}",
        )

    def _draw(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        half, rows = self.length // 2, np.arange(count)
        inputs = np.zeros((count, self.length, 2), np.float32)
        inputs[..., 0] = rng.random((count, self.length), np.float32)
        first, second = rng.integers(0, half, count), rng.integers(half, self.length, count)
        inputs[rows, first, 1] = inputs[rows, second, 1] = 1
        return {"inputs": inputs, "targets": inputs[rows, first, 0] + inputs[rows, second, 0]}


@dataclasses.dataclass(frozen=True)
class CopyProblem(Source):
    """Repeat symbols after a long gap (Hochreiter and Schmidhuber 1997; in this form Arjovsky et al. 2016).

    A sequence is `remember` symbols, `gap - 1` blanks, a go marker and `remember` blanks. The targets are blanks up to and
    including the marker, then the symbols in order. Without memory the best a model can do is to guess the symbols: a mean
    cross entropy of `remember * ln(symbols) / (gap + 2 * remember)` nats per step, the `baseline`.
    """

    remember: int = 10
    """Number of symbols to remember."""
    gap: int = 50
    """Steps from the last symbol to the go marker."""
    symbols: int = 8
    """Number of different symbols, 2 to 24."""
    train: int = 20000
    """Number of training sequences."""
    test: int = 1000
    """Number of test sequences."""
    seed: int = 0
    """Seed of all of them."""

    @property
    def baseline(self) -> float:
        """Mean cross entropy per step without memory, in nats."""
        return self.remember * math.log(self.symbols) / (self.gap + 2 * self.remember)

    def open(self) -> Dataset:
        """Inputs and targets `[N, gap + 2 * remember]` uint8 tokens; the last two of the vocabulary are blank and marker."""
        _check_counts(self, remember=1, gap=1, symbols=2, train=1, test=1)
        if self.symbols > 24:
            raise DataError(f"CopyProblem.symbols is at most 24, got {self.symbols}")
        rng = np.random.default_rng(self.seed)
        splits = [self._draw(rng, count) for count in (self.train, self.test)]
        return Dataset(
            name="copy problem",
            train=splits[0],
            test=splits[1],
            class_names=(*"abcdefghijklmnopqrstuvwx"[: self.symbols], "_", ">"),
            target_name="symbol",
            target_kind="token",
            prepare=TokenIds(),
            source=f"made from seed {self.seed}",
        )

    def _draw(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        symbols = rng.integers(0, self.symbols, (count, self.remember), np.uint8)
        inputs = np.full((count, self.gap + 2 * self.remember), self.symbols, np.uint8)
        targets = inputs.copy()
        inputs[:, : self.remember] = targets[:, -self.remember :] = symbols
        inputs[:, -self.remember - 1] = self.symbols + 1
        return {"inputs": inputs, "targets": targets}


@dataclasses.dataclass(frozen=True)
class TwoSpirals(Source):
    """Which of two interlocking spirals a point lies on (Lang and Witbrock 1988)."""

    train: int = 1000
    """Training points, evenly spaced along the spirals."""
    test: int = 1000
    """Test points, at random places along the same spirals."""
    turns: float = 2.0
    """Turns of each spiral around the origin; the original has 3."""
    noise: float = 0.02
    """Standard deviation of the points around their spiral. The outer radius is 1; neighbouring arms are
    `1 / (2 * turns)` apart."""
    seed: int = 0
    """Seed of places and noise."""

    def open(self) -> Dataset:
        """Inputs `[N, 2]` float32, standardised by the preparation; labels 0 and 1."""
        _check_counts(self, train=2, test=1)
        if not self.turns > 0 or self.noise < 0:
            raise DataError(f"two spirals need turns above 0 and noise of at least 0, got {self.turns}, {self.noise}")
        rng = np.random.default_rng(self.seed)
        even = (np.arange(self.train) // 2 + 0.5) / ((self.train + 1) // 2)
        x, y = self._points(rng, even)
        test = self._points(rng, rng.random(self.test))
        return from_arrays(x, y, test=test, name="two spirals", class_names=("first", "second"), target_name="spiral")

    def _points(self, rng: np.random.Generator, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points at positions in [0, 1] along a spiral, alternating between the two."""
        labels = np.arange(len(along)) % 2
        # The radius starts at a tenth: closer to the origin the arms overlap.
        radius = 0.1 + 0.9 * along
        angle = 2 * np.pi * self.turns * along + np.pi * labels
        points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        return (points + self.noise * rng.normal(size=points.shape)).astype(np.float32), labels


@dataclasses.dataclass(frozen=True)
class LogicGate(Source):
    """The rows of a truth table: "and" and "or" are linearly separable, "xor" is not (Minsky and Papert 1969)."""

    gate: Literal["and", "or", "xor"] = "xor"
    """xor is true if the number of true inputs is odd."""
    inputs: int = 2
    """Inputs of the gate, 1 to 16; the table has `2 ** inputs` rows."""

    def open(self) -> Dataset:
        """Inputs `[2 ** inputs, inputs]` float32, 0 or 1; labels 0 (false) and 1. The test split is the same table."""
        if not 1 <= self.inputs <= 16:
            raise DataError(f"a logic gate has 1 to 16 inputs, got {self.inputs}; the table doubles with each")
        bits = np.arange(2**self.inputs)[:, None] >> np.arange(self.inputs)[::-1] & 1
        true = bits.sum(axis=1)
        labels = {"and": true == self.inputs, "or": true > 0, "xor": true % 2 == 1}[self.gate].astype(np.int32)
        table = (bits.astype(np.float32), labels)
        return from_arrays(*table, test=table, name=self.gate, standardize=False, class_names=("false", "true"))


def _check_counts(source: Source, **least: int) -> None:
    for name, lowest in least.items():
        if getattr(source, name) < lowest:
            raise DataError(f"{type(source).__name__}.{name} is at least {lowest}, got {getattr(source, name)}")
