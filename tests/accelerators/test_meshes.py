"""Which meshes `jaxnets plan` tries, and why it leaves axes out."""

import dataclasses
import math

import pytest

from jaxnets.accelerators.meshes import axes, meshes
from jaxnets.config import load
from jaxnets.models import CNN, Experts, LanguageModel
from jaxnets.parallel.mesh import ORDER

EXPERIMENT = load("llama_1b").experiment
MODEL = EXPERIMENT.task.model


def allowed(model=MODEL, length=2048, devices=16):
    return axes(EXPERIMENT, model, length, devices)


@pytest.mark.smoke
def test_an_axis_has_the_sizes_that_the_model_allows():
    found = allowed()
    assert found["fsdp"].sizes == (1, 2, 4, 8, 16)
    assert found["tensor"].sizes == (1, 2, 4, 8)  # of 32 heads, within a host's links
    assert found["pipeline"].sizes == (1, 2, 4, 8, 16)  # of 16 layers
    assert allowed(MODEL.clone(layers=12))["pipeline"].sizes == (1, 2, 4)
    assert found["sequence"].sizes == (1, 2)  # parts of 1,024 tokens
    assert allowed(length=32_768, devices=64)["sequence"].sizes == (1, 2, 4, 8, 16, 32)
    mixture = MODEL.clone(experts=Experts(count=12, routing="capacity"))
    assert allowed(mixture)["expert"].sizes == (1, 2, 4)


@pytest.mark.parametrize(
    ("axis", "model", "said"),
    [
        ("expert", MODEL, "no experts"),
        ("expert", MODEL.clone(experts=Experts(count=8)), "dropless"),
        ("sequence", CNN(), "whole sequences"),
        ("tensor", CNN(), "no heads"),
        ("pipeline", CNN(), "cannot be stages"),
        ("pipeline", MODEL.clone(blocks="unrolled"), "unrolled"),
        ("pipeline", MODEL.clone(dropout=0.1), "dropout"),
        ("pipeline", MODEL.clone(experts=Experts(count=8, routing="capacity")), "experts"),
        ("pipeline", MODEL.clone(layers=7), "7 layers"),
        ("sequence", LanguageModel(heads=4, kv_heads=1, split_attention="heads"), "windows of 2,048 tokens"),
    ],
)
def test_an_axis_that_is_left_out_has_a_reason(axis, model, said):
    found = allowed(model)[axis]
    assert found.sizes == (1,)
    assert said in found.why


def test_every_mesh_has_all_devices_and_whole_rows():
    long = dataclasses.replace(EXPERIMENT, batch_size=24)
    found = list(meshes(long, 16, allowed(length=4096)))
    assert len(found) == len({(str(mesh), micro) for mesh, micro in found})
    for mesh, micro in found:
        sizes = {axis: getattr(mesh, axis) for axis in ORDER}
        assert math.prod(sizes.values()) == 16
        assert 24 % (micro * mesh.data * mesh.fsdp * mesh.expert * mesh.pipeline) == 0
        assert mesh.pipeline == 1 or mesh.sequence == 1
    # Eight devices divide 24 rows, sixteen do not.
    assert {mesh.data * mesh.fsdp * mesh.pipeline for mesh, _ in found} == {1, 2, 4, 8}
