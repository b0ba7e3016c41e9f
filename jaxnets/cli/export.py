"""`jaxnets export`: the weights of a language model in the Hugging Face library's files."""

from collections.abc import Sequence

from jaxnets.core.errors import UsageError


def run(arguments: Sequence[str]) -> int:
    """`jaxnets export RUN FOLDER`: the weights of a language model as the Hugging Face library reads them."""
    if len(arguments) != 2 or arguments[1].startswith("-"):
        raise UsageError("`jaxnets export` takes a run directory and a folder that is not there yet")
    from jaxnets import models
    from jaxnets.interop import export_language_model
    from jaxnets.runs.train import open_run

    run_dir, folder = arguments
    trained = open_run(run_dir)
    model, variables = trained.parts.task.model, trained.variables
    if isinstance(model, models.LoRA):
        model, variables = model.model, model.merged(variables)
    if not isinstance(model, models.LanguageModel):
        raise UsageError(
            f"{run_dir} holds a {type(model).__name__}, which that library does not have; `jaxnets ckpt export` writes its "
            f"arrays"
        )
    names = export_language_model(model, variables, folder, tokenizer=trained.parts.dataset.tokenizer)
    print(f"{folder}: {', '.join(names)}")
    return 0
