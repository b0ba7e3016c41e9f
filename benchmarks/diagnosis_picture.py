"""Six pictures of the diagnosis of `digits_cnn`: `python -m benchmarks.diagnosis_picture [FILE]`, a minute of a CPU."""

import io
import sys
from pathlib import Path

import numpy as np
from matplotlib import image

import jaxnets
from jaxnets import config

# Section and number of each picture, in rows of three.
CHOSEN = (
    ("curvature", 0), ("curvature", 1), ("robustness", 0),
    ("robustness", 2), ("robustness", 4), ("explanation", 4),
)  # fmt: skip


def main() -> None:
    """Draw it into the file of the command line, by default that of the documentation."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images/diagnosis.png")
    run = jaxnets.train(config.load("digits_cnn").experiment, progress="none")
    found = {section.name: section.pictures for section in jaxnets.diagnosis(run).sections}
    small = [_halved(found[section][number].png) for section, number in CHOSEN]
    height, width = (max(one.shape[axis] for one in small) for axis in (0, 1))
    cells = [_in_middle(one, height, width) for one in small]
    rows = [np.concatenate(cells[at : at + 3], axis=1) for at in range(0, len(cells), 3)]
    image.imsave(path, np.concatenate(rows))
    print(f"drew {path}; test accuracy {run.evaluate()['accuracy']:.3f}")


def _halved(png: bytes) -> np.ndarray:
    """A picture at half its size."""
    pixels = image.imread(io.BytesIO(png))[..., :3]
    height, width = (size // 2 for size in pixels.shape[:2])
    return pixels[: height * 2, : width * 2].reshape(height, 2, width, 2, 3).mean(axis=(1, 3))


def _in_middle(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture in the middle of a white field."""
    field = np.ones((height, width, 3), pixels.dtype)
    top, left = (height - pixels.shape[0]) // 2, (width - pixels.shape[1]) // 2
    field[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return field


if __name__ == "__main__":
    main()
