"""The language model, its cache, its text and its task."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, output_and_gradient, replace, run_cli, run_here
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnets.config.experiment import Experiment
from jaxnets.config.serialize import from_data, to_data
from jaxnets.core.errors import DataError
from jaxnets.data import Text
from jaxnets.data.sources.text import windows
from jaxnets.data.text.textfile import read_text
from jaxnets.models import MLP, RNN, LanguageModel, Sampling, TransformerEncoder, generate, generation
from jaxnets.ops.positions import alibi_slopes, rotate, sinusoids, stretched
from jaxnets.optim import AdamW
from jaxnets.runs.train import train
from jaxnets.tasks import Classification, NextToken

GPT = {"vocab_size": 29, "layers": 2, "width": 24, "heads": 3, "length": 16}
LLAMA = {
    **GPT,
    "heads": 4,
    "kv_heads": 2,
    "mlp_dim": 40,
    "positions": "rotary",
    "norm": "rms",
    "mlp": "swiglu",
    "biases": "none",
}
KINDS = {
    "gpt2": GPT,
    "llama": LLAMA,
    "neighbours": {**LLAMA, "rope_pairs": "neighbours", "rope_theta": 500.0},
    "qwen2": {**LLAMA, "biases": "queries", "embedding": "untied"},
    "qwen3": {**LLAMA, "qk_norm": "rms", "head_dim": 10},
    "alibi": {**GPT, "positions": "alibi"},
    "sinusoidal": {**GPT, "positions": "sinusoidal"},
    "nowhere": {**GPT, "positions": "none"},
    "scanned": {**LLAMA, "blocks": "scanned"},
    "remat": {**GPT, "remat": "blocks"},
    "post": {**GPT, "norm_place": "post"},
    "post_rms": {**LLAMA, "norm_place": "post"},
}


@pytest.fixture(autouse=True)
def _plain_broadcasting(request):
    """The plain implementations below broadcast as numpy does."""
    with jax.numpy_rank_promotion("allow" if "plain" in request.node.name else "raise"):
        yield


@functools.cache
def make(kind, **changes):
    model = LanguageModel(**{**KINDS[kind], **changes})
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 29, (2, 11)), jnp.int32)
    return model, jax.jit(model.init)(jax.random.key(1), tokens), tokens


def plain(model, variables, tokens):
    """The same network, one head and one layer at a time, in loops."""
    p = variables["params"]
    H, G, K = model.attention_shape

    def norm(x, w):
        if model.norm == "rms":
            return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + model.norm_epsilon) * w["scale"]
        x = x - x.mean(-1, keepdims=True)
        return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + model.norm_epsilon) * w["scale"] + w["bias"]

    def linear(x, w):
        return x @ w["kernel"] + w.get("bias", 0.0)

    def turn(x):  # [T, K] as complex numbers
        angle = jnp.arange(x.shape[0])[:, None] / model.rope_theta ** (jnp.arange(0, K, 2) / K)[None]
        a, b = (x[:, : K // 2], x[:, K // 2 :]) if model.rope_pairs == "halves" else (x[:, ::2], x[:, 1::2])
        z = (a + 1j * b) * jnp.exp(1j * angle)
        if model.rope_pairs == "halves":
            return jnp.concatenate([z.real, z.imag], -1)
        return jnp.stack([z.real, z.imag], -1).reshape(x.shape)

    def one(sequence):
        T = len(sequence)
        x = p["embedding"]["embedding"][sequence]
        if model.positions == "learned":
            x = x + p["positions"][:T]
        if model.positions == "sinusoidal":
            angle = jnp.arange(T)[:, None] / 10_000 ** (jnp.arange(0, model.width, 2) / model.width)[None]
            x = x + jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)
        for index in range(model.layers):
            w = p[f"block_{index}"]
            post = model.norm_place == "post"
            y, heads = x if post else norm(x, w["attention_norm"]), []
            q, k, v = (linear(y, w[n]) for n in ("query", "key", "value"))
            for h in range(H):
                g = h // (H // G)
                qh, kh, vh = q[:, h * K : h * K + K], k[:, g * K : g * K + K], v[:, g * K : g * K + K]
                if model.qk_norm == "rms":
                    qh, kh = norm(qh, w["query_norm"]), norm(kh, w["key_norm"])
                if model.positions == "rotary":
                    qh, kh = turn(qh), turn(kh)
                score = qh @ kh.T / K**0.5
                if model.positions == "alibi":
                    score = score - alibi_slopes(H)[h] * (jnp.arange(T)[:, None] - jnp.arange(T)[None, :])
                heads.append(jax.nn.softmax(jnp.where(jnp.tri(T) > 0, score, -jnp.inf)) @ vh)
            x = x + linear(jnp.concatenate(heads, -1), w["merge"])
            x = norm(x, w["attention_norm"]) if post else x
            y = x if post else norm(x, w["mlp_norm"])
            up = linear(y, w["up"])
            x = x + linear(
                jax.nn.silu(linear(y, w["gate"])) * up if model.mlp == "swiglu" else jax.nn.gelu(up), w["down"]
            )
            x = norm(x, w["mlp_norm"]) if post else x
        x = x if model.norm_place == "post" else norm(x, p["final_norm"])
        return x @ (p["embedding"]["embedding"].T if model.embedding == "tied" else p["output"]["kernel"])

    return jax.vmap(one)(tokens)


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("scanned", "remat")])
def test_logits_and_gradients_equal_those_of_a_plain_implementation(kind):
    model, variables, tokens = make(kind)
    # Larger weights than fresh ones, so that attention is far from uniform.
    variables = jax.tree.map(lambda a: a * 8 if a.ndim > 1 else a + 0.1, variables)

    got, ours = output_and_gradient(lambda v: model.apply(v, tokens), variables)
    want, theirs = output_and_gradient(lambda v: plain(model, v, tokens), variables)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(theirs))
    # Relative to the largest gradient; 1e-6 was seen.
    assert_close(jax.tree.map(lambda a: a / scale, ours), jax.tree.map(lambda a: a / scale, theirs), atol=1e-5)
    assert all(float(np.abs(leaf).max()) > 0 for path, leaf in jax.tree_util.tree_leaves_with_path(ours)
               if "key'], DictKey(key='bias" not in str(path))  # fmt: skip


def test_scanned_and_rematerialised_blocks_compute_the_same():
    model, variables, tokens = make("llama")
    deep = LanguageModel(**{**KINDS["scanned"], "remat": "blocks"})
    p = variables["params"]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *(p[f"block_{i}"] for i in range(2)))
    scanned = {"params": {**{k: v for k, v in p.items() if not k.startswith("block_")}, "blocks": stacked}}
    assert jax.tree.structure(jax.eval_shape(lambda: deep.init(jax.random.key(0), tokens))) == jax.tree.structure(
        scanned
    )
    got, deeper = output_and_gradient(lambda v: deep.apply(v, tokens), scanned)
    want, unstacked = output_and_gradient(lambda v: model.apply(v, tokens), variables)
    np.testing.assert_allclose(got, want, atol=1e-5)
    deeper = jax.tree.map(lambda a: a[1], deeper["params"]["blocks"])
    assert_close(deeper, unstacked["params"]["block_1"], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_gives_the_logits_of_the_whole_text(kind):
    model, variables, tokens = make(kind)
    whole = jax.jit(model.apply)(variables, tokens)
    cache, pieces, go_on = model.empty_cache(2, 14), [], jax.jit(model.apply)
    for part in (tokens[:, :4], tokens[:, 4:5], tokens[:, 5:]):
        logits, cache = go_on(variables, part, cache=cache)
        pieces.append(logits)
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), whole, atol=2e-5)
    assert int(cache["length"]) == 11


def test_no_position_sees_what_comes_after_it():
    model, variables, tokens = make("llama")
    changed = tokens.at[:, 6].set((tokens[:, 6] + 1) % 29)
    said = jax.jit(model.apply)
    a, b = said(variables, tokens), said(variables, changed)
    np.testing.assert_array_equal(a[:, :6], b[:, :6])
    assert float(jnp.abs(a[:, 6:] - b[:, 6:]).max()) > 1e-4


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"vocab_size": 50257, "layers": 12, "width": 768, "heads": 12}, 124_439_808),
        ({"vocab_size": 50257, "layers": 24, "width": 1024, "heads": 16}, 354_823_168),
        (  # Llama 3.2 1B
            {"vocab_size": 128256, "layers": 16, "width": 2048, "heads": 32, "kv_heads": 8, "mlp_dim": 8192, "length": 2048,
             "positions": "rotary", "norm": "rms", "mlp": "swiglu", "biases": "none"},
            1_235_814_400,
        ),
        (  # Qwen2.5 0.5B
            {"vocab_size": 151936, "layers": 24, "width": 896, "heads": 14, "kv_heads": 2, "mlp_dim": 4864, "length": 2048,
             "positions": "rotary", "norm": "rms", "mlp": "swiglu", "biases": "queries"},
            494_032_768,
        ),
    ],
    ids=["gpt2", "gpt2-medium", "llama-1b", "qwen-0.5b"],
)  # fmt: skip
def test_parameter_counts_of_the_named_architectures(fields, count):
    model = LanguageModel(**fields, blocks="scanned")
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_bfloat16_and_shapes():
    model, variables, tokens = make("llama")
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), variables)
    logits = jax.jit(model.apply)(half, tokens)
    assert (logits.shape, logits.dtype) == ((2, 11, 29), jnp.float32)
    np.testing.assert_allclose(logits, jax.jit(model.apply)(variables, tokens), atol=0.05)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 5}, "width 24 is not divisible by heads 5"),
        ({"kv_heads": 2}, "kv_heads 2 does not divide heads 3"),
        ({"positions": "rotary", "head_dim": 7}, "needs an even head width"),
        ({"dropout": 1.0}, "dropout is a probability"),
        ({"layers": 0}, "layers is at least 1"),
        ({"rope_scaling": (8.0, 4.0, 1.0, 64.0)}, "low < high"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LanguageModel(**{**GPT, **fields})


def test_too_many_tokens_or_none_are_refused():
    model, variables, tokens = make("gpt2")
    with pytest.raises(ValueError, match=r"22 tokens do not fit LanguageModel.length 16"):
        model.apply(variables, jnp.tile(tokens, (1, 2)))
    with pytest.raises(ValueError, match="tokens .* of integers, got float32"):
        model.apply(variables, tokens.astype(jnp.float32))
    with pytest.raises(ValueError, match="a cache of 17 positions is longer"):
        model.empty_cache(1, 17)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="11 prompt tokens and 6 new ones are more than LanguageModel.length 16"):
        generate(model, variables, tokens, 6, key=key)
    with pytest.raises(ValueError, match="at least one position"):
        generate(model, variables, tokens[:, :0], 3, key=key)
    size = model.vocab_size
    for wrong in (size, -1):
        with pytest.raises(
            ValueError, match=rf"a prompt has tokens from .*{wrong}.*LanguageModel.vocab_size is {size}"
        ):
            generate(model, variables, [[1, wrong]], 3, key=key)
    with pytest.raises(ValueError, match=r"whole numbers \[batch, positions\].*got float64\[1, 2\]"):
        generate(model, variables, [[1.0, 2.5]], 3, key=key)
    with pytest.raises(ValueError, match="LanguageModel.vocab_size is not set"):
        generate(model.clone(vocab_size=None), variables, [[1]], 3, key=key)
    cache = model.apply(variables, tokens[:, :3], cache=model.empty_cache(2, 4))[1]
    with pytest.raises(ValueError, match="2 tokens do not fit a cache that holds 3 of 4"):
        model.apply(variables, tokens[:, 3:5], cache=cache)


# --- positions


@settings(max_examples=20, deadline=None)
@given(shift=st.integers(0, 500), pairs=st.sampled_from(["halves", "neighbours"]))
def test_rotary_products_depend_on_the_distance_alone(shift, pairs):
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 5, 1, 8))
    at = jnp.arange(5)

    def products(start):
        a, b = (rotate(x, start + at, pairs=pairs)[0, :, 0] for x in (q, k))
        return a @ b.T

    np.testing.assert_allclose(products(0), products(shift), atol=2e-4)
    np.testing.assert_allclose(jnp.linalg.norm(rotate(q, shift + at, pairs=pairs)), jnp.linalg.norm(q), rtol=1e-5)


def test_long_waves_are_stretched_and_short_ones_stay():
    frequencies = 2 * np.pi / np.array([3.0, 10.0, 16.0, 25.0, 40.0, 100.0])
    # Of a length of 40: waves up to 10 stay, those from 40 on are eight times as long, others lie between.
    said = 2 * np.pi / np.asarray(stretched(jnp.asarray(frequencies), (8.0, 1.0, 4.0, 40.0)))
    np.testing.assert_allclose(said[[0, 1, 4, 5]], [3, 10, 320, 800], rtol=1e-5)
    smooth = (40 / 16 - 1) / 3
    np.testing.assert_allclose(said[2], 1 / (smooth / 16 + (1 - smooth) / 128), rtol=1e-5)
    assert 25 < said[3] < 200


def test_sinusoids_and_slopes_are_the_published_ones():
    table = sinusoids(jnp.arange(50), 6)
    np.testing.assert_allclose(table[7], [np.sin(7 / 10_000 ** (i / 6)) for i in (0, 2, 4)]
                               + [np.cos(7 / 10_000 ** (i / 6)) for i in (0, 2, 4)], atol=1e-5)  # fmt: skip
    np.testing.assert_allclose(alibi_slopes(8), [2.0**-i for i in range(1, 9)])
    np.testing.assert_allclose(alibi_slopes(12)[8:], [2 ** (-0.5 * i) for i in (1, 3, 5, 7)], rtol=1e-6)


# --- sampling


def test_greedy_generation_equals_that_of_the_whole_model_step_by_step():
    model, variables, tokens = make("llama")
    text = tokens[:, :5]
    said = generate(model, variables, text, 6, key=jax.random.key(0), sampling=Sampling(temperature=0))
    whole = jax.jit(model.apply)  # padded to one length: what comes after does not matter
    for at in range(5, 11):
        padded = jnp.pad(text, ((0, 0), (0, 11 - at)))
        text = jnp.concatenate([text, whole(variables, padded)[:, at - 1 : at].argmax(-1)], axis=1)
    np.testing.assert_array_equal(said, text[:, 5:])


def test_sampling_keeps_to_its_rules():
    logits = jnp.log(jnp.asarray([[0.5, 0.3, 0.15, 0.05]]))
    keys = jax.random.split(jax.random.key(0), 4000)

    def drawn(**rules):
        choose = jax.vmap(lambda key: Sampling(**rules).choose(logits, key)[0])
        return np.bincount(choose(keys), minlength=4) / 4000

    # Four standard deviations of 4000 draws.
    np.testing.assert_allclose(drawn(), [0.5, 0.3, 0.15, 0.05], atol=0.032)
    np.testing.assert_allclose(drawn(top_k=2), [0.625, 0.375, 0, 0], atol=0.032)
    np.testing.assert_allclose(drawn(top_p=0.8), [0.625, 0.375, 0, 0], atol=0.032)
    np.testing.assert_allclose(drawn(top_p=0.81), [0.526, 0.316, 0.158, 0], atol=0.032)
    assert drawn(top_p=1e-6)[0] == 1
    assert drawn(temperature=0)[0] == 1
    assert drawn(temperature=0.1)[0] > 0.98
    # The logits over so little would be infinite; their differences decide all the same.
    assert drawn(temperature=1e-6)[0] == 1


def test_equal_logits_do_not_add_tokens_beyond_top_k():
    keys = jax.random.split(jax.random.key(0), 500)
    for rules, wanted in (({"top_k": 1}, 1), ({"top_k": 2}, 2), ({"top_p": 0.3}, 2), ({"top_k": 4, "top_p": 0.5}, 2)):
        choose = jax.vmap(lambda key, rules=rules: Sampling(**rules).choose(jnp.zeros((1, 6)), key)[0])
        assert set(np.unique(choose(keys))) == set(range(wanted)), rules


@pytest.mark.parametrize(
    "rules",
    [
        {"temperature": -1.0},
        {"temperature": 1e-9},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_k": 2.5},
        {"top_p": 0.0},
        {"top_p": 1.5},
    ],
)
def test_bad_rules_are_refused(rules):
    with pytest.raises(ValueError, match=next(iter(rules))):
        Sampling(**rules)


def test_generation_compiles_once_and_rows_have_their_own_draws():
    model, variables, tokens = make("llama")
    same = jnp.tile(tokens[:1, :3], (4, 1))
    before = generation._generate._cache_size()
    first = generate(model, variables, same, 8, key=jax.random.key(0))
    again = generate(model, variables, same, 8, key=jax.random.key(0))
    generate(model, variables, same + 1, 8, key=jax.random.key(1))
    assert generation._generate._cache_size() == before + 1
    np.testing.assert_array_equal(first, again)
    assert len({tuple(row) for row in np.asarray(first)}) > 1


# --- text and task


def test_windows_cover_the_text_and_targets_are_one_ahead():
    ids = np.arange(23, dtype=np.uint16)
    for length, stride in ((5, 5), (5, 2), (5, 1), (22, 4)):
        made = windows(ids, length, stride)
        np.testing.assert_array_equal(made["targets"], made["inputs"] + 1)
        if stride < length:
            assert made["targets"].max() == 22


@settings(max_examples=30, deadline=None)
@given(text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=30, max_size=80))
def test_text_is_encoded_and_decoded(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes(text.encode("utf-8"))
    text = read_text(path)  # its line ends are LF
    for kind in ("characters", "bytes"):
        if len(text) < 20:
            return
        data = Text(str(path), length=1, tokens=kind, holdout=0.3).open()
        assert data.tokenizer.decode(data.tokenizer.encode(text)) == text


def test_bad_texts_are_named(tmp_path):
    (tmp_path / "short.txt").write_text("abc")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes("Schön".encode("latin-1") * 50)
    for name, message in (
        ("short.txt", "is too short: its training part has 2 tokens, and a window needs 64"),
        ("empty.txt", "is empty"),
        ("latin.txt", "cannot be read as UTF-8"),
        ("gone.txt", "there is no text file"),
    ):
        with pytest.raises(DataError, match=message):
            Text(str(tmp_path / name)).open()


@pytest.fixture(scope="module")
def rhyme(tmp_path_factory):
    path = tmp_path_factory.mktemp("rhyme") / "rhyme.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 60)
    return path


def rhyme_run(path, **changes):
    model = LanguageModel(layers=2, heads=2, width=32, length=64, positions="rotary")
    run = Experiment(
        task=NextToken(model=model), data=Text(str(path), length=16), optimizer=AdamW(1e-2), steps=150, batch_size=16
    )
    return replace(run, **changes)


@pytest.mark.slow
def test_it_learns_a_rhyme_and_generates_it(rhyme, one_device):
    run = train(rhyme_run(rhyme), mesh=one_device, progress="none")
    last = run.history.last("test")
    assert last["loss"] < 0.3  # the first tokens of a window can only be guessed
    assert last["perplexity"] == pytest.approx(np.exp(last["loss"]))
    tokenizer = run.parts.dataset.tokenizer
    prompt = jnp.asarray(tokenizer.encode("the quick "))[None]
    said = generate(
        run.parts.task.model, run.variables, prompt, 20, key=jax.random.key(0), sampling=Sampling(temperature=0)
    )
    assert tokenizer.decode(np.asarray(said[0])) == "brown fox jumps over"
    window = np.asarray(tokenizer.encode("the quick brown "))[None]
    assert tokenizer.symbols[run.predict(window)[0]] == "f"
    assert from_data(to_data(run.experiment)) == run.experiment


def test_a_task_and_data_that_do_not_fit_are_refused(rhyme, blobs, one_device):
    model = LanguageModel(layers=1, heads=2, width=8, length=8)
    options = {"mesh": one_device, "progress": "none"}
    with pytest.raises(DataError, match=r"windows of 'rhyme' have 16 tokens, more than LanguageModel.length 8"):
        train(rhyme_run(rhyme, task=NextToken(model=model)), **options)
    with pytest.raises(DataError, match=r"vocab_size=5, but 'rhyme' has 28 tokens"):
        train(rhyme_run(rhyme, task=NextToken(model=model.clone(length=16, vocab_size=5))), **options)
    with pytest.raises(DataError, match="NextToken needs text"):
        train(rhyme_run(rhyme), dataset=blobs, **options)
    for seer in (
        RNN(widths=(8,), bidirectional=True, answer="every"),
        TransformerEncoder(pool="none", heads=2, width=32),
    ):
        with pytest.raises(
            DataError, match=f"{type(seer).__name__} as configured reads the tokens that it should predict"
        ):
            train(rhyme_run(rhyme, task=NextToken(model=seer)), **options)
    with pytest.raises(DataError, match="NextToken|Classification|classification"):
        train(rhyme_run(rhyme, task=Classification(model=MLP())), **options)


@pytest.mark.slow
def test_generate_and_predict_from_a_run_directory(rhyme, tmp_path):
    (tmp_path / "rhyme.py").write_text(
        "from jaxnets.config import Experiment\nfrom jaxnets.data import Text\nfrom jaxnets.models import LanguageModel\n"
        "from jaxnets.tasks import NextToken\n"
        "def config():\n    model = LanguageModel(layers=1, heads=2, width=32, length=64)\n"
        f"    return Experiment(task=NextToken(model=model), data=Text({str(rhyme)!r}, length=16), steps=150, batch_size=16)\n"
    )
    assert run_cli("train", "rhyme.py", "--run-dir", "run", cwd=tmp_path).returncode == 0
    assert "What comes next" in (tmp_path / "run" / "report.html").read_text()
    told = run_cli("generate", "run", "--prompt", "the qu", "--tokens", 9, "--samples", 2, "--seed", 3, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    samples = told.stdout.rstrip("\n").split("\n\n---\n")
    assert len(samples) == 2
    assert all(len(s) == 15 and s.startswith("the qu") for s in samples), samples
    again = run_here("generate", "run", "--prompt", "the qu", "--tokens", 9, "--samples", 2, "--seed", 3, cwd=tmp_path)
    assert again.stdout == told.stdout
    for arguments, code, message in (
        (("--prompt", "€"), 1, "not one of them"),
        (("--tokens", 64), 2, "request fewer"),
        (("--tokens", 0), 2, "at least 1"),
        (("--seed", 2**32), 2, "seed is at least 0 and below 2^32, got 4294967296"),
        (("--top-p", 0), 2, "top_p is a probability"),
    ):
        wrong = run_here("generate", "run", *arguments, cwd=tmp_path)
        assert wrong.returncode == code, wrong.stderr
        assert message in wrong.stderr
        assert "Traceback" not in wrong.stderr
    np.save(tmp_path / "x.npy", np.zeros((3, 16), np.uint16))
    said = run_here("predict", "run", "x.npy", cwd=tmp_path)
    assert len(said.stdout.splitlines()) == 3, said.stderr
    assert run_here("predict", "run", "gone.npy", cwd=tmp_path).returncode == 1
