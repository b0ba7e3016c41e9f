"""The predictor of a run as an ONNX file, which is compared with the run before it is written."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnets.checkpoints.digest import leaf_paths
from jaxnets.core.errors import DataError, UsageError, note
from jaxnets.core.files import replacing
from jaxnets.data.large import gather
from jaxnets.interop.onnx import check_onnx, run_onnx, to_onnx
from jaxnets.ops.beyond_promise import compiling_for
from jaxnets.runs.build import Parts
from jaxnets.runs.export import facts, new_folder, predictor, raw_inputs, scales, write_about
from jaxnets.runs.run import Run
from jaxnets.steps.precision import Precision

# Largest difference from our outputs, relative to the largest output.
TOLERANCE = 1e-4


def export_onnx(run: Run, folder: Path | str) -> list[str]:
    """Write `predict.onnx`, from raw inputs of any number of examples to outputs, and `about.json`.

    The weights and the preparation are inside. The program computes in float32. ONNX Runtime runs it on a few rows of the
    test split, and nothing is written unless its outputs are those of the run.

    Args:
        run: the run.
        folder: a new or empty folder.

    Returns:
        The names of the files.

    Raises:
        UsageError: jax2onnx is not installed or cannot convert the model, or the outputs differ.
        DataError: the folder is not empty, or cannot be written.
    """
    check_onnx()
    new_folder(folder, make=False)  # refuse a full one before the work
    parts, inputs = run.parts, raw_inputs(run.parts)
    weights: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in leaf_paths(run.variables).items()}
    predict = predictor(parts, run.variables, precision=Precision("float32"))
    model = type(parts.task.model).__name__
    with compiling_for("onnx"):
        program = to_onnx(lambda arrays: predict(weights, arrays), inputs)
    for count in (1, 3):
        rows = _rows(parts, inputs, count)
        with jax.default_matmul_precision("highest"):
            own = np.asarray(jax.jit(predict)(weights, rows))
        _compare(run_onnx(program, rows), own, model)
    if parts.experiment.precision.compute != "float32":
        note(f"predict.onnx computes in float32, the run in {parts.experiment.precision.compute}")
    place = new_folder(folder)
    try:
        with replacing(place / "predict.onnx") as file:
            file.write(program)
    except OSError as error:
        raise DataError(f"cannot write {place} ({error}); choose another place") from error
    write_about(place, {"format": "jaxnets onnx", "outputs": "outputs", **facts(parts)})
    return sorted(path.name for path in place.iterdir())


def _rows(parts: Parts, inputs: dict[str, jax.ShapeDtypeStruct], count: int) -> dict[str, Any]:
    """Examples as the program takes them: rows of the test split, or drawn for a run that was opened without its data."""
    data, scaled = parts.dataset, scales(parts)
    test = {name: data.test[name] for name in inputs}
    at_hand = 0 if data.hollow else min(len(array) for array in test.values())
    if not at_hand:
        return {name: _drawn(parts, name, form, count) for name, form in inputs.items()}
    rows = gather(test, np.arange(count) % at_hand)
    for name, scale in scaled.items():
        rows[name] = (rows[name] - scale["subtract"]) / scale["divide"]
    return {name: rows[name].astype(form.dtype) for name, form in inputs.items()}


def _drawn(parts: Parts, name: str, form: jax.ShapeDtypeStruct, count: int) -> np.ndarray:
    """Numbers for an input; zeros where a number is that of a token, a category or a node."""
    rng, shape, data = np.random.default_rng(0), (count, *form.shape[1:]), parts.dataset
    if form.dtype == np.float32 and not data.columns:
        return rng.normal(size=shape).astype(np.float32)
    if form.dtype == np.uint8 and name == "inputs" and not data.tokens:
        return rng.integers(0, 256, shape, np.uint8)
    return np.zeros(shape, form.dtype)


def _compare(found: np.ndarray, own: np.ndarray, model: str) -> None:
    """Raise `UsageError` unless the outputs are equal up to rounding."""
    if found.shape != own.shape:
        raise UsageError(
            f"{model} as ONNX gives outputs of shape {found.shape} where the run gives {own.shape}, and nothing was "
            f"written; use --format stablehlo"
        )
    difference = np.abs(found - own).max() / max(float(np.abs(own).max()), 1e-30)
    if not difference <= TOLERANCE:
        raise UsageError(
            f"the outputs of {model} as ONNX differ from those of the run by {difference:.2g} of the largest output (at most "
            f"{TOLERANCE:g}), and nothing was written; use --format stablehlo"
        )
