"""A picture of what explains a network that reads digits: `python -m benchmarks.explanation_picture [FILE]`.

Four maps for each of some test digits.
"""

import sys
from pathlib import Path

import numpy as np

import jaxnets
from jaxnets import models, optim
from jaxnets.report.explanation_plots import attributions
from jaxnets.report.plots import to_png


def main() -> None:
    """Draw it into the file of the command line, by default that of the documentation."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images/explanation.png")
    digits = jaxnets.load("digits")
    run = jaxnets.fit(
        models.MLP(widths=(64, 32)), digits, steps=600, batch_size=64, optimizer=optim.AdamW(3e-3), progress="none"
    )
    images, targets = digits.test["inputs"], np.asarray(digits.test["targets"])
    shown = [int(np.flatnonzero(targets == digit)[0]) for digit in (0, 3, 4, 7)]
    explain, inputs = run.explain, images[shown]
    maps = {
        "saliency": explain.saliency(inputs).values,
        "smooth gradient": explain.smooth_gradient(inputs).values,
        "integrated gradients": explain.integrated_gradients(inputs).values,
        "occlusion": explain.occlusion(inputs, size=2, stride=1).values,
    }
    captions = [f"predicted: {name}" for name in run.predict(inputs, names=True)]
    path.write_bytes(to_png(attributions(inputs, maps, captions), dpi=90))
    print(f"drew {path}; test accuracy {run.evaluate()['accuracy']:.3f}")


if __name__ == "__main__":
    main()
