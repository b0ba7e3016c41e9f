"""Images in a report: galleries as one figure, each image as a file of its own pixels."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxnets.core.types import Gallery
from jaxnets.report.plots import INK, _figure, _matplotlib, _plainly

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Sides of an image in a page, in pixels, at most: twice what the page has room for.
LARGEST = 680


def read_images(paths: Sequence[Path]) -> list[np.ndarray]:
    """PNG files as arrays `[H, W, 3]` in [0, 1]."""
    _matplotlib()
    from matplotlib.image import imread

    return [np.asarray(imread(path))[..., :3] for path in paths]


def pixels(image: np.ndarray) -> bytes:
    """One image `[H, W, C]` of a gallery as a PNG file of its pixels; a large one is reduced, by the means of blocks."""
    _matplotlib()
    from matplotlib.image import imsave

    step = -(-max(image.shape[:2]) // LARGEST)
    height, width = (size // step * step for size in image.shape[:2])
    blocks = image[:height, :width].astype(np.float32).reshape(height // step, step, width // step, step, -1)
    buffer, shown = io.BytesIO(), np.nan_to_num(_stretched(blocks.mean(axis=(1, 3))))
    imsave(buffer, shown[..., 0] if shown.shape[-1] == 1 else shown, cmap="gray_r", vmin=0, vmax=1, format="png")
    return buffer.getvalue()


def _stretched(image: np.ndarray) -> np.ndarray:
    """An image from its smallest value at 0 to its largest at 1; what is not finite is NaN."""
    image = np.where(np.isfinite(image), image, np.nan)
    low, high = (np.nanmin(image), np.nanmax(image)) if np.isfinite(image).any() else (0.0, 1.0)
    return np.asarray((image - low) / (high - low if high > low else 1))


@_plainly
def gallery(exhibit: Gallery, *, columns: int = 8) -> "Figure":
    """A grid of images with captions; images with one channel are grey."""
    images = exhibit.images.astype(np.float32)
    columns = min(columns, max(len(images), 1))
    rows = max(1, -(-len(images) // columns))
    figure = _figure(1.2 * columns, (1.7 if any(exhibit.captions) else 1.2) * rows)
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis, image, caption in zip(axes, images, exhibit.captions, strict=False):
        image = _stretched(image)
        axis.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray_r", interpolation="nearest")
        axis.set_xlabel(caption, fontsize=8, color=INK)
    for index, axis in enumerate(figure.axes):
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.set_visible(index < len(images))
    return figure
