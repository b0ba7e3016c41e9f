"""`jaxnets generate` for runs that generate images or frames: a picture, and the arrays beside it."""

import dataclasses
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnets.core.errors import DataError, UsageError, did_you_mean, note
from jaxnets.core.files import replacing, user_path
from jaxnets.core.types import Gallery

if TYPE_CHECKING:
    from jaxnets.runs.run import Run

# Most images in one picture, to limit its number of pixels.
MOST_SHOWN = 400


@dataclasses.dataclass(frozen=True)
class ImageOptions:
    """Options of `jaxnets generate` for a run that generates images."""

    samples: int = 32
    """Number of images."""
    seed: int = 0
    """Seed of all draws: the same seed gives the same images."""
    label: str = ""
    """Name of the class to draw, for a conditional model. Empty: all classes in turn."""
    guidance: float = 0.0
    """Classifier-free guidance scale of a conditional diffusion. 0: as in the run."""
    output: str = ""
    """A .png file; the arrays go beside it as .npz. Empty: samples.png in the run directory."""

    def __post_init__(self) -> None:
        _check(self.output, samples=self.samples)
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is at least 0 and below 2^32, got {self.seed}")
        if not 0 <= self.guidance < math.inf:
            raise ValueError(f"guidance is at least 0, got {self.guidance}")


@dataclasses.dataclass(frozen=True)
class FilmOptions:
    """Options of `jaxnets generate` for a run that predicts frames."""

    samples: int = 8
    """Films, from the start of the test split, that are continued."""
    frames: int = 10
    """Frames predicted for each film; each is predicted from those before it."""
    output: str = ""
    """A .png file; the arrays go beside it as .npz. Empty: samples.png in the run directory."""

    def __post_init__(self) -> None:
        _check(self.output, samples=self.samples, frames=self.frames)


def _check(output: str, **counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is at least 1, got {count}")
    if output and not output.endswith(".png"):
        raise ValueError(f"--output is a .png file, got {output!r}")
    if output and not os.path.isdir(user_path(output).absolute().parent):
        raise ValueError(f"--output is in a folder that is not there, {str(user_path(output).parent)!r}; make it first")


def options_for(task: Any) -> type[ImageOptions | FilmOptions]:
    """The class of options for the outputs of a task."""
    return FilmOptions if hasattr(task, "roll_out") else ImageOptions


def makes_pictures(task: Any) -> bool:
    """Whether a task generates samples or predicts frames."""
    return hasattr(task, "sample") or hasattr(task, "roll_out")


def draw(run: "Run", options: ImageOptions | FilmOptions) -> Path:
    """Write the samples of the run: the picture `.png`, and `.npz` with `inputs` in the raw form of the training data.

    Returns:
        The picture's path.

    Raises:
        UsageError: the samples are not images.
        DataError: the files cannot be written.
    """
    made, columns = _films(run, options) if isinstance(options, FilmOptions) else _samples(run, options)
    if made.ndim < 4 or made.shape[-1] not in (1, 3):
        raise UsageError(
            f"what this run makes has shape {list(made.shape[1:])}, which is not an image; use "
            f"`run.parts.task.sample` in Python"
        )
    assert run.directory is not None  # it was opened from there
    picture = user_path(options.output) if options.output else run.directory / "samples.png"
    images = made.reshape(-1, *made.shape[-3:])
    from jaxnets.report.images import gallery
    from jaxnets.report.plots import to_png

    if len(images) > MOST_SHOWN:
        note(f"the picture shows the first {MOST_SHOWN} of {len(images)} images; the arrays beside it hold them all")
    shown = images[:MOST_SHOWN]
    figure = gallery(Gallery("Samples", shown, ("",) * len(shown)), columns=columns)
    try:
        with replacing(picture) as file:
            file.write(to_png(figure, dpi=110))
        with replacing(picture.with_suffix(".npz")) as file:
            np.savez(file, inputs=made)
    except OSError as error:
        raise DataError(f"cannot write {picture} ({error}); choose another --output") from error
    return picture


def _samples(run: "Run", options: ImageOptions) -> tuple[np.ndarray, int]:
    import jax

    task: Any = run.parts.task
    labels = _labels(run, options.label, options.samples)
    if options.guidance:
        if not getattr(task, "conditional", False) or not hasattr(task, "guidance"):
            raise UsageError("--guidance is for a conditional diffusion, which this run is not; leave it out")
        task = dataclasses.replace(task, guidance=options.guidance)
    given = (run.variables, jax.random.key(options.seed), options.samples, *labels)
    with jax.set_mesh(run.parts.mesh):
        drawn = jax.jit(task.sample, static_argnums=2)(*given)
    return run.parts.dataset.as_raw(np.asarray(drawn)), 8


def _labels(run: "Run", name: str, count: int) -> tuple[np.ndarray, ...]:
    """The argument of `sample` that selects one class; () if no class was named."""
    if not name:
        return ()
    names = run.parts.dataset.card.class_names
    if not getattr(run.parts.task, "conditional", False):
        raise UsageError("--label is for a conditional model, which this run's is not; leave it out")
    if name not in names:
        raise UsageError(f"there is no class {name!r}. {did_you_mean(name, names)}")
    return (np.full(count, names.index(name), np.int32),)


def _films(run: "Run", options: FilmOptions) -> tuple[np.ndarray, int]:
    import jax

    task: Any = run.parts.task
    dataset = run.parts.dataset
    films: Any = dataset.test["inputs"][: options.samples]
    if len(films) < options.samples:
        raise UsageError(f"there are {len(films)} test films, fewer than --samples {options.samples}; request fewer")
    seen = dataset.prepare(films)
    with jax.set_mesh(run.parts.mesh):
        made = jax.jit(task.roll_out, static_argnums=2)(run.variables, seen, options.frames)
    # The last frame given, then the predicted ones: one row a film.
    shown = np.concatenate([np.asarray(seen[:, -1:]), np.asarray(made)], axis=1)
    return dataset.as_raw(shown), shown.shape[1]
