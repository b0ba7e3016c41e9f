"""Collectives read from the text of a compiled program: kinds, bytes, axes, loops."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnets.accelerators.hlo import collectives
from jaxnets.parallel import MeshShape, make_mesh

MESH = {"data": 2, "fsdp": 4, "tensor": 1}


class Mesh:
    shape = MESH


def read(line, *more):
    return collectives("ENTRY main (a: f32[8]) -> f32[8] {\n  " + line + "\n}\n" + "\n".join(more), Mesh)


@pytest.mark.parametrize(
    ("groups", "axes", "devices"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", ("fsdp",), 4),
        ("{{0,4},{1,5},{2,6},{3,7}}", ("data",), 2),
        ("{{0,1,2,3,4,5,6,7}}", ("data", "fsdp"), 8),
        ("{}", ("data", "fsdp"), 8),
        ("[2,4]<=[8]", ("fsdp",), 4),
        ("[4,2]<=[2,4]T(1,0)", ("data",), 2),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", ("fsdp",), 4),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", ("data",), 2),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_0','axis_1'}", ("data", "fsdp"), 8),
        ("mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_1'}", ("data",), 2),
        ("mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_0'}", ("fsdp",), 4),
    ],
)
def test_groups_of_devices_in_every_form(groups, axes, devices):
    (one,) = read(f"%r = f32[100,10]{{1,0}} all-reduce(%x), channel_id=1, replica_groups={groups}, to_apply=%add")
    assert (one.kind, one.axes, one.devices, one.bytes) == ("all-reduce", axes, devices, 4000)
    assert one.sent == pytest.approx(2 * 4000 * (devices - 1) / devices)


def test_each_kind_counts_what_a_ring_sends():
    groups = "channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}"
    (gather,) = read(f"%g = bf16[64,8]{{1,0}} all-gather(bf16[16,8]{{1,0}} %x), {groups}")
    assert gather.sent == pytest.approx(64 * 8 * 2 * 3 / 4)
    (scatter,) = read(f"%s = f32[16]{{0}} reduce-scatter(f32[64]{{0}} %x), {groups}, to_apply=%add")
    assert scatter.sent == pytest.approx(64 * 4 * 3 / 4)
    (permute,) = read(
        "%p = f32[16]{0} collective-permute(f32[16]{0} %x), source_target_pairs={{0,1},{1,2},{2,3},{3,0}}"
    )
    assert permute.axes == ("fsdp",)
    assert permute.sent == 64
    assert permute.reach == 3
    (far,) = read(
        "%r = f32[8]{0} all-reduce(%x), channel_id=1, replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%add"
    )
    assert far.reach == 4


def test_one_that_runs_in_phases_counts_once():
    start = "%s = (f32[8]{0}, f32[8]{0}) all-reduce-start(%x), channel_id=7, replica_groups=[1,8]<=[8], to_apply=%add"
    again = "%t = f32[8]{0} all-reduce(%x), channel_id=7, replica_groups=[1,8]<=[8], to_apply=%add"
    (one,) = read(start + "\n  %d = f32[8]{0} all-reduce-done(%s)\n  " + again)
    assert one.bytes == 32


def test_groups_of_one_device_exchange_nothing():
    groups = "{{0},{1},{2},{3},{4},{5},{6},{7}}"
    assert read(f"%r = f32[8]{{0}} all-reduce(%x), channel_id=1, replica_groups={groups}, to_apply=%add") == []


@pytest.mark.smoke
def test_a_compiled_program_says_what_its_sharding_means():
    """A loop of six rounds, each with a product whose contracted dim is split: six all-reduces of its result."""
    mesh = make_mesh(MeshShape(data=2, fsdp=4))

    def place(*axes):
        return NamedSharding(mesh, P(*axes))

    def loop(x, w):
        def body(x, _):
            y = jnp.einsum("bd,de->be", x, w)
            return jax.lax.with_sharding_constraint(jnp.tanh(y), place("data", "fsdp")), None

        return jax.lax.scan(body, x, None, length=6)[0]

    x = jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=place("data", "fsdp"))
    w = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=place("fsdp", None))
    text = jax.jit(loop, out_shardings=place("data", "fsdp")).lower(x, w).compile().as_text()
    inside = [one for one in collectives(text, mesh) if one.repeats == 6]
    assert inside
    assert {one.axes for one in inside} == {("fsdp",)}
    # By all-reduce, or by reduce-scatter: at least the parts that the other devices hold.
    assert sum(one.sent for one in inside) >= 6 * (16 // 2) * 64 * 4 * 3 / 4
