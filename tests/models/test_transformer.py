"""The encoder, the encoder with a decoder, what they write, their task and their data."""

import functools
import gzip
import io
import itertools
import math
import zipfile
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, replace, run_cli
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnets.cli import generate
from jaxnets.config.experiment import Experiment
from jaxnets.config.serialize import from_data, to_data
from jaxnets.core.errors import DataError, UsageError
from jaxnets.core.types import Tokens
from jaxnets.data import Dataset, Multi30k, ReversedWords, RottenTomatoes
from jaxnets.data.dataset import TokenIds
from jaxnets.data.sources.pairs import unpack_words
from jaxnets.data.sources.sentences import unpack_polarity
from jaxnets.data.text.vocabulary import build_vocabulary, encode_lines, encode_text, split_words
from jaxnets.models import MLP, Pair, Seq2SeqTransformer, TransformerEncoder, beam_search, greedy
from jaxnets.models.beam import _beam_search, _greedy
from jaxnets.ops.positions import alibi_slopes
from jaxnets.ops.tokens import BEGIN, END, PAD, SPECIAL, spell
from jaxnets.optim import AdamW
from jaxnets.runs.build import assemble
from jaxnets.runs.train import train
from jaxnets.tasks import Classification, SequenceToSequence
from jaxnets.tasks.bleu import bleu, bleu_counts

SMALL = {"layers": 1, "width": 12, "heads": 2, "mlp_dim": 10, "length": 16}
BOTH = {**SMALL, "vocab_size": 13, "source_vocab_size": 11}
KINDS = {
    "pre": {},
    "post": {"norm_place": "post", "embedding": "untied", "positions": "alibi", "activation": "gelu"},
    "rotary": {"positions": "rotary", "embedding": "shared", "source_vocab_size": 13, "decoder_layers": 2},
    "learned": {"positions": "learned"},
    "flash": {"attention": "flash", "positions": "alibi"},
}
# Learned positions differ from sinusoids in a table alone; training tests them.
LOOKED_INTO = [kind for kind in KINDS if kind != "learned"]


@pytest.fixture(autouse=True)
def _plain_broadcasting(request):
    """The plain implementations below broadcast as numpy does."""
    with jax.numpy_rank_promotion("allow" if "plain" in request.node.name else "raise"):
        yield


def tokens(seed, *lengths, width, vocab_size=11):
    """Rows of random tokens of these lengths, filled up with 0."""
    rng = np.random.default_rng(seed)
    rows = [np.pad(rng.integers(4, vocab_size, n), (0, width - n)) for n in lengths]
    return jnp.asarray(np.stack(rows), jnp.int32)


def pair(width=7):
    previous = tokens(1, 5, 2, width=5).at[:, 0].set(BEGIN)
    return Pair(tokens(0, 7, 4, width=width), previous)


@functools.cache
@functools.cache
def make(kind):
    model = Seq2SeqTransformer(**{**BOTH, **KINDS[kind]})
    variables = jax.jit(model.init)(jax.random.key(1), pair())
    # Larger weights than fresh ones and biases that are not 0.
    return model, jax.tree.map(lambda a: a * 1.4 if a.ndim > 1 else a + 0.1, variables)


# --- parity


def plain(model, variables, given):
    """The same network for one pair at a time, without padding, one head at a time."""
    p, K, pre = variables["params"], model.width // model.heads, model.norm_place == "pre"

    def norm(x, w):
        x = x - x.mean(-1, keepdims=True)
        return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * w["scale"] + w["bias"]

    def linear(x, w):
        return x @ w["kernel"] + w["bias"]

    def turn(x):  # [T, K] as complex numbers
        z = x[:, : K // 2] + 1j * x[:, K // 2 :]
        z = z * jnp.exp(1j * jnp.arange(len(x))[:, None] / 10_000 ** (jnp.arange(0, K, 2) / K))
        return jnp.concatenate([z.real, z.imag], -1)

    def attention(x, y, w, causal, own):
        q, k, v, heads = linear(x, w["query"]), linear(y, w["key"]), linear(y, w["value"]), []
        for h in range(model.heads):
            qh, kh, vh = (a[:, h * K : h * K + K] for a in (q, k, v))
            if own and model.positions == "rotary":
                qh, kh = turn(qh), turn(kh)
            score = qh @ kh.T / K**0.5
            if own and model.positions == "alibi":
                score = score - alibi_slopes(model.heads)[h] * abs(jnp.arange(len(x))[:, None] - jnp.arange(len(y)))
            score = jnp.where(jnp.tri(len(x), len(y)) > 0, score, -jnp.inf) if causal else score
            heads.append(jax.nn.softmax(score) @ vh)
        return linear(jnp.concatenate(heads, -1), w["merge"])

    def add(x, w, branch):
        return x + branch(norm(x, w)) if pre else norm(x + branch(x), w)

    def embed(ids, w):
        x = w["tokens"]["embedding"][ids] * model.width**0.5
        if model.positions == "learned":
            return x + w["places"][: len(ids)]
        angle = jnp.arange(len(ids))[:, None] / 10_000 ** (jnp.arange(0, model.width, 2) / model.width)
        return x + jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1) if model.positions == "sinusoidal" else x

    def stack(x, name, count, causal, memory):
        for i in range(count):
            w = p[f"{name}_{i}"]
            x = add(x, w["attention_norm"], lambda y, w=w: attention(y, y, w["attention"], causal, True))
            if memory is not None:
                x = add(x, w["cross_norm"], lambda y, w=w: attention(y, memory, w["cross"], False, False))
            act = jax.nn.relu if model.activation == "relu" else jax.nn.gelu
            x = add(x, w["mlp_norm"], lambda y, w=w, act=act: linear(act(linear(y, w["up"])), w["down"]))
        return x

    def one(source, previous):
        source, target = source[source != 0], p["target_embedding"]
        x = embed(source, target if model.embedding == "shared" else p["source_embedding"])
        memory = stack(x, "encoder", model.layers, False, None)
        memory = norm(memory, p["encoder_norm"]) if pre else memory
        x = stack(embed(previous, target), "decoder", model.decoder_layers or model.layers, True, memory)
        x = norm(x, p["decoder_norm"]) if pre else x
        return x @ (p["output"]["kernel"] if model.embedding == "untied" else target["tokens"]["embedding"].T)

    return jnp.stack([one(s, t) for s, t in zip(*given, strict=True)])


def without_key_biases(tree):
    """A bias of keys moves all products of a query alike, which the softmax does not see: its gradient is 0."""
    return {k: v for k, v in jax.tree_util.tree_leaves_with_path(tree) if "'key'], DictKey(key='bias" not in str(k)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOOKED_INTO)
def test_logits_and_gradients_equal_those_of_a_plain_implementation(kind):
    model, variables = make(kind)

    def score(apply):
        return lambda v: (lambda y: ((jnp.sin(y) ** 2).sum(), y))(apply(v))

    # The second pair, which has padding on both sides; the plain one sees the source without.
    run, fixed = {}, Pair(*(np.asarray(ids[1:]) for ids in pair()))
    for name, apply in (("ours", lambda v: model.apply(v, fixed)), ("plain", lambda v: plain(model, v, fixed))):
        (_, logits), gradient = jax.jit(jax.value_and_grad(score(apply), has_aux=True))(variables)
        scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
        run[name] = logits, jax.tree.map(lambda a, s=scale: a / s, gradient)
    np.testing.assert_allclose(run["ours"][0], run["plain"][0], rtol=1e-5, atol=1e-5)
    assert_close(run["ours"][1], run["plain"][1], atol=1e-5)
    assert run["ours"][0].dtype == jnp.float32
    assert run["ours"][0].shape == (1, 5, 13)
    for path, leaf in without_key_biases(run["ours"][1]).items():
        assert float(np.abs(leaf).max()) > 1e-9, path


def torch_attention(ours, theirs, torch):
    names = ("query", "key", "value")
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.tensor(np.concatenate([np.array(ours[n]["kernel"]).T for n in names])))
        theirs.in_proj_bias.copy_(torch.tensor(np.concatenate([np.array(ours[n]["bias"]) for n in names])))
        theirs.out_proj.weight.copy_(torch.tensor(np.array(ours["merge"]["kernel"]).T))
        theirs.out_proj.bias.copy_(torch.tensor(np.array(ours["merge"]["bias"])))


@pytest.mark.slow
@pytest.mark.parametrize("place", ["pre", "post"])
def test_the_stack_equals_the_transformer_of_torch(place):
    torch = pytest.importorskip("torch")
    model = Seq2SeqTransformer(**{**BOTH, "norm_place": place, "embedding": "untied", "layers": 2})
    given = pair()
    variables = model.init(jax.random.key(3), given)
    p = variables["params"]
    options = {"dropout": 0.0, "batch_first": True, "norm_first": place == "pre"}
    last = {n: torch.nn.LayerNorm(12) if place == "pre" else None for n in ("encoder", "decoder")}
    parts = {}
    for name, kind, stack in (
        ("encoder", torch.nn.TransformerEncoderLayer, torch.nn.TransformerEncoder),
        ("decoder", torch.nn.TransformerDecoderLayer, torch.nn.TransformerDecoder),
    ):
        parts[name] = stack(kind(12, 2, 10, **options), 2, norm=last[name])
        for i, layer in enumerate(parts[name].layers):
            w = p[f"{name}_{i}"]
            torch_attention(w["attention"], layer.self_attn, torch)
            norms = (
                ["attention_norm", "mlp_norm"] if name == "encoder" else ["attention_norm", "cross_norm", "mlp_norm"]
            )
            if name == "decoder":
                torch_attention(w["cross"], layer.multihead_attn, torch)
            with torch.no_grad():
                for number, norm in enumerate(norms, start=1):
                    getattr(layer, f"norm{number}").weight.copy_(torch.tensor(np.array(w[norm]["scale"])))
                for theirs, ours in ((layer.linear1, "up"), (layer.linear2, "down")):
                    theirs.weight.copy_(torch.tensor(np.array(w[ours]["kernel"]).T))
                    theirs.bias.copy_(torch.tensor(np.array(w[ours]["bias"])))
    embedded = {}
    for name, ids in (("source", given.source), ("target", given.previous)):
        x = np.array(p[f"{name}_embedding"]["tokens"]["embedding"])[ids] * 12**0.5
        angle = np.arange(ids.shape[1])[:, None] / 10_000 ** (np.arange(0, 12, 2) / 12)
        embedded[name] = torch.tensor(x + np.concatenate([np.sin(angle), np.cos(angle)], -1), dtype=torch.float32)
    hidden = torch.tensor(np.array(given.source == 0))
    memory = parts["encoder"].train()(embedded["source"], src_key_padding_mask=hidden)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(5)
    y = parts["decoder"].train()(embedded["target"], memory, tgt_mask=mask, memory_key_padding_mask=hidden)
    wanted = y.detach().numpy() @ np.array(p["output"]["kernel"])
    np.testing.assert_allclose(model.apply(variables, given), wanted, atol=1e-5)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_parameters_of_the_papers_base_model():
    model = Seq2SeqTransformer(
        vocab_size=37_000, source_vocab_size=37_000, layers=6, width=512, heads=8, embedding="shared", norm_place="post"
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0), pair())
    attention, mlp, norm = 4 * (512 * 512 + 512), 2 * 512 * 2048 + 2048 + 512, 2 * 512
    blocks = 6 * (attention + mlp + 2 * norm) + 6 * (2 * attention + mlp + 3 * norm)
    assert count(shapes) == blocks + 37_000 * 512 == 63_082_496  # "65 million" in the paper's table 3


# --- what must not change anything


@pytest.mark.parametrize("kind", LOOKED_INTO)
def test_padding_changes_nothing(kind):
    model, variables = make(kind)
    given, apply = pair(), jax.jit(model.apply)
    wide = Pair(jnp.pad(given.source, ((0, 0), (0, 6))), jnp.pad(given.previous, ((0, 0), (0, 3))))
    logits = apply(variables, given)
    tolerance = 1e-6 * float(jnp.abs(logits).max())
    np.testing.assert_allclose(apply(variables, wide)[:, :5], logits, rtol=0, atol=tolerance)
    # Nor do the other rows of the batch.
    alone = apply(variables, Pair(given.source[1:, :4], given.previous[1:]))
    np.testing.assert_allclose(alone[0], logits[1], rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(("pool", "place"), [("mean", "pre"), ("token", "post"), ("none", "pre")])
def test_an_encoder_pools_real_tokens_only(pool, place):
    model = TransformerEncoder(**SMALL, vocab_size=11, pool=pool, norm_place=place, outputs=3)
    x, apply = tokens(0, 7, 4, width=7), jax.jit(model.apply)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    said, wide = apply(variables, x), apply(variables, jnp.pad(x, ((0, 0), (0, 6))))
    # A mask of one's own says the same as the zeros.
    masked = apply(variables, jnp.where(x == 0, 5, x), mask=x != 0)
    assert said.shape == ((2, 7, 12) if pool == "none" else (2, 3))
    for other in (wide, masked):
        for row, real in enumerate((7, 4) if pool == "none" else (3, 3)):
            np.testing.assert_allclose(other[row, :real], said[row, :real], rtol=0, atol=1e-6)
    if pool != "none":
        assert bool(jnp.isfinite(apply(variables, x * 0)).all()), "a row of padding alone"
    gradient = jax.jit(jax.grad(lambda v: (model.apply(v, x)[..., 0] ** 2).sum()))(variables)
    dead = [k for k, v in without_key_biases(gradient).items() if float(jnp.abs(v).max()) < 1e-9]
    assert not dead, dead


def test_no_target_position_sees_what_comes_after_it():
    model, variables = make("pre")
    given = pair()
    changed = given._replace(previous=given.previous.at[:, 3].set(12))
    a, b = (jax.jit(model.apply)(variables, g) for g in (given, changed))
    np.testing.assert_array_equal(a[:, :3], b[:, :3])
    assert float(jnp.abs(a[:, 3:] - b[:, 3:]).max()) > 1e-3


@pytest.mark.parametrize("kind", LOOKED_INTO)
def test_the_cache_gives_the_logits_of_the_whole_target(kind):
    model, variables = make(kind)
    given = pair()
    cache = jax.jit(lambda v, s: model.apply(v, s, 6, method="begin"))(variables, given.source)
    extend, pieces = jax.jit(lambda v, t, c: model.apply(v, t, c, method="extend")), []
    for part in (given.previous[:, :3], given.previous[:, 3:4], given.previous[:, 4:]):
        logits, cache = extend(variables, part, cache)
        pieces.append(logits)
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), jax.jit(model.apply)(variables, given), atol=2e-5)
    assert int(cache["length"]) == 5


@pytest.mark.slow
def test_bfloat16_and_dropout():
    model, variables = make("learned")
    half, apply = jax.tree.map(lambda a: a.astype(jnp.bfloat16), variables), jax.jit(model.apply)
    logits, exact = apply(half, pair()), apply(variables, pair())
    assert logits.dtype == jnp.float32
    assert float(jnp.abs(logits - exact).max()) < 0.05 * float(jnp.abs(exact).max())
    assert greedy(model, half, pair().source, 5).shape == (2, 5)
    noisy = model.clone(dropout=0.5)
    drop = jax.jit(lambda v, key: noisy.apply(v, pair(), train=True, rngs={"dropout": key}))
    drawn = [drop(variables, jax.random.key(i)) for i in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert float(jnp.abs(drawn[0] - drawn[2]).max()) > 0.01


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 5}, "width 12 is not divisible by heads 5"),
        ({"heads": 4, "positions": "rotary"}, "width / heads is even, not 3"),
        ({"dropout": 1.0}, "dropout is a probability"),
        ({"layers": 0}, "layers is at least 1"),
        ({"decoder_layers": 0}, "decoder_layers is at least 1"),
        ({"embedding": "shared"}, "the source has 11 tokens and the target 13"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Seq2SeqTransformer(**{**BOTH, **fields})


def test_sequences_that_do_not_fit_are_refused():
    model, variables = make("learned")
    given = pair()
    with pytest.raises(ValueError, match="source: 21 tokens do not fit Seq2SeqTransformer.length 16"):
        model.apply(variables, given._replace(source=jnp.tile(given.source, (1, 3))))
    with pytest.raises(ValueError, match=r"takes previous \[batch, positions\] of integers, at least one, got float32"):
        model.apply(variables, given._replace(previous=given.previous.astype(jnp.float32)))
    with pytest.raises(ValueError, match="at most Seq2SeqTransformer.length 16, 17 were requested"):
        greedy(model, variables, given.source, 17)
    for write in (greedy, beam_search):
        with pytest.raises(
            ValueError, match=r"a source has tokens from .* to 77, but Seq2SeqTransformer.source_vocab_size is"
        ):
            write(model, variables, [[4, 77]], 5)
    with pytest.raises(ValueError, match="the beam width is at least 1, got 0"):
        beam_search(model, variables, given.source, 5, width=0)
    with pytest.raises(ValueError, match="length penalty is at least 0, got -1"):
        beam_search(model, variables, given.source, 5, penalty=-1.0)


# --- writing


@functools.partial(jax.jit, static_argnums=0)
def logits_after(model, variables, source, previous):
    return model.apply(variables, Pair(source[None], previous[None]))[0]


def whole(model, variables, source, written):
    """Log-probabilities of what may follow, `[V]` numpy, from the whole model without a cache."""
    previous = np.pad([BEGIN, *written], (0, 6 - len(written)))  # one length; what comes after does not matter
    logits = np.array(logits_after(model, variables, source, jnp.asarray(previous, jnp.int32))[len(written)], float)
    logits[[PAD, BEGIN]] = -np.inf
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


@pytest.fixture(scope="module")
def writer():
    """A model with three tokens to write (end, unknown, one letter), sharp enough to have opinions."""
    model = Seq2SeqTransformer(vocab_size=5, source_vocab_size=11, layers=1, width=8, heads=2, length=9)
    source = tokens(4, 5, 3, 1, width=5)
    variables = jax.jit(model.init)(jax.random.key(7), Pair(source, source[:, :2]))
    return model, jax.tree.map(lambda a: a * 1.8, variables), source


def test_greedy_decoding_equals_that_of_the_whole_model_step_by_step(writer):
    model, variables, source = writer
    said = np.asarray(greedy(model, variables, source, 6))
    for row, one in zip(source, said, strict=True):
        wanted = []
        while len(wanted) < 6 and END not in wanted:
            wanted.append(int(whole(model, variables, row, wanted).argmax()))
        np.testing.assert_array_equal(one, wanted + [PAD] * (6 - len(wanted)))


def test_a_beam_of_one_is_greedy_and_wider_ones_are_in_order(writer):
    model, variables, source = writer
    np.testing.assert_array_equal(
        beam_search(model, variables, source, 6, width=1).tokens[:, 0], greedy(model, variables, source, 6)
    )
    found = beam_search(model, variables, source, 6, width=4)
    assert found.tokens.shape == (3, 4, 6)
    for tokens, scores in zip(*map(np.asarray, found), strict=True):
        assert len({tuple(row) for row in tokens}) == 4, "no sequence twice"
        ended = (tokens == END).any(axis=1)
        assert list(ended) == sorted(ended, reverse=True), "those that have ended come first"
        for some in (scores[ended], scores[~ended]):
            assert (np.diff(some) <= 0).all(), "best first"


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.5])
def test_a_beam_as_wide_as_all_sequences_finds_the_best_of_all(writer, penalty):
    model, variables, source = writer
    N = 4
    found = beam_search(model, variables, source, N, width=31, penalty=penalty)
    for row, (best, scores) in enumerate(zip(*map(np.asarray, found), strict=True)):
        after = {
            begun: whole(model, variables, source[row], begun)
            for n in range(N)
            for begun in itertools.product((3, 4), repeat=n)
        }
        every = {}
        for begun in after:
            sequence = (*begun, END)
            probability = sum(after[sequence[:i]][token] for i, token in enumerate(sequence))
            every[sequence] = probability / ((5 + len(sequence)) / 6) ** penalty
        ranked = sorted(every, key=every.get, reverse=True)
        assert len(ranked) == 15
        for place, sequence in enumerate(ranked):
            np.testing.assert_array_equal(best[place], [*sequence, *[PAD] * (N - len(sequence))])
            assert scores[place] == pytest.approx(every[sequence], abs=1e-4)
        assert all(END not in rest for rest in best[15:]), "those that have not ended come last"


def test_writing_compiles_once_and_stops_early(writer):
    model, variables, source = writer
    before = _greedy._cache_size(), _beam_search._cache_size()
    for shift in range(3):
        moved = jnp.roll(source, shift, axis=0)
        greedy(model, variables, moved, 7)
        beam_search(model, variables, moved, 7, width=3, penalty=0.5)
    assert (_greedy._cache_size(), _beam_search._cache_size()) == (before[0] + 1, before[1] + 1)


# --- BLEU


def plain_bleu(written, references):
    """As in the paper, with Counters."""
    found, total = [0] * 4, [0] * 4
    for said, right in zip(written, references, strict=True):
        for n in range(1, 5):
            runs = [Counter(zip(*(line[i:] for i in range(n)), strict=False)) for line in (said, right)]
            found[n - 1] += sum((runs[0] & runs[1]).values())
            total[n - 1] += max(len(said) - n + 1, 0)
    lengths = [sum(map(len, lines)) for lines in (written, references)]
    if min(found) == 0:
        return 0.0
    brevity = min(1.0, math.exp(1 - lengths[1] / lengths[0]))
    return 100 * brevity * math.prod(f / t for f, t in zip(found, total, strict=True)) ** 0.25


def ours_bleu(written, references, width=9, mask=None):
    ids = [encode_lines([[str(t) for t in line] for line in lines], [*SPECIAL, *"456789"], width, ends=True)
           for lines in (written, references)]  # fmt: skip
    counts = jax.jit(bleu_counts)(*map(jnp.asarray, ids), jnp.ones(len(written)) if mask is None else mask)
    return bleu({name: float(mean.sum) / max(float(mean.weight), 1) for name, mean in counts.items()})


def test_bleu_of_a_line_worked_out_by_hand():
    # "the cat sat on the mat" for "the cat is on the mat yes": runs found 5 of 6, 3 of 5, 1 of 4, 0 of 3 ...
    said, right = [4, 5, 6, 7, 4, 8], [4, 5, 9, 7, 4, 8, 8]
    assert ours_bleu([said], [right]) == 0.0
    # ... and with a second pair that is right (4 tokens): 9/10, 6/8, 3/6, 1/4, lengths 10 to 11.
    wanted = 100 * math.exp(1 - 11 / 10) * (9 / 10 * 6 / 8 * 3 / 6 * 1 / 4) ** 0.25
    assert ours_bleu([said, [4, 5, 6, 7]], [right, [4, 5, 6, 7]]) == pytest.approx(wanted, rel=1e-5)
    assert wanted == pytest.approx(48.77, abs=0.01)
    assert ours_bleu([said, said], [right, said], mask=jnp.asarray([0.0, 1.0])) == pytest.approx(100)
    # An unknown token is not the unknown word of the reference: 4/5, 3/4, 2/3, 1/2 are found.
    assert ours_bleu([[4, 5, 6, 7, 3]], [[4, 5, 6, 7, 3]]) == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 / 2) ** 0.25)


lines = st.lists(st.lists(st.integers(4, 6), max_size=8), min_size=3, max_size=3)


@settings(max_examples=60, deadline=None)
@given(written=lines, references=lines)
def test_bleu_equals_a_plain_implementation(written, references):
    assert ours_bleu(written, references) == pytest.approx(plain_bleu(written, references), rel=1e-4, abs=1e-6)


# --- data


def test_lines_are_encoded_and_decoded():
    assert split_words("Zwei Männer, im T-Shirt; don't!") == ["zwei", "männer", ",", "im", "t-shirt", ";", "don't", "!"]
    lines = [split_words(line) for line in ("a b b <pad> c", "b a d")]
    names = build_vocabulary(lines, least=2)
    assert names == (*SPECIAL, "b", "a")
    ids = encode_lines(lines, names, 7, ends=True)
    np.testing.assert_array_equal(ids[1], [4, 5, 3, END, 0, 0, 0])
    assert spell(ids[1], names, "words") == "b a <unknown>"
    assert spell([BEGIN, 5, 4, END, 5], names, "characters") == "ab"
    np.testing.assert_array_equal(encode_text(" A B ", Tokens(names, "words")), [[5, 4]])
    with pytest.raises(DataError, match="the text is empty"):
        encode_text("  ", Tokens(names, "words"))
    with pytest.raises(DataError, match="the model knows 2 characters, and 'x' is not one of them"):
        encode_text("abx", Tokens(names, "characters"))


@pytest.fixture(scope="module")
def word_list(tmp_path_factory):
    """All 600 syllables of three letters from a part of the alphabet, and lines that are to be left out."""
    path = tmp_path_factory.mktemp("words") / "words.txt"
    made = ["".join(w) for w in itertools.product("abcdefghij", "aeiou", "abcdefghijkl")]
    path.write_text("\n".join([*made, "Aab", "don't", "é", "abcdefghijklmnopq"]))
    return path


def test_reversed_words_are_split_without_repeats(word_list):
    data = ReversedWords(str(word_list), longest=5, train=450, test=90).open()
    assert data.card.tokens.unit == "characters"
    assert (data.card.input_shape, data.card.target_shape) == ((5,), (6,))
    assert "1 of 601 words left out for their length" in data.source
    spelt = {}
    for split in ("train", "test"):
        arrays = getattr(data, split)
        names = data.class_names
        pairs = [
            tuple(spell(a[i], names, "characters") for a in (arrays["inputs"], arrays["targets"])) for i in range(90)
        ]
        assert all(source == target[::-1] for source, target in pairs)
        spelt[split] = {spell(row, names, "characters") for row in arrays["inputs"]}
    assert len(spelt["train"]) == 450
    assert len(spelt["test"] - spelt["train"]) == 90
    again = ReversedWords(str(word_list), longest=5, train=450, test=90).open()
    assert again.fingerprint == data.fingerprint
    for wrong, message in (
        ({}, "601? different words|600 different words"),
        ({"train": 0}, "ReversedWords.train is at least 1, got 0"),
        ({"path": "gone.txt"}, "there is no text file 'gone.txt'"),
    ):
        with pytest.raises(DataError, match=message):
            ReversedWords(**{"path": str(word_list), **wrong}).open()


def test_translations_report_the_pairs_that_are_left_out(tmp_path, monkeypatch):
    folder = tmp_path / "text" / "multi30k"
    folder.mkdir(parents=True)
    texts = {
        "train.de": "Ein Hund.\nEin Hund läuft schnell über das Feld.\nEin Kind.", "train.en": "A dog.\nA dog runs.\nA kid.",
        "val.de": "Ein Pferd läuft weit und breit.", "val.en": "A horse.",
    }  # fmt: skip
    for name, text in texts.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    monkeypatch.setenv("JAXNETS_DATA", str(tmp_path))
    data = Multi30k(test="val", length=5).open()
    assert "1 of 3 training pairs left out for more than 5 words, none of the test" in data.source
    assert data.card.tokens.names == (*SPECIAL, ".", "ein")
    assert data.test["inputs"].shape == (1, 7)
    assert spell(data.test["targets"][0], data.class_names, "words") == "a <unknown> ."
    (folder / "val.en.gz").write_bytes(gzip.compress(b"A horse.\nTwo."))
    with pytest.raises(DataError, match="1 lines in 'de', 2 in 'en'"):
        Multi30k(test="val").open()
    (folder / "val.en.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="cannot be read as text"):
        Multi30k(test="val").open()
    with pytest.raises(DataError, match="choose two languages"):
        Multi30k(target="de").open()


def test_only_the_needed_files_of_an_archive_are_unpacked(tmp_path, monkeypatch):
    def archive(**files):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            for name, text in files.items():
                file.writestr(name.replace("__", "/").replace("_DOT_", "."), text)
        return buffer.getvalue()

    assert gzip.decompress(unpack_words(archive(words__en="a\nb\n"))) == b"a\nb\n"
    content = unpack_polarity(
        archive(**{
            "sentence_polarity__rt-polarity_DOT_pos": "\n".join(f"good  film {i} " for i in range(20)),
            "sentence_polarity__rt-polarity_DOT_neg": "\n".join(f"bad film {i} très" for i in range(20)),
        })
    )  # fmt: skip
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "rotten_tomatoes.tsv.gz").write_bytes(content)
    monkeypatch.setenv("JAXNETS_DATA", str(tmp_path))
    data = RottenTomatoes(length=3).open()
    assert data.card.examples == {"train": 32, "test": 4, "validation": 4}
    assert "20 of 40 sentences cut after 3 words" in data.source
    assert spell(data.test["inputs"][0], data.card.tokens.names, "words") == "good film <unknown>"
    np.testing.assert_array_equal(data.test["targets"], [1, 1, 0, 0])


# --- training


def run_of(word_list, **changes):
    model = Seq2SeqTransformer(layers=1, width=32, heads=2, length=8, positions="learned")
    run = Experiment(
        task=SequenceToSequence(model=model), data=ReversedWords(str(word_list), longest=3, train=450, test=90),
        optimizer=AdamW(1e-2), steps=150, batch_size=48,
    )  # fmt: skip
    return replace(run, **changes)


@pytest.mark.slow
def test_label_smoothing_and_masks(word_list, one_device):
    parts = assemble(run_of(word_list), mesh=one_device)
    task, state = parts.task, parts.fresh_state()
    batch = {k: jnp.asarray(v[:4], jnp.int32) for k, v in parts.dataset.train.items()}
    batch = {
        **batch,
        "targets": batch["targets"].at[1, 2:].set(jnp.asarray([END, 0])),
        "mask": jnp.asarray([1.0, 1, 0, 1]),
    }
    smooth = replace(task, label_smoothing=0.1)
    logits = np.asarray(jax.jit(lambda v, b: task.apply(v, b, None)[0])(state.variables, batch), np.float64)
    log = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    target, wanted, plainly = np.asarray(batch["targets"]), [], []
    for row in (0, 1, 3):
        for at in range(4):
            if target[row, at]:
                plainly.append(-log[row, at, target[row, at]])
                wanted.append(0.9 * plainly[-1] - 0.1 * log[row, at].mean())
    loss, aux = jax.jit(lambda v, b: smooth.loss(v, b, jax.random.key(0), True))(state.variables, batch)
    assert float(loss.weight) == len(wanted) == 11
    assert float(loss.value) == pytest.approx(np.mean(wanted), rel=1e-5)
    measured = jax.jit(replace(smooth, written="none").metrics)(state.variables, batch)
    assert float(measured["loss"].value) == pytest.approx(np.mean(plainly), rel=1e-5)
    hits = (log.argmax(-1) == target) | (target == 0)
    assert float(aux.metrics["sequence_accuracy"].sum) == hits[[0, 1, 3]].all(axis=1).sum()


@pytest.fixture(scope="module")
def trained(word_list, one_device, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    return train(run_of(word_list), mesh=one_device, progress="none", run_dir=folder), folder


@pytest.mark.slow
def test_it_learns_to_reverse_words(trained, tmp_path, capsys):
    run, folder = trained
    last = run.history.last("test")
    assert last["exact"] > 0.9
    assert last["examples"] == 90
    assert last["sequence_accuracy"] >= last["exact"]
    assert "Generated sequences (test)" in (folder / "report.html").read_text()
    test = run.parts.dataset.test
    said = run.predict(test["inputs"])
    assert (said == test["targets"]).all(axis=1).mean() == pytest.approx(last["exact"])
    np.testing.assert_array_equal(run.predict(np.pad(test["inputs"], ((0, 0), (0, 2)))), said)  # padding
    with pytest.raises(DataError, match="the given inputs hold tokens from 0 to 77, but there are 30"):
        run.predict(np.full((2, 3), 77) * np.asarray([[1], [0]]))
    with pytest.raises(DataError, match="9 tokens do not fit the model's length 8"):
        run.predict(np.ones((2, 9), int))
    assert from_data(to_data(run.experiment)) == run.experiment

    here = str(folder)
    for flags in ((), ("--beam", "3")):
        assert generate.run([here, "--prompt", "dog", *flags]) == 0
        assert capsys.readouterr().out == "god\n"
    for flags, kind, message in (
        (("--beam", "-1"), UsageError, "beam is at least 1"),
        (("--prompt", "abcdefghi"), UsageError, "9 tokens do not fit"),
    ):
        with pytest.raises(kind, match=message):
            generate.run([here, "--prompt", "dog", *flags])
    np.save(tmp_path / "x.npy", test["inputs"][:3])
    told = run_cli("predict", here, "x.npy", cwd=tmp_path)
    names = run.parts.dataset.class_names
    assert told.stdout.splitlines() == [spell(row, names, "characters") for row in said[:3]], told.stderr


@pytest.mark.slow
def test_bleu_is_measured_over_the_whole_split(word_list, trained, one_device):
    task = SequenceToSequence(model=run_of(word_list).task.model, written="bleu", beam=2)
    parts = assemble(run_of(word_list, task=task, eval_batch_size=40), mesh=one_device)
    variables = trained[0].variables
    measured, test = parts.evaluator.metrics(variables), parts.dataset.test
    written = parts.task.decide(parts.predictor(variables, {"inputs": test["inputs"]}))
    cut = [[list(row[: list(row).index(END)]) if END in row else [t for t in row if t] for row in ids]
           for ids in (written, test["targets"])]  # fmt: skip
    assert measured["bleu"] == pytest.approx(plain_bleu(*cut), rel=1e-4, abs=1e-6)
    for n in (1, 2):
        runs = [[Counter(zip(*(line[i:] for i in range(n)), strict=False)) for line in lines] for lines in cut]
        found = sum(sum((a & b).values()) for a, b in zip(*runs, strict=True))
        assert measured[f"precision_{n}"] == pytest.approx(found / sum(sum(a.values()) for a in runs[0]), rel=1e-5)
    assert measured["precision_2"] > 0.8
    assert parts.task.headline == "bleu"


def test_a_task_and_data_that_do_not_fit_are_refused(word_list, blobs, one_device):
    options, model = {"mesh": one_device, "progress": "none"}, run_of(word_list).task.model
    for changes, message in (
        ({"model": MLP()}, "SequenceToSequence needs a model that generates sequences, and MLP does not"),
        ({"model": model.clone(length=3)}, "sequences of 4 tokens, more than Seq2SeqTransformer.length 3"),
        ({"model": model.clone(source_vocab_size=9)}, "source_vocab_size=9, but 'reversed words' has 30 tokens"),
        ({"model": model, "length": 20}, "sequences of 20 tokens, more than Seq2SeqTransformer.length 8"),
    ):
        with pytest.raises(DataError, match=message):
            train(run_of(word_list, task=SequenceToSequence(**changes)), **options)
    with pytest.raises(DataError, match="SequenceToSequence needs pairs of sequences"):
        train(run_of(word_list), dataset=blobs, **options)
    with pytest.raises(DataError, match="Classification needs one integer label"):
        train(run_of(word_list, task=Classification(model=TransformerEncoder())), **options)
    for field in ({"label_smoothing": 1.0}, {"beam": 0}, {"length_penalty": -1.0}, {"length": 0}):
        with pytest.raises(ValueError, match=next(iter(field))):
            SequenceToSequence(model=model, **field)


def test_tokens_without_a_name_are_refused():
    ids = np.asarray([[4, 5, 0], [4, 9, 9]], np.int32)
    split = {"inputs": ids, "targets": np.asarray([0, 1], np.int32)}
    with pytest.raises(DataError, match="the training inputs hold tokens from 0 to 9, but there are 6"):
        Dataset("mine", split, split, ("a", "b"), prepare=TokenIds(), tokens=Tokens((*SPECIAL, "x", "y"), "words"))


@pytest.mark.slow
def test_an_encoder_learns_a_word_that_decides(one_device):
    rng = np.random.default_rng(0)
    names = (*SPECIAL, *map(str, range(20)))
    x = np.where(np.arange(9) < rng.integers(3, 10, (400, 1)), rng.integers(5, 24, (400, 9)), 0).astype(np.uint16)
    y = (np.arange(400) % 2).astype(np.int32)
    x[y == 1, 1] = 4  # the word "0", which occurs nowhere else
    parts = [{"inputs": x[s], "targets": y[s]} for s in (slice(300), slice(300, 400))]
    data = Dataset("words", *parts, ("without", "with"), prepare=TokenIds(), tokens=Tokens(names, "words"))
    task = Classification(model=TransformerEncoder(layers=1, width=16, heads=2, length=9))
    experiment = Experiment(task=task, data=ReversedWords(), optimizer=AdamW(1e-2), steps=60, batch_size=50)
    run = train(experiment, dataset=data, mesh=one_device, progress="none")
    assert run.history.last("test")["accuracy"] == 1.0
    assert run.parts.task.model.vocab_size == 24


def test_test_sources_longer_than_the_training_ones_are_found_before_the_run():
    names = (*SPECIAL, *"abcdef")
    split = {n: {"inputs": np.full((4, n), 5, np.int32), "targets": np.full((4, 3), 6, np.int32)} for n in (4, 7)}
    data = Dataset("words", split[4], split[7], names, target_kind="sequence", prepare=TokenIds(),
                   tokens=Tokens(names, "words"))  # fmt: skip
    task = SequenceToSequence(model=Seq2SeqTransformer(layers=1, width=8, heads=2, length=5))
    with pytest.raises(DataError, match="'words' has sequences of 7 tokens, more than Seq2SeqTransformer.length 5"):
        task.bind(data.card)
