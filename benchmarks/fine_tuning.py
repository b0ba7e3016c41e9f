"""Fine-tuning weights of GPT-2's shape from a Hugging Face folder on Shakespeare: whole, with a frozen body, with LoRA.

    python -m benchmarks.fine_tuning [--folder FOLDER]

Without a folder it makes one first: a model of GPT-2's architecture (two layers, width 64, the whole vocabulary of 50,257) is
trained on books for a while and exported. Needs JAXNETS_DATA for the tokens, and transformers for the check at the end.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnets import LoRA, api
from jaxnets.data import GPT2Tokens
from jaxnets.interop import export_language_model, language_model_from
from jaxnets.models import LanguageModel
from jaxnets.optim import AdamW
from jaxnets.tasks import NextToken

LENGTH, BATCH = 64, 8
OPTIMIZER = AdamW(learning_rate=3e-3)


def trained_on_books(folder: Path, steps: int) -> None:
    """Export a small model of GPT-2's architecture that was trained on books."""
    model = LanguageModel(vocab_size=50_257, layers=2, width=64, heads=4, length=LENGTH)
    data = GPT2Tokens("books", length=LENGTH).open()
    run = api.fit(NextToken(model=model), data, steps=steps, batch_size=BATCH, optimizer=OPTIMIZER, progress="lines")
    export_language_model(model, run.variables, folder, tokenizer=data.tokenizer)


def fine_tuned(folder: Path, steps: int, **options: Any) -> dict[str, Any]:
    """Figures of one way, and the run."""
    model, variables = language_model_from(folder)
    data = GPT2Tokens("shakespeare", length=LENGTH).open()
    begin, task = time.perf_counter(), NextToken(model=model)
    common: dict[str, Any] = {"batch_size": BATCH, "optimizer": OPTIMIZER, "initial": variables, "progress": "none"}
    before = api.fit(task, data, steps=1, **(common | {"optimizer": AdamW(learning_rate=1e-30)})).evaluate()["loss"]
    begin = time.perf_counter()
    run = api.fit(task, data, steps=steps, **common, **options)
    seconds = time.perf_counter() - begin
    flat = dict(jax.tree_util.tree_leaves_with_path(run.state.params))
    given = dict(jax.tree_util.tree_leaves_with_path(variables["params"]))
    same = [path for path, leaf in given.items() if np.array_equal(flat[path], leaf)]
    moved = sum(leaf.size for path, leaf in flat.items() if path not in same)
    state = sum(leaf.nbytes for leaf in jax.tree.leaves(run.state.opt_state))
    row = {
        "loss before": round(before, 4),
        "loss after": round(run.evaluate()["loss"], 4),
        "seconds": round(seconds, 1),
        "bytes of optimizer state": state,
        "parameters trained": moved,
        "arrays with the bits of the folder": f"{len(same)} of {len(given)}",
    }
    return {"row": row, "run": run, "model": model, "data": data}


def largest_difference(made: dict[str, Any], folder: Path) -> float:
    """Export the fine-tuned model, read it with transformers, and compare the logits of one window."""
    import torch
    import transformers

    run, data = made["run"], made["data"]
    export_language_model(made["model"], run.variables, folder, tokenizer=data.tokenizer)
    tokens = data.test["inputs"][:1].astype(np.int64)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(tokens)).logits.numpy()
    ours = np.asarray(made["model"].apply(run.variables, tokens.astype(np.int32)), np.float32)
    return float(np.abs(ours - wanted).max())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", default="", help="a Hugging Face folder of a language model with GPT-2's tokens")
    parser.add_argument("--steps", type=int, default=150)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.folder) if options.folder else Path(scratch) / "gpt2"
        if not options.folder:
            trained_on_books(folder, 2 * options.steps)
        ways: dict[str, dict[str, Any]] = {
            "full": {},
            "frozen body": {"train_only": r"(final_norm|embedding|positions).*"},
            "LoRA": {"lora": LoRA(rank=8, at=r".*(query|key|value|up|down)")},
        }
        for name, way in ways.items():
            made = fine_tuned(folder, options.steps, **way)
            difference = largest_difference(made, Path(scratch) / f"out {name}")
            print(json.dumps({"way": name, **made["row"], "largest difference in transformers": f"{difference:.1e}"}))


if __name__ == "__main__":
    main()
