"""Exports of a trained run for other programs: the predictor and the training step as StableHLO, the arrays as safetensors."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.checkpoints.digest import leaf_paths
from jaxnets.core.errors import DataError, UsageError, note
from jaxnets.core.files import replacing, user_path
from jaxnets.core.versions import versions
from jaxnets.data.feed import Transform
from jaxnets.data.prepare import Standardize
from jaxnets.interop.safetensors import write_safetensors
from jaxnets.interop.stablehlo import PLATFORMS, any_batch, check_exportable, write_program
from jaxnets.runs.build import Parts
from jaxnets.runs.run import Run
from jaxnets.steps.local import whole_step
from jaxnets.steps.precision import Precision

EXAMPLE = '''"""Predictions with JAX, NumPy and safetensors alone: pip install jax flatbuffers safetensors"""

import json
from pathlib import Path

import numpy as np
from jax import export
from safetensors.numpy import load_file

folder = Path(__file__).resolve().parent
about = json.loads((folder / "about.json").read_text())
predictor = export.deserialize(bytearray((folder / "predictor.stablehlo").read_bytes()))
weights = load_file(folder / "weights.safetensors")

# Raw examples, as in training: any number of them, unless about.json gives a number.
size = about["batch"] or 2
inputs = {name: np.zeros((size, *form["shape"])) for name, form in about["inputs"].items()}
for name, scale in about["scale_first"].items():  # 64-bit numbers are scaled before they become 32-bit
    inputs[name] = (inputs[name] - scale["subtract"]) / scale["divide"]
print(predictor.call(weights, {name: inputs[name].astype(form["dtype"]) for name, form in about["inputs"].items()}))
'''


def export_arrays(run: Run, folder: Path | str) -> list[str]:
    """Write the weights as safetensors, named by their paths, and `about.json`; the names of the files.

    Raises:
        DataError: the folder is not empty, or cannot be written.
    """
    place = new_folder(folder)
    _write_weights(place, run.variables)
    write_about(place, {"format": "jaxnets arrays", **facts(run.parts)})
    return sorted(path.name for path in place.iterdir())


def export_programs(
    run: Run, folder: Path | str, *, train_step: bool = True, platforms: Sequence[str] = PLATFORMS
) -> list[str]:
    """Write programs that predict and train further with JAX, without jaxnets.

        predictor.stablehlo    (weights, inputs) -> outputs, for raw inputs of any number
        weights.safetensors    its weights, by path
        train_step.stablehlo   (state, batch) -> (state, metrics), each metric a (sum, weight) pair
        state.safetensors      the training state after the last step, by path
        about.json             names, shapes, dtypes, classes, platforms, versions
        example.py             how to load and call it

    Args:
        run: the run.
        folder: a new or empty folder.
        train_step: whether to write the training step and its state too.
        platforms: what the programs are lowered for.

    Returns:
        The names of the files.

    Raises:
        UsageError: flatbuffers is not installed, or a platform is unknown; nothing is written then.
        DataError: the folder is not empty, or cannot be written.
    """
    check_exportable(platforms)
    place, parts = new_folder(folder), run.parts
    weights = leaf_paths(run.variables)
    inputs = raw_inputs(parts)
    predict, like = predictor(parts, run.variables), _shapes(weights)
    batch = 0
    try:
        write_program(place / "predictor.stablehlo", predict, (like, any_batch(inputs)), platforms)
    except (UsageError, DataError):
        raise
    except Exception as error:  # a shape of the model depends on the number of examples
        batch = parts.experiment.batch_size
        note(
            f"{type(parts.task.model).__name__} cannot be exported for batches of any size "
            f"({str(error).splitlines()[0][:200]}); the predictor takes {batch} examples"
        )
        fixed = {name: jax.ShapeDtypeStruct((batch, *s.shape[1:]), s.dtype) for name, s in inputs.items()}
        write_program(place / "predictor.stablehlo", predict, (like, fixed), platforms)
    _write_weights(place, run.variables)
    about = {"format": "jaxnets programs", "batch": batch, "platforms": list(platforms), **facts(parts)}
    if train_step:
        sent = _sent(parts)
        write_program(
            place / "train_step.stablehlo", _train_step(parts), (_shapes(leaf_paths(parts.abstract)), sent), platforms
        )
        write_safetensors(place / "state.safetensors", _on_host(leaf_paths(run.state)))
        about["train_step"] = {"batch": _forms(sent), "targets": "encoded as the loss takes them"}
    write_about(place, about)
    with replacing(place / "example.py") as file:
        file.write(EXAMPLE.encode())
    return sorted(path.name for path in place.iterdir())


def predictor(
    parts: Parts, variables: Any, *, precision: Precision | None = None
) -> Callable[[dict[str, Array], dict[str, Array]], Array]:
    """Outputs from weights by path and raw inputs by name, in the number format of the run or another."""
    structure, transform = jax.tree.structure(variables), Transform(parts.dataset.preparation)
    names, precision = list(leaf_paths(variables)), precision or parts.experiment.precision

    def predict(weights: dict[str, Array], inputs: dict[str, Array]) -> Array:
        tree = jax.tree.unflatten(structure, [weights[name] for name in names])
        batch = transform.on_device(_scaled(parts, inputs), jnp.zeros((), jnp.int32))
        return parts.task.outputs(*precision.cast(tree, batch))

    return predict


def _train_step(parts: Parts) -> Callable[[dict[str, Array], dict[str, Array]], Any]:
    """One step from a state by path and a batch as the host sends it."""
    structure, names = jax.tree.structure(parts.abstract), list(leaf_paths(parts.abstract))
    transform = Transform(
        parts.dataset.preparation,
        parts.task.encode_targets,
        parts.dataset.augment,
        parts.experiment.seed,
        max(1, parts.dataset.card.examples["train"] // parts.experiment.batch_size),
    )
    step = whole_step(parts.task, parts.recipe)

    def train(state: dict[str, Array], batch: dict[str, Array]) -> tuple[dict[str, Array], Any]:
        whole = jax.tree.unflatten(structure, [state[name] for name in names])
        new, metrics = step(whole, transform.on_device(dict(batch), whole.step))
        return leaf_paths(new), {name: (mean.sum, mean.weight) for name, mean in metrics.items()}

    return train


def _scaled(parts: Parts, inputs: dict[str, Array]) -> dict[str, Array]:
    """Inputs of the program, prepared as the host would send them.

    The host subtracts the mean of 32-bit numbers in float64. Here it is subtracted in two parts, which loses no more than
    the rounding of the result. 64-bit numbers come in prepared (see `scales`).
    """
    done = {}
    for name, array in inputs.items():
        prepare = _standardized(parts, name)
        if prepare is not None and _dtype(parts, name).itemsize == 4:
            shape = (1,) * (array.ndim - 1) + (-1,)
            mean, std = np.array(prepare.mean).reshape(shape), np.array(prepare.std).reshape(shape)
            high = mean.astype(np.float32)
            low = (mean - high).astype(np.float32)
            array = (array.astype(jnp.float32) - high - low) / std.astype(np.float32)
        done[name] = array
    return done


def scales(parts: Parts) -> dict[str, Any]:
    """For inputs of 64 bits, which the program cannot represent: the numbers that the caller subtracts and divides by, in
    float64."""
    found = {}
    for name in parts.dataset.preparation.names:
        prepare = _standardized(parts, name)
        if prepare is not None and _dtype(parts, name).itemsize > 4:
            found[name] = {"subtract": list(prepare.mean), "divide": list(prepare.std)}
    return found


def _standardized(parts: Parts, name: str) -> Standardize | None:
    """The scaling of an input; None without scaling."""
    prepare = parts.dataset.preparation.prepare_of(name)
    return prepare if isinstance(prepare, Standardize) and _is_an_input(parts, name) else None


def _dtype(parts: Parts, name: str) -> np.dtype:
    """The dtype of an array in training."""
    return np.dtype(parts.dataset.preparation.form(name).dtype)


def _is_an_input(parts: Parts, name: str) -> bool:
    return name == "inputs" or any(one.array == name for one in parts.dataset.several)


def raw_inputs(parts: Parts) -> dict[str, jax.ShapeDtypeStruct]:
    """The arrays that the predictor takes, with a batch of one; 64-bit numbers as 32."""
    preparation = parts.dataset.preparation
    scaled, found = scales(parts), {}
    for form in (preparation.form(name) for name in preparation.names):
        dtype = np.float32 if form.name in scaled else _narrow(np.dtype(form.dtype))
        found[form.name] = jax.ShapeDtypeStruct((1, *form.shape), dtype)
    return found


def _sent(parts: Parts) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch as the host sends it."""
    transform = Transform(parts.dataset.preparation, parts.task.encode_targets)
    size = parts.batch_spec["mask"].shape[0]
    first = transform.on_host({name: array[:1] for name, array in parts.dataset.train.items()})
    sent = {name: jax.ShapeDtypeStruct((size, *a.shape[1:]), _narrow(a.dtype)) for name, a in first.items()}
    sent["mask"] = jax.ShapeDtypeStruct((size,), np.float32)
    sent["index"] = jax.ShapeDtypeStruct((size,), np.int32)
    return sent


def _narrow(dtype: np.dtype) -> Any:
    """The dtype on a device: at most 32 bits."""
    return np.dtype(f"{dtype.kind}4") if dtype.itemsize > 4 else dtype


def _shapes(leaves: dict[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in leaves.items()}


def _on_host(leaves: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(jax.device_get(leaf)) for name, leaf in leaves.items()}


def _forms(shapes: dict[str, Any], *, first: int = 0) -> dict[str, Any]:
    return {name: {"shape": list(s.shape[first:]), "dtype": np.dtype(s.dtype).name} for name, s in shapes.items()}


def facts(parts: Parts) -> dict[str, Any]:
    """The part of `about.json` that describes the model, its inputs and its classes."""
    card = parts.dataset.card
    return {
        "model": type(parts.task.model).__name__,
        "task": type(parts.task).__name__,
        "data": card.name,
        "inputs": _forms(raw_inputs(parts), first=1),
        "scale_first": scales(parts),
        "classes": list(card.class_names),
        "versions": versions(),
    }


def _write_weights(place: Path, variables: Any) -> None:
    write_safetensors(place / "weights.safetensors", _on_host(leaf_paths(variables)))


def write_about(place: Path, about: dict[str, Any]) -> None:
    """Write `about.json` in a folder."""
    with replacing(place / "about.json") as file:
        file.write((json.dumps(about, indent=2) + "\n").encode())


def new_folder(folder: Path | str, *, make: bool = True) -> Path:
    """A new or empty folder, made where it is missing; raises `DataError` for another."""
    place = user_path(folder)
    try:
        if make:
            place.mkdir(parents=True, exist_ok=True)
        if place.exists() and any(place.iterdir()):
            raise DataError(f"{place} holds files already; give a new folder")
    except OSError as error:
        raise DataError(f"cannot write {place} ({error}); choose another place") from error
    return place
