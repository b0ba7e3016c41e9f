"""Images and frames that a run draws from the command line."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.cli.generate import run as generate
from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import JaxnetsError
from jaxnets.data import Digits, MovingDigits, Ring
from jaxnets.models import MLP, VAE, ConvLSTMForecaster, UNet
from jaxnets.optim import Adam
from jaxnets.runs.train import train
from jaxnets.tasks import Adversarial, Diffusion, NextFrame, Variational

PNG = b"\x89PNG"
QUICK = {"optimizer": Adam(), "steps": 2, "batch_size": 8, "eval_batch_size": 64}


@pytest.fixture(scope="module")
def makes_digits(tmp_path_factory):
    directory = tmp_path_factory.mktemp("vae") / "run"
    task = Variational(model=VAE(widths=(16,), latent=3))
    train(Experiment(task=task, data=Digits(scale="unit"), **QUICK), run_dir=directory, progress="none")
    return directory


@pytest.fixture(scope="module")
def makes_films(tmp_path_factory):
    directory = tmp_path_factory.mktemp("films") / "run"
    task = NextFrame(model=ConvLSTMForecaster(features=(2,), patch=4, ahead=2))
    data = MovingDigits(size=24, seen=3, ahead=2, train=16, test=8)
    run = train(Experiment(task=task, data=data, **QUICK), run_dir=directory, progress="none")
    return directory, run


@pytest.mark.slow
def test_samples_are_written_as_a_picture_and_as_inputs(makes_digits, tmp_path, capsys):
    def draw(name, *flags):
        assert generate([str(makes_digits), "--output", str(tmp_path / f"{name}.png"), *flags]) == 0
        assert (tmp_path / f"{name}.png").read_bytes().startswith(PNG)
        return np.load(tmp_path / f"{name}.npz", allow_pickle=False)["inputs"]

    first, again, other = draw("a", "--samples", "5"), draw("b", "--samples", "5"), draw("c", "--seed", "1")
    assert "a.png (arrays: a.npz)" in capsys.readouterr().out
    assert (first.shape, first.dtype) == ((5, 8, 8, 1), np.uint8)  # as the data are stored
    assert 0 < first.max() <= 16
    np.testing.assert_array_equal(first, again)
    assert len(other) == 32
    assert not np.array_equal(first, other[:5])


@pytest.mark.slow
def test_films_are_continued_from_their_own_frames(makes_films, capsys):
    directory, run = makes_films
    assert generate([str(directory), "--samples", "3", "--frames", "5"]) == 0
    assert (directory / "samples.png").read_bytes().startswith(PNG)
    films = np.load(directory / "samples.npz", allow_pickle=False)["inputs"]
    seen = run.parts.dataset.test["inputs"][:3]
    assert (films.shape, films.dtype) == ((3, 6, 24, 24, 1), np.uint8)
    np.testing.assert_array_equal(films[:, 0], seen[:, -1])

    # By hand: two frames at a time, each pair predicted from the three frames before it.
    task, window = run.parts.task, jnp.asarray(seen, jnp.float32) / 255
    frames = []
    for _ in range(3):
        new = jax.jit(task.outputs)(run.variables, {"inputs": window})
        frames.append(new)
        window = jnp.concatenate([window, new], axis=1)[:, -3:]
    wanted = np.concatenate(frames, axis=1)[:, :5]
    np.testing.assert_allclose(films[:, 1:].astype(float) / 255, wanted, atol=0.51 / 255)


@pytest.fixture(scope="module")
def told_labels(tmp_path_factory):
    directory = tmp_path_factory.mktemp("diffusion") / "run"
    task = Diffusion(model=UNet(features=(4,), groups=2), times=50, sample_steps=2, conditional=True)
    experiment = Experiment(task=task, data=Digits(scale="signed"), **{**QUICK, "optimizer": Adam(3e-2)})
    return directory, train(experiment, run_dir=directory, progress="none")


@pytest.mark.slow
def test_a_class_can_be_requested_with_guidance(told_labels, tmp_path):
    directory, run = told_labels
    for flags, labels, guidance in (
        ((), None, 1.0),
        (("--label", "7"), jnp.full(3, 7), 1.0),
        (("--label", "7", "--guidance", "4"), jnp.full(3, 7), 4.0),
    ):
        assert generate([str(directory), "--samples", "3", "--output", str(tmp_path / "a.png"), *flags]) == 0
        made = np.load(tmp_path / "a.npz", allow_pickle=False)["inputs"]
        task = dataclasses.replace(run.parts.task, guidance=guidance)
        wanted = jax.jit(task.sample, static_argnums=2)(run.variables, jax.random.key(0), 3, labels)
        np.testing.assert_array_equal(made, run.parts.dataset.as_raw(np.asarray(wanted)))


@pytest.mark.slow
def test_samples_that_cannot_be_drawn_are_refused_before_writing(
    makes_digits, makes_films, told_labels, tmp_path, capsys
):
    task = Adversarial(model=MLP(widths=(8,)), critic=MLP(widths=(8,)), latent=2)
    train(Experiment(task=task, data=Ring(), **QUICK), run_dir=tmp_path / "ring", progress="none")
    for arguments, message in (
        ([str(tmp_path / "ring")], "has shape [2], which is not an image"),
        ([str(makes_digits), "--label", "3"], "for a conditional model"),
        ([str(makes_digits), "--guidance", "3"], "for a conditional diffusion"),
        ([str(told_labels[0]), "--label", "ten"], "there is no class 'ten'. Choose from: 0, 1"),
        ([str(makes_films[0]), "--samples", "9"], "there are 8 test films, fewer than --samples 9"),
    ):
        with pytest.raises(JaxnetsError, match=re.escape(message)):
            generate(arguments)
    for flags, words in (
        (["--samples", "0"], "samples is at least 1, got 0"),
        (["--seed", "-1"], "seed is at least 0 and below 2^32, got -1"),
        (["--seed", "99999999999999999999"], "below 2^32"),
        (["--output", str(tmp_path / "no" / "a.png")], "in a folder that is not there"),
        (["--frames", "3"], "--frames"),
        (["--guidance", "-1"], "guidance is at least 0, got -1"),
        (["--output", "made.jpg"], "--output is a .png file"),
    ):
        with pytest.raises(SystemExit, match="2"):
            generate([str(makes_digits), *flags])
        assert words in capsys.readouterr().err
    assert not (tmp_path / "ring" / "samples.png").exists()
