"""The pictures of docs/diagnosing.md: `python -m benchmarks.diagnosing_pictures [FOLDER]`, half a minute of a CPU.

A small network reads glyphs: the spectrum of its Hessian, a slice of its loss, paths to another solution, corrupted images.
"""

import sys
from pathlib import Path

import jax
import numpy as np
import optax

import jaxnets
from jaxnets import diagnose
from jaxnets.data import Glyphs
from jaxnets.models import MLP
from jaxnets.report import plots, surface_plots


def draw(folder: Path) -> None:
    """Write `curvature.png` and `robustness.png`."""
    data = Glyphs(train=2000, test=500).open()
    model = MLP(widths=(32,), outputs=10, activation="tanh")
    prepare = data.preparation.prepare  # the standardisation that the network is trained with
    x, y = prepare(data.train["inputs"]), data.train["targets"]

    def loss(params):
        logits = model.apply({"params": params}, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    runs = [
        jaxnets.fit(model, data, steps=600, optimizer=optax.adam(3e-3), batch_size=100, seed=seed, progress="none")
        for seed in (0, 1)
    ]
    a, b = (run.params for run in runs)
    found = diagnose.spectral_density(loss, a)
    reach = float(found.values[-1] - found.values[0])
    at = np.linspace(found.values[0] - 0.05 * reach, found.values[-1] + 0.05 * reach, 600)
    places = np.linspace(-1.5, 1.5, 25)
    slices = diagnose.loss_slice(loss, a, [diagnose.filter_direction(a, seed=seed) for seed in (0, 1)], places)
    nearer = diagnose.matched(a, b)
    control = diagnose.connected(loss, a, nearer, steps=200)
    paths = {
        "straight": diagnose.straight(a, b),
        "straight, units matched": diagnose.straight(a, nearer),
        "Bezier curve, trained": diagnose.bezier(a, control, nearer),
    }
    losses = {name: diagnose.losses_along(loss, path) for name, path in paths.items()}
    shares = np.linspace(0, 1, 21).tolist()
    _beside(
        folder / "curvature.png",
        surface_plots.spectrum(at, found.density(at, 0.01 * reach)),
        surface_plots.loss_slice(places, slices, title="loss around the solution"),
        surface_plots.curves(losses, at=shares, across="share of the way", up="loss", title="between two solutions"),
    )
    test = data.test["inputs"]
    images, labels = np.clip(test, 0, 1), data.test["targets"]

    def accuracy(images):
        return float((runs[0].predict(images) == labels).mean())

    sizes = [0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3]
    attacked = {
        f"PGD, {norm}": diagnose.attack_curve(
            lambda x: model.apply({"params": a}, prepare(x)),
            images,
            labels,
            [scale * size for size in sizes],
            norm=kind,
        )
        for norm, kind, scale in (("each pixel by the size", "inf", 1.0), ("Euclidean norm 8 x the size", "2", 8.0))
    }
    bits = np.arange(20, 32)
    flips = diagnose.flip_curve(
        lambda params: _right(model, params, prepare(images), labels), a, bits.tolist(), count=3
    )
    _beside(
        folder / "robustness.png",
        surface_plots.curves(
            diagnose.corruption_curve(accuracy, images), across="severity", up="accuracy", title="corrupted images"
        ),
        surface_plots.curves(attacked, at=sizes, across="size of the attack", up="accuracy", title="attacks"),
        surface_plots.curves(
            {"mean of 5": flips.mean(axis=1), "worst of 5": flips.min(axis=1)},
            at=bits.tolist(), across="bit of float32", up="accuracy", title="a bit flipped in 3 weights",
        ),
    )  # fmt: skip


def _right(model, params, images, labels):
    outputs = np.asarray(jax.jit(model.apply)({"params": params}, images))
    return float((outputs.argmax(-1) == labels).mean())


def _beside(path, *figures):
    """Figures side by side in one file."""
    from matplotlib import image

    pictures = []
    for figure in figures:
        figure.set_size_inches(4.6, 3.4)
        path.write_bytes(plots.to_png(figure, dpi=110))
        pictures.append(image.imread(path)[..., :3])
    image.imsave(path, np.concatenate(pictures, axis=1))


def main() -> None:
    """Draw into the folder of the command line, by default that of the documentation."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images")
    draw(folder)
    print(f"drew {folder / 'curvature.png'} and {folder / 'robustness.png'}")


if __name__ == "__main__":
    main()
