"""`jaxnets export`: write a trained run for other programs."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from jaxnets.cli.flags import parse
from jaxnets.core.errors import UsageError


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Options of `jaxnets export`."""

    format: Literal["huggingface", "stablehlo", "onnx", "safetensors"] = "huggingface"
    """huggingface: a language model that transformers loads; stablehlo: the predictor and the training step as programs that
    need only JAX; onnx: the predictor for ONNX Runtime; safetensors: the weights by name."""
    platforms: tuple[str, ...] = ("cpu", "cuda", "tpu")
    """The platforms of the programs."""
    train_step: bool = True
    """Whether to write the training step and its state too."""


def run(arguments: Sequence[str]) -> int:
    """`jaxnets export RUN FOLDER [flags]`."""
    if len(arguments) < 2 or arguments[1].startswith("-"):
        raise UsageError(
            "`jaxnets export` takes a run directory and a folder that is not there yet, as in "
            "`jaxnets export runs/digits_cnn exported`"
        )
    run_dir, folder, *flags = arguments
    options = parse(ExportOptions, flags, "jaxnets export RUN FOLDER")
    from jaxnets.runs.open import open_run

    trained = open_run(run_dir)
    if options.format == "huggingface":
        names = _for_huggingface(run_dir, folder, trained)
    elif options.format == "onnx":
        from jaxnets.runs.export_onnx import export_onnx

        names = export_onnx(trained, folder)
    else:
        from jaxnets.runs.export import export_arrays, export_programs

        if options.format == "safetensors":
            names = export_arrays(trained, folder)
        else:
            names = export_programs(trained, folder, train_step=options.train_step, platforms=options.platforms)
    print(f"{folder}: {', '.join(names)}")
    return 0


def _for_huggingface(run_dir: str, folder: str, trained: Any) -> list[str]:
    from jaxnets import models
    from jaxnets.interop import export_language_model

    model, variables = trained.parts.task.model, trained.variables
    if isinstance(model, models.LoRA):
        model, variables = model.model, model.merged(variables)
    if not isinstance(model, models.LanguageModel):
        raise UsageError(
            f"{run_dir} holds a {type(model).__name__}, which that library does not have; use --format stablehlo (programs "
            f"for JAX) or --format safetensors (the arrays)"
        )
    return export_language_model(model, variables, folder, tokenizer=trained.parts.dataset.tokenizer)
