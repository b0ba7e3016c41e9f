"""The encoder, the encoder with a decoder, what they write, their task and their data."""

import itertools
import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, replace, run_cli
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnets.assemble import assemble
from jaxnets.config import Experiment, from_data, to_data
from jaxnets.contracts import Tokens
from jaxnets.data import Dataset, Multi30k, ReversedWords, RottenTomatoes
from jaxnets.data.dataset import TokenIds
from jaxnets.data.pairs import unpack_words
from jaxnets.data.sentences import unpack_polarity
from jaxnets.data.vocabulary import build_vocabulary, encode_lines, encode_text, read_lines, split_words
from jaxnets.errors import DataError
from jaxnets.models import MLP, Pair, Seq2SeqTransformer, TransformerEncoder, beam_search, greedy
from jaxnets.models.beam import _beam_search, _greedy
from jaxnets.ops.positions import alibi_slopes
from jaxnets.ops.tokens import BEGIN, END, PAD, SPECIAL, spell
from jaxnets.optim import AdamW
from jaxnets.run import train
from jaxnets.tasks import Classification, SequenceToSequence
from jaxnets.tasks.bleu import bleu, bleu_counts

SMALL = {"layers": 2, "width": 24, "heads": 3, "hidden": 20, "length": 16}
BOTH = {**SMALL, "vocabulary": 13, "source_vocabulary": 11}
KINDS = {
    "pre": {},
    "post": {"norm_place": "post", "embedding": "untied"},
    "learned": {"positions": "learned", "activation": "gelu"},
    "rotary": {"positions": "rotary"},
    "alibi": {"positions": "alibi", "norm_place": "post"},
    "shared": {"embedding": "shared", "source_vocabulary": 13, "decoder_layers": 1},
}


@pytest.fixture(autouse=True)
def _plain_broadcasting(request):
    """The plain implementations below broadcast as numpy does."""
    with jax.numpy_rank_promotion("allow" if "plain" in request.node.name else "raise"):
        yield


def tokens(seed, *lengths, width, vocabulary=11):
    """Rows of random tokens of these lengths, filled up with 0."""
    rng = np.random.default_rng(seed)
    rows = [np.pad(rng.integers(4, vocabulary, n), (0, width - n)) for n in lengths]
    return jnp.asarray(np.stack(rows), jnp.int32)


def pair(width=7):
    previous = tokens(1, 5, 2, width=5).at[:, 0].set(BEGIN)
    return Pair(tokens(0, 7, 4, width=width), previous)


def make(kind):
    model = Seq2SeqTransformer(**{**BOTH, **KINDS[kind]})
    variables = jax.jit(model.init)(jax.random.key(1), pair())
    # Larger weights than fresh ones, so that attention is far from uniform, and biases that are not 0.
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


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_gradients_equal_those_of_a_plain_implementation(kind):
    model, variables = make(kind)

    def score(apply):
        return lambda v: (lambda y: ((jnp.sin(y) ** 2).sum(), y))(apply(v))

    run = {}
    for name, apply in (("ours", model.apply), ("plain", lambda v, given: plain(model, v, given))):
        fixed = pair()
        function = jax.value_and_grad(score(lambda v, a=apply, f=fixed: a(v, f)), has_aux=True)
        (_, logits), gradient = jax.jit(function)(variables)
        scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
        run[name] = logits, jax.tree.map(lambda a, s=scale: a / s, gradient)
    np.testing.assert_allclose(run["ours"][0], run["plain"][0], rtol=1e-5, atol=1e-5)
    assert_close(run["ours"][1], run["plain"][1], atol=1e-5)
    assert run["ours"][0].dtype == jnp.float32
    assert run["ours"][0].shape == (2, 5, 13)
    for path, leaf in without_key_biases(run["ours"][1]).items():
        assert float(jnp.abs(leaf).max()) > 1e-9, path


def torch_attention(ours, theirs, torch):
    names = ("query", "key", "value")
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.tensor(np.concatenate([np.array(ours[n]["kernel"]).T for n in names])))
        theirs.in_proj_bias.copy_(torch.tensor(np.concatenate([np.array(ours[n]["bias"]) for n in names])))
        theirs.out_proj.weight.copy_(torch.tensor(np.array(ours["merge"]["kernel"]).T))
        theirs.out_proj.bias.copy_(torch.tensor(np.array(ours["merge"]["bias"])))


@pytest.mark.parametrize("place", ["pre", "post"])
def test_the_stack_equals_the_transformer_of_torch(place):
    torch = pytest.importorskip("torch")
    model = Seq2SeqTransformer(**{**BOTH, "norm_place": place, "embedding": "untied"})
    given = pair()
    variables = model.init(jax.random.key(3), given)
    p = variables["params"]
    options = {"dropout": 0.0, "batch_first": True, "norm_first": place == "pre"}
    last = {n: torch.nn.LayerNorm(24) if place == "pre" else None for n in ("encoder", "decoder")}
    parts = {}
    for name, kind, stack in (
        ("encoder", torch.nn.TransformerEncoderLayer, torch.nn.TransformerEncoder),
        ("decoder", torch.nn.TransformerDecoderLayer, torch.nn.TransformerDecoder),
    ):
        parts[name] = stack(kind(24, 3, 20, **options), 2, norm=last[name])
        for i, layer in enumerate(parts[name].layers):
            w = p[f"{name}_{i}"]
            torch_attention(w["attention"], layer.self_attn, torch)
            norms = ["attention_norm", "mlp_norm"] if name == "encoder" else ["attention_norm", "cross_norm", "mlp_norm"]
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
        x = np.array(p[f"{name}_embedding"]["tokens"]["embedding"])[ids] * 24**0.5
        angle = np.arange(ids.shape[1])[:, None] / 10_000 ** (np.arange(0, 24, 2) / 24)
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
        vocabulary=37_000, source_vocabulary=37_000, layers=6, width=512, heads=8, embedding="shared", norm_place="post"
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0), pair())
    attention, mlp, norm = 4 * (512 * 512 + 512), 2 * 512 * 2048 + 2048 + 512, 2 * 512
    blocks = 6 * (attention + mlp + 2 * norm) + 6 * (2 * attention + mlp + 3 * norm)
    assert count(shapes) == blocks + 37_000 * 512 == 63_084_544  # "65 million" in the paper's table 3


# --- what must not change anything


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind):
    model, variables = make(kind)
    given, apply = pair(), jax.jit(model.apply)
    wide = Pair(jnp.pad(given.source, ((0, 0), (0, 6))), jnp.pad(given.previous, ((0, 0), (0, 3))))
    np.testing.assert_allclose(apply(variables, wide)[:, :5], apply(variables, given), atol=1e-6, rtol=1e-6)
    # Nor do the other rows of the batch.
    alone = apply(variables, Pair(given.source[1:, :4], given.previous[1:]))
    np.testing.assert_allclose(alone[0], apply(variables, given)[1], atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("pool", ["mean", "token", "none"])
@pytest.mark.parametrize("place", ["pre", "post"])
def test_an_encoder_pools_what_is_real(pool, place):
    model = TransformerEncoder(**SMALL, vocabulary=11, pool=pool, norm_place=place, outputs=3, positions="rotary")
    x = tokens(0, 7, 4, width=7)
    variables = model.init(jax.random.key(0), x)
    said, wide = model.apply(variables, x), model.apply(variables, jnp.pad(x, ((0, 0), (0, 6))))
    if pool == "none":
        assert said.shape == (2, 7, 24)
        np.testing.assert_allclose(wide[0, :7], said[0], atol=1e-6, rtol=1e-6)
        np.testing.assert_allclose(wide[1, :4], said[1, :4], atol=1e-6, rtol=1e-6)
    else:
        assert said.shape == (2, 3)
        np.testing.assert_allclose(wide, said, atol=1e-6, rtol=1e-6)
        assert bool(jnp.isfinite(model.apply(variables, x * 0)).all()), "a row of padding alone"
    # A mask of one's own says the same as the zeros.
    masked = model.apply(variables, jnp.where(x == 0, 5, x), mask=x != 0)
    np.testing.assert_allclose(masked[0], said[0], atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(masked[1, :3], said[1, :3], atol=1e-6, rtol=1e-6)
    gradient = jax.grad(lambda v: (model.apply(v, x) ** 2).sum())(variables)
    dead = [k for k, v in without_key_biases(gradient).items() if float(jnp.abs(v).max()) < 1e-9]
    assert not dead, dead


def test_no_target_position_sees_what_comes_after_it():
    model, variables = make("pre")
    given = pair()
    changed = given._replace(previous=given.previous.at[:, 3].set(12))
    a, b = model.apply(variables, given), model.apply(variables, changed)
    np.testing.assert_array_equal(a[:, :3], b[:, :3])
    assert float(jnp.abs(a[:, 3:] - b[:, 3:]).max()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_gives_the_logits_of_the_whole_target(kind):
    model, variables = make(kind)
    given = pair()
    cache = model.apply(variables, given.source, 6, method="begin")
    pieces = []
    for part in (given.previous[:, :2], given.previous[:, 2:3], given.previous[:, 3:]):
        logits, cache = model.apply(variables, part, cache, method="extend")
        pieces.append(logits)
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), model.apply(variables, given), atol=2e-5)
    assert int(cache["length"]) == 5


def test_bfloat16_and_dropout():
    model, variables = make("learned")
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), variables)
    logits = model.apply(half, pair())
    assert logits.dtype == jnp.float32
    exact = model.apply(variables, pair())
    assert float(jnp.abs(logits - exact).max()) < 0.05 * float(jnp.abs(exact).max())
    said = greedy(model, half, pair().source, 5)
    assert said.shape == (2, 5)
    noisy = model.clone(dropout=0.5)
    drawn = [noisy.apply(variables, pair(), train=True, rngs={"dropout": jax.random.key(i)}) for i in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert float(jnp.abs(drawn[0] - drawn[2]).max()) > 0.01
    np.testing.assert_array_equal(noisy.apply(variables, pair()), exact)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 5}, "width 24 is not divisible by heads 5"),
        ({"heads": 8, "positions": "rotary"}, "width / heads is even, not 3"),
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
    model, variables = make("pre")
    given = pair()
    with pytest.raises(ValueError, match="source: 21 tokens do not fit Seq2SeqTransformer.length 16"):
        model.apply(variables, given._replace(source=jnp.tile(given.source, (1, 3))))
    with pytest.raises(ValueError, match=r"takes previous \[batch, positions\] of integers, got float32"):
        model.apply(variables, given._replace(previous=given.previous.astype(jnp.float32)))
    with pytest.raises(ValueError, match="at most Seq2SeqTransformer.length 16, 17 were asked for"):
        greedy(model, variables, given.source, 17)
    with pytest.raises(ValueError, match="a beam is at least 1 wide, got 0"):
        beam_search(model, variables, given.source, 5, width=0)
    with pytest.raises(ValueError, match="length penalty is at least 0, got -1"):
        beam_search(model, variables, given.source, 5, penalty=-1.0)


# --- writing


def whole(model, variables, source, previous):
    """Log-probabilities of what may follow, `[V]` numpy, from the whole model without a cache."""
    given = Pair(source[None], jnp.asarray([[BEGIN, *previous]], jnp.int32))
    logits = np.array(model.apply(variables, given)[0, -1], np.float64)
    logits[[PAD, BEGIN]] = -np.inf
    return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()


@pytest.fixture(scope="module")
def writer():
    """A model with three tokens to write (end, unknown, one letter), sharp enough to have opinions."""
    model = Seq2SeqTransformer(vocabulary=5, source_vocabulary=11, layers=1, width=8, heads=2, length=9)
    source = tokens(4, 5, 3, 1, width=5)
    variables = model.init(jax.random.key(7), Pair(source, source[:, :2]))
    return model, jax.tree.map(lambda a: a * 1.8, variables), source


def test_greedy_writing_is_what_the_whole_model_says_step_by_step(writer):
    model, variables, source = writer
    said = np.asarray(greedy(model, variables, source, 6))
    for row, one in zip(source, said, strict=True):
        wanted = []
        while len(wanted) < 6 and END not in wanted:
            wanted.append(int(whole(model, variables, row, wanted).argmax()))
        np.testing.assert_array_equal(one, wanted + [PAD] * (6 - len(wanted)))


def test_a_beam_of_one_is_greedy_and_wider_ones_are_no_worse(writer):
    model, variables, source = writer
    np.testing.assert_array_equal(
        beam_search(model, variables, source, 6, width=1).tokens[:, 0], greedy(model, variables, source, 6)
    )
    wide, wider = (beam_search(model, variables, source, 6, width=w) for w in (2, 4))
    assert bool((wide.scores[:, 0] >= wide.scores[:, 1]).all())
    assert wider.tokens.shape == (3, 4, 6)
    assert len({tuple(row) for row in np.asarray(wider.tokens[0])}) == 4, "no sequence twice"


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
    counts = bleu_counts(*map(jnp.asarray, ids), jnp.ones(len(written)) if mask is None else mask)
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


lines = st.lists(st.lists(st.integers(4, 6), max_size=8), min_size=3, max_size=3)


@settings(max_examples=60, deadline=None)
@given(written=lines, references=lines)
def test_bleu_equals_a_plain_implementation(written, references):
    assert ours_bleu(written, references) == pytest.approx(plain_bleu(written, references), rel=1e-4, abs=1e-6)
