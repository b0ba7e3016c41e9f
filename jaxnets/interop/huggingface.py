"""Imports and exports language models as Hugging Face folders: `config.json` and safetensors."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.core.errors import DataError, first_line, note
from jaxnets.core.files import replacing, user_path
from jaxnets.interop.families import CONFIG, FAMILIES, STRETCHED, Family, our_model, read_object
from jaxnets.interop.safetensors import read_safetensors, write_safetensors
from jaxnets.interop.weight_rules import bare_names, is_buffer, load_weights, same_numbers, save_weights
from jaxnets.models.language_model import LanguageModel

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZER = "tokenizer_config.json"


def export_language_model(
    model: LanguageModel, variables: Any, directory: Path | str, *, tokenizer: Any = None
) -> list[str]:
    """Write a folder that `transformers.AutoModelForCausalLM.from_pretrained` reads, with float32 weights.

    Args:
        model: a GPT-2, Llama, Qwen2 or Qwen3 by its fields, with its vocabulary set.
        variables: its parameters.
        directory: a new or empty folder.
        tokenizer: a `data.text.tokenizers.Tokenizer`; its files, if any, are copied into the folder.

    Returns:
        The names of the files.

    Raises:
        DataError: the model is none of these (the message names the fields), or the folder is not empty or not writable.
    """
    kind, family = _family_of(model)
    weights = save_weights(_split_blocks(variables, model), family.table(model.embedding == "tied"))
    named = {name if name.startswith("lm_head.") else family.prefix + name: a for name, a in weights.items()}
    folder = user_path(directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise DataError(f"{folder} holds files already; give a new folder")
        config = {**_their_config(kind, family, model), **_ends(tokenizer)}
        _write_json(folder / CONFIG, config)
        write_safetensors(folder / WEIGHTS, {k: v.astype(np.float32) for k, v in named.items()}, {"format": "pt"})
        for name, path in (tokenizer.files if tokenizer is not None else {}).items():
            shutil.copyfile(path, folder / name)
        reader = {
            "vocab.json": "GPT2Tokenizer",
            "tokenizer.json": "PreTrainedTokenizerFast",
            "vocab.txt": "BertTokenizer",
        }
        for name in reader.keys() & (tokenizer.files.keys() if tokenizer is not None else ()):
            end = tokenizer.special.get("end")
            about = {} if end is None else {"eos_token": tokenizer.symbols[end]}
            about |= {"tokenizer_class": reader[name], "model_max_length": model.length}
            # Entries of the tokenizer's own file take precedence.
            kept = read_object(folder / TOKENIZER) if (folder / TOKENIZER).is_file() else {}
            _write_json(folder / TOKENIZER, {**about, **kept})
    except OSError as error:
        raise DataError(f"cannot write {folder} ({error}); choose another place") from error
    return sorted(path.name for path in folder.iterdir())


def language_model_from(directory: Path | str) -> tuple[LanguageModel, Any]:
    """The model and its variables from a Hugging Face folder: `config.json`, and safetensors in one file or in shards.

    If the configuration ties the output layer to the embedding but the file has a different output layer, the latter is
    used, with a note; transformers does the same since version 5. No code of the folder is run.

    Raises:
        DataError: the architecture or one of its features is not supported, or the weights do not match the configuration;
            the message names each.
    """
    folder = user_path(directory)
    config = read_object(folder / CONFIG)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise DataError(f"{folder / CONFIG} has model_type {kind!r}; supported are {', '.join(FAMILIES)}")
    family, arrays = FAMILIES[kind], _read_weights(folder)
    model = _with_own_head(folder, our_model(folder, kind, family, config), arrays)
    if model.layers > len(arrays):  # checked before anything of that size is built
        raise DataError(f"{folder}: {model.layers} layers are declared, and there are {len(arrays)} arrays in all")
    try:
        like = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))
    except (TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise DataError(f"{folder / CONFIG} declares invalid sizes ({first_line(error)})") from error
    return model, load_weights(arrays, family.table(model.embedding == "tied"), like)


def _with_own_head(folder: Path, model: LanguageModel, arrays: Mapping[str, np.ndarray]) -> LanguageModel:
    """The model, untied if its configuration ties the output layer but its file has a different one."""
    parts = {name.split(".")[-2]: array for full, array in arrays.items() for name in bare_names(full)[-1:]
             if name in ("lm_head.weight", "embed_tokens.weight", "wte.weight")}  # fmt: skip
    head = parts.pop("lm_head", None)
    embedding = next(iter(parts.values()), None)
    if head is None and model.embedding == "untied":
        raise DataError(
            f"{folder} has no lm_head.weight, but {CONFIG} has tie_word_embeddings false: the output layer is missing. "
            f"Get the complete weights, or set tie_word_embeddings to true if the embedding is the output layer"
        )
    if model.embedding == "untied" or head is None or embedding is None or same_numbers(head, embedding):
        return model
    note(
        f"{folder}: tie_word_embeddings is true, but lm_head.weight differs from the embedding; it is used, as in "
        f"transformers 5 (set tie_word_embeddings to false in {CONFIG} to silence this note)"
    )
    return model.clone(embedding="untied")


def _family_of(model: LanguageModel) -> tuple[str, Family]:
    """The architecture of a model; raises `DataError` that names the nearest one and the fields that differ."""
    wrong: dict[str, list[str]] = {}
    for kind, family in FAMILIES.items():
        wrong[kind] = [
            f"{f}={v!r} (not {getattr(model, f)!r})" for f, v in family.fixed.items() if getattr(model, f) != v
        ]
        heads, kv_heads, head_dim = model.attention_shape
        if "kv_heads" not in family.sizes and kv_heads != heads:
            wrong[kind].append(f"kv_heads={heads} (not {kv_heads})")
        if "head_dim" not in family.sizes and head_dim * heads != model.width:
            wrong[kind].append(f"head_dim={model.width // heads} (not {head_dim})")
    nearest = min(wrong, key=lambda kind: len(wrong[kind]))
    if wrong[nearest]:
        raise DataError(
            f"this LanguageModel is none of {', '.join(FAMILIES)}, which their library has; the nearest, {nearest}, "
            f"has {', '.join(wrong[nearest])}. Train a model with these values (`--task.model.FIELD VALUE`), or export the "
            f"plain arrays with `jaxnets ckpt export`"
        )
    if model.vocab_size is None:
        raise DataError("the model's vocabulary is not set; use the model of a run, or LanguageModel(vocab_size=...)")
    return nearest, FAMILIES[nearest]


def _their_config(kind: str, family: Family, model: LanguageModel) -> dict[str, Any]:
    _, kv_heads, head_dim = model.attention_shape
    ours = {
        "kv_heads": kv_heads, "head_dim": head_dim, "mlp_dim": model.mlp_dim or 4 * model.width,
    }  # fmt: skip
    config: dict[str, Any] = {"architectures": [family.architecture], "model_type": kind, "dtype": "float32"}
    config |= {theirs: ours.get(field, getattr(model, field)) for field, theirs in family.sizes.items()}
    config |= {key: values[0] for key, values in family.only.items()}
    config["tie_word_embeddings"] = model.embedding == "tied"
    if model.positions == "rotary":  # rope_parameters for version 5 of the library, rope_theta for older ones
        config["rope_theta"] = model.rope_theta
        config["rope_parameters"] = {"rope_theta": model.rope_theta, "rope_type": "default"}
        if model.rope_scaling is not None:
            scaling = dict(zip(STRETCHED, model.rope_scaling, strict=True)) | {"rope_type": "llama3"}
            config["rope_parameters"] |= scaling
            config["rope_scaling"] = scaling
        config["attention_dropout"] = 0.0
    else:
        config |= {"embd_pdrop": model.dropout, "resid_pdrop": model.dropout, "attn_pdrop": 0.0}
    return config


def _read_weights(folder: Path) -> dict[str, np.ndarray]:
    if (folder / WEIGHTS).is_file():
        return read_safetensors(folder / WEIGHTS)
    if not (folder / INDEX).is_file():
        raise DataError(
            f"{folder} has neither {WEIGHTS} nor {INDEX}; other formats can run code and are not supported: save the model "
            f"with safe_serialization=True"
        )
    where = read_object(folder / INDEX).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(f, str) and f == Path(f).name and f.endswith(".safetensors")
                                              for f in where.values()):  # fmt: skip
        raise DataError(f"{folder / INDEX}: weight_map must map each array name to a .safetensors file in that folder")
    shards = {file: read_safetensors(folder / file) for file in sorted(set(where.values()))}
    missing = [f"{name} in {file}" for name, file in where.items() if name not in shards[file]]
    if missing:
        raise DataError(
            f"{folder / INDEX} names arrays that do not exist: {', '.join(missing[:6])}; download the files again"
        )
    more = [f"{name} in {file}" for file, shard in shards.items() for name in shard
            if where.get(name) != file and not is_buffer(name, shard[name])]  # fmt: skip
    if more:
        raise DataError(
            f"{folder} holds arrays that {INDEX} does not list there: {', '.join(more[:6])}; use an index and files that "
            f"belong together"
        )
    return {name: shards[file][name] for name, file in where.items()}


def _split_blocks(variables: Any, model: LanguageModel) -> Any:
    """Parameters with one subtree per block, also if the blocks are stacked for a scan."""
    params = dict(variables["params"])
    if model.blocks == "scanned":
        stacked = params.pop("blocks")
        params |= {f"block_{i}": jax.tree.map(lambda a, i=i: np.asarray(a)[i], stacked) for i in range(model.layers)}
    return {"params": params}


def _ends(tokenizer: Any) -> dict[str, int | None]:
    special = tokenizer.special if tokenizer is not None else {}
    roles = {"bos_token_id": "begin", "eos_token_id": "end", "pad_token_id": "padding"}
    return {key: special.get(role) for key, role in roles.items()}


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    with replacing(path) as file:
        file.write((json.dumps(data, indent=2, sort_keys=True) + "\n").encode())
