"""The data before training: scales, leaks of the targets, and what simple predictors reach."""

import dataclasses

import numpy as np

from jaxnets.ops.tokens import IGNORED
from jaxnets.preflight.features import Rows, constant, flat_inputs, linear, neighbours, row_bytes, rows_of, score
from jaxnets.preflight.finding import Finding, amber, green, red, skipped
from jaxnets.preflight.subject import Subject

# Rows that are compared for duplicates at most.
HASHED = 200_000
# Features that are looked at one by one at most.
COLUMNS = 4096
# Shares of test examples that occur in training: to look at, and too many.
SOME, MANY = 0.01, 0.1


def scales(subject: Subject) -> Finding:
    """Prepared inputs have the order of magnitude of 1, and none is constant or not finite."""
    prepared, raw = subject.prepared["train"]["inputs"], subject.samples["train"].get("inputs")
    rows = flat_inputs(prepared)
    if rows is None:
        return _tokens(subject)
    if len(rows) == 1:  # one large graph
        rows = rows.reshape(-1, prepared.shape[-1])
    if not np.isfinite(rows).all():
        return red(
            f"{int((~np.isfinite(rows)).sum()):,} of {rows.size:,} inputs are not finite.",
            "Remove or fill such examples.",
        )
    deviation, largest = rows.std(axis=0), float(np.abs(rows).max())
    facts = f"inputs from {rows.min():.3g} to {rows.max():.3g}, mean {rows.mean():.2g}, deviation {rows.std():.2g}"
    bytes_ = raw is not None and raw.dtype == np.uint8
    if bytes_ and largest > 20 and rows.std() > 5:
        return red(
            f"{facts}: they are bytes that were not scaled.",
            'Divide by 255, or give a scale (from_arrays standardises; Standardize(mean, std); data.scale "unit").',
        )
    if rows.std() > 1e3 or largest > 1e5:
        return red(f"{facts}: far too large.", "Standardise them: from_arrays(..., standardize=True).")
    constant_ones = int((deviation <= 1e-9 * max(largest, 1e-30)).sum())
    if constant_ones == rows.shape[1]:
        return red(
            f"{facts}: all {rows.shape[1]} features are constant over {len(rows)} examples.", "Look how they are read."
        )
    large = [_name(subject, int(i)) for i in np.argsort(-deviation)[:3] if deviation[i] > 30]
    if large or rows.std() > 30 or abs(rows.mean()) > 10 * max(rows.std(), 1e-9):
        return amber(
            f"{facts}{'; largest deviations: ' + ', '.join(large) if large else ''}.",
            "Standardise them, or take logarithms of what spans orders of magnitude.",
        )
    if 0 < rows.std() < 1e-3:
        return amber(f"{facts}: very small.", "Standardise them.")
    image = prepared.ndim > 2
    if constant_ones and not image:
        names = [_name(subject, int(i)) for i in np.flatnonzero(deviation <= 1e-9 * max(largest, 1e-30))[:3]]
        return amber(
            f"{facts}; {constant_ones} of {rows.shape[1]} features are constant: {', '.join(names)}.", "Leave them out."
        )
    return green(facts)


def _tokens(subject: Subject) -> Finding:
    prepared = subject.prepared["train"]["inputs"]
    if not isinstance(prepared, np.ndarray) or prepared.dtype.kind not in "iu":
        return skipped("the inputs are several arrays")
    used, known = len(np.unique(prepared)), len(subject.parts.dataset.card.class_names)
    card = subject.parts.dataset.card
    known = len(card.tokens.names) if card.tokens else known
    rows = len(prepared)
    if used == 1:
        return red(f"all tokens of {rows} examples are the same.", "Look how they are read.")
    return green(f"tokens {prepared.min()} to {prepared.max()}, {used:,} of {known:,} occur in {rows} examples")


def _name(subject: Subject, number: int) -> str:
    """The name of a feature."""
    names = subject.parts.dataset.feature_names
    return f"{names[number]!r}" if number < len(names) else f"number {number}"


def splits(subject: Subject) -> Finding:
    """Examples of the test split do not occur in training."""
    dataset = subject.parts.dataset
    if "counted" in dataset.train:
        return skipped("both splits are the same graph, of which other nodes count")
    if dataset.lazy:
        return skipped("the data are read row by row")
    found, facts = "green", []
    for split in ("test", "validation"):
        arrays = getattr(dataset, split)
        if arrays is None:
            continue
        seen, held = (row_bytes(part, HASHED) for part in (dataset.train, arrays))
        inside = set(seen)
        share = sum(digest in inside for digest in held) / len(held)
        twice = 1 - len(inside) / len(seen)
        facts.append(
            f"{share:.1%} of {len(held):,} {split} examples are in training ({twice:.1%} of those occur twice)"
        )
        # Examples with few possible values meet by chance, within training just as often.
        worse = "red" if share >= MANY else "amber" if share >= SOME else "green"
        chance = 2 * twice + 3 * np.sqrt((2 * twice + 1e-4) / len(held))
        found = worse if share > chance and worse != "green" and found != "red" else found
    near = _near(subject)
    said = "; ".join(facts)
    if found == "red":
        return red(f"{said}.", "Their scores say nothing about new examples: remove them from one of the splits.")
    if near > SOME * 5:
        return amber(
            f"{said}; {near:.0%} of the test examples are nearly the same as a training example.",
            "Split by what they come from (a patient, a film, a user): from_arrays(..., groups=...).",
        )
    if found == "amber":
        return amber(f"{said}.", "Remove them from one of the splits.")
    return green(said)


def _near(subject: Subject) -> float:
    """The share of test examples much nearer to a training example than those are to each other, but not equal to it."""
    rows = rows_of(subject)
    if rows is None or len(rows.train) < 100:
        return 0.0
    _, usual = neighbours(rows, rows.train)
    _, there = neighbours(rows)
    apart = usual[usual > 1e-9]
    return float(((there > 1e-9) & (there < 4e-4 * np.median(apart))).mean()) if len(apart) else 0.0


def giveaways(subject: Subject) -> Finding:
    """No single feature gives the target away."""
    if subject.kind not in ("class", "number"):
        return skipped("the targets are neither one class nor numbers")
    train = subject.prepared["train"]
    inputs, targets = flat_inputs(train["inputs"]), train["targets"]
    changed = _reads_targets(subject)
    if changed is not None:
        return changed
    if inputs is None or inputs.shape[1] > COLUMNS or len(inputs) < 20 or targets.ndim > 1 + (subject.kind == "number"):
        return skipped("the inputs are no table or image of moderate size")
    best, column, exact = 0.0, 0, False
    y = targets.astype(np.float64).reshape(len(targets), -1)[:, 0]
    for number in np.flatnonzero(inputs.std(axis=0) > 1e-12):
        one = (
            _class_score(inputs[:, number], targets) if subject.kind == "class" else _number_score(inputs[:, number], y)
        )
        if one[0] > best or (one[0] == best and one[1] and not exact):
            (best, exact), column = one, int(number)
    what = "predicts the class" if subject.kind == "class" else "explains"
    facts = f"feature {_name(subject, column)} alone {what} {'of ' if subject.kind == 'class' else ''}{best:.1%}"
    facts += " of the examples" if subject.kind == "class" else " of the target's variance"
    if exact or (subject.kind == "number" and best > 0.9999):
        return red(f"{facts}: it is the target in another form.", "Take it out of the inputs.")
    if best > 0.995:
        classes = len(subject.parts.dataset.card.class_names)
        made = red if classes > 3 else amber
        return made(f"{facts}.", "If it is known only after the target is, take it out of the inputs.")
    return green(facts)


def _class_score(feature: np.ndarray, labels: np.ndarray) -> tuple[float, bool]:
    """How often a feature's value, in 20 groups, gives the class of examples not looked at; whether it is a code of the
    class: its values and the classes, or one class and the rest, belong together one to one."""
    values, codes = np.unique(feature, return_inverse=True)
    classes = np.unique(labels)
    if len(values) == len(classes) or len(values) == 2:
        pairs = {(code, label) for code, label in zip(codes.tolist(), labels.tolist(), strict=True)}
        one_to_one = len(pairs) == len(values) == len(classes)
        of_one = len(values) == 2 < len(classes) and len(pairs) == len(classes) and _alone(pairs)
        if one_to_one or of_one:
            return 1.0, True
    if len(values) > 40:
        codes = np.searchsorted(np.quantile(feature, np.linspace(0, 1, 41)[1:-1]), feature)
    table = np.zeros((int(codes.max()) + 1, int(labels.max()) + 1))
    np.add.at(table, (codes[::2], labels[::2].astype(int)), 1)
    return float((table.argmax(axis=1)[codes[1::2]] == labels[1::2]).mean()), False


def _alone(pairs: set[tuple[int, int]]) -> bool:
    """Whether one of two values belongs to one class alone, which never has the other value."""
    counts = [sum(code == value for code, _ in pairs) for value in (0, 1)]
    return 1 in counts


def _number_score(feature: np.ndarray, targets: np.ndarray) -> tuple[float, bool]:
    """The share of the target's variance that the neighbours in the order of a feature explain."""
    order = np.argsort(feature, kind="stable")
    y = targets[order]
    guess = (y[:-2] + y[2:]) / 2
    return float(1 - np.square(y[1:-1] - guess).mean() / max(y.var() * 1.0, 1e-12)), False


def _reads_targets(subject: Subject) -> Finding | None:
    """A finding where the outputs change with the targets."""
    if not subject.answers:
        return None
    changed = {**subject.batch, "targets": subject.other["targets"]}
    first, second = (subject.outputs(subject.variables, batch) for batch in (subject.batch, changed))
    if np.array_equal(first, second, equal_nan=True):
        return None
    return red(
        "the outputs change where the targets are replaced: the model reads them.", "Take them out of its inputs."
    )


def baselines(subject: Subject) -> Finding:
    """What a constant, a linear predictor and the nearest neighbour reach; whether the targets go with the inputs at all."""
    if subject.kind == "token":
        return _bigrams(subject)
    rows = rows_of(subject)
    if rows is None or len(rows.train) < 20:
        return skipped("no simple predictor fits these inputs and targets")
    blind = constant(rows)
    nearest, _ = neighbours(rows)
    line, near = score(linear(rows), rows), score(rows.train_targets[nearest], rows)
    name = "accuracy" if rows.classes else "R2"
    facts = (
        f"{name} on {len(rows.test)} test examples: constant {blind:.3f}, linear {line:.3f}, nearest neighbour {near:.3f} "
        f"(from {len(rows.train)})"
    )
    noise = 3 * np.sqrt(blind * (1 - blind) / len(rows.test) + 1e-9) if rows.classes else 0.05
    if max(line, near) > blind + noise:
        return green(f"{facts}; a model should beat them")
    if shift := _shift(rows, max(blind + 2 * noise, 0.3 if rows.classes == 0 else 0.0)):
        number, better = shift
        return red(
            f"{facts}; with the targets {abs(number)} rows {'further down' if number > 0 else 'further up'} the neighbours "
            f"reach {better:.3f}: the labels are shifted.",
            "Inputs and targets come from different rows: look how they are joined, sorted or filtered.",
        )
    return amber(
        f"{facts}: neither is better than a constant.",
        "If such inputs should tell something, the targets are perhaps shuffled or shifted against them.",
    )


def _shift(rows: Rows, needed: float) -> tuple[int, float] | None:
    """By how many rows the training targets have to be moved so that neighbours within training agree, and their score."""
    nearest, _ = neighbours(rows, rows.train)
    found = []
    for shift in (-3, -2, -1, 1, 2, 3):
        moved = np.roll(rows.train_targets, shift, axis=0)
        inside = dataclasses.replace(rows, test_targets=moved)
        found.append((score(moved[nearest], inside), shift))
    best, shift = max(found)
    return (shift, best) if best > needed else None


def _bigrams(subject: Subject) -> Finding:
    """The loss of the frequencies of tokens, and of pairs of them."""
    train, test = (subject.samples[split] for split in ("train", "test"))
    size = len(subject.parts.dataset.card.class_names)
    if size > 3000 or train["targets"].shape != train["inputs"].shape:
        return skipped("the vocabulary is too large to count pairs of tokens")
    pairs, losses = np.full((size, size), 1e-3), []
    np.add.at(pairs, _pairs(train), 1)
    for table in (np.broadcast_to(pairs.sum(axis=0), pairs.shape), pairs):
        chances = table / table.sum(axis=1, keepdims=True)
        losses.append(float(-np.log(chances[_pairs(test)]).mean()))
    return green(
        f"test loss of the frequencies {losses[0]:.3f}, of pairs of tokens {losses[1]:.3f}; a model should beat them"
    )


def _pairs(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    counted = arrays["targets"] != IGNORED
    return arrays["inputs"][counted].astype(int), arrays["targets"][counted].astype(int)
