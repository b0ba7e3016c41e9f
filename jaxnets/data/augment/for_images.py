"""Random changes to training images, and mixing of inputs of any kind.

Shapes: `B` batch, `H` height, `W` width, `C` channels.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.typecheck import check_choices
from jaxnets.core.types import Batch
from jaxnets.data.augment import colour, geometry, policies
from jaxnets.data.augment.base import (
    TURNED,
    Augmentation,
    Facts,
    Pixels,
    check_at_least_0,
    check_shares,
    wrong_inputs,
)
from jaxnets.data.augment.geometry import Padding
from jaxnets.data.augment.mixing import check_mixing, cutmix, mixup
from jaxnets.data.augment.policies import Policy
from jaxnets.ops.random import example_keys, named_keys

# The oldest fields; the repr always shows them.
FIRST = ("shift", "flip", "cutout", "noise")
# Fields that do not need images.
ANY_INPUTS = ("noise", "mixup")
# Strengths of the policies; without a policy these change nothing.
SETTINGS = ("padding", "flip_order", "operations", "magnitude", "severity")
# Fields that work on pixels in [0, 1] instead of prepared inputs.
ON_PIXELS = ("policy", "brightness", "contrast", "saturation", "hue", "grayscale")


@dataclasses.dataclass(frozen=True)
class Augment(Augmentation):
    """The changes and their strengths; the defaults change nothing. Each image has its own key, derived from the step and the
    row number in the data. They are applied in the order: crop, rotate, shift, flips, colout, policy, colours, cutout, erase,
    noise; then mixing."""

    shift: int = 0
    """Shift by up to this many pixels in each direction (a random crop after padding)."""
    flip: bool = False
    """Flip left to right with probability 1/2."""
    cutout: int = 0
    """Zero out a square with sides of this many pixels at a random place (DeVries and Taylor, 2017)."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise added to prepared inputs, of any shape."""
    padding: Padding = "zero"
    """The pixels outside the image for a shift or rotation: 0 of the prepared inputs, the reflected image, or its edge."""
    crop: float = 0.0
    """Smallest share of the area of a random crop that is resized to the whole (Szegedy et al. 2015; ImageNet has .08)."""
    rotate: float = 0.0
    """Rotate by up to this many degrees in either direction, with linear interpolation."""
    flip_order: Literal["random", "alternating"] = "random"
    """When `flip` flips. random: drawn at each step. alternating: the orientation of each image is drawn for the first epoch
    and then alternates from epoch to epoch (Jordan 2024). Views of a task have no epochs, so their flips are random."""
    flip_up_down: bool = False
    """Flip upside down with probability 1/2."""
    colout: float = 0.0
    """Share of rows and columns that is left out (ColOut of Composer); the rest is resized to the size of the image."""
    policy: Policy = "none"
    """Drawn operations: TrivialAugment, RandAugment or AugMix (see `policies`)."""
    operations: int = 2
    """Operations for each image in RandAugment."""
    magnitude: float = 9.0
    """Strength of RandAugment's operations, of 30."""
    severity: float = 3.0
    """Largest strength of AugMix's operations, of 10."""
    brightness: float = 0.0
    """Multiply pixels by a factor in [1 - this, 1 + this]."""
    contrast: float = 0.0
    """The same for the distance from the mean luma of the image."""
    saturation: float = 0.0
    """The same for the distance from grey."""
    hue: float = 0.0
    """Turn the hue by up to this share of the circle, at most .5."""
    grayscale: float = 0.0
    """Probability that an image becomes grey."""
    erase: float = 0.0
    """Probability that a rectangle becomes random pixels (random erasing, Zhong et al. 2020)."""
    mixup: float = 0.0
    """`alpha` of mixup: inputs and targets of pairs are averaged with a share of Beta(alpha, alpha) (Zhang et al. 2018)."""
    cutmix: float = 0.0
    """`alpha` of CutMix: a rectangle of another image, targets by area (Yun et al. 2019). With mixup: one of the two."""

    def __post_init__(self) -> None:
        check_choices(self)
        if self.shift < 0 or self.cutout < 0 or self.noise < 0:
            raise ValueError(f"augment: shift, cutout and noise are at least 0, got {self}")
        check_at_least_0(self, "rotate", "brightness", "contrast", "saturation", "mixup", "cutmix")
        check_shares(self, "crop", "grayscale", "erase")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"Augment.hue is a share of the circle in [0, .5], got {self.hue}")
        if not 0 <= self.colout < 1:
            raise ValueError(f"Augment.colout is a share in [0, 1), got {self.colout}")
        if self.operations < 1:
            raise ValueError(f"Augment.operations is at least 1, got {self.operations}")
        if not 0 <= self.magnitude <= policies.RANDAUGMENT_LEVELS:
            raise ValueError(f"Augment.magnitude is from 0 to {policies.RANDAUGMENT_LEVELS}, got {self.magnitude}")
        if not 0.1 <= self.severity <= policies.AUGMIX_LEVELS:
            raise ValueError(f"Augment.severity is from 0.1 to {policies.AUGMIX_LEVELS}, got {self.severity}")

    def __repr__(self) -> str:
        """The first fields and those that are set: part of the fingerprint of a data set."""
        shown = [f.name for f in dataclasses.fields(self) if f.name in FIRST or getattr(self, f.name) != f.default]
        return f"Augment({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    @property
    def _set(self) -> tuple[str, ...]:
        """Names of the fields that change something."""
        return tuple(
            f.name for f in dataclasses.fields(self) if f.name not in SETTINGS and getattr(self, f.name) != f.default
        )

    @property
    def active(self) -> bool:
        """Whether it changes single examples."""
        return any(name not in ("mixup", "cutmix") for name in self._set)

    @property
    def mixes(self) -> bool:
        """Whether it mixes examples."""
        return bool(self.mixup or self.cutmix)

    @property
    def alternates(self) -> bool:
        """Whether flips depend on the epoch."""
        return self.flip and self.flip_order == "alternating"

    def check(self, facts: Facts) -> None:
        """See `Augmentation`."""
        wrong = tuple(name for name in self._set if name not in ANY_INPUTS)
        if wrong and (len(facts.shape) != 3 or facts.tokens):
            raise wrong_inputs(
                f"augment.{wrong[0]}", "images [height, width, channels]", facts,
                f"Leave {', '.join(wrong)} out (noise and mixup are for inputs of any shape), or give the inputs as images",
            )  # fmt: skip
        if self._set and facts.tokens:
            raise wrong_inputs(
                f"augment.{self._set[0]}", "real numbers", facts, "Use TokenAugment for tokens, or leave it out"
            )
        if self.padding == "reflect" and self.shift >= min(facts.shape[:2], default=self.shift + 1):
            raise wrong_inputs(
                f"augment.shift={self.shift} with padding='reflect'", "a smaller shift than the image", facts,
                f"Set shift to {min(facts.shape[:2]) - 1} or less, or padding='edge'",
            )  # fmt: skip
        if self.mixes:
            check_mixing("augment.mixup" if self.mixup else "augment.cutmix", facts)

    def __call__(
        self,
        images: Array,
        key: Array,
        index: Array | None = None,
        pixels: Pixels | None = None,
        turned: Array | None = None,
    ) -> Array:
        """Augment images `[B, H, W, C]` float32 (noise alone: any inputs `[B, ...]`); the shape stays the same.

        `index` `[B]` holds their row numbers in the data; None uses their positions in the batch. `pixels` says how they
        relate to pixels in [0, 1]; None: they are such pixels. `turned` `[B]` bool marks the flipped ones if flips alternate;
        None: flips are random.
        """
        if not self.active:
            return images
        keys = example_keys(key, images.shape[0] if index is None else index)
        if not self.alternates or turned is None:
            return jax.vmap(lambda image, one: self._one(image, one, pixels or Pixels()))(images, keys)
        return jax.vmap(lambda image, one, flip: self._one(image, one, pixels or Pixels(), flip))(images, keys, turned)

    def change(self, batch: Batch, key: Array, facts: Facts) -> Batch:
        """See `Augmentation`."""
        return {**batch, "inputs": self(batch["inputs"], key, batch.get("index"), facts.pixels, batch.get(TURNED))}

    def mix(self, batch: Batch, key: Array, facts: Facts) -> Batch:
        """See `Augmentation`."""
        if self.mixup and self.cutmix:
            # Both are computed and one is taken, example by example; they share the pairs.
            return mixup(cutmix(batch, key, self.cutmix, facts, only=0), key, self.mixup, facts, only=1, first=batch)
        if self.cutmix:
            return cutmix(batch, key, self.cutmix, facts)
        return mixup(batch, key, self.mixup, facts) if self.mixup else batch

    def _one(self, image: Array, key: Array, pixels: Pixels, turned: Array | None = None) -> Array:
        shift_key, flip_key, cut_key, noise_key = jax.random.split(key, 4)
        keys = named_keys(key, self._set)  # for newer fields; the order of the draws above must not change
        if self.crop:
            image = geometry.resized_crop(image, *geometry.crop_box(keys["crop"], image.shape, self.crop))
        if self.rotate:
            degrees = jax.random.uniform(keys["rotate"], minval=-self.rotate, maxval=self.rotate)
            turned = geometry.rotation(degrees, image.shape[0], image.shape[1])
            image = geometry.affine(image, turned, between="linear", padding=self.padding)
        if self.shift:
            row, column = jax.random.randint(shift_key, (2,), 0, 2 * self.shift + 1)
            image = geometry.shift(image, row, column, self.shift, self.padding)
        if self.flip:
            image = jnp.where(jax.random.bernoulli(flip_key) if turned is None else turned, image[:, ::-1], image)
        if self.flip_up_down:
            image = jnp.where(jax.random.bernoulli(keys["flip_up_down"]), image[::-1], image)
        if self.colout:
            kept = geometry.colout(image, keys["colout"], self.colout)
            image = jax.image.resize(kept, image.shape, "linear")
        if any(name in ON_PIXELS for name in self._set):
            image = pixels.undo(self._coloured(pixels.of(image), keys))
        if self.cutout:
            H, W, _ = image.shape
            row, column = jax.random.randint(cut_key, (2,), 0, jnp.array([H, W]))
            rows, columns = jnp.arange(H)[:, None, None], jnp.arange(W)[None, :, None]
            half = self.cutout / 2
            inside = (abs(rows - row + 0.5) < half) & (abs(columns - column + 0.5) < half)
            image = jnp.where(inside, 0.0, image)
        if self.erase:
            image = self._erased(image, keys["erase"], pixels)
        if self.noise:
            image = image + self.noise * jax.random.normal(noise_key, image.shape)
        return image

    def _coloured(self, image: Array, keys: dict[str, Array]) -> Array:
        """A policy, then the colours, of an image with pixels in [0, 1]."""
        if self.policy == "trivial":
            image = policies.trivial(image, keys["policy"])
        elif self.policy == "randaugment":
            image = policies.randaugment(image, keys["policy"], self.operations, self.magnitude)
        elif self.policy == "augmix":
            image = policies.augmix(image, keys["policy"], self.severity)
        for name in ("brightness", "contrast", "saturation"):
            most = getattr(self, name)
            if most:
                factor = jax.random.uniform(keys[name], minval=max(0.0, 1 - most), maxval=1 + most)
                image = getattr(colour, name)(image, factor)
        if self.hue:
            image = colour.hue(image, jax.random.uniform(keys["hue"], minval=-self.hue, maxval=self.hue))
        if self.grayscale:
            chosen = jax.random.bernoulli(keys["grayscale"], self.grayscale)
            image = jnp.where(chosen, colour.grey(image), image)
        return image

    def _erased(self, image: Array, key: Array, pixels: Pixels) -> Array:
        """Random erasing: the pixels of a rectangle become uniform ones."""
        box_key, chosen_key, value_key = jax.random.split(key, 3)
        inside = geometry.inside_box(image.shape, *geometry.erase_box(box_key, image.shape))
        chosen = jax.random.bernoulli(chosen_key, self.erase)
        return jnp.where(chosen & inside, pixels.undo(jax.random.uniform(value_key, image.shape)), image)
