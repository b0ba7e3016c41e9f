"""A picture of what each augmentation of images does: `python -m benchmarks.augmentation_picture [FILE]`.

Every cell is a photograph of CIFAR-10 under one field of `Augment`; two draws each. The last ones mix two photographs.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.data import CIFAR10, Augment
from jaxnets.data.augment import Facts, Pixels

# What is shown: a caption and the augmentation.
SHOWN = (
    ("as it is", Augment()),
    ("shift=6", Augment(shift=6)),
    ("shift=6, reflect", Augment(shift=6, padding="reflect")),
    ("crop=.2", Augment(crop=0.2)),
    ("rotate=30, edge", Augment(rotate=30.0, padding="edge")),
    ("flip", Augment(flip=True)),
    ("flip_up_down", Augment(flip_up_down=True)),
    ("colout=.3", Augment(colout=0.3)),
    ("cutout=12", Augment(cutout=12)),
    ("erase=1", Augment(erase=1.0)),
    ("noise=.1", Augment(noise=0.1)),
    ("brightness=.6", Augment(brightness=0.6)),
    ("contrast=.8", Augment(contrast=0.8)),
    ("saturation=1", Augment(saturation=1.0)),
    ("hue=.3", Augment(hue=0.3)),
    ("grayscale=1", Augment(grayscale=1.0)),
    ("policy trivial", Augment(policy="trivial")),
    ("policy randaugment", Augment(policy="randaugment", magnitude=15.0)),
    ("policy augmix", Augment(policy="augmix", severity=5.0)),
    ("mixup=1", Augment(mixup=1.0)),
    ("cutmix=1", Augment(cutmix=1.0)),
)
COLUMNS = 7
# Rows of the training split: a horse, and what it is mixed with.
PHOTOGRAPHS = (7, 4)


def draw(path: Path, images: np.ndarray, seed: int = 2) -> None:
    """Write the picture of two images `[2, H, W, 3]` uint8; each cell shows the first one, drawn twice."""
    import matplotlib.pyplot as plt

    pixels = jnp.asarray(images / 255.0, jnp.float32)
    rows = -(-len(SHOWN) // COLUMNS)
    figure, places = plt.subplots(rows, COLUMNS, figsize=(1.9 * COLUMNS, 1.25 * rows))
    for place, (caption, augment) in zip(places.flat, SHOWN, strict=True):
        drawn = [changed(augment, pixels, jax.random.key(seed + i)) for i in range(2)]
        gap = np.ones((pixels.shape[1], 2, 3))
        place.imshow(np.clip(np.concatenate([drawn[0], gap, drawn[1]], axis=1), 0, 1), interpolation="nearest")
        place.set_title(caption, fontsize=9)
    for place in places.flat:
        place.axis("off")
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def changed(augment: Augment, pixels: jax.Array, key: jax.Array) -> np.ndarray:
    """The first of some images with pixels in [0, 1] after an augmentation."""
    facts = Facts(shape=pixels.shape[1:], classes=2, pixels=Pixels())
    batch = {"inputs": pixels, "targets": jnp.arange(len(pixels)), "mask": jnp.ones(len(pixels))}
    batch = augment.change(batch, key, facts)
    return np.asarray(augment.mix(batch, key, facts)["inputs"][0])


def main() -> None:
    """Draw it into the file of the command line, by default that of the documentation."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images/augmentation.png")
    draw(path, CIFAR10().open().train["inputs"][list(PHOTOGRAPHS)])
    print(f"drew {path}")


if __name__ == "__main__":
    main()
