"""The gated linear recurrence, and the language model that mixes it with local attention."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, output_and_gradient, run_cli
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnets.models import Decoder, HybridLanguageModel, LanguageModel, Sampling, generate
from jaxnets.models.hybrid_language_model import GatedRecurrence
from jaxnets.ops.scan import linear_recurrence, plain_linear_recurrence
from jaxnets.tasks import NextToken

SMALL = {"vocab_size": 29, "layers": 3, "width": 24, "heads": 3, "gate_blocks": 2, "window": 5}
KINDS = {
    "griffin": SMALL,
    "most_biases": {**SMALL, "biases": "most", "kv_heads": 3, "recurrent_width": 30, "mlp_dim": 31, "embedding": "untied"},
    "swiglu": {**SMALL, "mlp": "swiglu", "convolution": 2, "rope_theta": 300.0, "gate_blocks": 1},
    "recurrent": {**SMALL, "pattern": ("recurrent",)},
    "attention": {**SMALL, "pattern": ("attention",), "layers": 2},
    "narrow": {**SMALL, "mlp": "swiglu", "window": 1, "convolution": 1, "pattern": ("attention", "recurrent")},
    "remat": {**SMALL, "remat": "blocks"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _plain_broadcasting(request):
    """The plain implementation below broadcasts as numpy does."""
    with jax.numpy_rank_promotion("allow" if "plain" in request.node.name else "raise"):
        yield


@functools.cache
def make(kind):
    model = HybridLanguageModel(**KINDS[kind])
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 29, (2, 13)), jnp.int32)
    variables = jax.jit(model.init)(jax.random.key(1), tokens)
    # Larger weights than fresh ones, so that gates and attention are off their middle. At four times, rounding alone moves
    # logits by 2e-5 (a text in pieces against the whole of it), as shut gates leave a small difference of large numbers.
    return model, jax.tree.map(lambda a: a * 3 if a.ndim > 1 else a + 0.1, variables), tokens


# --- the recurrence


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(
    steps=st.sampled_from([1, 2, 7, 19]),
    started=st.booleans(),
    method=st.sampled_from(["associative", "sequential", "auto"]),
)
def test_the_recurrence_and_its_gradient_are_those_of_the_loop(steps, started, method):
    keys = jax.random.split(jax.random.key(steps), 4)
    a = jax.random.uniform(keys[0], (3, steps, 5), minval=-1.0)
    b, weigh = (jax.random.normal(key, (3, steps, 5)) for key in keys[1:3])
    start = jax.random.normal(keys[3], (3, 5)) if started else None
    h, want = np.zeros((3, 5)) if start is None else np.asarray(start, np.float64), []
    for t in range(steps):
        h = np.asarray(a[:, t], np.float64) * h + np.asarray(b[:, t], np.float64)
        want.append(h)
    np.testing.assert_allclose(linear_recurrence(a, b, start, method=method), np.stack(want, 1), atol=1e-5)
    np.testing.assert_allclose(plain_linear_recurrence(a, b, start), np.stack(want, 1), atol=1e-5)
    given = (a, b) if start is None else (a, b, start)
    places = tuple(range(len(given)))
    ours = jax.jit(jax.grad(lambda *x: (jnp.sin(linear_recurrence(*x, method=method)) * weigh).sum(), places))(*given)
    theirs = jax.jit(jax.grad(lambda *x: (jnp.sin(plain_linear_recurrence(*x)) * weigh).sum(), places))(*given)
    assert_close(ours, theirs, atol=1e-5)


def test_gates_and_inputs_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"of one shape with at least one step, got \(2, 3, 4\) and \(2, 3, 5\)"):
        linear_recurrence(jnp.zeros((2, 3, 4)), jnp.zeros((2, 3, 5)))


# --- the model


def plain(model, variables, tokens):
    """The same network by loops over time, heads and layers."""
    p, K, W = variables["params"], model.width // model.heads, model.window
    G, R = model.kv_heads or model.heads, model.recurrent_width or model.width

    def norm(x, w):
        return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + model.norm_epsilon) * w["scale"]

    def linear(x, w):
        return x @ w["kernel"] + w.get("bias", 0.0)

    def turn(x):
        z = x[:, : K // 2] + 1j * x[:, K // 2 :]
        z = z * jnp.exp(1j * jnp.arange(len(x))[:, None] / model.rope_theta ** (jnp.arange(0, K, 2) / K)[None])
        return jnp.concatenate([z.real, z.imag], -1)

    def gate(x, w, name):
        whole = jax.scipy.linalg.block_diag(*w[f"{name}_kernel"])
        return 1 / (1 + jnp.exp(-(x @ whole + w[f"{name}_bias"])))

    def recurrent(x, w):
        side, y, h, rows = linear(x, w["side"]), linear(x, w["into"]), jnp.zeros(R), []
        C = model.convolution
        y = jnp.concatenate([jnp.zeros((C - 1, R)), y])
        c = w["taps_bias"] + sum(w["taps"][k] * y[k : k + len(x)] for k in range(C))
        r, i = gate(c, w["recurrence"], "keep"), gate(c, w["recurrence"], "take")
        a = (1 / (1 + jnp.exp(-w["recurrence"]["decay"]))) ** (8 * r)
        for t in range(len(x)):
            h = a[t] * h + (jnp.sqrt(1 - a**2) * i * c)[t]
            rows.append(h)
        return linear(jax.nn.gelu(side) * jnp.stack(rows), w["merge"])

    def attention(x, w):
        q, k, v = (linear(x, w[name]) for name in ("query", "key", "value"))
        T, heads = len(x), []
        for h in range(model.heads):
            g = h // (model.heads // G)
            qh, kh, vh = q[:, h * K : h * K + K], k[:, g * K : g * K + K], v[:, g * K : g * K + K]
            score = turn(qh) @ turn(kh).T / K**0.5
            distance = jnp.arange(T)[:, None] - jnp.arange(T)
            heads.append(jax.nn.softmax(jnp.where((distance >= 0) & (distance < W), score, -jnp.inf)) @ vh)
        return linear(jnp.concatenate(heads, -1), w["merge"])

    def one(sequence):
        x = p["embedding"]["embedding"][sequence]
        for index in range(model.layers):
            w, mixes = p[f"block_{index}"], model.pattern[index % len(model.pattern)]
            x = x + (recurrent if mixes == "recurrent" else attention)(norm(x, w["mixer_norm"]), w)
            y = norm(x, w["mlp_norm"])
            act = jax.nn.silu if model.mlp == "swiglu" else jax.nn.gelu
            x = x + linear(act(linear(y, w["gate"])) * linear(y, w["up"]), w["down"])
        x = norm(x, p["final_norm"])
        return x @ (p["embedding"]["embedding"].T if model.embedding == "tied" else p["output"]["kernel"])

    return jax.vmap(one)(tokens)


SLOW = ("swiglu", "attention", "recurrent")  # "griffin", "most_biases" and "narrow" have all that these have


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow if k in SLOW else ()) for k in KINDS])
def test_logits_and_gradients_equal_those_of_a_plain_implementation(kind):
    model, variables, tokens = make(kind)

    got, ours = output_and_gradient(lambda v: model.apply(v, tokens), variables)
    # In float64: 1 - a^2 by its definition loses four of float32's seven digits.
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), variables)
        want, theirs = output_and_gradient(lambda v: plain(model, v, tokens), exact)
    np.testing.assert_allclose(got, want, atol=1e-5)
    theirs = jax.tree.map(np.asarray, theirs)
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(theirs))
    # Relative to the largest gradient.
    assert_close(jax.tree.map(lambda a: a / scale, ours), jax.tree.map(lambda a: a / scale, theirs), atol=1e-5)
    silent = [path for path, leaf in jax.tree_util.tree_leaves_with_path(ours) if not float(np.abs(leaf).max()) > 0]
    # A window of one position gives it all the weight, whatever queries and keys say.
    wanted = 2 * model.kinds.count("attention") if model.window == 1 else 0
    assert len(silent) == wanted, silent


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow if k in SLOW else ()) for k in KINDS])
def test_the_cache_gives_the_logits_of_the_whole_text_and_does_not_grow(kind):
    model, variables, tokens = make(kind)
    whole = jax.jit(model.apply)(variables, tokens)
    cache, pieces, go_on = model.empty_cache(2, 50), [], jax.jit(model.apply)
    sizes = jax.tree.map(jnp.shape, cache)
    for part in (tokens[:, :4], tokens[:, 4:5], tokens[:, 5:6], tokens[:, 6:]):
        logits, cache = go_on(variables, part, cache=cache)
        pieces.append(logits)
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), whole, atol=1e-5)
    assert int(cache["length"]) == 13
    assert jax.tree.map(jnp.shape, cache) == sizes == jax.tree.map(jnp.shape, model.empty_cache(2, 5000))


def test_no_position_sees_what_comes_after_it():
    model, variables, tokens = make("griffin")
    changed = tokens.at[:, 6].set((tokens[:, 6] + 1) % 29)
    said = jax.jit(model.apply)
    a, b = said(variables, tokens), said(variables, changed)
    np.testing.assert_array_equal(a[:, :6], b[:, :6])
    assert float(jnp.abs(a[:, 6:] - b[:, 6:]).max()) > 1e-3


@pytest.mark.slow
def test_attention_sees_its_window_and_the_recurrence_everything():
    def reach(kind):
        model, variables, _ = make(kind)
        embedded = variables["params"]["embedding"]["embedding"]

        def last(table):
            fresh = {"params": {**variables["params"], "embedding": {"embedding": table}}}
            return model.apply(fresh, jnp.arange(26)[None])[0, -1, 28]

        # Row t of the table is position t here, and token 28, whose logit it is, is none of them.
        moved = jnp.abs(jax.jit(jax.grad(last))(embedded)).max(axis=-1)[:26]
        return np.flatnonzero(np.asarray(moved) > 0)

    # Two layers of a window of five: 2 * (5 - 1) positions back from the last, number 25.
    np.testing.assert_array_equal(reach("attention"), np.arange(17, 26))
    np.testing.assert_array_equal(reach("recurrent"), np.arange(26))


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (  # RecurrentGemma 2B, as released
            HybridLanguageModel(vocab_size=256_000, layers=26, width=2560, heads=10, kv_heads=1, gate_blocks=10,
                                mlp_dim=7680, window=2048, biases="most"),
            2_682_862_080,
        ),
        (HybridLanguageModel(vocab_size=65, layers=4, heads=4, kv_heads=None, window=32, mlp_dim=358, mlp="swiglu"), 800_000),
        (LanguageModel(vocab_size=65, mlp_dim=344, positions="rotary", norm="rms", mlp="swiglu", biases="none"), 800_000),
    ],
    ids=["recurrentgemma-2b", "shakespeare_hybrid", "its twin"],
)  # fmt: skip
def test_parameter_counts(model, count):
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_bfloat16_and_shapes():
    model = HybridLanguageModel(**SMALL)
    tokens = jnp.zeros((2, 13), jnp.int32)
    variables = jax.jit(model.init)(jax.random.key(0), tokens)
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), variables)
    said = jax.jit(model.apply)
    logits = said(half, tokens)
    assert (logits.shape, logits.dtype) == ((2, 13, 29), jnp.float32)
    np.testing.assert_allclose(logits, said(variables, tokens), atol=0.05)
    _, cache = said(half, tokens, cache=model.empty_cache(2, 20, jnp.bfloat16))
    assert {name: a.dtype.name for name, a in cache.items()} == {
        "states": "float32", "tails": "bfloat16", "keys": "bfloat16", "values": "bfloat16", "length": "int32",
    }  # fmt: skip


def test_fresh_states_remember_ten_to_a_thousand_steps():
    unit = GatedRecurrence(4000, (0.9, 0.999))
    decay = unit.init(jax.random.key(0), jnp.zeros((1, 1, 4000)), None)["params"]["decay"]
    powers = np.asarray(jax.nn.sigmoid(decay)) ** 8
    # Uniform in [0.9, 0.999]: 4 standard deviations of the mean of 4000 are 0.0018.
    assert 0.8999 < powers.min() < 0.902 < 0.997 < powers.max() < 0.9991
    assert abs(powers.mean() - 0.9495) < 0.002


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 5}, "width 24 / heads 5 is not an even number"),
        ({"heads": 8}, "width 24 / heads 8 is not an even number"),
        ({"kv_heads": 2}, "kv_heads 2 does not divide heads 3"),
        ({"gate_blocks": 5}, "gate_blocks 5 does not divide the recurrent width 24"),
        ({"pattern": ()}, "pattern names at least one block"),
        ({"window": 0}, "window is at least 1"),
        ({"fresh_decays": (0.9, 1.0)}, "fresh_decays are two ascending numbers"),
        ({"dropout": 1.0}, "dropout is a probability"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        HybridLanguageModel(**{**SMALL, **fields})
    with pytest.raises(ValueError, match="tokens .* of integers, got float32"):
        HybridLanguageModel(**SMALL).init(jax.random.key(0), jnp.zeros((2, 3)))


def test_generation_equals_that_of_the_whole_model_step_by_step():
    model, variables, tokens = make("griffin")
    assert isinstance(model, Decoder)
    said = generate(model, variables, tokens[:, :3], 9, key=jax.random.key(0), sampling=Sampling(temperature=0))
    text, whole = tokens[:, :3], jax.jit(model.apply)
    for at in range(3, 12):
        padded = jnp.pad(text, ((0, 0), (0, 12 - at)))
        text = jnp.concatenate([text, whole(variables, padded)[:, at - 1 : at].argmax(-1)], axis=1)
    np.testing.assert_array_equal(said, text[:, 3:])


@pytest.mark.slow
def test_it_trains_and_writes_from_the_command_line(tmp_path):
    (tmp_path / "rhyme.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    (tmp_path / "rhyme.py").write_text(
        "from jaxnets.config import Experiment\nfrom jaxnets.data import Text\nfrom jaxnets.optim import AdamW\n"
        "from jaxnets.models import HybridLanguageModel\nfrom jaxnets.tasks import NextToken\n"
        "def config():\n    model = HybridLanguageModel(layers=3, width=32, window=8)\n"
        "    return Experiment(task=NextToken(model=model), data=Text('rhyme.txt', length=64), steps=200, batch_size=16,"
        " optimizer=AdamW(1e-2))\n"
    )
    done = run_cli("train", "rhyme.py", "--run-dir", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = run_cli("generate", "run", "--prompt", "the quick ", "--tokens", 50, "--temperature", 0, cwd=tmp_path)
    assert said.stdout.startswith("the quick brown fox jumps over the lazy dog."), said.stdout


def test_the_task_fills_in_the_vocabulary_and_asks_for_no_length(tmp_path):
    from jaxnets.data import Text

    (tmp_path / "a.txt").write_text("abcde" * 4000)
    card = Text(str(tmp_path / "a.txt"), length=900).open().card
    assert NextToken(model=HybridLanguageModel(width=8, heads=2)).bind(card).model.vocab_size == 5
