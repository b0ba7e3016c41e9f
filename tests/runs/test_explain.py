"""Explanations of a run, from raw inputs: what they explain are its own outputs and its own checkpoints."""

import numpy as np
import pytest

import jaxnets
from jaxnets import diagnose, optim
from jaxnets.checkpoints.retention import Keep
from jaxnets.core.errors import UsageError
from jaxnets.models import MLP
from jaxnets.runs.prepared import prepared as prepared_batch

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(40, 5)) * 3 + 1).astype(np.float32)
Y = (X @ RNG.normal(size=5) + RNG.normal(size=40)).astype(np.float32)
IMAGES = RNG.integers(0, 255, (48, 4, 6, 1)).astype(np.uint8)
LABELS = (IMAGES[:, :, :3].mean(axis=(1, 2, 3)) > IMAGES[:, :, 3:].mean(axis=(1, 2, 3))).astype(np.int32)


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    return jaxnets.fit(
        MLP(widths=()),
        (X, Y),
        test=(X[:8], Y[:8]),
        steps=6,
        batch_size=8,
        optimizer=optim.SGD(0.05, momentum=0.0, schedule=optim.WarmupLinear(warmup=0.0)),
        run_dir=tmp_path_factory.mktemp("runs") / "line",
        save_every=2,
        keep=Keep(every=2),
        progress="none",
    )


@pytest.fixture(scope="module")
def halves():
    data = jaxnets.from_arrays(IMAGES, LABELS, test=(IMAGES, LABELS), class_names=["right", "left"])
    model = MLP(widths=(8,), activation="tanh")
    return jaxnets.fit(model, data, steps=60, batch_size=16, optimizer=optim.AdamW(0.01), progress="none")


def prepared(run, inputs):
    """Inputs as the model of a run takes them."""
    return np.asarray(prepared_batch(run.parts, {"inputs": inputs})["inputs"])


@pytest.mark.smoke
def test_influence_over_the_checkpoints_of_a_run_is_the_product_by_hand(line):
    x, ax = prepared(line, X), prepared(line, X[:3])
    y, ay = line.parts.task.encode_targets(Y), line.parts.task.encode_targets(Y[:3] + 1)
    rates = line.experiment.optimizer.rates(6, 6)
    want = np.zeros((3, 40))
    for step in (2, 4, 6):
        layer = jaxnets.open_run(line.directory, step=step, dataset=line.parts.dataset).state.params["output"]
        errors = [
            np.asarray(points @ layer["kernel"] + layer["bias"][None]).ravel() - targets.ravel()
            for points, targets in ((ax, ay), (x, y))
        ]
        # The gradient of (w x + b - y)^2 is 2 (w x + b - y) (x, 1).
        want += rates[min(step, 5)] * 4 * errors[0][:, None] * errors[1][None] * (ax @ x.T + 1)
    found = line.explain.influence(X[:3], Y[:3] + 1)
    np.testing.assert_allclose(found, want, rtol=1e-3, atol=1e-4)
    some = line.explain.influence(X[:3], Y[:3] + 1, rows=[5, 9], steps=[2, 4, 6])
    np.testing.assert_allclose(some, want[:, [5, 9]], rtol=1e-3, atol=1e-4)
    with pytest.raises(UsageError, match="no checkpoint of step 5"):
        line.explain.influence(X[:3], Y[:3], steps=[5])


def test_maps_explain_the_outputs_for_raw_inputs(halves):
    found = halves.explain.integrated_gradients(IMAGES[:3], 1, baseline=prepared(halves, IMAGES[3:4]), steps=32)
    want = halves.outputs(IMAGES[:3])[:, 1] - halves.outputs(IMAGES[3:4])[:, 1]
    np.testing.assert_allclose(found.values.sum(axis=(1, 2, 3)), want, atol=1e-3)
    assert np.abs(found.gap).max() < 1e-3
    assert found.inputs.dtype == np.uint8
    assert set(found.captions) <= {"left", "right"}
    covered = halves.explain.occlusion(IMAGES[:3], 1, size=(4, 3))
    blank = prepared(halves, IMAGES[:3]).copy()
    blank[:, :, :3] = 0
    apply = halves.explain._apply({})
    fall = halves.outputs(IMAGES[:3])[:, 1] - np.asarray(apply(halves.variables, blank))[:, 1]
    np.testing.assert_allclose(covered.values[:, 0, 0], fall, atol=1e-5)
    # The class is by which half is lighter, and the slopes say so.
    slope = halves.explain.smooth_gradient(IMAGES, 1, draws=8).values.mean(axis=(0, 1, 3))
    assert slope[:3].min() > 0 > slope[3:].max()
    assert halves.explain.saliency(IMAGES[:2]).plot().axes[1].get_title() == "saliency"


def test_embeddings_neighbours_and_inputs_of_units(halves):
    found = halves.explain.embedding(IMAGES, "hidden_0")
    assert found.shape == (48, 8)
    np.testing.assert_allclose(halves.explain.embedding(IMAGES), halves.outputs(IMAGES), atol=1e-5)
    rows, distances = halves.explain.nearest(IMAGES[4:7], 2, layer="hidden_0")
    np.testing.assert_array_equal(rows[:, 0], [4, 5, 6])
    np.testing.assert_allclose(distances[:, 0], 0, atol=1e-6)
    best = halves.explain.maximised_input([0, 1], steps=30)
    assert best.shape == (2, 4, 6, 1)
    assert best[1, :, :3].mean() > best[0, :, :3].mean()
    assert len(halves.explain.plane("hidden_0").axes[0].lines) == 2
    with pytest.raises(UsageError, match="calls no layer 'hiden_0'"):
        halves.explain.embedding(IMAGES, "hiden_0")
    with pytest.raises(UsageError, match="give fit a run_dir"):
        halves.explain.influence(IMAGES[:1], LABELS[:1], steps=[1])
    shown = halves.explain.influence(IMAGES[:2], LABELS[:2], rows=range(6))
    assert shown.shape == (2, 6)
    assert (np.diag(shown) >= 0).all()  # an example helps itself


def test_an_explanation_of_numbers_is_a_bar_plot(line):
    figure = line.explain.saliency(X[:2]).plot()
    assert [len(axis.patches) for axis in figure.axes] == [5, 5, 5, 5]
    slopes = line.explain.saliency(X[:2]).values
    np.testing.assert_allclose(slopes, np.broadcast_to(line.params["output"]["kernel"].T, (2, 5)), rtol=1e-5)
    assert diagnose.in_plane(line.explain.embedding(np.concatenate([X, X]), "output").repeat(2, axis=1)).shape == (
        80,
        2,
    )
