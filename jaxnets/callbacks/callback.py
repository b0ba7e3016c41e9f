"""Callbacks: what a user's code may do while a run trains. `fit(..., hooks=[...])` takes them.

A callback looks and asks; it cannot change the state, so a run with callbacks has the bits of a run without. What it remembers
(`state`, `restore`) is saved with each checkpoint, so it sees every step of the run exactly once, however the run was cut.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxnets.core.errors import JaxnetsError, UsageError
from jaxnets.core.files import replacing
from jaxnets.parallel.hosts import is_first
from jaxnets.training.plan import Every
from jaxnets.training.stopping import Stopping


class CallbackError(JaxnetsError):
    """A callback raised; the state was saved before."""


class Progress:
    """What a callback sees of the run, as its first argument. Valid during the call."""

    def __init__(self, parts: Any, directory: Path | None, record: Any, show: Any, stopping: Stopping) -> None:
        self.parts = parts
        """The experiment and what it was built into (`runs.build.Parts`): `parts.task`, `parts.dataset`, `parts.mesh`."""
        self.directory = directory
        """The run directory; None where the run has none."""
        self.step = 0
        """Updates done."""
        self._record, self._show, self._stopping = record, show, stopping
        self._state: Any = None

    @property
    def steps(self) -> int:
        """Updates of the whole run."""
        return self.parts.experiment.total_steps

    @property
    def variables(self) -> dict[str, Any]:
        """The weights as an evaluation takes them, in `at`, `started` and `ended`. Read them; a copy costs their memory."""
        if self._state is None:
            raise UsageError(
                "the weights are there in at, started and ended only; in between, the device works on them"
            )
        return dict(self._state.best_variables)

    def outputs(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The model's outputs, float32, for raw arrays by name as in `parts.dataset.test`, with the present weights."""
        return self.parts.predictor(self.variables, dict(inputs))

    def log(self, **values: float) -> None:
        """Write numbers into the log, as a record of the split "hook"."""
        self._record({"step": self.step, "split": "hook", **{name: float(value) for name, value in values.items()}})

    def show(self, name: str, made: Any) -> None:
        """Write a text, or an image `[H, W]` or `[H, W, 3]`, into `RUN/samples/NAME/` and to the loggers."""
        if self.directory is not None and is_first():
            folder = self.directory / "samples" / name
            folder.mkdir(parents=True, exist_ok=True)
            if isinstance(made, str):
                with replacing(folder / f"{self.step}.txt") as file:
                    file.write(made.encode())
            else:
                write_image(folder / f"{self.step}.png", made)
        self._show(self.step, name, made)

    def stop(self, reason: str) -> None:
        """End the run after this step, saved; the same command goes on with it."""
        self._stopping.request(reason, gently=True)


class Callback:
    """Base of callbacks; each method does nothing until it is overridden."""

    every = 0
    """Steps between calls of `at`; 0: it is never called (unless `next_after` says otherwise)."""

    def next_after(self, step: int) -> int | None:
        """The next step, after `step`, at which `at` is called; None for none. By default the multiples of `every`."""
        return Every(self.every).next_after(step)

    def started(self, run: Progress) -> None:
        """Before the first step of this stretch of training, with the state that it begins with (after `restore`)."""

    def stepped(self, run: Progress, step: int, metrics: Mapping[str, float]) -> None:
        """After each step, in order, with what that step measured. It is called a little later than the step itself, and must
        be quick: it runs beside the device's work."""

    def at(self, run: Progress) -> None:
        """At each multiple of `every`, with the weights. The device waits."""

    def evaluated(self, run: Progress, split: str, metrics: Mapping[str, float]) -> None:
        """After each evaluation of a split."""

    def saved(self, run: Progress) -> None:
        """After the state was copied off the device for a checkpoint (its files are written behind the next steps)."""

    def stopped(self, run: Progress, reason: str) -> None:
        """When the run ends before its last step because of a signal, of `run.stop` or of `stop_at`; the state is saved."""

    def failed(self, run: Progress, error: BaseException) -> None:
        """When an error ends the run."""

    def ended(self, run: Progress) -> None:
        """When the run is complete, with the last weights."""

    def state(self) -> Any:
        """What to remember beside a checkpoint, as JSON data."""
        return None

    def restore(self, state: Any) -> None:
        """Take up what `state` gave; called before `started` where a run is resumed."""


def write_image(path: Path, image: Any) -> None:
    """Write an image `[H, W]` or `[H, W, 3]` of any real range as a PNG file."""
    from matplotlib.image import imsave

    pixels = np.asarray(image, np.float64)
    low, high = float(pixels.min()), float(pixels.max())
    with replacing(path) as file:
        imsave(file, (pixels - low) / ((high - low) or 1.0), cmap="gray", vmin=0, vmax=1, format="png")
