"""The section `explanation`: on which parts of an input, and on which training examples, the outputs depend."""

import numpy as np

from jaxnets.data.large import gather
from jaxnets.postflight.examined import Examined
from jaxnets.postflight.section import Measured, Picture, Section
from jaxnets.report import explanation_plots
from jaxnets.tasks.predicted import why_no_loss
from jaxnets.tasks.semi_supervised import LABELLED

NAME = "explanation"
SHOWN, NEAREST, INFLUENTIAL = 4, 5, 3
# Training examples among which the influential ones are looked for, and most classes with an input of their own.
CANDIDATES, MOST_CLASSES = 300, 10
MOST_IN_A_ROW = 6
# Numbers in an example, above which bars look alike.
MOST_BARS = 200


def explanation(examined: Examined) -> Section:
    """Maps of inputs, nearest and most influential training examples, an input for each class, the plane of the outputs."""
    with examined.alone():
        reason = examined.by_outputs
    if reason:
        return Section(NAME, left_out=(reason,))
    raw = np.asarray(examined.test["inputs"])
    if (raw.ndim < 3 and raw[0].size > MOST_BARS) or raw.ndim > 4:
        return Section(NAME, left_out=(f"an example of shape {list(raw.shape[1:])} is no image",))
    if reason := examined.too_expensive("test"):
        return Section(NAME, left_out=(reason,))
    chosen = _chosen(examined)
    inputs, targets = raw[chosen], np.asarray(examined.test["targets"])[chosen]
    numbers, first = _maps(examined, inputs)
    pictures = [first, _nearest(examined, inputs)]
    left_out = []
    if reason := why_no_loss(examined.run.parts.task):
        left_out.append(f"influential examples: {reason}")
    else:
        pictures.append(_influential(examined, inputs, targets))
    if examined.kind == "class":
        pictures.append(_of_classes(examined))
    pictures.append(_plane(examined))
    return Section(NAME, tuple(numbers), tuple(pictures), tuple(left_out))


def _chosen(examined: Examined) -> np.ndarray:
    """Places of the examples that are shown: of different classes, or of evenly spread targets."""
    targets = np.asarray(examined.test["targets"])
    if examined.kind == "class":
        _, first = np.unique(targets, return_index=True)
        places = np.concatenate([first, np.delete(np.arange(len(targets)), first)[: max(0, SHOWN - len(first))]])
    else:
        places = np.argsort(targets.reshape(len(targets), -1)[:, 0], kind="stable")
    return places[np.unique(np.linspace(0, len(places) - 1, SHOWN).astype(int))]


def _captions(examined: Examined, inputs: np.ndarray) -> list[str]:
    predicted = examined.run.predict(inputs)
    if examined.kind == "class":
        return [f"predicted: {name}" for name in examined.run.named(predicted)]
    return [f"predicted: {np.ravel(value)[0]:.4g}" for value in predicted]


def _maps(examined: Examined, inputs: np.ndarray) -> tuple[list[Measured], Picture]:
    explain = examined.run.explain
    whole = explain.integrated_gradients(inputs, steps=128)
    maps = {
        "saliency": explain.saliency(inputs).values,
        "smooth gradient": explain.smooth_gradient(inputs, seed=examined.seed).values,
        "integrated gradients": whole.values,
    }
    if inputs.ndim >= 3:
        size = max(1, min(inputs.shape[1:3]) // 8)
        maps["occlusion"] = explain.occlusion(inputs, size=size, stride=size).values
    figure = explanation_plots.attributions(inputs, maps, _captions(examined, inputs))
    gap = 0.0 if whole.gap is None else float(np.abs(whole.gap).max())
    numbers = [
        Measured("integrated_gradients_gap", gap, "difference of their sum from the change of the output; 0 is exact")
    ]
    caption = "Red speaks for the predicted output, blue against it; each map has its own scale."
    return numbers, Picture.of("What an output depends on", caption, figure)


def _nearest(examined: Examined, inputs: np.ndarray) -> Picture:
    run = examined.run
    rows = examined.rows("train")
    training = gather(run.parts.dataset.train, rows)
    names = run.parts.dataset.preparation.names
    known = run.explain.embedding({name: array for name, array in training.items() if name in names})
    from jaxnets.diagnose.examples import nearest_examples

    found = nearest_examples(run.explain.embedding(inputs), known, min(NEAREST, len(rows)), metric="euclidean")
    beside = [[training["inputs"][row] for row in near] for near in found.rows]
    titles = [f"{number + 1}." for number in range(found.rows.shape[1])]
    captions = [[_target(examined, training, row) for row in near] for near in found.rows]
    figure = explanation_plots.grid(inputs, beside, titles, _captions(examined, inputs), captions)
    caption = f"The training examples with the nearest outputs, of {len(rows):,} that were looked at."
    return Picture.of("Nearest training examples", caption, figure)


def _influential(examined: Examined, inputs: np.ndarray, targets: np.ndarray) -> Picture:
    run = examined.run
    rows = examined.rows("train")
    rows = np.sort(np.random.default_rng(examined.seed).permutation(rows)[:CANDIDATES])
    found = run.explain.influence(inputs, targets, rows=rows)
    order = np.argsort(-found, axis=1, kind="stable")
    count = min(INFLUENTIAL, len(rows) // 2)
    picked = np.concatenate([order[:, :count], order[:, order.shape[1] - count :]], axis=1)
    training = gather(run.parts.dataset.train, rows)
    beside = [[training["inputs"][place] for place in places] for places in picked]
    captions = [[_target(examined, training, place) for place in places] for places in picked]
    titles = [*(f"helped {n + 1}." for n in range(count)), *(f"hurt {count - n}." for n in range(count))]
    figure = explanation_plots.grid(inputs, beside, titles, _captions(examined, inputs), captions)
    caption = (
        f"Which of {len(rows)} training examples reduced the loss of an example most, and which raised it (TracIn)."
    )
    return Picture.of("Influential training examples", caption, figure)


def _target(examined: Examined, arrays: dict[str, np.ndarray], row: int) -> str:
    """The target of an example as text."""
    target, names = arrays["targets"][row], examined.run.class_names
    if LABELLED in arrays and not arrays[LABELLED][row]:
        return "hidden"
    return str(names[int(target)]) if examined.kind == "class" and names else f"{np.ravel(target)[0]:.4g}"


def _of_classes(examined: Examined) -> Picture:
    count = min(len(examined.run.class_names), MOST_CLASSES)
    variation = 0.05 if examined.asked.ndim >= 3 else 0.0
    made = examined.run.explain.maximised_input(np.arange(count), steps=100, variation=variation, seed=examined.seed)
    half = -(-count // 2) if count > MOST_IN_A_ROW else count
    names = list(examined.run.class_names[:count])
    blank = np.full_like(made[0], np.nan)  # fills up the second row
    beside = [[*made[at : at + half], blank][:half] for at in range(0, count, half)]
    captions = [[*names[at : at + half], ""][:half] for at in range(0, count, half)]
    figure = explanation_plots.grid([], beside, captions=captions)
    caption = "The input, as the model takes it, that gradient ascent makes for each class."
    return Picture.of("What makes an output large", caption, figure)


def _plane(examined: Examined) -> Picture:
    from jaxnets.diagnose.plane import in_plane

    names = examined.run.parts.dataset.preparation.names
    found = examined.run.explain.embedding({name: array for name, array in examined.test.items() if name in names})
    if found.shape[1] < 2:
        predicted = np.asarray(examined.run.predict(examined.test["inputs"]), np.float64)
        targets = np.asarray(examined.test["targets"], np.float64)
        both = np.stack([one.reshape(len(found), -1)[:, 0] for one in (predicted, targets)], axis=1)
        title, caption = "Predictions and targets", "Each test example: its prediction across, its target up."
        return Picture.of(title, caption, explanation_plots.plane(both))
    labels = np.asarray(examined.test["targets"]) if examined.kind == "class" else None
    figure = explanation_plots.plane(in_plane(found, "pca"), labels, examined.run.class_names)
    return Picture.of(
        "The outputs in the plane", "Test examples by the two principal components of their outputs.", figure
    )
