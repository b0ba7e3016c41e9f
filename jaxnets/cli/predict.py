"""`jaxnets predict`: a trained run's predictions for the examples in a file."""

import dataclasses
import os
import sys
from collections.abc import Sequence

from jaxnets.cli.flags import parse
from jaxnets.core.errors import DataError, UsageError
from jaxnets.core.files import replacing, user_path


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """Options of `jaxnets predict`."""

    output: str = ""
    """An .npz file for the predictions; empty: print them, one a line."""
    raw: bool = False
    """Give the model's own outputs (logits, say) instead of classes or values."""


def run(arguments: Sequence[str]) -> int:
    """`jaxnets predict RUN FILE [flags]`: predictions for the examples in a file (see `data.given.read_given`)."""
    if len(arguments) < 2 or arguments[1].startswith("-"):
        raise UsageError(
            "`jaxnets predict` takes a run directory and a file of inputs: an .npz with an array `inputs`, an .npy, a .csv "
            "for a run on a table, or a .txt for one on lines of text"
        )
    run_dir, source, *flags = arguments
    options = parse(PredictOptions, flags, "jaxnets predict RUN FILE")
    if options.output and not options.output.endswith(".npz"):
        raise UsageError(f"--output is an .npz file, got {options.output!r}")
    if options.output and not os.path.isdir(user_path(options.output).absolute().parent):
        raise UsageError(f"--output is in a folder that is not there, {options.output!r}; make it first")
    import numpy as np

    from jaxnets.data.given import read_given
    from jaxnets.runs.train import open_run

    trained = open_run(run_dir)
    given = read_given(user_path(source), trained.parts.dataset.preparation)
    found = trained.outputs(given) if options.raw else trained.predict(given)
    card = trained.parts.dataset.card
    names = card.class_names
    if options.output:
        try:
            with replacing(user_path(options.output)) as file:
                np.savez(file, predictions=found)
        except OSError as error:
            raise DataError(f"cannot write {options.output} ({error}); choose another place") from error
        print(f"{len(found)} predictions in {options.output}", file=sys.stderr)
        return 0
    if card.target_kind == "sequence" and card.tokens and not options.raw:
        from jaxnets.ops.tokens import spell

        print("\n".join(spell(row, names, card.tokens.unit) for row in found))
        return 0
    for row in found:
        named = (
            names[int(row)]
            if names and not options.raw and np.ndim(row) == 0
            else " ".join(f"{v:.6g}" for v in np.ravel(row))
        )
        print(named)
    return 0
