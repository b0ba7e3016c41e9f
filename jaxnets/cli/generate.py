"""`jaxnets generate`: text, images or frames from a trained run."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from jaxnets.cli.flags import parse
from jaxnets.core.errors import UsageError, note


@dataclasses.dataclass(frozen=True)
class TextOptions:
    """Options of `jaxnets generate` for a language model."""

    prompt: str = ""
    """Text to continue; empty: the token that begins texts if there is one, else a new line. For a run on conversations: the
    user's message."""
    tokens: int = 200
    """New tokens in each sample."""
    samples: int = 1
    """Samples, drawn in one batch."""
    temperature: float = 0.8
    """Divides the logits; 0 always takes the most probable token."""
    top_k: int = 0
    """Choose among this many of the most probable tokens; 0: among all."""
    top_p: float = 1.0
    """Choose among the most probable tokens whose total probability is this."""
    seed: int = 0
    """Seed of all draws: the same seed gives the same text."""

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.samples < 1:
            raise ValueError(f"tokens and samples are at least 1, got {self.tokens} and {self.samples}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is at least 0 and below 2^32, got {self.seed}")


@dataclasses.dataclass(frozen=True)
class AnswerOptions:
    """Options of `jaxnets generate` for a sequence-to-sequence model, which decodes without random draws."""

    prompt: str
    """The source text."""
    beam: int = 0
    """Beam width; 1: greedy decoding; 0: as in the run."""


def run(arguments: Sequence[str]) -> int:
    """`jaxnets generate RUN [flags]`; the flags depend on the kind of outputs of the run."""
    run_dir, *flags = arguments
    from jaxnets import models
    from jaxnets.cli import generate_pictures as pictures
    from jaxnets.models.wrapper import without_wrappers
    from jaxnets.runs.directory import RunDirectory
    from jaxnets.runs.open import open_run
    from jaxnets.tasks import NextToken

    task = RunDirectory.existing(run_dir)[1].task
    kind: Any
    make: Callable[[Any, Any], int]
    if pictures.makes_pictures(task):
        kind, make = pictures.options_for(task), _draw
    elif isinstance(task.model, models.Seq2SeqTransformer):
        kind, make = AnswerOptions, _answer
    elif isinstance(task, NextToken) and isinstance(without_wrappers(task.model), models.Decoder):
        kind, make = TextOptions, _go_on
    else:
        raise UsageError(
            f"{run_dir} holds a {type(task.model).__name__}, which generates neither text nor images; use "
            f"`jaxnets predict` for predictions"
        )
    options = parse(kind, flags, "jaxnets generate RUN")
    return make(open_run(run_dir), options)


def _draw(run: Any, options: Any) -> int:
    from jaxnets.cli import generate_pictures as pictures

    picture = pictures.draw(run, options)
    print(f"{picture} (arrays: {picture.with_suffix('.npz').name})")
    return 0


def _answer(run: Any, options: AnswerOptions) -> int:
    """Print the output of a sequence-to-sequence model for the prompt."""
    from jaxnets.data.text.vocabulary import encode_text
    from jaxnets.ops.tokens import spell

    card = run.parts.dataset.card
    source = encode_text(options.prompt, card.tokens, card.input_shape[0])
    try:
        task = dataclasses.replace(run.parts.task, beam=options.beam or run.parts.task.beam)
        written = task.write(run.variables, source)
    except ValueError as error:
        raise UsageError(str(error)) from error
    print(spell(written[0].tolist(), card.class_names, card.tokens.unit))
    return 0


def _go_on(run: Any, options: TextOptions) -> int:
    """Print samples of the text that follows the prompt."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxnets import models
    from jaxnets.data import Chat
    from jaxnets.data.text.chat import prompt_of
    from jaxnets.data.text.textfile import plain_ends
    from jaxnets.models.wrapper import without_wrappers
    from jaxnets.runs.samples import first_token

    tokenizer, text = run.parts.dataset.tokenizer, options.prompt
    if tokenizer is None:
        raise UsageError(
            f"the data of {run.directory} are tokens without a tokenizer, so no text can be read or written"
        )
    text = plain_ends(text)
    chat = isinstance(run.experiment.data, Chat)
    if chat:
        prompt = prompt_of([("user", text)], run.experiment.data.turns(tokenizer), tokenizer)
    else:
        prompt = tokenizer.encode(text) if text else first_token(tokenizer)
        text = text or tokenizer.decode(prompt)
    window, asked = run.parts.dataset.card.input_shape[0], len(prompt) + options.tokens
    batch = jnp.asarray(np.tile(prompt, (options.samples, 1)))
    try:
        sampling = models.Sampling(options.temperature, options.top_k, options.top_p)
        key = jax.random.key(options.seed)
        written = models.generate(
            run.parts.task.model, run.variables, batch, options.tokens, key=key, sampling=sampling
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    if asked > window and isinstance(without_wrappers(run.parts.task.model), models.LanguageModel):
        note(
            f"the text has {asked:,} tokens, more than the {window:,} of a training window; what follows those may be worse"
        )
    for index, ids in enumerate(np.asarray(written)):
        joined = _reply(run, ids) if chat else _joined(tokenizer, prompt, ids, text)
        print(("" if index == 0 else "\n---\n") + joined)
    return 0


def _reply(run: Any, ids: Any) -> str:
    """The assistant's answer: the text up to the token that ends its turn."""
    tokenizer = run.parts.dataset.tokenizer
    end = run.experiment.data.turns(tokenizer).end
    if end in tokenizer.symbols:
        number = tokenizer.symbols.index(end)
        return str(tokenizer.decode(ids[: ids.tolist().index(number)] if number in ids else ids))
    return str(tokenizer.decode(ids)).split(end)[0]


def _joined(tokenizer: Any, prompt: Any, ids: Any, text: str) -> str:
    """The prompt as it was typed, and the text after it; a token may be decoded differently at the beginning of a text."""
    before, whole = tokenizer.decode(prompt), tokenizer.decode([*prompt, *ids])
    return text + (whole[len(before) :] if whole.startswith(before) else tokenizer.decode(ids))
