"""Maps the `config.json` of Hugging Face language models to our `LanguageModel`.

`FAMILIES` is the table: for each architecture the names of the sizes, our fixed fields, and the keys of their configuration
with the only values that our model supports. A note names unknown keys, so that nothing of a configuration is silently
ignored.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxnets.core.errors import DataError, first_line, note
from jaxnets.interop.weights import GPT2, Rule, Table, llama
from jaxnets.models.language_model import LanguageModel

CONFIG = "config.json"


@dataclasses.dataclass(frozen=True)
class Family:
    """One Hugging Face architecture."""

    architecture: str
    prefix: str
    """Prefix of their weight names, except the output layer."""
    sizes: Mapping[str, str]
    """Our field -> their key."""
    fixed: Mapping[str, Any]
    """Our fields with a fixed value in this architecture."""
    only: Mapping[str, tuple[Any, ...]]
    """Their key -> the supported values; an export writes the first."""
    absent: Mapping[str, Any]
    """Our field -> their default for a missing size."""
    tied: bool
    """Their default for `tie_word_embeddings`."""

    def table(self, tied: bool) -> Table:
        """The table of weight names."""
        if self.prefix == "transformer.":
            head = Rule("lm_head.weight", "params/output/kernel", np.transpose, np.transpose)
            return GPT2 if tied else [*(rule for rule in GPT2 if rule.name != "lm_head.weight"), head]
        biased, normed = self.fixed["biases"] == "queries", self.fixed["qk_norm"] == "rms"
        return llama(tied=tied, query_biases=biased, query_norms=normed)


def _llama_like(architecture: str, absent: Mapping[str, Any], **changes: Any) -> Family:
    return Family(
        architecture=architecture,
        prefix="model.",
        sizes={
            "vocab_size": "vocab_size", "layers": "num_hidden_layers", "width": "hidden_size",
            "heads": "num_attention_heads", "kv_heads": "num_key_value_heads", "head_dim": "head_dim",
            "mlp_dim": "intermediate_size", "length": "max_position_embeddings", "norm_epsilon": "rms_norm_eps",
        },
        fixed={
            "positions": "rotary", "rope_pairs": "halves", "norm": "rms", "mlp": "swiglu", "biases": "none",
            "qk_norm": "no", **changes,
        },
        only={
            "hidden_act": ("silu",), "mlp_bias": (False,), "use_sliding_window": (False,),
            **({} if changes.get("biases") else {"attention_bias": (False,)}),
        },
        absent={"norm_epsilon": 1e-6, **absent},
        tied=False,
    )  # fmt: skip


FAMILIES = {
    "gpt2": Family(
        architecture="GPT2LMHeadModel",
        prefix="transformer.",
        sizes={
            "vocab_size": "vocab_size", "layers": "n_layer", "width": "n_embd", "heads": "n_head", "mlp_dim": "n_inner",
            "length": "n_positions", "norm_epsilon": "layer_norm_epsilon",
        },
        fixed={"positions": "learned", "norm": "layer", "mlp": "gelu", "biases": "all", "qk_norm": "no"},
        only={
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"), "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,), "add_cross_attention": (False,),
        },
        absent={"norm_epsilon": 1e-5},
        tied=True,
    ),
    "llama": _llama_like("LlamaForCausalLM", {}),
    "qwen2": _llama_like("Qwen2ForCausalLM", {"kv_heads": 32}, biases="queries"),
    "qwen3": _llama_like("Qwen3ForCausalLM", {"kv_heads": 32, "head_dim": 128}, qk_norm="rms"),
}  # fmt: skip
# The parameters of Llama 3's rotary scaling, the only one that our model has, in our order.
STRETCHED = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
# Sizes that are derived from others if a configuration has null or no key.
OPTIONAL = ("kv_heads", "head_dim", "mlp_dim")
# Keys of other architectures -> the values that have no effect; any other value raises.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "quantization_config": (None,),
    "partial_rotary_factor": (None, 1, 1.0), "rotary_pct": (None, 1, 1.0),
    "embedding_multiplier": (None, 1, 1.0), "residual_multiplier": (None, 1, 1.0), "attention_multiplier": (None,),
    "logits_scaling": (None, 1, 1.0), "logit_scale": (None, 1, 1.0), "scale_emb": (None, 1, 1.0),
    "query_pre_attn_scalar": (None,),
    "final_logit_softcapping": (None,), "attn_logit_softcapping": (None,), "clip_qkv": (None,),
    "qk_layernorm": (None, False), "use_qk_norm": (None, False), "qkv_bias": (None, False),
    "use_parallel_residual": (None, False),
    "num_experts": (None, 0), "num_local_experts": (None, 0), "no_rope_layers": (None, []),
    "no_rope_layer_interval": (None, 0),
    "is_encoder_decoder": (None, False), "embedding_size": (None,),
}  # fmt: skip
# Keys that do not change the logits: names, special tokens, dropout and other training settings, and keys handled elsewhere.
HARMLESS = frozenset((
    "architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "_name_or_path", "name_or_path",
    "auto_map", "tokenizer_class", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id",
    "decoder_start_token_id", "use_cache", "initializer_range", "pretraining_tp", "attention_dropout", "embd_pdrop",
    "resid_pdrop", "attn_pdrop", "hidden_dropout", "summary_type", "summary_use_proj", "summary_activation",
    "summary_proj_to_labels", "summary_first_dropout", "task_specific_params", "n_ctx", "reorder_and_upcast_attn",
    "id2label", "label2id", "problem_type", "output_attentions", "output_hidden_states", "return_dict", "use_return_dict",
    "is_decoder", "chunk_size_feed_forward", "gradient_checkpointing", "_attn_implementation", "attn_implementation",
    "_attn_implementation_autoset", "max_window_layers", "sliding_window", "layer_types", "rope_theta", "rope_scaling",
    "rope_parameters", "tie_word_embeddings", "unsloth_version", "unsloth_fixed", "max_length", "min_length",
    "temperature", "top_k", "top_p", "do_sample", "num_beams", "repetition_penalty", "length_penalty", "prefix",
))  # fmt: skip


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file; raises `DataError` if it is missing or damaged."""
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"there is no {path}; give a folder written by the Hugging Face library") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({first_line(error)})") from error
    if not isinstance(data, dict):
        raise DataError(f"{path} holds {type(data).__name__}, expected an object")
    return data


def our_model(folder: Path, kind: str, family: Family, config: Mapping[str, Any]) -> LanguageModel:
    """Our model for one of their configurations; raises `DataError` for features that our model does not have."""
    path = folder / CONFIG
    for key, values in {**NEUTRAL, **family.only}.items():
        if config.get(key, values[0]) not in values:
            raise DataError(f"{path}: {key} is {repr(config[key])[:200]}, but our {kind} supports only {values[0]!r}")
    unknown = config.keys() - HARMLESS - NEUTRAL.keys() - family.only.keys() - set(family.sizes.values())
    unknown |= {"sliding_window"} & config.keys() if kind == "llama" else set()
    ignored = sorted(key for key in unknown if config[key] not in (None, False, "", [], {}))
    if ignored:
        note(
            f"{path} has unknown keys, which are ignored: {', '.join(ignored[:8])}; if the original model uses them, its "
            f"logits differ"
        )
    layers = config.get("layer_types") or []
    if not isinstance(layers, list) or any(layer != "full_attention" for layer in layers):
        raise DataError(f"{path}: layer_types are {str(layers)[:200]}, but our model supports only full_attention")
    sizes: dict[str, Any] = {}
    for field, key in family.sizes.items():
        value = config.get(key, family.absent.get(field))
        if value is None and field not in OPTIONAL:
            raise DataError(f"{path} has no {key}; use the configuration that belongs to the weights")
        wanted = (int, float) if field == "norm_epsilon" else int
        if value is not None and (isinstance(value, bool) or not isinstance(value, wanted) or not 0 < value < 2**31):
            raise DataError(f"{path}: {key} is {value!r}, expected a positive number")
        sizes[field] = value
    if kind != "gpt2":
        sizes["rope_theta"], sizes["rope_scaling"] = _rotary(path, config)
    tied = config.get("tie_word_embeddings", family.tied)
    if not isinstance(tied, bool):
        raise DataError(f"{path}: tie_word_embeddings is {str(tied)[:50]!r}, expected true or false")
    try:
        return LanguageModel(**sizes, **family.fixed, embedding="tied" if tied else "untied")
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: {first_line(error)}") from error


def _rotary(path: Path, config: Mapping[str, Any]) -> tuple[float, Any]:
    """Base and scaling of the rotary positions, from the library's new or old form."""
    new, old = config.get("rope_parameters") or {}, config.get("rope_scaling") or {}
    rope = new or old
    kinds = [
        form.get("rope_type", form.get("type", "default")) if isinstance(form, dict) else "?" for form in (rope, old)
    ]
    if kinds[0] not in ("default", "llama3"):
        raise DataError(
            f"{path}: rotary positions are rescaled ({str(rope)[:200]}), which our model does not support; logits would differ"
        )
    if rope.get("partial_rotary_factor", 1) != 1:
        raise DataError(
            f"{path}: partial_rotary_factor is {rope['partial_rotary_factor']}, but our model rotates the whole head"
        )
    doubled = {**config, **old} if old and kinds[0] == kinds[1] else config
    if (old and kinds[0] != kinds[1]) or any(
        doubled.get(key, value) != value for key, value in new.items() if key != "type"
    ):
        raise DataError(
            f"{path}: rope_parameters and rope_scaling or rope_theta contradict each other ({str(new)[:150]}, "
            f"{str(old)[:150]}, {config.get('rope_theta')}); remove those that are wrong"
        )
    kind = kinds[0]
    numbers = [rope.get("rope_theta", config.get("rope_theta", 10_000.0))]
    numbers += [rope.get(key) for key in STRETCHED] if kind == "llama3" else []
    if any(isinstance(n, bool) or not isinstance(n, int | float) or not 0 < n < 1e30 for n in numbers):
        raise DataError(
            f"{path}: rope_theta and the llama3 parameters must be positive numbers, got {str(numbers)[:200]}"
        )
    base, *scaling = map(float, numbers)
    return base, tuple(scaling) or None
