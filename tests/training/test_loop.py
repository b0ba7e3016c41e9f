"""The loop's promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_same_bits, leaves, replace

from jaxnets.core.errors import NonFiniteError, UsageError
from jaxnets.data import Augment, from_arrays
from jaxnets.data.sources.text import from_tokens
from jaxnets.data.text.tokenizers import Characters
from jaxnets.models import CNN, MLP, CifarResNet, LanguageModel
from jaxnets.optim import EMA, SGD
from jaxnets.runs.build import assemble
from jaxnets.steps.precision import Precision
from jaxnets.tasks import Classification, NextToken
from jaxnets.training.hooks import LogHook
from jaxnets.training.loop import Watch, fit
from jaxnets.training.plan import Every


class Recorder:
    """Keeps what a hook is told."""

    name = "recorder"

    def __init__(self, every=0, also=()):
        self.due, self.seen, self.ran = Every(every, also), [], []

    def next_after(self, step):
        return self.due.next_after(step)

    def observe(self, first, metrics):
        sums, weights = metrics["loss"]
        self.seen += [(first + i, float(s), float(w)) for i, (s, w) in enumerate(zip(sums, weights, strict=True))]

    def run(self, moment):
        assert int(moment.state.step) == moment.step
        self.ran.append(moment.step)


def build(experiment, dataset, mesh, **changes):
    return assemble(replace(experiment, **changes), dataset, mesh=mesh)


def train(parts, start=0, stop=20, state=None, hooks=(), **options):
    with jax.set_mesh(parts.mesh):
        state = parts.fresh_state() if state is None else state
        return fit(parts.program, state, start=start, stop=stop, hooks=hooks, **options)


@pytest.mark.smoke
@pytest.mark.parametrize("steps_per_call", [1, 4])
def test_ten_and_ten_is_twenty_bit_for_bit(experiment, blobs, one_device, steps_per_call):
    parts = build(experiment, blobs, one_device, steps_per_call=steps_per_call, average=EMA(0.9))
    whole, first, second = Recorder(), Recorder(), Recorder()
    twenty = train(parts, hooks=[whole])
    ten = train(parts, stop=10, hooks=[first])
    again = train(parts, start=10, state=ten, hooks=[second])
    assert_same_bits(twenty, again)
    assert whole.seen == first.seen + second.seen
    assert len(whole.seen) == 20


MODELS = {
    "mlp": (MLP(widths=(32, 16), dropout=0.2), "blobs", (3, 20), {}),
    "cnn": (CNN(features=(4, 8), dense=(16,), dropout=0.2), "pictures", (8,), {}),
    "resnet": (CifarResNet(depth=8, width=4), "pictures", (8,), {}),
    "accumulated": (MLP(widths=(32,), dropout=0.2), "blobs", (8,), {"micro_batches": 3}),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n == "resnet" else ()) for n in MODELS])
def test_steps_per_call_gives_the_same_bits(name, request, experiment, one_device):
    model, data, many, changes = MODELS[name]
    dataset = request.getfixturevalue(data)
    if data == "pictures":
        dataset = from_arrays(
            dataset.train["inputs"],
            dataset.train["targets"],
            test=(dataset.test["inputs"], dataset.test["targets"]),
            augment=Augment(shift=1, flip=True),
        )
    states, seen = [], []
    for k in (1, *many):
        recorder = Recorder(every=7)
        parts = build(experiment, dataset, one_device, task=Classification(model=model), steps_per_call=k, **changes)
        states.append(train(parts, hooks=[recorder]))
        seen.append(recorder.seen)
        assert recorder.ran == [7, 14]
    for state, metrics in zip(states[1:], seen[1:], strict=True):
        assert_same_bits(states[0], state)
        assert metrics == seen[0]


def language():
    """A sequence that rises by 1 or 2, and the task to continue it."""
    ids = np.cumsum(np.random.default_rng(0).integers(1, 3, 900)) % 11
    data = from_tokens(ids[:800], ids[800:], Characters(tuple("abcdefghijk")), name="t", source="s", length=16)
    return NextToken(model=LanguageModel(length=16, width=32, layers=1, heads=2)), data


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "language model"])
def test_the_loss_in_bfloat16_follows_that_in_float32(name, experiment, blobs, one_device):
    task, data = (experiment.task, blobs) if name == "mlp" else language()
    curves = []
    for kind in ("float32", "bfloat16"):
        recorder = Recorder()
        train(
            build(experiment, data, one_device, task=task, precision=Precision(kind), steps=40),
            stop=40,
            hooks=[recorder],
        )
        curves.append(np.array([total / weight for _, total, weight in recorder.seen]))
    assert curves[0][-1] < 0.6 * curves[0][0]
    np.testing.assert_allclose(curves[1], curves[0], rtol=0.02)  # measured: at most .006
    assert not np.array_equal(*curves)


@pytest.mark.parametrize("steps_per_call", [1, 6])
def test_the_step_compiles_once(experiment, blobs, one_device, steps_per_call):
    parts = build(experiment, blobs, one_device, steps_per_call=steps_per_call)
    state = train(parts, stop=17, hooks=[Recorder(every=4)])
    train(parts, start=17, state=state)
    assert parts.program.traces == 1
    assert parts.program._run._cache_size() == 1


def test_streamed_batches_give_the_same_bits_as_resident_ones(experiment, blobs, one_device):
    resident = build(experiment, blobs, one_device, placement="device", steps_per_call=3)
    streamed = build(experiment, blobs, one_device, placement="host", steps_per_call=3)
    assert (resident.resident, streamed.resident) == (True, False)
    assert_same_bits(train(resident), train(streamed, prefetch_depth=2))


def test_there_is_no_implicit_transfer_and_an_added_one_is_refused(experiment, blobs, one_device):
    parts = build(experiment, blobs, one_device, steps_per_call=2)
    train(parts)  # under transfer_guard("disallow"), which fit sets itself

    class Leaks(Recorder):
        def run(self, moment):
            jnp.add(moment.state.step, np.ones((), np.int32))

    with pytest.raises(Exception, match="[Dd]isallowed"):
        train(parts, hooks=[Leaks(every=5)])


def test_the_callers_state_is_never_donated(experiment, blobs, one_device):
    parts = build(experiment, blobs, one_device)
    with jax.set_mesh(one_device):
        state = parts.fresh_state()
    before = {path: leaf.copy() for path, leaf in leaves(state).items()}
    first = train(parts, state=state)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    for path, leaf in leaves(state).items():
        np.testing.assert_array_equal(leaf, before[path])
    assert_same_bits(first, train(parts, state=state))


def test_inside_the_program_the_state_is_donated(experiment, blobs, one_device):
    parts = build(experiment, blobs, one_device)
    with jax.set_mesh(one_device):
        state = parts.program.adopt(parts.fresh_state())
        parts.program(state, parts.feed.load(0, 1, parts.program.capacity), 1)
    assert state.params["output"]["kernel"].is_deleted()


@pytest.mark.parametrize("steps_per_call", [1, 8])
def test_a_non_finite_loss_stops_the_run_and_names_the_step(experiment, blobs, one_device, steps_per_call):
    optimizer = SGD(learning_rate=1e30)
    parts = build(experiment, blobs, one_device, optimizer=optimizer, steps_per_call=steps_per_call)
    recorder = Recorder()
    with pytest.raises(NonFiniteError, match=r"step (\d+) is not finite \(.*batch is number") as error:
        train(parts, hooks=[recorder])
    named = int(str(error.value).split()[1])
    bad = [step + 1 for step, total, _ in recorder.seen if not np.isfinite(total)]
    assert named <= (bad[0] if bad else 20)
    skipping = train(parts, watch=Watch("skip"))
    assert int(skipping.guard["skipped"]) >= 1
    assert all(np.isfinite(leaf).all() for leaf in leaves(skipping.params).values())


def test_hooks_run_in_order_at_their_steps(experiment, blobs, one_device):
    order = []

    class Named(Recorder):
        def __init__(self, name, **due):
            super().__init__(**due)
            self.name = name

        def run(self, moment):
            super().run(moment)
            # Every step up to now has been observed before the hook runs.
            assert len(self.seen) == moment.step
            order.append((moment.step, self.name))

    parts = build(experiment, blobs, one_device, steps_per_call=16)
    train(parts, hooks=[Named("log", every=5), Named("save", every=10, also=(17, 20))])
    assert order == [(5, "log"), (10, "log"), (10, "save"), (15, "log"), (17, "save"), (20, "log"), (20, "save")]


def test_nothing_to_train_is_an_error(experiment, blobs, one_device):
    parts = build(experiment, blobs, one_device)
    with pytest.raises(UsageError, match="at step 20 and is to stop at 20"):
        train(parts, start=20)


def test_evaluation_is_exact_for_any_number_of_examples(experiment, blobs, one_device):
    results = []
    for size in (7, 61, 64):
        parts = build(experiment, blobs, one_device, eval_batch_size=size)
        with jax.set_mesh(one_device):
            state = parts.fresh_state()
            results.append(parts.evaluator.metrics(state.variables))
    batch = {"inputs": blobs.prepare(jnp.asarray(blobs.test["inputs"]))}
    logits = np.asarray(parts.task.outputs(state.variables, batch), np.float64)
    labels = blobs.test["targets"]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for result in results:
        assert result["examples"] == 61
        assert result["accuracy"] == (logits.argmax(-1) == labels).mean()
        assert result["loss"] == pytest.approx(-log_p[np.arange(61), labels].mean(), rel=1e-5)


def test_the_log_state_of_a_save_does_not_change_afterwards():
    hook = LogHook(Every(10), None, examples=int, record=lambda record: None, show=lambda step, shown: None)
    observed = {"loss": (np.array([2.0]), np.array([1.0]))}
    hook.observe(0, observed)
    remembered = hook.partial  # handed to a writer that works in the background
    hook.observe(1, observed)
    assert remembered == {"loss": [2.0, 1.0]}
