"""Language models out to the Hugging Face library and in again; its own loader and logits are the judge where it is there."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import run_cli, run_here

from jaxnets.core.errors import DataError
from jaxnets.data.text.tokenizers import Bytes, open_tokenizer
from jaxnets.interop import export_language_model, language_model_from
from jaxnets.interop.safetensors import read_safetensors, write_safetensors
from jaxnets.models import LanguageModel

LLAMA = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "biases": "none", "mlp_dim": 40, "kv_heads": 2}
BASE = {"vocab_size": 29, "layers": 2, "width": 24, "heads": 4, "length": 32}
KINDS = {
    "gpt2": BASE,
    "gpt2-untied": {**BASE, "embedding": "untied", "mlp_dim": 50},
    "llama": {**BASE, **LLAMA, "embedding": "untied", "rope_theta": 500.0, "norm_epsilon": 1e-4},
    "llama-wide-heads": {**BASE, **LLAMA, "head_dim": 10},
    "llama3": {**BASE, **LLAMA, "heads": 2, "rope_theta": 50.0, "rope_scaling": (8.0, 1.0, 4.0, 16.0)},
    "qwen2": {**BASE, **LLAMA, "biases": "queries", "rope_theta": 1e6},
    "qwen3": {**BASE, **LLAMA, "qk_norm": "rms", "head_dim": 10, "embedding": "untied"},
    "scanned": {**BASE, **LLAMA, "blocks": "scanned"},
}
TOKENS = np.random.default_rng(0).integers(0, 29, (2, 13)).astype(np.int32)


def made(kind, **changes):
    """A model whose weights are far from a fresh one's: no two alike, every bias counts."""
    model = LanguageModel(**{**KINDS[kind], **changes})
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.asarray(TOKENS)))
    rng = np.random.default_rng(1)
    return model, jax.tree.map(lambda leaf: rng.normal(0.1, 0.3, leaf.shape).astype(np.float32), shapes)


@pytest.mark.parametrize("kind", KINDS)
def test_export_and_import_give_the_same_logits(kind, tmp_path):
    model, variables = made(kind)
    assert export_language_model(model, variables, tmp_path / "out") == ["config.json", "model.safetensors"]
    back, weights = language_model_from(tmp_path / "out")
    np.testing.assert_allclose(back.apply(weights, TOKENS), model.apply(variables, TOKENS), atol=2e-5)
    assert back.blocks == "unrolled"
    for field in (
        "vocab_size",
        "layers",
        "width",
        "length",
        "rope_theta",
        "rope_scaling",
        "norm_epsilon",
        "embedding",
    ):
        assert getattr(back, field) == getattr(model, field), field


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_loads_our_folder_and_gives_the_same_logits(kind, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model, variables = made(kind)
    export_language_model(model, variables, tmp_path / "out")
    theirs, told = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True, local_files_only=True
    )
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), told
    assert sum(p.numel() for p in theirs.parameters()) == sum(leaf.size for leaf in jax.tree.leaves(variables))
    with torch.no_grad():
        logits = theirs.eval()(torch.tensor(TOKENS).long()).logits.numpy()
    # Logits run to some tens; a few units of their last place were seen.
    np.testing.assert_allclose(model.apply(variables, TOKENS), logits, atol=1e-4)


@pytest.mark.parametrize("shards", [1, 3], ids=["one file", "shards"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2", "qwen3"])
def test_a_folder_of_transformers_is_loaded_and_gives_the_same_logits(kind, shards, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 31, "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 44,
             "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": None}  # fmt: skip
    configs = {
        "gpt2": lambda: transformers.GPT2Config(
            vocab_size=31, n_layer=2, n_embd=32, n_head=4, n_positions=64, bos_token_id=None, eos_token_id=None
        ),
        "llama": lambda: transformers.LlamaConfig(**sizes, tie_word_embeddings=True),
        "qwen2": lambda: transformers.Qwen2Config(**sizes, tie_word_embeddings=True),
        "qwen3": lambda: transformers.Qwen3Config(**sizes, head_dim=10),
    }
    theirs = transformers.AutoModelForCausalLM.from_config(configs[kind]()).eval()
    with torch.no_grad():  # biases and norms start as 0 and 1, and would hide where they go
        for parameter in theirs.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    size = sum(p.numel() for p in theirs.parameters()) * 4
    theirs.save_pretrained(tmp_path / "in", max_shard_size=size // shards + 20_000 if shards > 1 else "5GB")
    assert (tmp_path / "in" / "model.safetensors").is_file() == (shards == 1)
    model, variables = language_model_from(tmp_path / "in")
    tokens = TOKENS % 31
    with torch.no_grad():
        logits = theirs(torch.tensor(tokens).long()).logits.numpy()
    np.testing.assert_allclose(model.apply(variables, tokens), logits, atol=1e-4)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == sum(p.numel() for p in theirs.parameters())


def test_shards_are_read_by_their_index(tmp_path):
    model, variables = made("qwen3")
    export_language_model(model, variables, tmp_path / "x")
    arrays = read_safetensors(tmp_path / "x" / "model.safetensors")
    names = sorted(arrays)
    where = {name: f"part-{index % 3}.safetensors" for index, name in enumerate(names)}
    for file in set(where.values()):
        write_safetensors(tmp_path / "x" / file, {name: arrays[name] for name in names if where[name] == file})
    (tmp_path / "x" / "model.safetensors").unlink()
    index = tmp_path / "x" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    _, weights = language_model_from(tmp_path / "x")
    assert all(map(np.array_equal, jax.tree.leaves(weights), jax.tree.leaves(variables)))
    for wrong, message in (
        ({**where, "more": "part-0.safetensors"}, "names arrays that do not exist: more in part-0.safetensors"),
        ({**where, "more": "../x/part-0.safetensors"}, "a .safetensors file in that folder"),
        ({**where, "more": 3}, "a .safetensors file in that folder"),
        ([], "a .safetensors file in that folder"),
    ):
        index.write_text(json.dumps({"weight_map": wrong}))
        with pytest.raises(DataError, match=message):
            language_model_from(tmp_path / "x")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"positions": "rotary"}, "nearest, gpt2, has positions='learned'"),
        ({**LLAMA, "biases": "all"}, r"has biases='\w+' \(not 'all'\)"),
        ({**LLAMA, "rope_pairs": "neighbours"}, r"nearest, llama, has rope_pairs='halves' \(not 'neighbours'\)"),
        ({"kv_heads": 2}, r"kv_heads=4 \(not 2\)"),
        ({"head_dim": 10}, r"head_dim=6 \(not 10\)"),
        ({"vocab_size": None}, "vocabulary is not set"),
    ],
)
def test_models_that_transformers_does_not_have_are_refused(fields, message, tmp_path):
    with pytest.raises(DataError, match=message):
        export_language_model(LanguageModel(**{**BASE, **fields}), {"params": {}}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("gpt2", {"activation_function": "relu"}, "activation_function is 'relu', but our gpt2 supports only 'gelu_new'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ("llama", {"attention_bias": True}, "attention_bias is True"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 32.0}}, "rotary positions are rescaled"),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "factor": 32.0}}, "the llama3 parameters must be positive numbers"),
        ("llama", {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "rescaled"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window is True"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "our model supports only full_attention"),
        ("qwen3", {"layer_types": 5}, "layer_types are 5"),
        ("gpt2", {"n_layer": None}, "has no n_layer"),
        ("gpt2", {"vocab_size": None}, "has no vocab_size"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config is"),
        ("llama", {"model_type": "mamba"}, "has model_type 'mamba'; supported are gpt2, llama"),
        ("llama", {"model_type": ["llama"]}, "supported are"),
        ("llama", {"num_hidden_layers": 10**9}, "1000000000 layers are declared, and there are"),
        ("llama", {"num_hidden_layers": 3}, "leaves without an array: params/block_2"),
        ("llama", {"num_hidden_layers": 1}, "does not have: params/block_1"),
        ("llama", {"hidden_size": "24"}, "hidden_size is '24', expected a positive number"),
        ("llama", {"hidden_size": True}, "expected a positive number"),
        ("llama", {"num_key_value_heads": 3}, "kv_heads 3 does not divide heads 4"),
        ("llama", {"intermediate_size": 41}, r"shapes that differ: params/block_0/down/kernel: \(40, 24\) there, \(41, 24\)"),
        ("llama", {"hidden_size": 2**30, "intermediate_size": 2**30, "vocab_size": 2**30}, "shapes that differ|invalid sizes"),
        ("llama", dict.fromkeys(("num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size"), 2**30), "differ|invalid sizes"),
    ],
)  # fmt: skip
def test_configurations_that_our_model_does_not_support_are_refused(kind, changes, message, tmp_path):
    model, variables = made(kind)
    export_language_model(model, variables, tmp_path / "x")
    path = tmp_path / "x" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(DataError, match=message):
        language_model_from(tmp_path / "x")


@pytest.mark.parametrize("shape", [(24, 71), ()])
def test_arrays_that_cannot_be_split_are_named(shape, tmp_path):
    model, variables = made("gpt2")
    export_language_model(model, variables, tmp_path / "x")
    arrays = {**read_safetensors(tmp_path / "x" / "model.safetensors")}
    name = next(name for name in arrays if name.endswith("h.0.attn.c_attn.weight"))
    write_safetensors(tmp_path / "x" / "model.safetensors", {**arrays, name: np.zeros(shape, np.float32)})
    with pytest.raises(DataError, match=r"h\.0\.attn\.c_attn\.weight of shape .* holds 3 arrays side by side"):
        language_model_from(tmp_path / "x")


def test_invalid_folders_are_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no .*config\.json"):
        language_model_from(tmp_path)
    model, variables = made("gpt2")
    export_language_model(model, variables, tmp_path / "x")
    with pytest.raises(DataError, match="holds files already"):
        export_language_model(model, variables, tmp_path / "x")
    (tmp_path / "x" / "model.safetensors").rename(tmp_path / "x" / "pytorch_model.bin")
    with pytest.raises(DataError, match="other formats can run code and are not supported"):
        language_model_from(tmp_path / "x")
    for content in ("{", "[]", "[" * 100_000):
        (tmp_path / "x" / "config.json").write_text(content)
        with pytest.raises(DataError, match=r"config\.json"):
            language_model_from(tmp_path / "x")


@pytest.mark.slow
def test_a_run_is_exported_with_its_tokenizer(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    tok = tokenizers.Tokenizer(tokenizers.models.BPE())
    tok.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=290, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<|endoftext|>"],
        show_progress=False,
    )  # fmt: skip
    text = "the quick brown fox jumps over the lazy dog. " * 40
    tok.train_from_iterator([text], trainer)
    tok.save(str(tmp_path / "own.json"))
    (tmp_path / "rhyme.txt").write_text(text)
    (tmp_path / "rhyme.py").write_text(
        "from jaxnets.config import Experiment\nfrom jaxnets.data import Text\nfrom jaxnets.models import LanguageModel\n"
        "from jaxnets.tasks import NextToken\n"
        "def config():\n    model = LanguageModel(layers=1, heads=2, width=16, length=32)\n"
        "    return Experiment(task=NextToken(model=model), data=Text('rhyme.txt', length=8, tokens='own.json'), steps=5,\n"
        "                      batch_size=16)\n"
    )
    assert run_cli("train", "rhyme.py", "--run-dir", "run", cwd=tmp_path).returncode == 0
    done = run_cli("export", "run", "out", cwd=tmp_path)
    assert done.stdout == "out: config.json, model.safetensors, tokenizer.json, tokenizer_config.json\n", done.stderr
    again = run_here("export", "run", "out", cwd=tmp_path)
    assert (again.returncode, again.stderr.count("holds files already")) == (1, 1)
    assert run_here("export", "run", cwd=tmp_path).returncode == 2
    model, _ = language_model_from(tmp_path / "out")
    assert model.vocab_size == tok.get_vocab_size()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == 0
    assert open_tokenizer(str(tmp_path / "out")).encode("the lazy fox").tolist() == tok.encode("the lazy fox").ids
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    assert theirs("the lazy fox").input_ids == tok.encode("the lazy fox").ids
    assert theirs.eos_token == "<|endoftext|>"


def test_an_exported_gpt2_tokenizer_loads_in_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    try:
        tokenizer = open_tokenizer("gpt2")
    except DataError:
        pytest.skip("JAXNETS_DATA is not set")
    model, variables = made("gpt2", vocab_size=50257)
    names = export_language_model(model, variables, tmp_path / "out", tokenizer=tokenizer)
    assert names == ["config.json", "merges.txt", "model.safetensors", "tokenizer_config.json", "vocab.json"]
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    text = "hello, I'm a test of 12345 — naïve 日本<|endoftext|>"
    assert theirs(text).input_ids == tokenizer.encode(text).tolist()
    shutil.rmtree(tmp_path / "out")
    bare = export_language_model(model, variables, tmp_path / "out", tokenizer=Bytes())
    assert bare == ["config.json", "model.safetensors"]
