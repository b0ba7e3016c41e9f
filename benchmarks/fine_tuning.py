"""Fine-tunes a GPT-2 folder of Hugging Face on Shakespeare: all weights, the last block alone, and low-rank adapters.

`--folder` names a folder with GPT-2 weights and tokenizer files. Without it a small GPT-2 over bytes is made by transformers
and trained on web pages first. Frozen leaves are compared bit for bit, and the merged model is read back by transformers.
"""

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

import jaxnets
from jaxnets.core.download import locate
from jaxnets.data.sources.text import Text
from jaxnets.interop import export_language_model, language_model_from
from jaxnets.models import LoRA
from jaxnets.optim import AdamW
from jaxnets.tasks import NextToken

WAYS = {
    "full": (None, 5e-4),
    "last block": (r"(block_{last}|final_norm)/.*", 1e-3),
    "LoRA, rank 8": (r".*/lora_.*", 5e-3),
}


def options(steps, rate=1e-3):
    return {"steps": steps, "batch_size": 16, "optimizer": AdamW(rate), "progress": "none", "eval_every": steps}


def text(path, tokens, length):
    """The text, measured on 512 windows of its test part."""
    data = Text(str(path), length=length, tokens=tokens).open()
    return dataclasses.replace(data, test={name: array[:512] for name, array in data.test.items()})


def made(folder, steps):
    """A small GPT-2 of transformers, trained on web pages, as a folder."""
    import transformers

    pages = text(locate("text/c4_sample_train.txt.gz"), "bytes", 64)
    config = transformers.GPT2Config(
        vocab_size=len(pages.card.class_names), n_positions=128, n_embd=128, n_layer=4, n_head=4
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder / "random")
    model, variables = language_model_from(folder / "random")
    run = jaxnets.fit(NextToken(model=model), pages, initial=variables, **options(steps))
    export_language_model(run.parts.task.model, run.variables, folder / "base")
    return folder / "base"


def paths(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }


def tuned(way, model, variables, data, steps):
    """One row of the table, and the model and its variables without adapters."""
    pattern, rate = WAYS[way]
    pattern = pattern and pattern.format(last=model.layers - 1)
    adapted = LoRA(model, rank=8, at=".*(query|value)") if way.startswith("LoRA") else model
    began = time.perf_counter()
    run = jaxnets.fit(NextToken(model=adapted), data, initial=variables, train_only=pattern, **options(steps, rate))
    seconds = time.perf_counter() - began
    fixed = paths(run.parts.experiment.optimizer.frozen(run.state.params))
    before, after = paths(variables["params"]), paths(run.state.params)
    for path, frozen in fixed.items():
        assert not frozen or np.array_equal(before[path], after[path]), f"{path} has changed"
    trained = sum(after[path].size for path, frozen in fixed.items() if not frozen)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(run.state.opt_state))
    row = f"{run.evaluate()['loss']:.4f} | {seconds:.1f} | {held:,} | {trained:,}"
    task = run.parts.task
    if isinstance(task.model, LoRA):
        return row, task.model.model, task.model.merged(run.variables)
    return row, task.model, run.variables


def difference(model, variables, tokens, folder):
    """The largest difference between our logits and those of transformers, which reads the exported model."""
    import torch
    import transformers

    export_language_model(model, variables, folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = theirs(torch.from_numpy(np.asarray(tokens, np.int64))).logits.numpy()
    return float(np.abs(np.asarray(model.apply(variables, tokens)) - logits).max())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--pretrain", type=int, default=300)
    parser.add_argument("--steps", type=int, default=150)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = given.folder or made(Path(place), given.pretrain)
        data = text("shakespeare", str(given.folder) if given.folder else "bytes", 64)
        model, variables = language_model_from(folder)
        still = jaxnets.fit(NextToken(model=model), data, initial=variables, freeze=".*", **options(1))
        print(
            "| trained | loss before | after | seconds | bytes of optimizer state | parameters trained | logits differ |"
        )
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        for number, way in enumerate(WAYS):
            row, plain, own = tuned(way, model, variables, data, given.steps)
            away = difference(plain, own, data.test["inputs"][:4], Path(place) / f"tuned_{number}")
            print(f"| {way} | {still.evaluate()['loss']:.4f} | {row} | {away:.1e} |", flush=True)
            assert away < 1e-4, f"transformers computes other logits: {away}"


if __name__ == "__main__":
    main()
