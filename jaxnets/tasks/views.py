"""Random views of an example, for tasks that compare several of them. Shapes: `H` height, `W` width, `C` channels."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Views:
    """A random view of one example: `views(key, inputs)`, a pure function. `crop`, `flip` and `contrast` are for images."""

    crop: float = 1.0
    """Least share of the image's area that is kept, in (0, 1]; the kept square is enlarged to the image."""
    flip: float = 0.0
    """Probability of a flip left to right, in [0, 1]."""
    contrast: float = 0.0
    """The inputs are multiplied by a number within this of 1, and one of that size is added, each drawn uniformly."""
    noise: float = 0.1
    """Standard deviation of Gaussian noise on prepared inputs."""
    dropped: float = 0.0
    """Probability that a number of the input becomes 0, in [0, 1)."""
    function: Callable[[Array, Array], Array] | None = None
    """Your own function, `(key, inputs) -> inputs` of the same shape, instead of all of the above."""

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1 or not 0 <= self.flip <= 1 or not 0 <= self.dropped < 1:
            raise ValueError(f"views: crop is in (0, 1], flip in [0, 1] and dropped in [0, 1); got {self}")
        if self.noise < 0 or self.contrast < 0:
            raise ValueError(f"views: noise and contrast are at least 0; got {self}")

    def __call__(self, key: Array, x: Array) -> Array:
        """The view, of the shape and dtype of `x`."""
        if self.function is not None:
            made = self.function(key, x)
            if jnp.shape(made) != x.shape:
                raise UsageError(
                    f"views.function makes {jnp.shape(made)} of inputs {x.shape}; it has to keep the shape, because the model "
                    f"is evaluated on inputs as they are"
                )
            return made.astype(x.dtype)
        crop_key, flip_key, contrast_key, noise_key, drop_key = jax.random.split(key, 5)
        if x.ndim != 3 and (self.crop < 1 or self.flip or self.contrast):
            raise UsageError(
                f"views: crop, flip and contrast are for images [height, width, channels], but an example has shape "
                f"{x.shape}; use noise and dropped, or a function of your own"
            )
        made = x.astype(jnp.float32)
        if self.crop < 1:
            made = _cropped(crop_key, made, self.crop)
        if self.flip:
            made = jnp.where(jax.random.bernoulli(flip_key, self.flip), made[:, ::-1], made)
        if self.contrast:
            by, more = jax.random.uniform(contrast_key, (2,), minval=-self.contrast, maxval=self.contrast)
            made = made * (1 + by) + more
        if self.noise:
            made = made + self.noise * jax.random.normal(noise_key, x.shape)
        if self.dropped:
            made = jnp.where(jax.random.bernoulli(drop_key, self.dropped, x.shape), 0.0, made)
        return made.astype(x.dtype)


def _cropped(key: Array, image: Array, least: float) -> Array:
    """A random part of an image `[H, W, C]` with its aspect and at least this share of its area, enlarged to `[H, W, C]`."""
    H, W, _ = image.shape
    for_area, for_place = jax.random.split(key)
    side = jnp.sqrt(jax.random.uniform(for_area, minval=least, maxval=1.0))
    first = jax.random.uniform(for_place, (2,)) * (1 - side) * jnp.array([H, W])
    scale = jnp.broadcast_to(1 / side, (2,))
    return jax.image.scale_and_translate(image, image.shape, (0, 1), scale, -first * scale, "linear", antialias=False)
