"""What a generative model makes while it trains: `Experiment.sample_every`, shown in the report over time."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets import models
from jaxnets.callbacks.callback import Callback, Progress
from jaxnets.callbacks.shipped import Samples
from jaxnets.core.errors import DataError, UsageError
from jaxnets.core.types import Gallery
from jaxnets.models.wrapper import without_wrappers
from jaxnets.runs.build import Parts
from jaxnets.tasks import Adversarial, NextToken

# Tokens of a text, where the window of the model has room for them; images in a picture, and in a row of it.
TOKENS, IMAGES, COLUMNS = 200, 32, 8


class Drawn(Samples):
    """The callback of `Experiment.sample_every`. A run directory has it as a setting, so it is not one of the user's."""


def samplers(parts: Parts, run_dir: Path | None, loggers: Sequence[Any]) -> list[Callback]:
    """The callback for `sample_every`; none where it is 0, or where no directory and no logger would keep the samples.

    Raises:
        UsageError: the model makes no samples.
    """
    every = parts.experiment.sample_every
    maker = _maker(parts) if every else None
    return [Drawn(maker, every)] if maker and (run_dir is not None or loggers) else []


def first_token(tokenizer: Any) -> np.ndarray:
    """The prompt in place of an empty one: the token that begins or ends texts, else a new line, else the first token."""
    for role in ("begin", "end"):
        if role in tokenizer.special:
            return np.array([tokenizer.special[role]], np.int32)
    try:
        return np.asarray(tokenizer.encode("\n"), np.int32)
    except DataError:
        return np.zeros(1, np.int32)


def _maker(parts: Parts) -> Callable[[Progress], Any]:
    task, card = _inner(parts.task), parts.dataset.card
    if (
        isinstance(task, NextToken)
        and isinstance(without_wrappers(task.model), models.Decoder)
        and parts.dataset.tokenizer
    ):
        return _text
    images = len(card.input_shape) == 3 and card.input_shape[-1] in (1, 3)
    points = isinstance(task, Adversarial) and card.input_shape == (2,)
    if hasattr(task, "sample") and (images or points):
        return _picture
    what = type(getattr(task, "model", task)).__name__
    raise UsageError(
        f"sample_every is {parts.experiment.sample_every}, but a {what} with the task {type(task).__name__} makes neither "
        f"text nor images for inputs of the shape {card.input_shape}; set it to 0"
    )


def _inner(task: Any) -> Any:
    """The task inside of one with the user's own loss or metrics."""
    return getattr(task, "inner", task)


def _text(run: Progress) -> str:
    """A text from its beginning, at temperature 1; with the same random numbers at every step."""
    tokenizer, window = run.parts.dataset.tokenizer, run.parts.dataset.card.input_shape[0]
    prompt = first_token(tokenizer)
    tokens = max(1, min(TOKENS, window - len(prompt)))
    written = models.generate(
        _inner(run.parts.task).model, run.variables, jnp.asarray(prompt)[None], tokens, key=jax.random.key(0)
    )
    return str(tokenizer.decode(np.asarray(written)[0]))


def _picture(run: Progress) -> np.ndarray:
    """The first pictures of the report, in rows; from the same noise at every step."""
    (gallery, *_) = (shown for shown in run.parts.task.drawn(run.variables) if isinstance(shown, Gallery))
    return tiled(gallery.images[:IMAGES])


def tiled(images: np.ndarray) -> np.ndarray:
    """Images `[N, H, W, C]` in rows of eight, a pixel between them: one picture `[h, w, 3]`, or `[h, w]` for one channel."""
    count, height, width, channels = images.shape
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    picture = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), float(images.min()), np.float32)
    for index, image in enumerate(images):
        top, left = index // columns * (height + 1), index % columns * (width + 1)
        picture[top : top + height, left : left + width] = image
    return picture if channels == 3 else -picture[..., 0]  # dark on white, as the report draws grey images
