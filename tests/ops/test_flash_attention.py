"""Flash attention: the numbers of attention by arrays of all pairs, in memory that grows with the length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.ops.attention import attention_weights
from jaxnets.ops.attention_blocks import Pairs, block_gradients, block_outputs
from jaxnets.ops.attention_kernels import kernel_gradients, kernel_outputs
from jaxnets.ops.beyond_promise import compiling_for
from jaxnets.ops.flash_attention import flash_attention
from jaxnets.training.program import count_flops

H, K = 4, 8
CASES = {
    "all": {},
    "causal": {"causal": True},
    "documents": {"documents": True},
    "slopes": {"slopes": True},
    "causal, slopes": {"causal": True, "slopes": True},
    "window": {"causal": True, "window": 9},
    "window, documents, slopes": {"causal": True, "window": 20, "documents": True, "slopes": True},
    "causal, documents, slopes": {"causal": True, "documents": True, "slopes": True},
}


def by_numpy(q, k, v, w, *, causal=False, documents=None, slopes=None, window=None):
    """Outputs, and the gradients of their sum weighted by `w`, in float64 by arrays of all pairs."""
    q, k, v, w = (np.asarray(a, np.float64) for a in (q, k, v, w))
    repeats = q.shape[2] // k.shape[2]
    keys, values = np.repeat(k, repeats, 2), np.repeat(v, repeats, 2)
    distance = np.arange(q.shape[1])[:, None] - np.arange(k.shape[1])[None, :]
    scores = np.einsum("bthk,bshk->bhts", q, keys) / np.sqrt(q.shape[-1])
    if slopes is not None:
        scores -= np.asarray(slopes, np.float64)[None, :, None, None] * abs(distance)
    seen = np.ones((len(q), 1, *distance.shape), bool) & ((distance >= 0) | (not causal))
    seen &= distance < (window or np.inf)
    if documents is not None:
        mine, theirs = documents if isinstance(documents, tuple) else (documents, documents)
        seen &= (np.asarray(mine)[:, :, None] == np.asarray(theirs)[:, None, :])[:, None]
    p = np.exp(np.where(seen, scores, -np.inf) - np.where(seen, scores, -1e300).max(-1, keepdims=True)) * seen
    p /= np.maximum(p.sum(-1, keepdims=True), 1e-300)
    y, dp = np.einsum("bhts,bshk->bthk", p, values), np.einsum("bthk,bshk->bhts", w, values)
    ds = p * (dp - (p * dp).sum(-1, keepdims=True)) / np.sqrt(q.shape[-1])
    shared = [
        np.einsum("bhts,bthk->bshk", a, b).reshape(*k.shape[:3], repeats, -1).sum(3) for a, b in ((ds, q), (p, w))
    ]
    return y, (np.einsum("bhts,bshk->bthk", ds, keys), *shared)


def drawn(T, S, groups, options):
    rng = np.random.default_rng(T)
    shapes = (T, H), (S, groups), (S, groups), (T, H)
    arrays = [jnp.asarray(rng.normal(size=(2, length, heads, K)), jnp.float32) for length, heads in shapes]
    options = dict(options)
    if "documents" in options:
        options["documents"] = jnp.asarray(np.sort(rng.integers(0, 3, (2, T)), axis=1))
    if "slopes" in options:
        options["slopes"] = jnp.asarray(2.0 ** -np.arange(1, H + 1), jnp.float32)
    return arrays, options


def attended(q, k, v, w, options, block):
    """Outputs, and the gradients of their sum weighted by `w`, by one program."""

    def run(*arrays):
        y = flash_attention(*arrays, block=block, **options)
        return (y * w).sum(), y

    gradients, y = jax.jit(jax.grad(run, (0, 1, 2), has_aux=True))(q, k, v)
    return y, gradients


def assert_equal(found, wanted, atol=1e-5):
    for one, other in zip((found[0], *found[1]), (wanted[0], *wanted[1]), strict=True):
        np.testing.assert_allclose(one, other, atol=atol)


LAST = "causal, documents, slopes"
QUICK = (LAST, "window")
SIZES = [(37, 2, 8), (37, 4, 64), (64, 1, 16), (100, 2, 7)]


@pytest.mark.parametrize(
    ("T", "groups", "block", "case"),
    [
        pytest.param(*sizes, case, marks=() if sizes == SIZES[0] and case in QUICK else pytest.mark.slow)
        for sizes in SIZES
        for case in CASES
    ],
)
def test_outputs_and_gradients_are_those_of_all_pairs_in_float64(T, groups, block, case):
    arrays, options = drawn(T, T, groups, CASES[case])
    assert_equal(attended(*arrays, options, block), by_numpy(*arrays, **options))


def test_keys_of_another_length_with_padding_and_a_query_that_sees_none():
    arrays, _ = drawn(13, 29, 2, {})
    real = np.arange(29)[None, :] < np.array([[17], [0]])
    options = {"documents": (jnp.zeros((2, 13), int), jnp.where(real, 0, -1))}
    found = attended(*arrays, options, 8)
    assert_equal(found, by_numpy(*arrays, **options))
    assert not np.asarray(found[0][1]).any()


@pytest.mark.slow
def test_in_float64_it_is_exact():
    arrays, options = drawn(21, 21, 2, CASES[LAST])
    with jax.enable_x64(True):
        arrays = [jnp.asarray(np.asarray(a), jnp.float64) for a in arrays]
        options["slopes"] = jnp.asarray(np.asarray(options["slopes"]), jnp.float64)
        assert_equal(attended(*arrays, options, 8), by_numpy(*arrays, **options), atol=1e-13)


def temporaries(T, attention):
    shapes = [jax.ShapeDtypeStruct((1, T, H, K), jnp.float32)] * 3
    loss = jax.grad(lambda *a: attention(*a).sum(), (0, 1, 2))
    return jax.jit(loss).lower(*shapes).compile().memory_analysis().temp_size_in_bytes


def test_memory_grows_with_the_length_and_not_with_its_square():
    def blocks(*arrays):
        return flash_attention(*arrays, causal=True, block=32)

    def plain(*arrays):
        return jax.nn.dot_product_attention(*arrays, is_causal=True)

    small, large = temporaries(512, blocks), temporaries(2048, blocks)
    assert small < large < 4.2 * small
    assert temporaries(512, plain) > 4 * small


def test_half_of_causal_attention_is_not_computed():
    shapes = [jax.ShapeDtypeStruct((1, 64, H, K), jnp.float32)] * 3

    def flops(causal, **options):
        run = jax.grad(lambda *a: flash_attention(*a, causal=causal, block=8, **options).sum(), (0, 1, 2))
        return count_flops(jax.make_jaxpr(run)(*shapes).jaxpr)

    product = 2 * 64 * 64 * H * K
    assert flops(False) == pytest.approx(7 * product, rel=0.01)
    assert flops(True) == pytest.approx(7 * product * 36 / 64, rel=0.01)  # of 8 x 8 blocks
    assert flops(True, window=10) == pytest.approx(7 * product * 21 / 64, rel=0.01)  # three a row
    assert flops(True, window=9) == pytest.approx(7 * product * 15 / 64, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("causal", "documents", "window"),
    [(True, True, None), (True, False, None), (False, False, None), (True, False, 50), (True, True, 100)],
)
def test_the_kernels_of_a_tpu_give_the_same_as_blocks(causal, documents, window):
    rng = np.random.default_rng(0)
    q, k, v, dy = (jnp.asarray(rng.normal(size=(1, 128, heads, 64)), jnp.float32) for heads in (2, 1, 1, 2))
    numbers = jnp.asarray(np.sort(rng.integers(0, 3, (1, 128))))
    # The last queries see no key.
    pairs = Pairs(causal, (numbers.at[:, 120:].set(9), numbers) if documents else None, window=window)
    blocks = jax.jit(lambda: block_outputs(q, k, v, pairs, 64))()
    for one, other in zip(kernel_outputs(q, k, v, pairs, interpret=True), blocks, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    found = kernel_gradients(q, k, v, pairs, *blocks, dy, interpret=True)
    wanted = jax.jit(lambda: block_gradients(q, k, v, pairs, *blocks, dy, 64))()
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def traced(platform, dtype=jnp.bfloat16, K=64, T=256, **options):
    """The program of a gradient as it is traced for a platform, and its operations."""
    shapes = [jax.ShapeDtypeStruct((1, T, heads, K), dtype) for heads in (4, 2, 2)]
    with compiling_for(platform):
        run = jax.grad(lambda *a: flash_attention(*a, **options).astype(jnp.float32).sum(), (0, 1, 2))
        jaxpr = jax.make_jaxpr(run)(*shapes)
    return str(jaxpr), count_flops(jaxpr.jaxpr)


def test_a_tpu_gets_kernels_where_they_take_the_inputs():
    text, flops = traced("tpu", causal=True)
    assert text.count("pallas_call") == 3
    assert flops == pytest.approx(9 * 2 * 256**2 * 4 * 64, rel=0.01)  # one block, so none is above the diagonal
    local = 9 * 2 * 1536**2 * 4 * 64 * 5 / 9  # of three blocks a row those that a window of 300 reaches
    assert traced("tpu", causal=True, window=300, T=1536)[1] == pytest.approx(local, rel=0.01)
    slopes = jnp.ones(4)
    for other in ({"slopes": slopes}, {"T": 200}, {"K": 24}, {"block": 128}, {"dtype": jnp.float16}):
        assert "pallas_call" not in traced("tpu", causal=True, **other)[0]


def test_onnx_gets_plain_attention():
    assert "scan" not in traced("onnx", dtype=jnp.float32, causal=True, window=9)[0]


def test_without_the_kernels_a_tpu_computes_in_blocks(monkeypatch):
    monkeypatch.setattr("jaxnets.ops.attention_kernels.splash_attention", lambda: None)
    assert "pallas_call" not in traced("tpu", causal=True)[0]


def test_a_gpu_gets_cudnn_where_it_takes_the_inputs(monkeypatch):
    assert "scan" in traced("gpu", causal=True)[0]  # there is none on this machine
    seen = []

    def cudnn(q, k, v, **options):
        seen.append(options)
        return q

    monkeypatch.setattr(jax.nn, "dot_product_attention", cudnn)
    assert "scan" not in traced("gpu", causal=True)[0]
    assert seen.pop() == {"is_causal": True, "implementation": "cudnn"}
    traced("gpu", causal=True, window=7)
    assert seen.pop() == {"is_causal": True, "implementation": "cudnn", "local_window_size": (6, 0)}
    for other in ({"dtype": jnp.float32}, {"slopes": jnp.ones(4)}, {"documents": jnp.zeros((1, 256), int)}):
        assert "scan" in traced("gpu", **other)[0]


@pytest.mark.slow
def test_float16_on_the_cpu_is_float32_rounded():
    (q, k, v, _), _ = drawn(20, 20, 2, {})
    half = [a.astype(jnp.float16) for a in (q, k, v)]
    wanted = flash_attention(*(a.astype(jnp.float32) for a in half), causal=True).astype(jnp.float16)
    np.testing.assert_array_equal(flash_attention(*half, causal=True), wanted)


def test_its_weights_are_seen_in_reports():
    arrays, options = drawn(10, 10, 4, CASES[LAST])

    @jax.jit
    def run(*arrays):
        with attention_weights() as seen:
            return flash_attention(*arrays, **options), seen

    y, seen = run(*arrays[:3])
    np.testing.assert_allclose(np.einsum("bhts,bshk->bthk", seen[0], arrays[2]), y, atol=1e-5)


def test_causal_queries_and_keys_are_as_many():
    (q, k, v, _), _ = drawn(5, 7, 4, {})
    with pytest.raises(ValueError, match="5 queries and 7 keys"):
        flash_attention(q, k, v, causal=True)
    for options in ({"window": 3}, {"window": 0, "causal": True}):
        with pytest.raises(ValueError, match="a window is at least 1 position of causal attention"):
            flash_attention(q, q, q, **options)
