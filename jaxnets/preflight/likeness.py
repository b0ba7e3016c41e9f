"""Whether the test split is like the training split, and equal inputs have equal targets."""

import numpy as np

from jaxnets.preflight.features import flat_inputs, row_bytes
from jaxnets.preflight.finding import Finding, amber, green, red, skipped
from jaxnets.preflight.subject import Subject


def alike(subject: Subject) -> Finding:
    """Inputs and targets of the test split have the scales and classes of training."""
    train, test = (subject.prepared[split] for split in ("train", "test"))
    facts = []
    if subject.kind == "class" and train["targets"].ndim == 1:
        seen, held = (np.bincount(part["targets"].astype(int), minlength=2) for part in (train, test))
        missing = [label for label in np.flatnonzero(held).tolist() if label >= len(seen) or not seen[label]]
        missing = [label for label in missing if not (subject.parts.dataset.train["targets"] == label).any()]
        if missing:
            names = subject.parts.dataset.card.class_names
            share = held[missing].sum() / held.sum()
            return red(
                f"{share:.1%} of the test examples are of {', '.join(names[label] for label in missing[:4])}, of which "
                f"training has no example.",
                "Split within each class (from_arrays(..., split='class')), not data that are sorted by it.",
            )
        width = max(len(seen), len(held))
        shares = [np.pad(count, (0, width - len(count))) / count.sum() for count in (seen, held)]
        apart = float(np.abs(shares[0] - shares[1]).sum() / 2)
        chance = float(np.sqrt(width / len(test["targets"])))
        facts.append(f"the shares of classes differ by {apart:.1%}")
        if apart > 0.1 + chance:
            return amber(f"{facts[0]} between training and test.", "Split within each class, unless the world is so.")
    elif subject.kind == "number":
        found = [_moments(part["targets"].reshape(len(part["targets"]), -1)) for part in (train, test)]
        facts.append(f"targets: {_said(found)}")
        if _strange(found, 3.0, 5.0):
            return red(f"{facts[0]}.", "They have other units, or come from elsewhere: look how the splits are made.")
    rows = [flat_inputs(part["inputs"]) for part in (train, test)]
    if rows[0] is None or rows[1] is None:
        return green("; ".join(facts)) if facts else skipped("inputs and targets are tokens or several arrays")
    found = [_moments(part) for part in (rows[0], rows[1])]
    facts.append(f"inputs: {_said(found)}")
    if _strange(found, 3.0, 5.0):
        return red(
            f"{'; '.join(facts)}.", "The test inputs are scaled or made in another way: prepare both splits alike."
        )
    if _strange(found, 1.0, 2.0):
        return amber(f"{'; '.join(facts)}.", "The splits differ; scores on one say less about the other.")
    return green("; ".join(facts))


def _moments(rows: np.ndarray) -> tuple[float, float]:
    """Mean and deviation of all numbers together."""
    rows = rows.astype(np.float64)
    return float(rows.mean()), float(rows.std())


def _said(found: list[tuple[float, float]]) -> str:
    (mean, deviation), (other_mean, other_deviation) = found
    return f"mean {mean:.3g} and {other_mean:.3g} (test), deviation {deviation:.3g} and {other_deviation:.3g}"


def _strange(found: list[tuple[float, float]], means: float, ratio: float) -> bool:
    """Whether means are so many deviations apart, or deviations by such a factor."""
    (mean, deviation), (other_mean, other_deviation) = found
    if deviation < 1e-9:
        return other_deviation > 1e-6
    return abs(mean - other_mean) > means * deviation or not 1 / ratio < other_deviation / deviation < ratio


def consistent(subject: Subject) -> Finding:
    """Equal training inputs have equal targets."""
    arrays = subject.samples["train"]
    if subject.kind not in ("class", "number") or arrays["targets"].ndim != 1 or subject.parts.dataset.several:
        return skipped("the targets are neither one class nor one number")
    groups: dict[bytes, list[float]] = {}
    for one, target in zip(row_bytes(arrays), arrays["targets"].tolist(), strict=True):
        groups.setdefault(one, []).append(target)
    count = len(arrays["targets"])
    torn = sum(len(targets) for targets in groups.values() if len(set(targets)) > 1)
    facts = f"{torn} of {count} training examples have an equal one with another target"
    if torn > 0.01 * count:
        return amber(
            f"{facts}.",
            "No model can be right on all of them: are targets joined to the right rows, are inputs cut or rounded?",
        )
    return green(facts)
