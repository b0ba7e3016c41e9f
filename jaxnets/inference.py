"""`jaxnets predict`, `generate` and `export`: what a trained run says of new inputs, and how it leaves."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxnets.errors import DataError, UsageError


@dataclasses.dataclass(frozen=True)
class GenerateOptions:
    """Options of `jaxnets generate`."""

    prompt: str = ""
    """Text to go on from; empty: the token that begins texts where there is one, else a new line."""
    tokens: int = 200
    """New tokens in each sample."""
    samples: int = 1
    """Samples, drawn in one batch."""
    temperature: float = 0.8
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: int = 0
    """Choose among this many of the likeliest; 0: among all."""
    top_p: float = 1.0
    """Choose among the likeliest that together have this probability."""
    seed: int = 0
    """Of all draws: the same seed gives the same text."""


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """Options of `jaxnets predict`."""

    output: str = ""
    """An .npz file for the predictions; empty: print them, one a line."""
    raw: bool = False
    """Give the model's own outputs (logits, say) instead of classes or values."""


def parse(kind: Any, arguments: Sequence[str], prog: str) -> Any:
    """Flags as a dataclass, with tyro's help and messages."""
    import tyro

    try:
        return tyro.cli(kind, args=list(arguments), prog=prog)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error


def generate(arguments: Sequence[str]) -> int:
    """`jaxnets generate RUN [flags]`: print text of a language model, or draw what a run for images or frames makes."""
    run_dir, *flags = arguments
    from jaxnets import pictures
    from jaxnets.run_directory import RunDirectory

    if pictures.makes_pictures(RunDirectory.existing(run_dir)[1].task):
        return _generate_pictures(run_dir, flags)
    options = parse(GenerateOptions, flags, "jaxnets generate RUN")
    if options.tokens < 1 or options.samples < 1:
        raise UsageError(f"tokens and samples are at least 1, got {options.tokens} and {options.samples}")
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxnets import models
    from jaxnets.run import open_run

    run = open_run(run_dir)
    model: Any = run.parts.task.model
    if not isinstance(model, models.Decoder):
        raise UsageError(
            f"{run_dir} holds a {type(model).__name__}, which writes no text; `jaxnets predict` asks it for predictions"
        )
    tokenizer, text = run.parts.dataset.tokenizer, options.prompt
    if tokenizer is None:
        raise UsageError(f"the data of {run_dir} are tokens without a tokenizer, so no text can be read or written")
    prompt = tokenizer.encode(text) if text else _first_token(tokenizer)
    text = text or tokenizer.decode(prompt)
    batch = jnp.asarray(np.tile(prompt, (options.samples, 1)))
    try:
        sampling = models.Sampling(options.temperature, options.top_k, options.top_p)
        key = jax.random.key(options.seed)
        written = models.generate(model, run.variables, batch, options.tokens, key=key, sampling=sampling)
    except ValueError as error:
        raise UsageError(str(error)) from error
    for index, ids in enumerate(np.asarray(written)):
        print(("" if index == 0 else "\n---\n") + _joined(tokenizer, prompt, ids, text))
    return 0


def _generate_pictures(run_dir: str, flags: Sequence[str]) -> int:
    from jaxnets import pictures
    from jaxnets.run import open_run

    options = parse(pictures.PictureOptions, flags, "jaxnets generate RUN")
    picture = pictures.draw(open_run(run_dir), options)
    print(f"{picture} (arrays: {picture.with_suffix('.npz').name})")
    return 0


def _first_token(tokenizer: Any) -> Any:
    """What an empty prompt stands for: the token that begins or ends texts, else a new line, else the first there is."""
    import numpy as np

    for role in ("begin", "end"):
        if role in tokenizer.special:
            return np.array([tokenizer.special[role]], np.int32)
    try:
        return tokenizer.encode("\n")
    except DataError:
        return np.zeros(1, np.int32)


def _joined(tokenizer: Any, prompt: Any, ids: Any, text: str) -> str:
    """The prompt as it was typed, and what follows it; a piece may read otherwise at the beginning of a text."""
    before, whole = tokenizer.decode(prompt), tokenizer.decode([*prompt, *ids])
    return text + (whole[len(before) :] if whole.startswith(before) else tokenizer.decode(ids))


def _language_model(run: Any, run_dir: str, otherwise: str) -> Any:
    from jaxnets import models

    model = run.parts.task.model
    if not isinstance(model, models.LanguageModel):
        raise UsageError(f"{run_dir} holds a {type(model).__name__}, which {otherwise}")
    return model


def export(arguments: Sequence[str]) -> int:
    """`jaxnets export RUN FOLDER`: the weights of a language model as the Hugging Face library reads them."""
    if len(arguments) != 2 or arguments[1].startswith("-"):
        raise UsageError("`jaxnets export` takes a run directory and a folder that is not there yet")
    from jaxnets.interop import export_language_model
    from jaxnets.run import open_run

    run_dir, folder = arguments
    run = open_run(run_dir)
    model = _language_model(run, run_dir, "their library does not have; `jaxnets ckpt export` writes its arrays")
    names = export_language_model(model, run.variables, folder, tokenizer=run.parts.dataset.tokenizer)
    print(f"{folder}: {', '.join(names)}")
    return 0


def predict(arguments: Sequence[str]) -> int:
    """`jaxnets predict RUN FILE [flags]`: predictions for the inputs in an `.npz` (array `inputs`) or `.npy` file."""
    if len(arguments) < 2 or arguments[1].startswith("-"):
        raise UsageError(
            "`jaxnets predict` takes a run directory and a file of inputs: an .npz with an array `inputs`, or an .npy"
        )
    run_dir, source, *flags = arguments
    options = parse(PredictOptions, flags, "jaxnets predict RUN FILE")
    if options.output and not options.output.endswith(".npz"):
        raise UsageError(f"--output is an .npz file, got {options.output!r}")
    import numpy as np

    from jaxnets.data.download import read_array, read_arrays
    from jaxnets.run import open_run

    path = Path(source)
    inputs = read_arrays(path, ("inputs",))["inputs"] if path.suffix == ".npz" else read_array(path)
    run = open_run(run_dir)
    outputs = run.outputs(inputs)
    said = outputs if options.raw else run.parts.task.decide(outputs)
    names = run.parts.dataset.card.class_names
    if options.output:
        try:
            np.savez(options.output, predictions=said)
        except OSError as error:
            raise DataError(f"cannot write {options.output} ({error}); choose another place") from error
        print(f"{len(said)} predictions in {options.output}", file=sys.stderr)
        return 0
    for row in said:
        named = (
            names[int(row)]
            if names and not options.raw and np.ndim(row) == 0
            else " ".join(f"{v:.6g}" for v in np.ravel(row))
        )
        print(named)
    return 0
