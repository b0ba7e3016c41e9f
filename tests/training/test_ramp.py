"""Smaller batches, images and sequences at the beginning of a run: one compilation each, and the same bits however cut."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

import jaxnets
from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import UsageError
from jaxnets.data import Augment, InMemory, from_arrays
from jaxnets.data.order import Onward, Shuffled, staged
from jaxnets.data.sources.text import from_tokens
from jaxnets.data.text.tokenizers import Characters
from jaxnets.models import CNN, MLP, LanguageModel
from jaxnets.optim import SGD, Constant
from jaxnets.parallel import MeshShape, make_mesh
from jaxnets.runs.build import assemble
from jaxnets.tasks import Classification, NextToken
from jaxnets.training.loop import fit
from jaxnets.training.ramp import Ramp, Stage, examples_until
from jaxnets.training.stages import StageHook

pytestmark = pytest.mark.filterwarnings("ignore:.*masked rows")


def test_stages_are_equal_parts_and_then_the_whole():
    ramp = Ramp(until=0.5, batch_size=(8, 16))
    assert ramp.stages(40, 32) == (Stage(0, 8), Stage(10, 16), Stage(20, 32))
    assert Ramp().stages(40, 32) == (Stage(0, 32),)
    assert Ramp(until=0.1, resolution=(4, 5, 6)).stages(10, 2) == (Stage(0, 2, 5), Stage(1, 2)), "no empty stages"
    assert Ramp(until=0, length=(4,)).stages(10, 2) == (Stage(0, 2),)


def test_a_ramp_until_the_end_trains_no_step_at_the_full_size_and_evaluation_has_it(one_device):
    """FixRes: the classifier learns from small images and is measured on the whole ones."""
    assert Ramp(until=1.0, resolution=(4,)).stages(12, 32) == (Stage(0, 32, 4), Stage(12, 32))
    experiment, data = images(ramp=Ramp(until=1.0, resolution=(4,)))
    parts, said = assemble(experiment, data, mesh=one_device), []
    feed = parts.program.feed
    for step in (0, 11):
        assert feed.batch(feed.load(step, 1, 1), 0, np.int32(step))["inputs"].shape == (32, 4, 4, 1)
    hook = StageHook(parts.program.stages, said.append, stop=12)
    state = fit(parts.program, parts.fresh_state(), start=0, stop=12, hooks=[hook])
    assert (int(state.step), parts.program.traces, said) == (12, 1, [])
    preparation = parts.dataset.preparation
    inputs = preparation.prepare.on_device(preparation.on_host({"inputs": data.test["inputs"]})["inputs"])
    assert inputs.shape[1:] == (8, 8, 1)
    logits = np.asarray(Pooled().apply({"params": state.params}, inputs))
    loss = -np.mean(jax.nn.log_softmax(logits)[np.arange(len(logits)), data.test["targets"]])
    assert parts.evaluator.metrics(state.variables)["loss"] == pytest.approx(float(loss), rel=1e-5)


def test_examples_are_counted_by_the_sizes_of_their_steps():
    stages = Ramp(until=0.5, batch_size=(8, 16)).stages(40, 32)
    assert [examples_until(stages, step) for step in (0, 5, 10, 15, 20, 25)] == [0, 40, 80, 160, 240, 400]


@pytest.mark.smoke
def test_the_order_continues_after_the_smaller_batches():
    small, large = staged(50, 3, [(0, 4), (7, 10)])
    plain = Shuffled(50, 4, 3)
    for step in range(30):
        np.testing.assert_array_equal(small.rows(step)[0], plain.rows(step)[0])
    # 28 examples are used; two batches of 10 fit into the first epoch, then five into each.
    first = np.concatenate([*(small.rows(step)[0] for step in range(7)), *(large.rows(step)[0] for step in (7, 8))])
    assert len(set(first.tolist())) == 48
    second = np.concatenate([large.rows(step)[0] for step in range(9, 14)])
    assert sorted(second.tolist()) == list(range(50))
    third = np.concatenate([large.rows(step)[0] for step in range(14, 19)])
    assert sorted(third.tolist()) == list(range(50))
    assert not np.array_equal(second, third)
    assert Onward(50, 10, 3, 7, 0, 28).rows(11)[0].tolist() == large.rows(11)[0].tolist()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"until": 1.5}, "a number is a share of the run, between 0 and 1; got 1.5"),
        ({"batch_size": (8, 0)}, "ramp.batch_size is positive numbers"),
        ({"batch_size": (8, 16), "length": (4,)}, "2 of batch_size and 1 of length"),
    ],
)
def test_an_invalid_ramp_is_refused(fields, said):
    with pytest.raises(UsageError, match=said):
        Ramp(**fields)


def images(**fields):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(96, 8, 8, 1)).astype(np.float32)
    data = from_arrays(x, rng.integers(0, 3, 96), augment=Augment(noise=0.1))
    task = Classification(model=Pooled())
    options = {"steps": 12, "batch_size": 32, "steps_per_call": 3, "optimizer": SGD(0.1, schedule=Constant())}
    return Experiment(task=task, data=InMemory(), **options | fields), data


class Pooled(nn.Module):
    """A convolution and a mean over all pixels, for images of any size."""

    outputs: int = 3

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Conv(4, (3, 3))(x)).mean(axis=(1, 2))
        return nn.Dense(self.outputs)(nn.Dropout(0.1, deterministic=not train)(x))


def trained(experiment, data, mesh, cuts=(), state=None, shapes=None):
    parts = assemble(experiment, data, mesh=mesh)
    state = parts.fresh_state()
    for start, stop in zip((0, *cuts), (*cuts, experiment.steps), strict=True):
        with jax.set_mesh(mesh):
            state = fit(parts.program, state, start=start, stop=stop, hooks=[StageHook(parts.program.stages, print)])
    return parts, state


@pytest.mark.parametrize("placement", ["device", "host"])
def test_each_stage_compiles_once_and_resuming_changes_no_bit(one_device, placement):
    experiment, data = images(ramp=Ramp(until=0.5, batch_size=(8, 16), resolution=(4, 6)), placement=placement)
    parts, whole = trained(experiment, data, one_device)
    assert parts.program.traces == 3
    _, cut = trained(experiment, data, one_device, cuts=(2, 3, 5, 8))
    jax.tree.map(np.testing.assert_array_equal, whole, cut)


def test_the_batches_of_a_stage_have_its_sizes(one_device):
    experiment, data = images(ramp=Ramp(until=0.5, batch_size=(8, 16), resolution=(4, 6)))
    feed = assemble(experiment, data, mesh=one_device).program.feed
    found = {}
    for step in (0, 2, 3, 5, 6, 11):
        found[step] = feed.batch(feed.load(step, 1, 1), 0, np.int32(step))["inputs"].shape
    assert found == {
        0: (8, 4, 4, 1),
        2: (8, 4, 4, 1),
        3: (16, 6, 6, 1),
        5: (16, 6, 6, 1),
        6: (32, 8, 8, 1),
        11: (32, 8, 8, 1),
    }


def test_a_stage_is_the_run_with_these_sizes(one_device):
    """The first stage equals a run with its batch size."""
    experiment, data = images(ramp=Ramp(until=0.5, batch_size=(8,)))
    plain = dataclasses.replace(experiment, ramp=Ramp(), batch_size=8)
    parts, alone = assemble(experiment, data, mesh=one_device), assemble(plain, data, mesh=one_device)
    ours = fit(parts.program, parts.fresh_state(), start=0, stop=6, hooks=[StageHook(parts.program.stages, print)])
    theirs = fit(alone.program, alone.fresh_state(), start=0, stop=6)
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)


def test_eight_devices_equal_one(one_device):
    experiment, data = images(ramp=Ramp(until=0.5, batch_size=(8, 16), resolution=(4, 6)))
    states = [trained(experiment, data, mesh)[1] for mesh in (one_device, make_mesh(MeshShape()))]
    # Sums in another order: a few units in the last place after 12 steps.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *(state.params for state in states))


def test_sequences_are_cut(one_device):
    ids = np.random.default_rng(0).integers(0, 11, 600)
    data = from_tokens(ids[:500], ids[500:], Characters(tuple("abcdefghijk")), name="t", source="s", length=16)
    model = LanguageModel(length=16, width=16, layers=1, heads=2)
    experiment = Experiment(
        task=NextToken(model=model), data=InMemory(), steps=6, batch_size=8, ramp=Ramp(until=0.5, length=(4,))
    )
    parts = assemble(experiment, data, mesh=one_device)
    shapes = [parts.program.feed.batch(parts.program.feed.load(s, 1, 1), 0, np.int32(s)) for s in (0, 3)]
    assert [(b["inputs"].shape, b["targets"].shape) for b in shapes] == [((8, 4), (8, 4)), ((8, 16), (8, 16))]
    state = fit(parts.program, parts.fresh_state(), start=0, stop=6, hooks=[StageHook(parts.program.stages, print)])
    assert int(state.step) == 6
    assert parts.program.traces == 2


def test_sizes_that_do_not_fit_the_model_or_the_data_are_refused(one_device, blobs):
    experiment, data = images(ramp=Ramp(resolution=(4,)))
    flat = dataclasses.replace(experiment, task=Classification(model=CNN(features=(4,), dense=(8,))))
    with pytest.raises(UsageError, match="cannot be trained on batches of 32 and images 4 pixels high"):
        assemble(flat, data, mesh=one_device)
    table = dataclasses.replace(experiment, task=Classification(model=MLP()))
    with pytest.raises(UsageError, match=r"ramp.resolution is for images"):
        assemble(table, blobs, mesh=one_device)
    with pytest.raises(UsageError, match=r"ramp.length is for sequences with a target at each position"):
        assemble(dataclasses.replace(table, ramp=Ramp(length=(4,))), blobs, mesh=one_device)
    with pytest.raises(UsageError, match="resolution 9 is larger than the images, which are 8"):
        assemble(dataclasses.replace(experiment, ramp=Ramp(resolution=(9,))), data, mesh=one_device)
    with pytest.raises(UsageError, match="batch_size 500 is larger than the training set"):
        assemble(dataclasses.replace(experiment, ramp=Ramp(batch_size=(500,))), data, mesh=one_device)


def test_a_run_prints_its_stages_and_logs_their_speed(tmp_path, capsys):
    x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    run = jaxnets.fit(MLP(widths=(4,)), (x, x[:, 0]), steps=8, batch_size=16, ramp=Ramp(batch_size=(4,)), log_every=2,
                      run_dir=tmp_path / "run")  # fmt: skip
    assert "from step 4 on batches of 16" in "".join(capsys.readouterr())
    assert run.history is not None
    again = jaxnets.open_run(tmp_path / "run")
    assert again.experiment.ramp == Ramp(batch_size=(4,))
