"""Training and evaluation differ only by what is there for it."""

import jax
import numpy as np

from jaxnets.preflight.finding import Finding, amber, green, red, skipped
from jaxnets.preflight.subject import Subject


def modes(subject: Subject) -> Finding:
    """Evaluation is deterministic; training differs from it only by what is there for it."""
    if not subject.answers:
        return skipped("the model is not called on the inputs alone")
    rates = [getattr(module, "rate", 0.0) for module in subject.layers.values() if type(module).__name__ == "Dropout"]
    drops = any(isinstance(rate, int | float) and rate > 0 for rate in rates)
    drops = drops or any(bool(getattr(subject.inner.model, name, 0)) for name in ("dropout", "drop_path"))
    statistics = "batch_stats" in subject.variables
    said = [name for name, there in (("dropout", drops), ("batch norm", statistics)) if there]
    first, again = (subject.outputs(subject.variables, subject.batch, seed=seed) for seed in (0, 1))
    if not np.array_equal(first, again, equal_nan=True):
        return red("two evaluations of the same batch differ.", "Draw random numbers in training only (train=True).")
    variables = subject.moved
    drawn = [subject.outputs(variables, subject.batch, train=True, seed=seed) for seed in (0, 1)]
    still = subject.outputs(variables, subject.batch)
    spread = max(float(still.std()), 1e-12)
    random = float(np.abs(drawn[0] - drawn[1]).max()) / spread
    apart = float(np.abs(drawn[0] - still).max()) / spread
    if drops and random == 0:
        return amber(
            "the model has dropout, and two training calls with other keys give the same.",
            "Its rate is 0, or it always runs as in evaluation: pass `deterministic=not train`.",
        )
    before, after = (
        jax.tree.leaves(jax.device_get(tree.get("batch_stats", {}))) for tree in (subject.variables, variables)
    )
    if before and all(np.array_equal(a, b) for a, b in zip(before, after, strict=True)):
        return amber(
            "the statistics of batch norm are the same after training steps, so evaluation uses those of no data.",
            "Its momentum is 1, or it always runs as in evaluation: pass `use_running_average=not train`.",
        )
    facts = f"evaluation is deterministic; the model has {' and '.join(said) or 'neither dropout nor batch norm'}"
    if not drops and not statistics and apart > 1e-3 and random == 0:
        return amber(
            f"{facts}, and training differs from it by {apart:.2g} standard deviations.",
            "Look for what reads `train`, the other way round perhaps.",
        )
    return green(f"{facts}; two training calls differ by {random:.2g} standard deviations")
