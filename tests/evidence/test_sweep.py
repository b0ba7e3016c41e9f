"""Runs in one program are the runs alone; what cannot share one; resuming; the commands on real trainings."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT, replace, run_here

import jaxnets
from jaxnets.core.errors import UsageError
from jaxnets.data.augment import Augment
from jaxnets.evidence import groups as grouping
from jaxnets.evidence import search
from jaxnets.evidence.groups import groups
from jaxnets.evidence.together import Together
from jaxnets.evidence.trials import Trial, trials, with_field, with_numbers
from jaxnets.models import MLP
from jaxnets.optim import EMA, LAMB, SGD, WSD, AdamW, Lion, Muon, Penalty
from jaxnets.parallel import MeshShape, make_mesh
from jaxnets.runs.build import assemble
from jaxnets.runs.train import train

# A run in a stack computes the same operations on a stacked array: the roundings of float32 differ in the last digits. Adam turns
# a gradient near 0 into a step of full size, so a weight may move by a little more than its own rounding.
CLOSE = {"rtol": 2e-4, "atol": 2e-6}
VALUES = {"optimizer.learning_rate": [1e-2, 3e-2, 1e30], "seed": [0, 7]}


@pytest.fixture(scope="module")
def short(experiment):
    return replace(experiment, steps=12, eval_every=0, average=EMA(0.9), penalty=Penalty(l1=1e-3))


@pytest.fixture(scope="module")
def swept(short, blobs, tmp_path_factory):
    """A sweep in a directory, one setting of which explodes; and its group, as it was trained."""
    folder = tmp_path_factory.mktemp("sweep")
    made = trials(short, VALUES)
    built = []

    def kept(*arguments, **options):
        for group in groups(*arguments, **options):
            built.append(group)
            yield group

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "groups", kept)
        plan = search.Plan(progress="none")
        found = search.run_trials(made, plan, dataset=blobs, directory=folder)
    assert len(built) == 1, "all are in one program"
    return folder, made, found, built[0]


def assert_same_run(group, number, trial, data):
    """A run of a stack is the run alone: its weights, its average, its optimizer state."""
    alone = train(trial.experiment, dataset=data, progress="none")
    together = group._runs.state(number)
    assert jax.tree.structure(together) == jax.tree.structure(alone.state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), together, alone.state)
    return alone


@pytest.mark.smoke
def test_a_run_in_a_stack_equals_the_separate_run(swept, blobs):
    _, made, found, group = swept
    assert made[3].values == {"optimizer.learning_rate": 3e-2, "seed": 7}
    alone = assert_same_run(group, 3, made[3], blobs)
    assert found.outcomes[3].metrics == pytest.approx(alone.evaluate(), rel=1e-4)
    assert found.outcomes[2].metrics["loss"] != found.outcomes[3].metrics["loss"]


@pytest.mark.slow
def test_runs_on_several_devices_are_those_on_one(short, blobs):
    """Six runs on four devices: two on each, the last of which is trained three times. Then three of them, on three devices."""
    parts = assemble(short, blobs, mesh=make_mesh(MeshShape(), devices=jax.devices()[:1]))
    changes = [{"seed": seed, "optimizer.learning_rate": rate} for seed in (0, 7) for rate in (1e-2, 3e-2, 1e-3)]
    one, four = Together(parts, changes), Together(parts, changes, devices=jax.devices()[:4])
    for runs in (one, four):
        runs.advance(6)
    leaf = jax.tree.leaves(four._state.params)[0]
    assert [(a.data.shape[0], a.device) for a in leaf.addressable_shards] == [(2, d) for d in jax.devices()[:4]]
    chosen = [5, 0, 2]
    one, four = one.kept(chosen), four.kept(chosen)
    for runs in (one, four):
        runs.advance(12)
    assert len(jax.tree.leaves(four._state.params)[0].sharding.device_set) == 3
    for number in range(len(chosen)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), four.state(number), one.state(number))
    evaluator = parts.watched[1]
    found = [[evaluator.metrics(variables) for variables in runs.variables()] for runs in (one, four)]
    for here, there in zip(*found, strict=True):
        assert here == pytest.approx(there, rel=1e-4)
    assert found[0][0] != found[0][1]


def test_a_diverging_run_does_not_affect_the_others(swept):
    _, _, found, _ = swept
    assert [bool(one.failed) for one in found.outcomes] == [False] * 4 + [True] * 2
    assert found.settings[-1].failed == 2
    assert found.best["optimizer.learning_rate"] < 1


def test_results_that_are_there_are_not_run_again(swept, short, blobs, monkeypatch):
    folder, made, found, _ = swept
    lines = (folder / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["values"]["seed"] for line in lines] == [0, 7] * 3
    asked = []

    def none(waiting, *arguments, **options):
        asked.extend(one.values for one in waiting)
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(search, "groups", none)
    plan = search.Plan(progress="none")
    again = search.run_trials(made[:4], plan, dataset=blobs, directory=folder)
    assert str(again.outcomes) == str(found.outcomes[:4])
    more = [*made, *trials(short, {"optimizer.learning_rate": [5e-3], "seed": [7]})]
    with pytest.raises(KeyboardInterrupt):
        search.run_trials(more, plan, dataset=blobs, directory=folder)
    assert asked == [{"optimizer.learning_rate": 5e-3, "seed": 7}]
    assert (folder / "results.jsonl").read_text().splitlines() == lines


@pytest.mark.slow
def test_parts_on_several_machines_are_together_the_whole_sweep(swept, short, blobs, tmp_path, monkeypatch):
    _, made, found, _ = swept
    of = []
    for number in (3, 1, 2):
        plan = search.Plan(progress="none", part=(number, 3))
        of.append(search.run_trials(made, plan, dataset=blobs, directory=tmp_path))
        assert (tmp_path / f"results-{number}-of-3.jsonl").exists()
    assert [len(one.outcomes) for one in of] == [2, 2, 2]
    monkeypatch.setattr(search, "groups", None)  # nothing is left to train
    whole = search.run_trials(made, search.Plan(progress="none"), dataset=blobs, directory=tmp_path)
    assert [one.digest for one in whole.outcomes] == [one.digest for one in found.outcomes]
    for one, other in zip(whole.outcomes[:4], found.outcomes, strict=False):
        assert one.metrics == pytest.approx(other.metrics, rel=1e-4)
    assert whole.settings[-1].failed == 2


def test_runs_of_one_program_stay_in_one_part(short, blobs):
    made = trials(short, {"seed": [0, 1, 2], "batch_size": [20, 30]})
    first, second = (grouping.part_of(made, (number, 2), blobs) for number in (1, 2))
    assert {one.experiment.batch_size for one in first} == {20}
    assert {one.experiment.batch_size for one in second} == {30}
    assert len(first) == len(second) == 3
    with pytest.raises(UsageError, match="6 runs, which is fewer than its 7 parts"):
        grouping.part_of(made, (1, 7), blobs)


@pytest.mark.parametrize("part", [(0, 2), (3, 2)])
def test_what_is_no_part_is_refused(part):
    with pytest.raises(UsageError, match="n from 1 to N"):
        search.Plan(part=part)
    with pytest.raises(UsageError, match="halving compares all settings"):
        search.Plan(part=(1, 2), halving=2)


def test_runs_that_differ_in_other_fields_have_separate_programs(short, blobs, monkeypatch):
    monkeypatch.setattr(grouping, "_built", lambda some, *_: iter([some]))
    made = trials(short, {"batch_size": [8, 16], "seed": [0, 1], "optimizer.learning_rate": [0.1, 0.2]})
    found = [[one.values["batch_size"] for one in some] for some in groups(made, blobs, None, at_once=3, say=print)]
    assert found == [[8] * 3, [8], [16] * 3, [16]]
    # Where the seed draws the validation split, runs of other seeds have other training data.
    drawn = [Trial(one.values, replace(one.experiment, validation=0.2)) for one in made[:4]]
    found = [[one.values["seed"] for one in some] for some in groups(drawn, blobs, None, at_once=9, say=print)]
    assert found == [[0, 0], [1, 1]]


def test_a_field_that_changes_the_program_gives_separate_runs(short, blobs):
    """SGD leaves decay out where it is 0, which an argument of a program cannot say."""
    said = []
    made = trials(replace(short, optimizer=SGD()), {"optimizer.weight_decay": [0.0, 0.1]})
    sizes = [len(one.trials) for one in groups(made, blobs, None, at_once=9, say=said.append)]
    assert sizes == [1, 1]
    assert "one after the other: optimizer.weight_decay cannot be" in said[0]


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(nesterov=True, weight_decay=0.1, schedule=WSD()),
        AdamW(moments="8-bit"),
        Lion(),
        *(pytest.param(one, marks=pytest.mark.slow) for one in (Muon(), LAMB())),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_traced_rate_updates_as_a_constant_does(optimizer):
    params = {"layer_0": {"kernel": jnp.linspace(-1, 1, 12).reshape(3, 4), "bias": jnp.ones(4)}}
    constant = with_field(optimizer, "learning_rate", 0.03).build(9)

    def two_updates(whole):
        state, now = whole.init(params), params
        for factor in (1.0, -0.5):
            gradients = jax.tree.map(lambda p, factor=factor: factor * jnp.cos(7 * p), now)
            updates, state = whole.update(gradients, state, now)
            now = optax.apply_updates(now, updates)
        return now

    traced = jax.jit(lambda rate: two_updates(with_numbers(optimizer, {"learning_rate": rate}).build(9)))
    want, got = jax.jit(lambda: two_updates(constant))(), traced(jnp.float32(0.03))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7), want, got)


def test_invalid_requests_are_refused_before_training(experiment):
    with pytest.raises(UsageError, match="two seeds or more"):
        jaxnets.compare(experiment, experiment, seeds=1)
    with pytest.raises(UsageError, match="'model' and 'data'"):
        jaxnets.sweep({"model": MLP()}, {"seed": [0]})
    with pytest.raises(UsageError, match="halving keeps one"):
        jaxnets.sweep(experiment, {"seed": [0]}, halving=1)


@pytest.mark.slow
def test_augmented_images_equal_those_of_the_separate_run(short, pictures):
    data = jaxnets.data.from_arrays(
        *(pictures.train[name] for name in ("inputs", "targets")), test=tuple(pictures.test.values()), name="pictures"
    )
    changed = replace(data, augment=Augment(shift=2, flip=True))
    made = trials(replace(short, steps=6), {"seed": [0, 3]})
    (group,) = groups(made, changed, None, at_once=9, say=print)
    group.advance(1.0)
    assert_same_run(group, 1, made[1], changed)


@pytest.mark.slow
def test_halving_continues_runs_from_their_state(short, blobs):
    """The survivor of successive halving is the run that was never stopped, in a stack and alone."""
    made = trials(short, {"optimizer.learning_rate": [1e-2, 3e-3], "seed": [0, 7]})
    whole = search.run_trials(made, search.Plan(progress="none"), dataset=blobs)
    for at_once in (9, 1):
        found = search.run_trials(made, search.Plan(halving=2, at_once=at_once, progress="none"), dataset=blobs)
        assert [one.steps for one in found.outcomes] == [12, 12, 6, 6]
        for one, other in zip(found.outcomes[:2], whole.outcomes, strict=False):
            assert one.metrics == pytest.approx(other.metrics, rel=1e-4)


@pytest.mark.slow
def test_the_commands(tmp_path):
    flags = ("--steps", "15", "--seed", "0", "1", "--optimizer.learning-rate", "1e-3", "0.1")
    done = run_here("sweep", "digits_softmax", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.index("0.1 ") < done.stdout.index("0.001 ")
    assert "4 runs in one program" in done.stderr
    assert (tmp_path / "sweeps/digits_softmax/sweep.png").exists()
    again = run_here("sweep", "digits_softmax", *flags, "--json", cwd=tmp_path)
    assert "4 of 4 runs have their results" in again.stderr
    assert json.loads(again.stdout.splitlines()[0])["values"] == {"optimizer.learning_rate": 0.1}
    part = run_here("sweep", "digits_softmax", *flags, "--directory", "b", "--part", "2/2", cwd=tmp_path)
    assert "part 2/2: 2 runs in" in part.stdout
    assert run_here("sweep", "digits_softmax", *flags, "--part", "3/2", cwd=tmp_path).returncode == 2
    assert run_here("sweep", "digits_softmax", "--steps", "15", cwd=tmp_path).returncode == 2
    rest = ("--seeds", "2", "--steps", "15", "--b.optimizer.learning-rate", "0.3", "--json", "--output", "c.png")
    done = run_here("compare", "digits_softmax", *rest, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["seeds"] == [0, 1]
    assert found["changed"] == ["optimizer.learning_rate: 0.01 in A, 0.3 in B"]
    assert found["verdict"] in ("better", "unclear")
    assert run_here("compare", "digits_softmax", "--seeds", "2", cwd=tmp_path).returncode == 2


@pytest.mark.slow
def test_the_blocks_of_the_page():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "evidence.md").read_text(), flags=re.S):
        exec(block, names)
    assert names["found"].verdict == "better"
    assert names["tried"].best["optimizer.learning_rate"] >= 1e-2
    assert names["curve"].points[0].split.variance > 10 * names["curve"].points[-1].split.variance
    assert 0.08 < names["law"].floor < 0.13
