"""Weights of other libraries as people have them: what transformers makes of the same folder, or a refusal by name."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxnets.core.errors import DataError, DataWarning
from jaxnets.interop import GPT2, export_language_model, language_model_from, llama, load_weights, save_weights
from jaxnets.interop.safetensors import read_safetensors, write_safetensors
from jaxnets.models import LanguageModel

LLAMA = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "biases": "none", "mlp_dim": 20, "kv_heads": 1}
BASE = {"vocab_size": 19, "layers": 1, "width": 12, "heads": 2, "length": 16}
KINDS = {
    "gpt2": BASE,
    "llama": {**BASE, **LLAMA},
    "qwen2": {**BASE, **LLAMA, "biases": "queries"},
    "qwen3": {**BASE, **LLAMA, "qk_norm": "rms"},
}
TOKENS = np.random.default_rng(0).integers(0, 19, (2, 9)).astype(np.int32)


def made(kind, **changes):
    model = LanguageModel(**{**KINDS[kind], **changes})
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.asarray(TOKENS)))
    rng = np.random.default_rng(1)
    return model, jax.tree.map(lambda leaf: rng.normal(0.1, 0.3, leaf.shape).astype(np.float32), shapes), shapes


@pytest.fixture
def exported(tmp_path):
    """A function that writes a folder of a kind and changes its arrays and its configuration."""

    def write(kind, *, arrays=None, config=None, **changes):
        model, variables, _ = made(kind, **changes)
        folder = tmp_path / kind
        export_language_model(model, variables, folder)
        held = {name: np.array(array) for name, array in read_safetensors(folder / "model.safetensors").items()}
        if arrays is not None:
            arrays(held)
            write_safetensors(folder / "model.safetensors", held, {"format": "pt"})
        about = json.loads((folder / "config.json").read_text())
        for key, value in (config or {}).items():
            about.pop(key, None)
            about |= {} if value is ... else {key: value}
        (folder / "config.json").write_text(json.dumps(about))
        return folder

    return write


def their_logits(folder):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    with torch.no_grad():
        return theirs.eval()(torch.tensor(TOKENS).long()).logits.numpy()


def our_logits(folder):
    model, variables = language_model_from(folder)
    return model.apply(variables, TOKENS)


def add_head(name, numbers):
    def change(held):
        embedding = next(array for key, array in held.items() if key.endswith(("embed_tokens.weight", "wte.weight")))
        rng = np.random.default_rng(5)
        held[name] = {
            "own": rng.normal(size=embedding.shape).astype(np.float32), "equal": embedding.copy(),
        }[numbers]  # fmt: skip

    return change


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("numbers", ["own", "equal"])
def test_a_head_beside_a_tied_embedding_is_used_as_in_transformers(exported, kind, numbers):
    folder = exported(kind, arrays=add_head("lm_head.weight", numbers))
    if numbers == "own":
        with pytest.warns(DataWarning, match="lm_head.weight differs from the embedding; it is used"):
            ours = our_logits(folder)
    else:
        ours = our_logits(folder)
    np.testing.assert_allclose(ours, their_logits(folder), atol=1e-4)


@pytest.mark.slow
def test_a_tied_head_stands_for_a_missing_embedding_and_a_missing_head_is_refused(exported):
    def swap(held):
        held["lm_head.weight"] = held.pop("model.embed_tokens.weight")

    folder = exported("llama", arrays=swap)
    np.testing.assert_allclose(our_logits(folder), their_logits(folder), atol=1e-4)
    (folder / "config.json").write_text(
        json.dumps({**json.loads((folder / "config.json").read_text()), "tie_word_embeddings": False})
    )
    with pytest.raises(DataError, match="leaves without an array: params/embedding"):
        language_model_from(folder)
    other = exported("qwen2", config={"tie_word_embeddings": False})
    with pytest.raises(DataError, match="has no lm_head.weight, but config.json has tie_word_embeddings false"):
        language_model_from(other)


@pytest.mark.parametrize("table", ["gpt2", "llama", "mixtral"])
def test_a_table_for_tied_weights_refuses_a_separate_head(table):
    kind = "gpt2" if table == "gpt2" else "llama"
    model, variables, like = made(kind)
    rules = {"gpt2": GPT2, "llama": llama(tied=True), "mixtral": llama(tied=True, experts=True)}[table]
    if table == "mixtral":
        from jaxnets.models import Experts

        model = model.clone(experts=Experts(count=2))
        like = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.asarray(TOKENS)))
        variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), like)
    held = save_weights(variables, rules)
    with pytest.raises(DataError, match=r"lm_head.weight differs from .*embedding='untied'"):
        load_weights({**held, "lm_head.weight": np.zeros((19, 12), np.float32)}, rules, like)


def rotary_buffers(held):
    held["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(3, np.float32)
    held["model.layers.0.self_attn.rotary_emb.cos_cached"] = np.ones((1, 1, 16, 6), np.float32)
    held["model.rotary_emb.inv_freq"] = np.ones(3, np.float32)


def masks(held):
    held["transformer.h.0.attn.bias"] = np.tri(16, dtype=bool)[None, None]
    held["transformer.h.0.attn.masked_bias"] = np.float32(-1e4)


@pytest.mark.parametrize(("kind", "change"), [("llama", rotary_buffers), ("qwen3", rotary_buffers), ("gpt2", masks)])
def test_known_buffers_are_left_out(exported, kind, change):
    folder = exported(kind, arrays=change)
    model, variables, _ = made(kind)
    np.testing.assert_allclose(our_logits(folder), model.apply(variables, TOKENS), atol=1e-5)


def put(name, value):
    return lambda held: held.update({name: value})


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("llama", put("model.layers.0.self_attn.q_proj.bias", np.ones(12, np.float32)), "does not have|are not in the table"),
        ("llama", put("score.weight", np.ones((2, 12), np.float32)), "names that are not in the table: score.weight"),
        ("llama", put("model.layers.0.self_attn.q_proj.lora_A.weight", np.ones((2, 12), np.float32)), "are not in the table"),
        ("gpt2", put("transformer.h.0.attn.bias", np.ones(12, np.float32)), "are not in the table: transformer.h.0.attn.bias"),
        ("llama", put("embed_tokens.weight", np.ones((19, 12), np.float32)), "two names for one array: .*embed_tokens"),
        ("llama", put("model.norm.weight", np.ones(12, np.int8)), r"are not floats \(quantised\?\): .*final_norm/scale: int8"),
        ("llama", put("model.embed_tokens.weight", np.ones((24, 12), np.float32)), r"\(24, 12\) there, \(19, 12\) here"),
        ("llama", put("model.layers.0.mlp.down_proj.weight", np.ones((20, 12), np.float32)), r"\(12, 20\) there"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_arrays_without_a_parameter_are_refused_by_name(exported, kind, change, message):
    with pytest.raises(DataError, match=message):
        language_model_from(exported(kind, arrays=change))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_half_precision_weights_are_taken_to_the_last_bit(exported, kind, dtype):
    def narrow(held):
        held.update({name: array.astype(dtype) for name, array in held.items()})

    folder = exported(kind, arrays=narrow, config={"torch_dtype": np.dtype(dtype).name})
    np.testing.assert_allclose(our_logits(folder), their_logits(folder), atol=1e-4)


def test_prefixes_of_wrappers_are_removed_from_names():
    _, variables, like = made("llama", embedding="untied")
    table = llama(tied=False)
    held = save_weights(variables, table)
    layer = "layers.0."
    for rename in (
        lambda n: f"module.{n}",
        lambda n: f"_orig_mod.{n}",
        lambda n: f"module._orig_mod.model.{n}",
        lambda n: f"_orig_mod.module.{n}",
        lambda n: n.replace(layer, f"{layer}_orig_mod."),
        lambda n: n if n.startswith("lm_head") else f"model.{n}",
    ):
        back = load_weights({rename(name): array for name, array in held.items()}, table, like)
        assert all(map(np.array_equal, jax.tree.leaves(back), jax.tree.leaves(variables)))
    with pytest.raises(DataError, match=r"names that are not in the table: net\."):
        load_weights({f"net.{name}": array for name, array in held.items()}, table, like)
    with pytest.raises(DataError, match="two names for one array: norm.weight and module.norm.weight"):
        load_weights({**held, "module.norm.weight": held["norm.weight"]}, table, like)
    short = {f"module.{name}": array for name, array in held.items() if "mlp" not in name}
    with pytest.raises(DataError, match="leaves without an array"):
        load_weights(short, table, like)


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("llama", {"logits_scaling": 8.0}, "logits_scaling is 8.0"),
        ("llama", {"embedding_multiplier": 12}, "embedding_multiplier is 12"),
        ("qwen2", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5}},
         "partial_rotary_factor is 0.5"),
        ("llama", {"mlp_bias": True}, "mlp_bias is True"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("qwen3", {"attention_bias": True}, "attention_bias is True"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "contradict each other"),
        ("llama", {"rope_theta": 5e5}, "contradict each other"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rotary positions are rescaled"),
        ("llama", {"rope_parameters": {"rope_type": "longrope", "factor": 2.0}}, "rotary positions are rescaled"),
        ("llama", {"num_local_experts": 8}, "num_local_experts is 8"),
        ("llama", {"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
        ("llama", {"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false', expected true or false"),
        ("llama", {"model_type": "granite"}, "has model_type 'granite'; supported are"),
        ("llama", {"model_type": "gemma"}, "has model_type 'gemma'; supported are"),
        ("qwen3", {"head_dim": ...}, r"params/block_0/\w+.* there"),
    ],
)  # fmt: skip
def test_keys_that_would_change_the_computation_are_refused_by_name(exported, kind, config, message):
    with pytest.raises(DataError, match=message):
        language_model_from(exported(kind, config=config))


def test_unknown_keys_are_noted_and_harmless_ones_are_not(exported, recwarn):
    harmless = {"pretraining_tp": 1, "attention_dropout": 0.1, "use_cache": True, "eos_token_id": [1, 2], "logits_scaling": 1.0,
                "attention_bias": ..., "mlp_bias": ..., "rms_norm_eps": 1e-5, "unknown_and_off": False}  # fmt: skip
    folder = exported("llama", config=harmless)
    np.testing.assert_allclose(our_logits(folder), their_logits(folder), atol=1e-4)
    assert not [w for w in recwarn if issubclass(w.category, DataWarning)]
    about = json.loads((folder / "config.json").read_text()) | {"brand_new_scale": 2.0, "sliding_window": 4}
    (folder / "config.json").write_text(json.dumps(about))
    with pytest.warns(DataWarning, match="unknown keys, which are ignored: brand_new_scale, sliding_window"):
        ours = our_logits(folder)
    np.testing.assert_allclose(ours, their_logits(folder), atol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2"])
def test_keys_missing_in_a_configuration_have_the_defaults_of_transformers(exported, kind):
    left = {"gpt2": ("layer_norm_epsilon", "n_inner", "activation_function"), "llama": ("rms_norm_eps", "head_dim", "hidden_act"),
            "qwen2": ("rms_norm_eps", "use_sliding_window")}[kind]  # fmt: skip
    ties = {} if kind == "gpt2" else {"embedding": "untied"}
    folder = exported(kind, config={**dict.fromkeys(left, ...), "tie_word_embeddings": ...}, **ties)
    np.testing.assert_allclose(our_logits(folder), their_logits(folder), atol=1e-4)


def test_shards_hold_exactly_the_arrays_of_their_index(exported):
    folder = exported("llama")
    held = dict(read_safetensors(folder / "model.safetensors"))
    first, rest = {"model.norm.weight": held.pop("model.norm.weight")}, held
    where = {name: "b.safetensors" for name in rest} | {"model.norm.weight": "a.safetensors"}
    (folder / "model.safetensors").rename(folder / "whole")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    for more in ({"model.norm.weight": np.zeros(12, np.float32)}, {"other.weight": np.zeros(3, np.float32)}):
        write_safetensors(folder / "a.safetensors", first)
        write_safetensors(folder / "b.safetensors", {**rest, **more})
        with pytest.raises(DataError, match=f"does not list there: {next(iter(more))} in b.safetensors"):
            language_model_from(folder)
    write_safetensors(folder / "b.safetensors", rest)
    model, variables, _ = made("llama")
    np.testing.assert_allclose(our_logits(folder), model.apply(variables, TOKENS), atol=1e-5)


@pytest.mark.parametrize(
    ("header", "size", "message"),
    [
        ('{"a":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}', 2, "'a' is F8_E4M3, which is not supported.*Save quantised weights again"),
        ('{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 2,
         "names 'a' twice"),
        ('{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}', 3,
         "the bytes of 'b' overlap"),
        ('{"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}', 3, "the bytes of 'a' leave a gap"),
        ('{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}', 5, "3 bytes at the end belong to no array"),
    ],
)  # fmt: skip
def test_safetensors_that_the_format_forbids_are_refused(tmp_path, header, size, message):
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(size))
    with pytest.raises(DataError, match=message):
        read_safetensors(path)
