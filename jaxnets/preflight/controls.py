"""Two controls, as in an experiment: shuffled labels must score like chance, and blank inputs worse than real ones.

Three short trainings from the same weights on the same rows, by the program of the check `overfit`. The scores are those of
the run's own evaluation. The labels of the test examples are shuffled too, so that chance is known whatever the model says.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxnets.core.types import Variables
from jaxnets.data.split import WEIGHTS
from jaxnets.preflight.features import constant, linear, neighbours, row_bytes, rows_of, score
from jaxnets.preflight.finding import Finding, amber, green, red, skipped
from jaxnets.preflight.subject import Learning, Subject, prepare
from jaxnets.tasks.semi_supervised import LABELLED

# Steps of each training, and the fewest that say something.
STEPS, FEWEST = 200, 50
# Test examples, at most, and where the model is slow.
TESTED, TESTED_SLOWLY = 512, 64
# A score is above chance where it is so many of its standard deviations above: one sound run in 30,000.
SIGMAS = 4.0
# What is no input.
STRUCTURE = ("edges", "node_mask", "edge_mask")
NO_INPUTS = ("targets", "counted", LABELLED, *STRUCTURE, *WEIGHTS)

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Chance:
    """What a model reaches that knows nothing of the inputs."""

    score: str
    """Name of the metric."""
    best: float
    """The most that one answer for all examples reaches."""
    error: float
    """How far above it answers may come by luck: `SIGMAS` standard deviations."""


def controls(subject: Subject) -> Finding:
    """Without the labels, and without the inputs, the score is that of chance."""
    if subject.kind not in ("class", "number"):
        return skipped("the targets are neither classes nor numbers")
    train, test = subject.drawn, _tested(subject)
    blank = _blank(train)
    shuffled = _shuffled(subject, train, test)
    kinds: dict[str, tuple[Arrays, Arrays]] = {
        "real": (train, test),
        "blank": ({**train, **blank(train)}, {**test, **blank(test)}),
        "shuffled": ({**train, "targets": shuffled[0]}, {**test, "targets": shuffled[1]}),
    }
    learned: dict[str, Learning] = {}
    for kind, (arrays, _) in kinds.items():
        pool = prepare(subject.parts, arrays, subject.drawn_rows)
        steps = len(learned["real"].losses) if kind == "blank" else STEPS
        learned[kind] = subject.learn(steps=steps, seconds=subject.seconds / 3, pool=pool)
        if learned[kind].out_of_time and len(learned[kind].losses) < FEWEST:
            return skipped(
                f"{len(learned[kind].losses)} steps take {subject.seconds / 3:.2g} s, too few to say something; give it more "
                f"time (--seconds)"
            )
        if not np.isfinite(learned[kind].losses).all():
            return skipped("the training diverges at the highest rate of the run; the check 'overfit' says more")
    every = max(1, len(test["targets"]) // TESTED_SLOWLY) if learned["real"].out_of_time else 1
    kinds = {kind: (seen, {name: a[::every] for name, a in held.items()}) for kind, (seen, held) in kinds.items()}
    measure = _evaluation(subject, [held for _, held in kinds.values()])
    measured = {kind: measure(learned[kind].variables, number) for number, kind in enumerate(kinds)}
    chances = [
        _chance(held, measured["real"], len(subject.parts.dataset.card.class_names), subject.kind)
        for held in (kinds["real"][1], kinds["shuffled"][1])
    ]
    if chances[0] is None or chances[1] is None:
        return skipped(f"it is not known what chance is for {', '.join(measured['real'])}")
    scores = {kind: values[chances[0].score] for kind, values in measured.items()}
    if max(scores.values()) > 1 + 1e-3:
        return skipped(f"{chances[0].score} is {max(scores.values()):.4g}, which is no share, so chance is not known")
    return _judged(subject, learned, scores, chances[0], chances[1])


def _judged(
    subject: Subject, learned: Mapping[str, Learning], scores: Mapping[str, float], chance: Chance, shuffled: Chance
) -> Finding:
    """The finding for the scores after three trainings; `shuffled` is chance for the shuffled labels."""
    steps, name = len(learned["real"].losses), chance.score
    facts = (
        f"{name} after {steps} steps on {len(subject.drawn_rows)} examples: {scores['real']:.3f}; with shuffled labels "
        f"{scores['shuffled']:.3f} (chance {shuffled.best:.3f} + {shuffled.error:.3f}), with blank inputs "
        f"{scores['blank']:.3f}"
    )
    if scores["shuffled"] > shuffled.best + shuffled.error:
        return red(
            f"{facts}: labels that are shuffled cannot be predicted, so the evaluation knows them.",
            "Look for examples that both splits share, a metric that does not compare each output with its own target, a "
            "task that reads the targets in its metrics.",
        )
    if scores["blank"] > chance.best + 1e-3 and not any(part in subject.drawn for part in STRUCTURE):
        return red(
            f"{facts}: with the same inputs for all examples none can be more than {chance.best:.3f}.",
            "The evaluation reads the targets: look at its metrics, and at what the model takes beside the inputs.",
        )
    real, blind = (learned[kind].losses for kind in ("real", "blank"))
    both = min(len(real), len(blind))
    if np.allclose(real[:both], blind[:both], rtol=1e-6, atol=0.0):
        return red(
            f"{facts}; the training loss is the same at each of {both} steps: the model does not use its inputs.",
            "Look for what its call does with them: an argument that is overwritten, a layer that is not connected, zeros "
            "that multiply.",
        )
    if scores["real"] > scores["blank"] + chance.error / 2:
        return green(facts)
    return _no_better(subject, facts, float(real[-5:].mean()), float(blind[-5:].mean()))


def _no_better(subject: Subject, facts: str, real: float, blind: float) -> Finding:
    """The finding where real inputs score no better than blank ones, with the last training losses of both."""
    rows = rows_of(subject)
    if rows is None:
        return green(f"{facts}: no better than that so far")
    simple = max(score(linear(rows), rows), score(rows.train_targets[neighbours(rows)[0]], rows))
    blank = constant(rows)
    noise = SIGMAS * np.sqrt(blank * (1 - blank) / len(rows.test) + 1e-9) if rows.classes else 0.1
    by_heart = subject.floor + 0.5 * (blind - subject.floor)
    if simple < blank + 2 * noise or by_heart < real < 0.98 * blind:
        return green(f"{facts}: no better than that so far")
    what = "it learns the examples by heart and nothing for others" if real <= by_heart else "it learns nothing of them"
    return amber(
        f"{facts}: no better than that, where a linear predictor or the nearest neighbour has {simple:.3f}; {what}.",
        "Does the model read all of its inputs, and what the targets depend on? Else it needs more steps or another rate.",
    )


def _tested(subject: Subject) -> Arrays:
    """Raw test examples, each of weight 1."""
    arrays = subject.samples["test"]
    rows = np.unique(np.linspace(0, len(arrays["targets"]) - 1, TESTED).astype(int))
    return {name: array[rows] for name, array in arrays.items() if name not in (*WEIGHTS, LABELLED)}


def _blank(train: Arrays) -> Callable[[Arrays], Arrays]:
    """Gives the inputs of examples with the mean of the training examples in place of each; whole numbers of one of them."""

    def value(array: np.ndarray) -> np.ndarray:
        if len(array) == 1 and "counted" in train:  # the nodes of a graph
            return _mean(array[0])[None, None]
        return _mean(array)[None]

    means = {name: value(array) for name, array in train.items() if name not in NO_INPUTS}
    return lambda arrays: {
        name: np.broadcast_to(mean, arrays[name].shape).copy() for name, mean in means.items() if name in arrays
    }


def _mean(array: np.ndarray) -> Any:
    """The mean over the first dim in the format of the array; the first one of tokens, categories and such."""
    if array.dtype.kind == "f" or array.dtype == np.uint8:
        return array.mean(axis=0, dtype=np.float64).astype(array.dtype)
    return array[0]


def _shuffled(subject: Subject, train: Arrays, test: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """The targets of both splits, dealt anew to the different inputs: equal inputs have equal ones.

    Where examples have few possible values, equal ones are no leak, so that each gets a target of its own.
    """
    rng = np.random.default_rng(0)
    if "counted" in train:  # nodes of the same graph
        order = rng.permutation(train["targets"].shape[1])
        return train["targets"][:, order], test["targets"][:, order]
    common = [{name: part[name] for name in train if name in test} for part in (train, test)]
    names = [row_bytes(part) for part in common]
    sample = row_bytes({name: array for name, array in subject.samples["train"].items() if name in test})
    twice, inside = 1 - len(set(sample)) / len(sample), set(sample)
    share = float(np.mean([one in inside for one in names[1]]))
    if share <= 2 * twice:
        names = [[b"%d %d" % (part, row) for row in range(len(found))] for part, found in enumerate(names)]
    numbers: dict[bytes, int] = {}
    at = np.array([numbers.setdefault(one, len(numbers)) for found in names for one in found])
    _, first = np.unique(at, return_index=True)
    targets = np.concatenate([train["targets"], test["targets"]])
    dealt = targets[first][rng.permutation(len(first))][at]
    return dealt[: len(names[0])], dealt[len(names[0]) :]


def _evaluation(subject: Subject, sets: list[Arrays]) -> Callable[[Variables, int], dict[str, float]]:
    """What measures variables on one of several sets of raw examples of equal size, by one program."""
    count = len(sets[0]["targets"])
    evaluator = subject.parts.make_evaluator({name: np.concatenate([one[name] for one in sets]) for name in sets[0]})
    return lambda variables, number: evaluator.metrics(
        variables, rows=np.arange(number * count, (number + 1) * count, dtype=np.int32)
    )


def _chance(arrays: Arrays, measured: Mapping[str, float], classes: int, kind: str) -> Chance | None:
    """Chance for the first of the known scores that is measured, on these examples; None where none is."""
    targets = arrays["targets"] if "counted" not in arrays else arrays["targets"][arrays["counted"].astype(bool)]
    if kind == "number":
        # The squared correlation of answers and targets that have nothing to do with each other.
        return Chance("r2", 0.0, SIGMAS**2 / len(targets)) if "r2" in measured else None
    counts = np.bincount(targets.astype(int).ravel(), minlength=classes)
    counts = counts[counts > 0]
    best = float(counts.max() / counts.sum())
    if "accuracy" in measured:
        return Chance("accuracy", best, SIGMAS * float(np.sqrt(best * (1 - best) / counts.sum())))
    if "mean_recall" in measured:
        return Chance("mean_recall", 1 / len(counts), SIGMAS * float(np.sqrt((0.25 / counts).sum())) / len(counts))
    return None
