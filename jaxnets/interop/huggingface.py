"""Language models as folders of the Hugging Face library: `config.json` and safetensors, in and out.

Which of our models is which of theirs is one table: the names of the sizes, the choices that are fixed, and the keys of
their configuration that may have one value only, because any other is something that our model does not compute.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.errors import DataError, first_line
from jaxnets.files import replacing, user_path
from jaxnets.interop.safetensors import read_safetensors, write_safetensors
from jaxnets.interop.weights import GPT2, Rule, Table, llama, load_weights, save_weights
from jaxnets.models.language_model import LanguageModel

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"


@dataclasses.dataclass(frozen=True)
class Family:
    """One architecture of theirs."""

    architecture: str
    prefix: str
    """What their names begin with, save the output layer's."""
    sizes: Mapping[str, str]
    """Field of ours -> key of theirs."""
    fixed: Mapping[str, Any]
    """Fields of ours that have one value in this architecture."""
    only: Mapping[str, tuple[Any, ...]]
    """Keys of theirs -> the values that mean what ours computes; the first is written."""
    tied: bool
    """What a configuration means that does not say whether the output layer is the embedding's transpose."""

    def table(self, tied: bool) -> Table:
        """The names of the weights."""
        if self.prefix == "transformer.":
            head = Rule("lm_head.weight", "params/output/kernel", np.transpose, np.transpose)
            return GPT2 if tied else [*(rule for rule in GPT2 if rule.name != "lm_head.weight"), head]
        biased, normed = self.fixed["biases"] == "queries", self.fixed["normalise_queries"] == "rms"
        return llama(tied=tied, query_biases=biased, query_norms=normed)


def _llama_like(architecture: str, **changes: Any) -> Family:
    return Family(
        architecture=architecture,
        prefix="model.",
        sizes={
            "vocabulary": "vocab_size", "layers": "num_hidden_layers", "width": "hidden_size",
            "heads": "num_attention_heads", "key_heads": "num_key_value_heads", "head_width": "head_dim",
            "hidden": "intermediate_size", "length": "max_position_embeddings", "norm_epsilon": "rms_norm_eps",
        },
        fixed={
            "positions": "rotary", "rotary_pairs": "halves", "norm": "rms", "mlp": "swiglu", "biases": "none",
            "normalise_queries": "no", **changes,
        },
        only={
            "hidden_act": ("silu",), "mlp_bias": (False,), "use_sliding_window": (False,),
            **({} if changes.get("biases") else {"attention_bias": (False,)}),
        },
        tied=False,
    )  # fmt: skip


FAMILIES = {
    "gpt2": Family(
        architecture="GPT2LMHeadModel",
        prefix="transformer.",
        sizes={
            "vocabulary": "vocab_size", "layers": "n_layer", "width": "n_embd", "heads": "n_head", "hidden": "n_inner",
            "length": "n_positions", "norm_epsilon": "layer_norm_epsilon",
        },
        fixed={"positions": "learned", "norm": "layer", "mlp": "gelu", "biases": "all", "normalise_queries": "no"},
        only={
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"), "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,), "add_cross_attention": (False,),
        },
        tied=True,
    ),
    "llama": _llama_like("LlamaForCausalLM"),
    "qwen2": _llama_like("Qwen2ForCausalLM", biases="queries"),
    "qwen3": _llama_like("Qwen3ForCausalLM", normalise_queries="rms"),
}  # fmt: skip
# The numbers of the one stretching of rotary positions that ours has too, in our order.
STRETCHED = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
# What a size means that a configuration leaves out.
DEFAULTS = {"key_heads": None, "head_width": None, "norm_epsilon": 1e-6}
GPT2_DEFAULTS = {"hidden": None, "norm_epsilon": 1e-5}


def export_language_model(
    model: LanguageModel, variables: Any, directory: Path | str, *, tokenizer: Any = None
) -> list[str]:
    """Write a folder that `transformers.AutoModelForCausalLM.from_pretrained` reads, weights in float32.

    Args:
        model: a GPT-2, Llama, Qwen2 or Qwen3 by its fields, with its vocabulary set.
        variables: its parameters.
        directory: a folder that is not there yet, or empty.
        tokenizer: a `data.tokenizers.Tokenizer`; its files, where it has any, are put beside.

    Returns:
        The names of the files.

    Raises:
        DataError: a model that is none of them (the fields are named), or a folder that cannot be taken.
    """
    kind, family = _family_of(model)
    weights = save_weights(_split_blocks(variables, model), family.table(model.embedding == "tied"))
    named = {name if name.startswith("lm_head.") else family.prefix + name: a for name, a in weights.items()}
    folder = user_path(directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise DataError(f"{folder} holds files already; give a folder that is not there yet")
        config = {**_their_config(kind, family, model), **_ends(tokenizer)}
        _write_json(folder / CONFIG, config)
        write_safetensors(folder / WEIGHTS, {k: v.astype(np.float32) for k, v in named.items()}, {"format": "pt"})
        for name, path in (tokenizer.files if tokenizer is not None else {}).items():
            shutil.copyfile(path, folder / name)
        reader = {"vocab.json": "GPT2Tokenizer", "tokenizer.json": "PreTrainedTokenizerFast"}
        for name in reader.keys() & (tokenizer.files.keys() if tokenizer is not None else ()):
            end = tokenizer.special.get("end")
            about = {} if end is None else {"eos_token": tokenizer.symbols[end]}
            about |= {"tokenizer_class": reader[name], "model_max_length": model.length}
            _write_json(folder / "tokenizer_config.json", about)
    except OSError as error:
        raise DataError(f"cannot write {folder} ({error}); choose another place") from error
    return sorted(path.name for path in folder.iterdir())


def language_model_from(directory: Path | str) -> tuple[LanguageModel, Any]:
    """The model and its variables from a folder of theirs: `config.json`, and safetensors in one file or in shards.

    Raises:
        DataError: another architecture, something that our model does not compute, or weights that are not as the
            configuration says; each is named. Nothing of the folder is ever run.
    """
    folder = user_path(directory)
    config = _read_json(folder / CONFIG)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise DataError(f"{folder / CONFIG} is of a {kind!r}; what can be read are {', '.join(FAMILIES)}")
    family, arrays = FAMILIES[kind], _read_weights(folder)
    model = _our_model(folder, kind, family, config)
    if model.layers > len(arrays):  # before anything is built of that size
        raise DataError(f"{folder}: {model.layers} layers are declared, and there are {len(arrays)} arrays in all")
    try:
        like = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))
    except (TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise DataError(f"{folder / CONFIG} declares sizes that no model has ({first_line(error)})") from error
    return model, load_weights(arrays, family.table(model.embedding == "tied"), like, prefixes=("", family.prefix))


def _family_of(model: LanguageModel) -> tuple[str, Family]:
    """Which of their architectures a model is; raises `DataError` with what keeps it from being the nearest."""
    wrong: dict[str, list[str]] = {}
    for kind, family in FAMILIES.items():
        wrong[kind] = [
            f"{f}={v!r} (not {getattr(model, f)!r})" for f, v in family.fixed.items() if getattr(model, f) != v
        ]
        heads, key_heads, head_width = model.attention_shape
        if "key_heads" not in family.sizes and key_heads != heads:
            wrong[kind].append(f"key_heads={heads} (not {key_heads})")
        if "head_width" not in family.sizes and head_width * heads != model.width:
            wrong[kind].append(f"head_width={model.width // heads} (not {head_width})")
    nearest = min(wrong, key=lambda kind: len(wrong[kind]))
    if wrong[nearest]:
        raise DataError(
            f"this LanguageModel is none of {', '.join(FAMILIES)}, which is what their library has; the nearest, {nearest}, "
            f"has {', '.join(wrong[nearest])}. Train one with these fields set so (`--task.model.FIELD VALUE`), or take the "
            f"arrays as they are by `jaxnets ckpt export`"
        )
    if model.vocabulary is None:
        raise DataError(
            "the model's vocabulary is not set; take the model of a run, or say LanguageModel(vocabulary=...)"
        )
    return nearest, FAMILIES[nearest]


def _their_config(kind: str, family: Family, model: LanguageModel) -> dict[str, Any]:
    _, key_heads, head_width = model.attention_shape
    ours = {
        "key_heads": key_heads, "head_width": head_width, "hidden": model.hidden or 4 * model.width,
    }  # fmt: skip
    config: dict[str, Any] = {"architectures": [family.architecture], "model_type": kind, "dtype": "float32"}
    config |= {theirs: ours.get(field, getattr(model, field)) for field, theirs in family.sizes.items()}
    config |= {key: values[0] for key, values in family.only.items()}
    config["tie_word_embeddings"] = model.embedding == "tied"
    if model.positions == "rotary":  # the second for the library's fifth version, the first for those before
        config["rope_theta"] = model.rotary_base
        config["rope_parameters"] = {"rope_theta": model.rotary_base, "rope_type": "default"}
        if model.rotary_scaling is not None:
            scaling = dict(zip(STRETCHED, model.rotary_scaling, strict=True)) | {"rope_type": "llama3"}
            config["rope_parameters"] |= scaling
            config["rope_scaling"] = scaling
        config["attention_dropout"] = 0.0
    else:
        config |= {"embd_pdrop": model.dropout, "resid_pdrop": model.dropout, "attn_pdrop": 0.0}
    return config


def _our_model(folder: Path, kind: str, family: Family, config: Mapping[str, Any]) -> LanguageModel:
    path = folder / CONFIG
    for key, values in {**family.only, "quantization_config": (None,)}.items():
        if config.get(key, values[0]) not in values:
            raise DataError(f"{path}: {key} is {config[key]!r}, and our {kind} has {values[0]!r} only")
    layers = config.get("layer_types") or []
    if not isinstance(layers, list) or any(layer != "full_attention" for layer in layers):
        raise DataError(f"{path}: layer_types are {str(layers)[:200]}, and ours is full_attention only")
    defaults = GPT2_DEFAULTS if kind == "gpt2" else DEFAULTS
    sizes: dict[str, Any] = {}
    for field, key in family.sizes.items():
        value = config.get(key)
        if value is None and field not in defaults:
            raise DataError(f"{path} does not say {key}; take the configuration that goes with the weights")
        value = defaults[field] if value is None else value
        wanted = (int, float) if field == "norm_epsilon" else int
        if value is not None and (isinstance(value, bool) or not isinstance(value, wanted) or not 0 < value < 2**31):
            raise DataError(f"{path}: {key} is {value!r}, expected a positive number")
        sizes[field] = value
    if kind != "gpt2":
        sizes["rotary_base"], sizes["rotary_scaling"] = _rotary(path, config)
    tied = config.get("tie_word_embeddings", family.tied)
    try:
        return LanguageModel(**sizes, **family.fixed, embedding="tied" if tied else "untied")
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: {first_line(error)}") from error


def _rotary(path: Path, config: Mapping[str, Any]) -> tuple[float, Any]:
    """Base and stretching of the rotary positions, from either of the forms that the library has had."""
    said = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = said.get("rope_type", said.get("type", "default")) if isinstance(said, dict) else "?"
    if kind not in ("default", "llama3"):
        raise DataError(
            f"{path}: rotary positions are rescaled ({str(said)[:200]}), which ours are not; logits would differ"
        )
    numbers = [said.get("rope_theta", config.get("rope_theta", 10_000.0))]
    numbers += [said.get(key) for key in STRETCHED] if kind == "llama3" else []
    if any(isinstance(n, bool) or not isinstance(n, int | float) or not 0 < n < 1e30 for n in numbers):
        raise DataError(f"{path}: rope_theta and the numbers of llama3 are positive, got {str(numbers)[:200]}")
    base, *scaling = map(float, numbers)
    return base, tuple(scaling) or None


def _read_weights(folder: Path) -> dict[str, np.ndarray]:
    if (folder / WEIGHTS).is_file():
        return read_safetensors(folder / WEIGHTS)
    if not (folder / INDEX).is_file():
        raise DataError(
            f"{folder} has neither {WEIGHTS} nor {INDEX}; other formats can run code and are not read: save the model with "
            f"safe_serialization=True"
        )
    where = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(f, str) and f == Path(f).name and f.endswith(".safetensors")
                                              for f in where.values()):  # fmt: skip
        raise DataError(f"{folder / INDEX}: weight_map names arrays and, for each, a .safetensors file beside it")
    shards = {file: read_safetensors(folder / file) for file in sorted(set(where.values()))}
    missing = [f"{name} in {file}" for name, file in where.items() if name not in shards[file]]
    if missing:
        raise DataError(
            f"{folder / INDEX} names arrays that are not there: {', '.join(missing[:6])}; fetch the files again"
        )
    return {name: array for shard in shards.values() for name, array in shard.items()}


def _split_blocks(variables: Any, model: LanguageModel) -> Any:
    """Parameters with a block for each layer, also where they are stacked for a loop."""
    params = dict(variables["params"])
    if model.blocks == "scanned":
        stacked = params.pop("blocks")
        params |= {f"block_{i}": jax.tree.map(lambda a, i=i: np.asarray(a)[i], stacked) for i in range(model.layers)}
    return {"params": params}


def _ends(tokenizer: Any) -> dict[str, int | None]:
    special = tokenizer.special if tokenizer is not None else {}
    roles = {"bos_token_id": "begin", "eos_token_id": "end", "pad_token_id": "padding"}
    return {key: special.get(role) for key, role in roles.items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"there is no {path}; give a folder that the Hugging Face library wrote") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({first_line(error)})") from error
    if not isinstance(data, dict):
        raise DataError(f"{path} holds {type(data).__name__}, expected an object")
    return data


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    with replacing(path) as file:
        file.write((json.dumps(data, indent=2, sort_keys=True) + "\n").encode())
