"""Loggers: the records of a run sent on to TensorBoard, Weights & Biases, MLflow or a CSV file.

The log of a run is `metrics.jsonl`; a logger repeats its records elsewhere. A resumed run sends no step twice. If a logger
fails, it is disabled with a note, and the run continues.
"""

import contextlib
import csv
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnets.core.errors import UsageError, did_you_mean, note
from jaxnets.core.files import replacing
from jaxnets.report.log import Record

# File in a run directory with the last step that each logger got, for each split.
SENT = "loggers.json"


class Logger:
    """Base of loggers. `open` comes first and `close` last; your own logger overrides the methods that it needs."""

    def open(self, name: str, config: Mapping[str, Any], directory: Path | None, resumed: bool) -> None:
        """Start or resume a run.

        Args:
            name: of the run.
            config: the experiment as data.
            directory: the run directory; None where there is none.
            resumed: whether an earlier process sent records of this run.
        """

    def record(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """The numbers of one record."""

    def text(self, step: int, name: str, text: str) -> None:
        """A text, such as a sample of a language model."""

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """An image `[H, W, 3]` uint8."""

    def close(self) -> None:
        """Flush and close."""


class CSV(Logger):
    """One row for each number: step, split, name, value. By default into `RUN/metrics.csv`."""

    def __init__(self, path: str | Path = "") -> None:
        self._path: Any = path
        self._file: Any = None

    def open(self, name: str, config: Mapping[str, Any], directory: Path | None, resumed: bool) -> None:
        """See `Logger`."""
        path = Path(self._path) if self._path else _inside(directory, "metrics.csv", "CSV(path)")
        self._file = path.open("a" if resumed else "w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file)
        if not resumed:
            self._writer.writerow(["step", "split", "name", "value"])

    def record(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._writer.writerows([step, split, name, repr(value)] for name, value in values.items())
        self._file.flush()

    def close(self) -> None:
        """See `Logger`."""
        if self._file is not None:
            self._file.close()


class TensorBoard(Logger):
    """Event files, by default in `RUN/tensorboard`; needs tensorboardX."""

    def __init__(self, directory: str | Path = "") -> None:
        self._directory: Any = directory
        self._writer: Any = None

    def open(self, name: str, config: Mapping[str, Any], directory: Path | None, resumed: bool) -> None:
        """See `Logger`."""
        place = self._directory or _inside(directory, "tensorboard", "TensorBoard(directory)")
        with _needed("tensorboardX"):
            from tensorboardX import SummaryWriter
        self._writer = SummaryWriter(str(place))
        if not resumed:
            self._writer.add_text("config", f"```\n{json.dumps(config, indent=1)}\n```", 0)

    def record(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        for name, value in values.items():
            self._writer.add_scalar(f"{split}/{name}", value, step)

    def text(self, step: int, name: str, text: str) -> None:
        """See `Logger`."""
        self._writer.add_text(name, text, step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """See `Logger`."""
        self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """See `Logger`."""
        if self._writer is not None:
            self._writer.close()


class WandB(Logger):
    """Weights & Biases; needs wandb. `mode="offline"` writes into `./wandb` and uses no network."""

    def __init__(self, project: str = "jaxnets", mode: str = "online", **options: Any) -> None:
        """`options` are further arguments of `wandb.init`."""
        self._options: dict[str, Any] = {"project": project, "mode": mode, **options}
        self._run: Any = None
        self._wandb: Any = None

    def open(self, name: str, config: Mapping[str, Any], directory: Path | None, resumed: bool) -> None:
        """See `Logger`."""
        options = {"name": name, "config": dict(config), "resume": "allow", **self._options}
        if directory is not None:
            identity = directory / "wandb_id.txt"
            options.setdefault(
                "id", identity.read_text(encoding="utf-8") if identity.exists() else secrets.token_hex(4)
            )
            identity.write_text(options["id"], encoding="utf-8")
        with _needed("wandb"):
            import wandb
        self._wandb = wandb
        self._run = wandb.init(**options)

    def record(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._run.log({f"{split}/{name}": value for name, value in values.items()} | {"step": step})

    def text(self, step: int, name: str, text: str) -> None:
        """See `Logger`."""
        self._run.log({name: self._wandb.Html(f"<pre>{text}</pre>"), "step": step})

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """See `Logger`."""
        self._run.log({name: self._wandb.Image(image), "step": step})

    def close(self) -> None:
        """See `Logger`."""
        if self._run is not None:
            self._run.finish()


class MLflow(Logger):
    """An MLflow run; needs mlflow or mlflow-skinny. By default the store is that of `MLFLOW_TRACKING_URI`, else `./mlruns`."""

    def __init__(self, tracking_uri: str = "", experiment: str = "jaxnets") -> None:
        self._uri, self._experiment, self._id = tracking_uri, experiment, ""
        self._client: Any = None

    def open(self, name: str, config: Mapping[str, Any], directory: Path | None, resumed: bool) -> None:
        """See `Logger`."""
        with _needed("mlflow"):
            from mlflow import MlflowClient
        self._client = MlflowClient(self._uri or None)
        identity = None if directory is None else directory / "mlflow_id.txt"
        if identity is not None and identity.exists():
            self._id = identity.read_text(encoding="utf-8")
            return
        found = self._client.get_experiment_by_name(self._experiment)
        where = found.experiment_id if found else self._client.create_experiment(self._experiment)
        self._id = self._client.create_run(where, run_name=name).info.run_id
        self._client.log_dict(self._id, dict(config), "config.json")
        if identity is not None:
            identity.write_text(self._id, encoding="utf-8")

    def record(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        for name, value in values.items():
            self._client.log_metric(self._id, f"{split}/{name}", value, step=step)

    def text(self, step: int, name: str, text: str) -> None:
        """See `Logger`."""
        self._client.log_text(self._id, text, f"{name}/{step}.txt")

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """See `Logger`."""
        self._client.log_image(self._id, image, f"{name}/{step}.png")

    def close(self) -> None:
        """See `Logger`."""
        if self._client is not None:
            self._client.set_terminated(self._id)


NAMES = {"csv": CSV, "tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}


def as_logger(given: Any) -> Logger:
    """A logger from one, or from a name; raises `UsageError` for anything else."""
    if isinstance(given, Logger):
        return given
    if isinstance(given, str) and given in NAMES:
        return NAMES[given]()
    raise UsageError(
        f"a logger is an object of jaxnets.report.loggers or a name, got {given!r}. {did_you_mean(str(given), NAMES)}"
    )


class Loggers:
    """The loggers of a run, and the last step that each of them got."""

    def __init__(self, given: Sequence[Any], directory: Path | None) -> None:
        self._loggers = {f"{type(logger).__name__}#{i}": logger for i, logger in enumerate(map(as_logger, given))}
        self._directory = directory
        self._sent: dict[str, dict[str, int]] = {name: {} for name in self._loggers}
        self._failed: set[str] = set()

    def open(self, name: str, config: Mapping[str, Any]) -> None:
        """Open all; the steps sent by an earlier process are read here."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if self._directory is not None:
                kept = json.loads((self._directory / SENT).read_text(encoding="utf-8"))
                self._sent |= {k: {s: int(n) for s, n in v.items()} for k, v in kept.items() if k in self._loggers}
        for key in self._loggers:
            self._call(key, "open", name, config, self._directory, bool(self._sent[key]))

    def record(self, record: Record) -> None:
        """Send a record to each logger that did not get this step of its split."""
        step, split = record["step"], record["split"]
        values = {
            name: float(value)
            for name, value in record.items()
            if name not in ("step", "split") and isinstance(value, int | float)
        }
        for key in self._loggers:
            if step > self._sent[key].get(split, -1):
                self._call(key, "record", step, split, values)
                self._sent[key][split] = step
        self._keep()

    def show(self, step: int, name: str, made: Any) -> None:
        """Send a text or an image `[H, W]` or `[H, W, 3]` of any range."""
        for key in self._loggers:
            if step > self._sent[key].get(f"shown {name}", -1):
                self._call(
                    key,
                    *(("text", step, name, made) if isinstance(made, str) else ("image", step, name, as_bytes(made))),
                )
                self._sent[key][f"shown {name}"] = step
        self._keep()

    def rewind(self, step: int) -> None:
        """After a roll-back to a step: later steps are sent again, because their numbers may differ."""
        for sent in self._sent.values():
            sent.update({split: min(at, step) for split, at in sent.items()})

    def close(self) -> None:
        """Close all."""
        for key in self._loggers:
            self._call(key, "close")

    def _call(self, key: str, method: str, *arguments: Any) -> None:
        if key in self._failed:
            return
        try:
            getattr(self._loggers[key], method)(*arguments)
        except UsageError:
            raise
        except Exception as error:
            self._failed.add(key)
            note(
                f"the logger {key} failed and is disabled from here on ({type(error).__name__}: {error}); metrics.jsonl "
                f"has everything"
            )

    def _keep(self) -> None:
        if self._directory is not None and self._loggers:
            with replacing(self._directory / SENT) as file:
                file.write(json.dumps(self._sent).encode())


def as_bytes(image: Any) -> np.ndarray:
    """An image `[H, W]` or `[H, W, C]` of any real range as `[H, W, 3]` uint8; uint8 stays as it is."""
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        pixels = np.rint((pixels - low) / ((high - low) or 1.0) * 255).astype(np.uint8)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return np.broadcast_to(pixels[..., :3], (*pixels.shape[:2], 3)).copy()


def _inside(directory: Path | None, name: str, remedy: str) -> Path:
    if directory is None:
        raise UsageError(f"a logger writes into the run directory, and this run has none; give a run_dir, or {remedy}")
    return directory / name


@contextlib.contextmanager
def _needed(name: str) -> Iterator[None]:
    """Inside, a package that is not installed is a `UsageError` with the remedy."""
    try:
        yield
    except ImportError as error:
        raise UsageError(f"this logger needs {name}: pip install jaxnets[loggers]") from error
