"""Flash attention: the numbers of attention by arrays of all pairs, in memory that grows with the length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.ops.flash_attention import flash_attention

H, K = 4, 8
CASES = {
    "all": {},
    "causal": {"causal": True},
    "documents": {"documents": True},
    "causal, slopes": {"causal": True, "slopes": True},
    "causal, documents, slopes": {"causal": True, "documents": True, "slopes": True},
}


def by_numpy(q, k, v, w, *, causal=False, documents=None, slopes=None):
    """Outputs, and the gradients of their sum weighted by `w`, in float64 by arrays of all pairs."""
    q, k, v, w = (np.asarray(a, np.float64) for a in (q, k, v, w))
    repeats = q.shape[2] // k.shape[2]
    keys, values = np.repeat(k, repeats, 2), np.repeat(v, repeats, 2)
    distance = np.arange(q.shape[1])[:, None] - np.arange(k.shape[1])[None, :]
    scores = np.einsum("bthk,bshk->bhts", q, keys) / np.sqrt(q.shape[-1])
    if slopes is not None:
        scores -= np.asarray(slopes, np.float64)[None, :, None, None] * distance
    seen = np.ones((len(q), 1, *distance.shape), bool) & ((distance >= 0) | (not causal))
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
    run = jax.jit(lambda *a: (y := flash_attention(*a, block=block, **options), (y * w).sum()))
    gradients = jax.jit(jax.grad(lambda *a: (flash_attention(*a, block=block, **options) * w).sum(), (0, 1, 2)))
    return run(q, k, v)[0], gradients(q, k, v)


def assert_equal(found, wanted, atol=1e-5):
    for one, other in zip((found[0], *found[1]), (wanted[0], *wanted[1]), strict=True):
        np.testing.assert_allclose(one, other, atol=atol)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("T", "groups", "block"),
    [(37, 2, 8), *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((37, 4, 64), (64, 1, 16), (100, 2, 7)))],
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


def test_in_float64_it_is_exact():
    arrays, options = drawn(21, 21, 2, CASES["causal, documents, slopes"])
    with jax.enable_x64(True):
        arrays = [jnp.asarray(np.asarray(a), jnp.float64) for a in arrays]
        options["slopes"] = jnp.asarray(np.asarray(options["slopes"]), jnp.float64)
        assert_equal(attended(*arrays, options, 8), by_numpy(*arrays, **options), atol=1e-13)
