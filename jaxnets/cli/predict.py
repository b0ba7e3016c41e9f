"""`jaxnets predict`: a trained run's predictions for the examples in a file."""

import csv
import dataclasses
import io
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from jaxnets.cli.flags import parse
from jaxnets.core.errors import DataError, UsageError
from jaxnets.core.files import replacing, user_path

# Endings of --output.
ENDINGS = (".npz", ".csv", ".jsonl")


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """Options of `jaxnets predict`."""

    output: str = ""
    """A file for the predictions: .csv or .jsonl with names and probabilities, or .npz; empty: print them, one a line."""
    raw: bool = False
    """Give the model's raw outputs (for example logits) instead of classes or values."""
    top_k: int = 0
    """Give this many of the most probable classes for each example, with their probabilities."""

    def __post_init__(self) -> None:
        if self.top_k < 0:
            raise ValueError(f"top_k is a number of classes, at least 1; got {self.top_k}")
        if self.top_k and (self.raw or self.output.endswith(".npz")):
            raise ValueError("top_k gives names and probabilities; it goes neither with raw nor with an .npz file")
        if self.output and not self.output.endswith(ENDINGS):
            raise ValueError(f"output is a file that ends in {', '.join(ENDINGS)}; got {self.output!r}")


def run(arguments: Sequence[str]) -> int:
    """`jaxnets predict RUN FILE [flags]`: predictions for the examples in a file (see `data.given.read_given`)."""
    if len(arguments) < 2 or arguments[1].startswith("-"):
        raise UsageError(
            "`jaxnets predict` takes a run directory and a file of inputs: an .npz with an array `inputs`, an .npy, a .csv "
            "for a run on a table, or a .txt for one on lines of text"
        )
    run_dir, source, *flags = arguments
    options = parse(PredictOptions, flags, "jaxnets predict RUN FILE")
    if options.output and not os.path.isdir(user_path(options.output).absolute().parent):
        raise UsageError(f"--output is in a folder that is not there, {options.output!r}; make it first")
    from jaxnets.data.given import read_given
    from jaxnets.runs.open import open_run

    trained = open_run(run_dir)
    given = read_given(user_path(source), trained.parts.dataset.preparation)
    if options.output.endswith(".npz"):
        import numpy as np

        found = trained.outputs(given) if options.raw else trained.predict(given)
        content = io.BytesIO()
        np.savez(content, predictions=found)
        return _write(options.output, content.getvalue(), len(found))
    rows = _rows(trained, given, options)
    if options.output.endswith(".jsonl"):
        lines = (json.dumps({"row": number, **row}, ensure_ascii=False) for number, row in enumerate(rows))
        return _write(options.output, "".join(f"{line}\n" for line in lines).encode(), len(rows))
    if options.output:
        return _write(options.output, _as_csv(rows).encode(), len(rows))
    for row in rows:
        print(_as_line(row))
    return 0


def _rows(trained: Any, given: Any, options: PredictOptions) -> list[dict[str, Any]]:
    """One dict for each example: `prediction`, and `probability` or `top` if available; or `outputs`."""
    import numpy as np

    card, names = trained.parts.dataset.card, trained.class_names
    if options.raw:
        return [{"outputs": np.asarray(row).tolist()} for row in trained.outputs(given)]
    if options.top_k:
        best = trained.top_k(given, options.top_k)
        return [
            {"prediction": row[0][0], "probability": row[0][1], "top": [list(pair) for pair in row]} for row in best
        ]
    found = trained.predict(given)
    if card.target_kind == "sequence" and card.tokens:
        from jaxnets.ops.tokens import spell

        return [{"prediction": spell(row, names, card.tokens.unit)} for row in found]
    if names and found.ndim == 1:
        rows = [{"prediction": names[int(one)]} for one in found]
        if options.output and trained.parts.task.probabilities(np.zeros((1, 2), np.float32)) is not None:
            for row, (best,) in zip(rows, trained.top_k(given, 1), strict=True):
                row["probability"] = best[1]
        return rows
    if names and card.target_kind == "labels":
        return [dict(zip(names, row.tolist(), strict=True)) if options.output else {"prediction": row} for row in found]
    return [{"prediction": row.item() if np.ndim(row) == 0 else row.tolist()} for row in found]


def _as_line(row: dict[str, Any]) -> str:
    """A row as one line of text."""
    import numpy as np

    if "top" in row:
        return "  ".join(f"{name} {probability:.4f}" for name, probability in row["top"])
    value: Any = row.get("prediction", row.get("outputs"))
    return value if isinstance(value, str) else " ".join(f"{v:.6g}" for v in np.ravel(value))


def _as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV: lists become columns with numbers, `top` becomes prediction_2, probability_2, ..."""
    file = io.StringIO()
    flat = [{"row": number, **_flat(row)} for number, row in enumerate(rows)]
    writer = csv.DictWriter(file, list(dict.fromkeys(name for row in flat for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return file.getvalue()


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if name == "top":
            for place, (other, probability) in enumerate(value[1:], start=2):
                flat |= {f"prediction_{place}": other, f"probability_{place}": probability}
        elif isinstance(value, list):
            import numpy as np

            flat |= {f"{name}_{i}": one for i, one in enumerate(np.ravel(value).tolist())}
        else:
            flat[name] = value
    return flat


def _write(output: str, content: bytes, count: int) -> int:
    try:
        with replacing(user_path(output)) as file:
            file.write(content)
    except OSError as error:
        raise DataError(f"cannot write {output} ({error}); choose another place") from error
    print(f"{count} predictions in {output}", file=sys.stderr)
    return 0
