"""Renamed keys and fields: files of older versions are read with the names of this one."""

from collections.abc import Mapping
from typing import Any

# Keys of what a checkpoint's manifest keeps for the host.
HOST = {"owed": "pending"}
# Fields of the classes in a saved configuration: class -> old name -> new name.
TOKENS = {"vocabulary": "vocab_size", "source_vocabulary": "source_vocab_size"}
ATTENTION = {
    "key_heads": "kv_heads",
    "head_width": "head_dim",
    "hidden": "mlp_dim",
    "rotary_base": "rope_theta",
    "rotary_pairs": "rope_pairs",
    "rotary_scaling": "rope_scaling",
    "normalise_queries": "qk_norm",
}
FIELDS: dict[str, dict[str, str]] = {
    "LanguageModel": TOKENS | ATTENTION,
    "HybridLanguageModel": TOKENS | ATTENTION,
    "TransformerEncoder": TOKENS | ATTENTION,
    "Seq2SeqTransformer": TOKENS | ATTENTION,
    "ViT": ATTENTION,
    "RNN": TOKENS,
}


def renamed(data: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """`data` with old keys replaced by new ones."""
    return {names.get(key, key): value for key, value in data.items()}


def with_new_fields(data: Any) -> Any:
    """A saved configuration (nested dicts, each with the name of its class under "type") with today's field names."""
    if isinstance(data, list):
        return [with_new_fields(item) for item in data]
    if not isinstance(data, dict):
        return data
    kind = data.get("type")
    names = FIELDS.get(kind, {}) if isinstance(kind, str) else {}
    return {key: with_new_fields(value) for key, value in renamed(data, names).items()}
