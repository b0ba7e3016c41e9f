"""Score the samples of a generative run by a classifier run.

    python -m benchmarks.samples runs/mnist_cnn runs/mnist_dcgan --layer dense_0

Prints one JSON object: the Frechet distance of the samples to the test images on features of `--layer`, the same for as many
training images (the score of perfect samples), and class coverage. Compare only scores by the same classifier.
"""

import argparse
import dataclasses
import json

import jax
import numpy as np

import jaxnets
from jaxnets.tasks.sample_scores import class_coverage, features_and_labels, frechet_distance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("classifier", help="run directory of a classifier")
    parser.add_argument("generator", help="run directory of a task that has sample()")
    parser.add_argument("--layer", default="dense_0")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--guidance", type=float, help="guidance scale of a conditional diffusion model; default: that of the run"
    )
    parser.add_argument("--steps", type=int, help="steps of a diffusion model's sampler; default: those of the run")
    arguments = parser.parse_args()
    judge, maker = jaxnets.open_run(arguments.classifier), jaxnets.open_run(arguments.generator)
    data = judge.parts.dataset
    task = maker.parts.task
    for name, value in (("guidance", arguments.guidance), ("sample_steps", arguments.steps)):
        task = task if value is None else dataclasses.replace(task, **{name: value})
    draw = jax.jit(task.sample, static_argnums=2)
    keys = jax.random.split(jax.random.key(arguments.seed), -(-arguments.count // 500))
    made = np.concatenate([np.asarray(draw(maker.variables, key, 500)) for key in keys])[: arguments.count]
    # Convert to rounded pixels, like real images; then preprocess for the classifier.
    pixels = maker.parts.dataset.as_raw(made)

    def look(images):
        model = judge.parts.task.model
        return features_and_labels(model, judge.variables, data.prepare(images), layer=arguments.layer)

    test, _ = look(data.test["inputs"][: arguments.count])
    train, _ = look(data.train["inputs"][: arguments.count])
    features, labels = look(pixels)
    print(
        json.dumps(
            {
                "generator": arguments.generator,
                "samples": len(pixels),
                "frechet_distance": round(frechet_distance(features, test), 4),
                "of_training_images": round(frechet_distance(train, test), 4),
                "class_coverage": class_coverage(labels, len(data.class_names)),
            }
        )
    )


if __name__ == "__main__":
    main()
