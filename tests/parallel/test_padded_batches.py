"""Batches that the devices do not divide: filled up with masked rows, the result is that of one device."""

import jax
import numpy as np
import pytest
from conftest import assert_close, assert_same_bits, replace, run_cli

import jaxnets
from jaxnets.core.errors import DataWarning, UsageError
from jaxnets.data.order import Padded, Shuffled
from jaxnets.data.sources.text import from_tokens
from jaxnets.data.text.tokenizers import Characters
from jaxnets.models import CNN, MLP, CifarResNet, LanguageModel
from jaxnets.parallel import MeshShape, make_mesh
from jaxnets.runs.train import train
from jaxnets.steps.step import split
from jaxnets.tasks import NextToken


@pytest.mark.parametrize(("batch", "micro"), [(21, 1), (20, 2)])
def test_eight_devices_give_the_result_of_one(experiment, blobs, one_device, batch, micro):
    odd = replace(experiment, batch_size=batch, micro_batches=micro, steps=8)  # with dropout
    one = train(odd, dataset=blobs, mesh=one_device, progress="none")
    with pytest.warns(DataWarning, match="masked rows, which change nothing"):
        eight = train(odd, dataset=blobs, progress="none")
    # Sums over eight devices round differently; Adam magnifies the last bits of small gradients.
    assert_close(eight.state.params, one.state.params, rtol=2e-4, atol=2e-5)
    for ours, theirs in zip(eight.history.records, one.history.records, strict=True):
        assert ours["step"] == theirs["step"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


@pytest.mark.slow
def test_a_language_model_too_and_fsdp():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 9, 800)
    data = from_tokens(ids[:700], ids[700:], Characters(tuple("abcdefghi")), name="t", source="s", length=16)
    task = NextToken(model=LanguageModel(layers=1, heads=2, width=16, length=16, positions="rotary"))
    options = {"steps": 6, "batch_size": 12, "seed": 1, "progress": "none"}
    one = jaxnets.fit(task, data, mesh=MeshShape(data=1), **options)
    for mesh in (MeshShape(data=8), MeshShape(data=2, fsdp=4)):
        other = jaxnets.fit(task, data, mesh=mesh, **options)
        assert_close(other.state.params, one.state.params, rtol=5e-4, atol=5e-5)


def test_masked_rows_come_last_also_in_each_micro_batch():
    index, mask = Padded(Shuffled(40, 6, 0), 16).rows(3)
    plain, _ = Shuffled(40, 6, 0).rows(3)
    np.testing.assert_array_equal(index[:6], plain)
    assert mask.tolist() == [1] * 6 + [0] * 10
    assert split(mask, 2).tolist() == [[1, 1, 1, 0, 0, 0, 0, 0]] * 2


@pytest.mark.slow
def test_streamed_data_give_the_same(experiment, blobs):
    odd = replace(experiment, batch_size=12, steps=4)
    assert_same_bits(
        train(replace(odd, placement="host"), dataset=blobs, progress="none").state,
        train(odd, dataset=blobs, progress="none").state,
    )


def test_batch_statistics_and_players_need_whole_batches(pictures):
    with pytest.raises(UsageError, match="set batch_size to 16"):
        jaxnets.fit(CifarResNet(depth=8, width=4), pictures, steps=2, batch_size=12, progress="none")
    jaxnets.fit(CNN(features=(4,), dense=(8,)), pictures, steps=2, batch_size=12, progress="none")


@pytest.mark.slow
def test_a_mesh_may_have_fewer_devices_than_the_machine(experiment, blobs):
    with pytest.warns(DataWarning, match="the mesh has 2 devices; 6 of 8 are not used"):
        mesh = make_mesh(MeshShape(data=2))
    assert mesh.devices.size == 2
    run = train(replace(experiment, mesh=MeshShape(data=2), steps=3), dataset=blobs, progress="none")
    assert {device.id for leaf in jax.tree.leaves(run.state) for device in leaf.devices()} == {0, 1}
    with pytest.raises(UsageError, match="needs 9 devices"):
        make_mesh(MeshShape(data=9))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shakespeare_char", "spirals_rbf"])
def test_a_shipped_configuration_starts_on_eight_devices(name, tmp_path):
    small = ("--task.model.layers", 1) if name == "shakespeare_char" else ()
    done = run_cli("train", name, "--steps", 3, "--run-dir", "run", *small, cwd=tmp_path, devices=8)
    assert done.returncode == 0, done.stderr
    assert "masked rows" in done.stderr


def test_a_run_on_one_device_prints_no_note(experiment, blobs, one_device, recwarn):
    train(replace(experiment, batch_size=13, steps=2), dataset=blobs, mesh=one_device, progress="none")
    assert not [w for w in recwarn if "masked" in str(w.message)]


def test_a_custom_loss_may_use_the_whole_batch_and_needs_whole_batches(blobs):
    def spread(outputs, batch):
        return ((outputs - outputs.mean(0, keepdims=True)) ** 2).sum(-1)

    with pytest.raises(UsageError, match="not divisible by the mesh"):
        jaxnets.fit(MLP(widths=(4,)), blobs, steps=2, batch_size=12, loss=spread, progress="none")
