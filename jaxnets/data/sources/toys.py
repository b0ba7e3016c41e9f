"""Toy data that need no file: every example is a pure function of a key and its number.

So the training split of `Disc(seed=1)` has the same first 100 examples for any size, and the test split continues
the numbers where the training split ends.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import DataError
from jaxnets.data.arrays import from_arrays
from jaxnets.data.dataset import Dataset, Source

Example = tuple[Array, Array]


def disc(key: Array, index: Array, *, radius: float = 0.3) -> Example:
    """A point, uniform in the unit square, `[2]` float32; 1 if it lies in the disc around (1/2, 1/2), else 0."""
    point = jax.random.uniform(jax.random.fold_in(key, index), (2,))
    return point, (jnp.square(point - 0.5).sum() <= radius**2).astype(jnp.int32)


def half_moon(key: Array, index: Array, *, noise: float = 0.1) -> Example:
    """A point on one of two interlocking half circles, `[2]` float32, and which; numbers alternate between the two."""
    place, spread = jax.random.split(jax.random.fold_in(key, index))
    angle, label = jnp.pi * jax.random.uniform(place), index % 2
    upper = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    point = jnp.where(label == 0, upper, jnp.array([1.0, 0.5]) - upper)
    return point + noise * jax.random.normal(spread, (2,)), label.astype(jnp.int32)


def taught(key: Array, index: Array, *, inputs: int = 8, units: int = 4, noise: float = 0.0) -> Example:
    """Normal inputs `[inputs]` float32, and the outputs for them of a random network of one tanh layer, the teacher.

    The teacher depends on the key alone. Its output has a variance of about 1.
    """
    into, out, bias = (jax.random.fold_in(jax.random.fold_in(key, 0x7EAC), number) for number in range(3))
    first = jax.random.normal(into, (inputs, units)) / inputs**0.5
    last = jax.random.normal(out, (units,)) * (2 / units) ** 0.5
    own, spread = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, 0x1), index))
    x = jax.random.normal(own, (inputs,))
    y = jnp.tanh(x @ first + jax.random.normal(bias, (units,)) / 2) @ last
    return x, y + noise * jax.random.normal(spread)


# 5 x 7 dots a digit, one number a row, its highest bit on the left.
DIGITS = (
    (14, 17, 19, 21, 25, 17, 14), (4, 12, 4, 4, 4, 4, 14), (14, 17, 1, 2, 4, 8, 31), (31, 2, 4, 2, 1, 17, 14),
    (2, 6, 10, 18, 31, 2, 2), (31, 16, 30, 1, 1, 17, 14), (6, 8, 16, 30, 17, 17, 14), (31, 1, 2, 4, 8, 8, 8),
    (14, 17, 17, 14, 17, 17, 14), (14, 17, 17, 15, 1, 2, 12),
)  # fmt: skip


def glyph(key: Array, index: Array, *, noise: float = 0.1) -> Example:
    """A digit drawn in 8 x 8 pixels, `[8, 8, 1]` float32 about 0 and 1, and which; numbers run through the digits.

    It is moved by up to three columns and a row, drawn fainter or stronger, in half of the cases dark on light, and has
    normal noise. A digit and its inverse have a grey image between them, so no hyperplane separates two digits.
    """
    rows = jnp.asarray(DIGITS)[index % 10]
    dots = (rows[:, None] >> jnp.arange(4, -1, -1)[None]) & 1
    place, ink, spread, paper = jax.random.split(jax.random.fold_in(key, index), 4)
    down, across = jax.random.randint(place, (2,), 0, jnp.array([2, 4]))
    image = jax.lax.dynamic_update_slice(jnp.zeros((8, 8)), dots.astype(jnp.float32), (down, across))
    image = jnp.where(jax.random.bernoulli(paper), image, 1 - image) * jax.random.uniform(ink, minval=0.6, maxval=1.0)
    image = image + noise * jax.random.normal(spread, (8, 8))
    return image[..., None], (index % 10).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Toy(Source):
    """Base of the sources of this file."""

    train: int = 1000
    """Number of training examples."""
    test: int = 1000
    """Number of test examples."""
    seed: int = 0
    """Seed of all of them."""

    def drawn(self, example: Callable[[Array, Array], Example]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Inputs and targets of both splits; raises `DataError` for a split without examples."""
        self.check(train=1, test=1)
        numbers = jnp.arange(self.train + self.test)
        key = jax.random.key(self.seed)
        x, y = (np.asarray(a) for a in jax.jit(jax.vmap(lambda index: example(key, index)))(numbers))
        return [(x[: self.train], y[: self.train]), (x[self.train :], y[self.train :])]

    def check(self, **least: float) -> None:
        """Raise `DataError` for a field below its least value."""
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise DataError(f"{type(self).__name__}.{name} is at least {lowest}, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class Disc(Toy):
    """Whether a point of the unit square lies in a disc: no half-plane separates the classes, one radial unit does."""

    radius: float = 0.3
    """Radius of the disc, up to 1/2; 28 % of the points lie in a disc of .3."""

    def open(self) -> Dataset:
        """Inputs `[N, 2]` float32; labels 0 (outside) and 1."""
        if not 0 < self.radius <= 0.5:
            raise DataError(f"Disc.radius is in (0, 0.5], got {self.radius}")
        (x, y), test = self.drawn(lambda key, index: disc(key, index, radius=self.radius))
        return from_arrays(x, y, test=test, name="disc", class_names=("outside", "inside"), target_name="place")


@dataclasses.dataclass(frozen=True)
class HalfMoons(Toy):
    """Which of two interlocking half circles a point lies on."""

    noise: float = 0.1
    """Standard deviation of the points around their half circle of radius 1."""

    def open(self) -> Dataset:
        """Inputs `[N, 2]` float32; labels 0 (upper) and 1."""
        self.check(noise=0)
        (x, y), test = self.drawn(lambda key, index: half_moon(key, index, noise=self.noise))
        return from_arrays(x, y, test=test, name="half-moons", class_names=("upper", "lower"), target_name="moon")


@dataclasses.dataclass(frozen=True)
class Teacher(Toy):
    """The outputs of a random network for random inputs: a network of the same shape, the student, can learn them exactly."""

    inputs: int = 8
    """Numbers of an input."""
    units: int = 4
    """Units in the teacher's layer of tanh."""
    noise: float = 0.0
    """Standard deviation of the noise on the targets, whose variance is about 1."""

    def open(self) -> Dataset:
        """Inputs `[N, inputs]` float32; targets `[N]` float32."""
        self.check(inputs=1, units=1, noise=0)
        (x, y), test = self.drawn(
            lambda key, index: taught(key, index, inputs=self.inputs, units=self.units, noise=self.noise)
        )
        return from_arrays(x, y, test=test, name="teacher", target_name="output")


@dataclasses.dataclass(frozen=True)
class Glyphs(Toy):
    """Digits of 8 x 8 pixels, drawn from a font of dots: a set of images that needs no file."""

    noise: float = 0.1
    """Standard deviation of the noise on pixels, which are between 0 and 1."""

    def open(self) -> Dataset:
        """Inputs `[N, 8, 8, 1]` float32; labels 0 to 9."""
        self.check(noise=0)
        (x, y), test = self.drawn(lambda key, index: glyph(key, index, noise=self.noise))
        return from_arrays(x, y, test=test, name="glyphs", class_names=tuple("0123456789"), target_name="digit")
