"""Whether gradients reach every unit and layer."""

from typing import Any

import numpy as np

from jaxnets.checkpoints.digest import leaf_paths
from jaxnets.core.types import Lines
from jaxnets.diagnose.gradients import dead_units
from jaxnets.preflight.finding import Finding, amber, green, red, skipped
from jaxnets.preflight.learning import NOT_BY_GRADIENT, listed, norms
from jaxnets.preflight.subject import Subject


def units(subject: Subject) -> Finding:
    """Units that no example wakes up, and units that are at their ends."""
    if not subject.by_gradient or not subject.answers:
        return skipped(NOT_BY_GRADIENT if subject.answers else "the model is not called on the inputs alone")
    if not any(path.endswith("kernel") for path in leaf_paths(subject.variables["params"])):
        return skipped("the model has no layer with a kernel")

    def shares(variables: Any) -> dict[str, float]:
        rest = {name: value for name, value in variables.items() if name != "params"}
        return dead_units(
            lambda params, batch: subject.inner.apply({"params": params, **rest}, batch, None)[0],
            variables["params"],
            subject.batch,
        )

    # Layers behind one that begins at zero have no gradient at first, and frozen or zeroed ones wake up later.
    dead = shares(subject.variables)
    if max(dead.values()) > 0.4:
        later = shares(subject.moved)
        dead = {name: min(share, later[name]) for name, share in dead.items()}
        # A layer for what the loss alone gives the model (a label, a time) is in no output here, and learns.
        found = norms(subject.later_gradient)
        dead = {name: 0.0 if found[f"{name}/kernel"] > 0 and share == 1 else share for name, share in dead.items()}
    worst = max(dead, key=lambda name: dead[name])
    facts = f"{dead[worst]:.0%} of the units of {worst} get no gradient from any of {subject.rows} examples"
    if dead[worst] > 0.9:
        return red(
            f"{facts}.",
            "They are dead or saturated: look at the scale of inputs and initial weights and at the biases; leaky ReLU, GELU "
            "or a norm before the activation keep units alive.",
        )
    if dead[worst] > 0.5:
        return amber(
            f"{facts}.", "Smaller initial weights, a smaller rate, a norm, or leaky ReLU keep more units alive."
        )
    return green(facts)


def gradients(subject: Subject) -> Finding:
    """Gradients of the first and last layers have the same order of magnitude."""
    if not subject.by_gradient:
        return skipped(NOT_BY_GRADIENT)
    found = norms(subject.gradient)
    if sum(value == 0 for value in found.values()) > 0.3 * len(found):
        found = norms(subject.later_gradient)  # layers behind one that begins at zero
    params = leaf_paths(subject.variables["params"])
    ranks = {path: rank for rank, path in enumerate(subject.layers)}
    kernels = [path for path, leaf in params.items() if leaf.ndim > 1 and found[path] > 0]
    if len(kernels) < 2:
        return skipped("there are fewer than two layers with a gradient")
    kernels.sort(key=lambda path: ranks.get(path.rpartition("/")[0], len(ranks)))
    sizes = np.array([found[path] / np.sqrt(params[path].size) for path in kernels])
    figure = Lines(
        "Gradient of each layer, first to last",
        np.arange(len(kernels)),
        np.log10(sizes)[None, None],
        ("log10 of its root mean square",),
        (f"{kernels[0]} to {kernels[-1]}",),
        "layer",
        "",
    )
    first, last = float(sizes[0]), float(sizes[-1])
    facts = f"root mean square {first:.2g} in {kernels[0]}, {last:.2g} in {kernels[-1]}"
    if first < 1e-6 * last:
        return red(
            f"{facts}: the gradient vanishes on its way.",
            "Use ReLU or GELU in place of saturating activations, residual connections, a norm, or an initialisation for the "
            "activation (He for ReLU).",
            figure,
        )
    if first < 1e-3 * last:
        return amber(
            f"{facts}: the first layers learn slowly.",
            "Residual connections, a norm or another initialisation.",
            figure,
        )
    if first > 1e4 * last or max(sizes) > 1e4:
        return amber(
            f"{facts}: the gradient explodes on its way.", "Clip it (clip_norm), scale the inputs, add norms.", figure
        )
    return green(facts, figure)


def bias_before_norm(subject: Subject) -> Finding:
    """A bias that the next norm takes away again."""
    if not subject.by_gradient:
        return skipped(NOT_BY_GRADIENT)
    found = norms(subject.later_gradient)
    useless = [
        path
        for path, value in found.items()
        if path.endswith("/bias")
        and 0 < value < 1e-5 * found.get(path.removesuffix("bias") + "kernel", 0.0)
        and not path.endswith("key/bias")  # softmax takes it away, and every library has it
    ]
    if useless:
        return amber(
            f"{len(useless)} biases have no influence on the loss in training: {listed(useless)}.",
            "A norm over the batch (or a softmax) follows and takes them away; leave them out (use_bias=False).",
        )
    return green("no bias is taken away by a norm behind it")
