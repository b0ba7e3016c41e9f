"""Attention over parts of a sequence: the results and gradients of one device, for any length, in a part of the memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.ops import flash_attention
from jaxnets.ops.split_attention import split_attention
from jaxnets.parallel import MeshShape, make_mesh

H, K = 8, 16
DOCUMENTS, SLOPES = "documents", "slopes"
CASES = {
    "all": {},
    "causal": {"causal": True},
    "causal, documents, slopes": {"causal": True, DOCUMENTS: 3, SLOPES: True},
}


def dense(q, k, v, *, causal=False, documents=None, slopes=None):
    """The same by arrays of all pairs, on one device."""
    T = q.shape[1]
    here, there = jnp.arange(T)[:, None], jnp.arange(T)[None, :]
    mask = (here >= there)[None, None] if causal else jnp.ones((1, 1, T, T), bool)
    if documents is not None:
        mask = mask & (documents[:, None, :, None] == documents[:, None, None, :])
    bias = None if slopes is None else -slopes[None, :, None, None] * (here - there)[None, None]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, bias=bias)


def inputs(T, groups, options):
    rng = np.random.default_rng(T)
    arrays = [jnp.asarray(rng.normal(size=(2, T, heads, K)), jnp.float32) for heads in (H, groups, groups, H)]
    options = dict(options)
    if DOCUMENTS in options:
        options[DOCUMENTS] = jnp.asarray(np.sort(rng.integers(0, options[DOCUMENTS], (2, T)), axis=1))
    if SLOPES in options:
        options[SLOPES] = jnp.asarray(2.0 ** -np.arange(1, H + 1))
    return arrays, options


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("by", "groups"), [("ring", 8), ("ring", 2), ("heads", 8)])
@pytest.mark.parametrize("T", [37, pytest.param(16, marks=pytest.mark.slow), pytest.param(100, marks=pytest.mark.slow)])
def test_outputs_and_gradients_equal_those_of_one_device(T, by, groups, case):
    (q, k, v, w), options = inputs(T, groups, CASES[case])
    want = dense(q, k, v, **options)
    wants = jax.grad(lambda *a: (dense(*a, **options) * w).sum(), (0, 1, 2))(q, k, v)
    with jax.set_mesh(make_mesh(MeshShape(data=1, sequence=8))):
        found = split_attention(q, k, v, by=by, **options)
        found_gradients = jax.grad(lambda *a: (split_attention(*a, by=by, **options) * w).sum(), (0, 1, 2))(q, k, v)
    # The largest difference seen over these cases is 5e-6, in a gradient of size 10.
    np.testing.assert_allclose(found, want, atol=1e-5)
    for one, other in zip(found_gradients, wants, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    ("by", "mesh", "case"),
    [
        pytest.param("ring", {"data": 1, "sequence": 2}, "causal", marks=pytest.mark.slow),
        pytest.param("ring", {"data": 1, "sequence": 4}, "causal, documents, slopes", marks=pytest.mark.slow),
        pytest.param("heads", {"data": 1, "sequence": 4}, "causal", marks=pytest.mark.slow),
        pytest.param(
            "heads", {"data": 2, "sequence": 2, "tensor": 2}, "causal, documents, slopes", marks=pytest.mark.slow
        ),
        pytest.param(
            "ring", {"data": 2, "sequence": 2, "tensor": 2}, "causal, documents, slopes", marks=pytest.mark.slow
        ),
        pytest.param("ring", {"data": 1, "sequence": 8}, "all", marks=pytest.mark.slow),
    ],
)
def test_flash_attention_of_parts_is_that_of_one_device(monkeypatch, by, mesh, case):
    monkeypatch.setattr(flash_attention, "BLOCK", 4)
    (q, k, v, w), options = inputs(22, 4, CASES[case])

    def computed(attend):
        def run(*arrays):
            y = attend(*arrays, **options)
            return (y * w).sum(), y

        return jax.device_get(jax.jit(jax.grad(run, (0, 1, 2), has_aux=True))(q, k, v))

    wants, want = computed(dense)
    devices = jax.devices()[: np.prod(list(mesh.values()))]
    with jax.set_mesh(make_mesh(MeshShape(**mesh), devices=devices)):
        found_gradients, found = computed(functools.partial(split_attention, by=by, flash=True))
    np.testing.assert_allclose(found, want, atol=1e-5)
    for one, other in zip(found_gradients, wants, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("by", ["ring", "heads"])
def test_memory_of_a_device_falls_with_the_number_of_devices(by):
    def temporary(devices):
        shape = jax.ShapeDtypeStruct((1, 512, H, K), jnp.float32)
        mesh = make_mesh(MeshShape(data=1, sequence=devices), devices=jax.devices()[:devices])
        place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "sequence"))
        with jax.set_mesh(mesh):
            loss = jax.grad(lambda q, k, v: split_attention(q, k, v, by=by, causal=True).sum(), (0, 1, 2))
            program = jax.jit(loss, in_shardings=place, out_shardings=place).lower(shape, shape, shape).compile()
        return program.memory_analysis().temp_size_in_bytes

    # Scores of a pair of parts shrink with the square, what stays of queries, keys and values with the number.
    assert temporary(2) / temporary(8) > 3.5


@pytest.mark.smoke
def test_a_ring_never_gathers_the_sequence():
    shape = jax.ShapeDtypeStruct((1, 512, H, K), jnp.float32)
    mesh = make_mesh(MeshShape(data=1, sequence=8))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "sequence"))
    with jax.set_mesh(mesh):
        loss = jax.grad(lambda q, k, v: split_attention(q, k, v, causal=True).sum(), (0, 1, 2))
        text = jax.jit(loss, in_shardings=place, out_shardings=place).lower(shape, shape, shape).compile().as_text()
    assert "collective-permute" in text
    assert "all-gather" not in text
    assert "all-to-all" not in text


def test_heads_that_devices_do_not_divide_are_refused():
    (q, k, v, _), _ = inputs(16, 2, {})
    with jax.set_mesh(make_mesh(MeshShape(data=1, sequence=8))), pytest.raises(ValueError, match="use ring"):
        split_attention(q, k, v, by="heads")
