"""Samples of generative models while they train, over time in the report; galleries as single images."""

import base64
import io
import json
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from conftest import replace
from matplotlib.image import imread

from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import UsageError
from jaxnets.core.types import Gallery
from jaxnets.data import Ring, Text
from jaxnets.models import MLP, LanguageModel
from jaxnets.optim import AdamW
from jaxnets.report import images
from jaxnets.report.page import _gallery
from jaxnets.runs.samples import Drawn, samplers, tiled
from jaxnets.runs.train import train
from jaxnets.tasks import Adversarial, NextToken
from jaxnets.tasks.own import Own

RING = Experiment(
    task=Adversarial(model=MLP((8,)), critic=MLP((8,)), latent=2),
    data=Ring(examples=400),
    optimizer=AdamW(1e-3),
    steps=20,
    batch_size=32,
    eval_every=0,
)


def weights(run):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(run.params)])


def test_a_gan_shows_its_samples_over_time_and_trains_as_without(tmp_path):
    drawn = train(replace(RING, sample_every=10), run_dir=tmp_path / "drawn", progress="none")
    plain = train(RING, run_dir=tmp_path / "plain", progress="none")
    np.testing.assert_array_equal(weights(drawn), weights(plain))
    assert json.loads((tmp_path / "drawn" / "environment.json").read_text())["callbacks"] == []  # none of the user's
    files = sorted(path.name for path in (tmp_path / "drawn" / "samples" / "samples").iterdir())
    assert files == ["10.png", "20.png"]
    page = (tmp_path / "drawn" / "report.html").read_text()
    shown = page.split("Samples over time")[1].split("</section>")[0]
    assert re.findall(r"<figcaption>([^<]*)", shown) == ["step 10", "step 20"]
    assert not (tmp_path / "plain" / "samples").exists()


@pytest.mark.slow
def test_a_language_model_writes_a_text_over_time(tmp_path):
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question. " * 60)
    experiment = Experiment(
        task=NextToken(model=LanguageModel(layers=1, width=8, heads=1, length=16)),
        data=Text(str(tmp_path / "text.txt"), length=16),
        optimizer=AdamW(1e-3),
        steps=4,
        batch_size=8,
        eval_every=0,
        sample_every=2,
    )
    train(experiment, run_dir=tmp_path / "run", progress="none")
    text = (tmp_path / "run" / "samples" / "samples" / "4.txt").read_text()
    assert len(text) == 15  # the window without the prompt
    assert set(text) <= set("to be or not to be, that is the question.")
    assert "Samples over time" in (tmp_path / "run" / "report.html").read_text()


def test_a_model_that_makes_nothing_is_refused_before_any_work(experiment, blobs, tmp_path):
    with pytest.raises(UsageError, match=r"sample_every is 5, but a MLP with the task Classification makes neither"):
        train(replace(experiment, sample_every=5), dataset=blobs, run_dir=tmp_path / "run", progress="none")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="sample_every is at least 0"):
        replace(experiment, sample_every=-1)


def test_points_of_more_dims_are_refused_and_a_task_with_own_metrics_is_looked_into(blobs, tmp_path):
    table = replace(RING, sample_every=5)
    with pytest.raises(UsageError, match=r"nor images for inputs of the shape \(\d+,\)"):
        train(table, dataset=blobs, run_dir=tmp_path / "run", progress="none")
    own = Own(model=RING.task.model, inner=RING.task, measures=(("one", lambda outputs, batch: batch["mask"]),))
    parts = SimpleNamespace(experiment=replace(RING, sample_every=5), task=own, dataset=RING.data.open())
    (callback,) = samplers(parts, tmp_path, ())
    assert isinstance(callback, Drawn)


def test_pictures_are_in_rows_of_eight():
    grey = tiled(np.arange(10, dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 3, 1), np.float32))
    assert grey.shape == (5, 31)
    assert grey[0, 4] == -1  # the second image; grey images are dark on white
    assert grey[3, 0] == -8  # the ninth, in the second row
    assert tiled(np.ones((3, 4, 4, 3), np.float32)).shape == (4, 14, 3)


def test_a_gallery_in_the_page_has_each_image_pixel_by_pixel_with_its_caption():
    made = np.linspace(-3, 5, 2 * 4 * 5).reshape(2, 4, 5, 1)
    page = _gallery(Gallery("A title", made, ("is 3, said <8>", "")))
    assert re.findall(r"<figcaption>([^<]*)", page) == ["is 3, said &lt;8&gt;", ""]
    first = imread(io.BytesIO(base64.b64decode(re.search(r"base64,([^']+)", page)[1])))
    assert first.shape[:2] == (4, 5)
    assert first[0, 0, 0] == 1  # the smallest value is white
    assert first[-1, -1, 0] == 0
    assert images.pixels(np.full((2, 2, 3), np.nan))  # nothing finite is no error
    large = np.kron(np.eye(2), np.ones((700, 700)))[..., None]
    reduced = imread(io.BytesIO(images.pixels(large)))
    assert reduced.shape[:2] == (466, 466)  # blocks of 3 x 3
    assert reduced[0, 0, 0] == 0
    assert reduced[0, -1, 0] == 1
