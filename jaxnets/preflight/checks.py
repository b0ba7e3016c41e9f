"""The checks, in the order in which one looks for a fault: the data, the first numbers, what depends on what, learning."""

import dataclasses
from collections.abc import Callable

from jaxnets.preflight import controls, derivatives, flow, formats, inputs, learning, likeness, mixing, modes, start
from jaxnets.preflight.finding import Finding
from jaxnets.preflight.subject import Subject


@dataclasses.dataclass(frozen=True)
class Check:
    """One check."""

    name: str
    """For `--only` and `--skip`."""
    title: str
    """What is in order where it is green."""
    run: Callable[[Subject], Finding]
    """A pure function of the subject."""


CHECKS = (
    Check("shapes", "shapes fit, numbers are finite", start.shapes),
    Check("initial_loss", "first loss is that of guessing", start.initial_loss),
    Check("output_range", "outputs are not squashed", start.output_range),
    Check("mixing", "examples do not mix", mixing.examples_apart),
    Check("loss", "loss is a mean of single examples", mixing.loss_counts),
    Check("parameters", "every parameter learns", learning.parameters),
    Check("overfit", "a few examples are learned by heart", learning.overfit),
    Check("units", "units are alive", flow.units),
    Check("gradients", "gradients reach the first layer", flow.gradients),
    Check("bias_before_norm", "no bias before a norm", flow.bias_before_norm),
    Check("scales", "inputs are scaled", inputs.scales),
    Check("splits", "splits do not overlap", inputs.splits),
    Check("alike", "test is like training", likeness.alike),
    Check("consistent", "equal inputs have equal targets", likeness.consistent),
    Check("giveaways", "no feature is the target", inputs.giveaways),
    Check("baselines", "inputs tell something about targets", inputs.baselines),
    Check("controls", "without labels or inputs it is chance", controls.controls),
    Check("derivatives", "gradient is that of the loss", derivatives.derivatives),
    Check("modes", "training and evaluation differ as meant", modes.modes),
    Check("causal", "no look ahead", mixing.causal),
    Check("padding", "padding does not count", mixing.padding),
    Check("order", "order does not count", mixing.order),
    Check("bfloat16", "bfloat16 gives the same", formats.bfloat16),
    Check("devices", "all devices give the same", formats.devices),
)
