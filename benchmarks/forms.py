"""Measure the forms of a convolution's kernel gradient at the shapes of the shipped configurations, on this processor.

    python -m benchmarks.forms [CONFIGURATION ...]

Each form runs in a loop on the device, as in training, in alternation with the others. Prints one JSON object per shape, and
the total time of a configuration by each form and by the rule in use (`jaxnets.ops.convolution.kernel_form`).
"""

import argparse
import json
import time
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets.config.find import load
from jaxnets.ops import convolution
from jaxnets.runs.build import assemble, batch_spec

CONFIGURATIONS = (
    "digits_cnn", "mnist_cnn", "mnist_lenet", "fashion_cnn", "overlaid_digits", "digits_rcnn", "moving_digits", "mnist_dcgan",
    "mnist_ddpm", "cifar10_resnet", "cifar10_resnet9", "cifar10_coatnet",
)  # fmt: skip


def shapes_of(name: str) -> set[tuple[Any, ...]]:
    """Arguments of all kernel gradients in one training step: shapes of x and g, dtype, window, strides, pads."""
    found: set[tuple[Any, ...]] = set()
    original = convolution._correlate

    def note(x: Any, g: Any, window: Any, strides: Any, pads: Any) -> Any:
        found.add((x.shape, g.shape, str(x.dtype), window, strides, pads))
        return original(x, g, window, strides, pads)

    experiment = load(name).experiment
    parts = assemble(experiment, experiment.data.outline())
    convolution._correlate = note
    try:
        with jax.set_mesh(parts.mesh):
            step = parts.task.make_step(parts.recipe)
            jax.make_jaxpr(step)(parts.abstract, batch_spec(parts.dataset, experiment.batch_size))
    finally:
        convolution._correlate = original
    return found


def measure(
    x_shape: Any, g_shape: Any, dtype: str, window: Any, strides: Any, pads: Any, *, turns: int
) -> dict[str, float]:
    """Milliseconds of processor time for one gradient by each form, the minimum over `turns` turns."""
    key = jax.random.key(0)
    x, g = jax.random.normal(key, x_shape, dtype), jax.random.normal(key, g_shape, dtype)
    programs = {}
    for name, form in convolution.KERNEL_FORMS.items():

        def run(count: Any, x: Any, g: Any, form: Any = form) -> Any:
            def body(_: Any, carry: Any) -> Any:
                x, total = carry
                kernel = form(x, g, window, strides, pads)
                # The next iteration depends on this one, so the compiler cannot move work out of the loop.
                return x.at[(0,) * x.ndim].add(1e-6 * kernel.ravel()[0]), total + kernel

            shape = jax.eval_shape(lambda: form(x, g, window, strides, pads))
            return jax.lax.fori_loop(0, count, body, (x, jnp.zeros(shape.shape, shape.dtype)))[1]

        programs[name] = jax.jit(run).lower(1, x, g).compile()
    best = dict.fromkeys(programs, float("inf"))
    counts = {}
    for name, program in programs.items():
        start = time.process_time()
        jax.block_until_ready(program(jnp.int32(1), x, g))
        counts[name] = max(1, min(50, int(0.05 / max(1e-4, time.process_time() - start))))
    for _ in range(turns):
        for name, program in programs.items():
            start = time.process_time()
            jax.block_until_ready(program(jnp.int32(counts[name]), x, g))
            best[name] = min(best[name], (time.process_time() - start) / counts[name] * 1e3)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configurations", nargs="*", default=CONFIGURATIONS)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    for name in options.configurations:
        sums: dict[str, float] = {}
        for arguments in sorted(shapes_of(name)):
            row = measure(*arguments, turns=options.turns)
            row["rule"] = row[convolution.kernel_form(arguments[0], arguments[3])]
            sums = {form: sums.get(form, 0.0) + ms for form, ms in row.items()}
            shapes = dict(zip(("x", "g", "dtype", "window", "strides", "pads"), arguments, strict=True))
            print(json.dumps({"of": name, **shapes, **{form: round(ms, 3) for form, ms in row.items()}}), flush=True)
        print(json.dumps({"all of": name, **{form: round(ms, 2) for form, ms in sums.items()}}), flush=True)


if __name__ == "__main__":
    main()
