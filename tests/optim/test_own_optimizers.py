"""Optimizers that a user brings: each equals a hand-written Optax loop on the same batches."""

import inspect
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import whole_batch
from optax import contrib

import jaxnets
from jaxnets.core.errors import RunDirectoryError, UsageError
from jaxnets.optim import AdamW, ByPath, Constant, Named, Optax

SCHEDULE = optax.warmup_cosine_decay_schedule(0.0, 0.02, 3, 8)


def decayed(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)


def labels(params):
    return {name: "first" if name == "hidden_0" else "rest" for name in params}


OPTIMIZERS = {
    "chain with mask, clip and cosine": lambda: optax.chain(
        optax.clip_by_global_norm(0.5), optax.adamw(SCHEDULE, weight_decay=0.1, mask=decayed)
    ),
    "lion": lambda: optax.lion(1e-3),
    "adafactor": lambda: optax.adafactor(1e-2),
    "muon": lambda: contrib.muon(1e-2),
    "MultiSteps": lambda: optax.MultiSteps(optax.adam(SCHEDULE), every_k_schedule=2),
    "multi_transform with set_to_zero": lambda: optax.multi_transform(
        {"first": optax.set_to_zero(), "rest": optax.adam(1e-2)}, labels
    ),
    "schedule-free": lambda: contrib.schedule_free_adamw(1e-2, b1=0.9, warmup_steps=2),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=SCHEDULE),
    "SAM": lambda: contrib.sam(optax.sgd(0.05), optax.sgd(0.02), sync_period=2),
    "SAM, opaque": lambda: contrib.sam(optax.sgd(0.05), optax.sgd(0.02), sync_period=2, opaque_mode=True),
    "prodigy": lambda: contrib.prodigy(),
    "dog": lambda: contrib.dog(),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.adam(1e-2), 3),
    "noisy SGD": lambda: optax.noisy_sgd(1e-2),
    "L-BFGS": lambda: optax.lbfgs(),
    "plateau": lambda: optax.chain(optax.adam(1e-2), contrib.reduce_on_plateau(patience=1, rtol=0.5)),
    "Polyak": lambda: optax.polyak_sgd(0.1),
    "lookahead": lambda: optax.lookahead(optax.adam(1e-2), sync_period=2, slow_step_size=0.5),
}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 5)).astype(np.float32)
    return x, (x @ rng.normal(size=(5, 3))).argmax(1)


def fitted(data, optimizer, **options):
    # Every batch is the whole of the data, so the order within it changes rounding only.
    model = jaxnets.models.MLP(widths=(7,))
    return jaxnets.fit(
        model, data, test=data, optimizer=optimizer, **{"steps": 8, "batch_size": 32, "progress": "none"} | options
    )


def by_hand(run, data, optimizer, steps=8):
    """Parameters after a plain Optax loop, those to evaluate, and the losses."""
    optimizer = optimizer.gradient_transformation() if isinstance(optimizer, optax.MultiSteps) else optimizer
    takes = inspect.signature(optimizer.update).parameters
    takes = (
        {*takes, "value", "grad", "value_fn"} if "extra_args" in str(takes) or "kwargs" in str(takes) else set(takes)
    )
    tx = optax.with_extra_args_support(optimizer)
    params, model = run.parts.fresh_state().params, run.parts.task.model
    x, y = whole_batch(run), jnp.asarray(data[1])
    ahead = "lookahead" in optimizer.init.__qualname__
    held = optax.LookaheadParams.init_synced(params) if ahead else params

    def loss(params):
        return optax.softmax_cross_entropy_with_integer_labels(model.apply({"params": params}, x), y).mean()

    @jax.jit
    def step(held, state):
        value, grad = jax.value_and_grad(loss)(held.fast if ahead else held)
        extra = {"value": value, "grad": grad, "value_fn": loss, "grad_fn": lambda p, _: jax.grad(loss)(p)}
        updates, state = tx.update(grad, state, held, **{name: extra[name] for name in extra if name in takes})
        return optax.apply_updates(held, updates), state, value

    state, values = tx.init(held), []
    for _ in range(steps):
        held, state, value = step(held, state)
        values.append(float(value))
    return (held.fast if ahead else held), state, values


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optax_transformation_equals_a_hand_written_loop(data, name):
    run = fitted(data, OPTIMIZERS[name](), log_every=1)
    params, _, values = by_hand(run, data, OPTIMIZERS[name]())
    losses = [record["loss"] for record in run.history.records if record["split"] == "train"]
    # float32 sums in another order, through 8 steps: the largest difference seen is 1e-6. Lines searches and muon's
    # orthogonalisation amplify it to 2e-5.
    np.testing.assert_allclose(losses, values, rtol=1e-4, atol=1e-5)
    for found, wanted in zip(jax.tree.leaves(run.state.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=2e-4 if name in ("muon", "L-BFGS") else 1e-5)
    assert losses[-1] < losses[0]


def test_the_learning_rate_in_force_is_logged(data):
    run = fitted(data, OPTIMIZERS["inject_hyperparams"](), log_every=1)
    logged = [record["learning_rate"] for record in run.history.records if record["split"] == "train"]
    np.testing.assert_allclose(logged, [SCHEDULE(step) for step in range(8)], rtol=1e-6)


def test_a_frozen_group_keeps_its_bits_and_has_no_moments(data):
    run = fitted(data, {"hidden_0/.*": optax.set_to_zero(), ".*": "adamw"})
    before, after = run.parts.fresh_state().params, run.state.params
    np.testing.assert_array_equal(before["hidden_0"]["kernel"], after["hidden_0"]["kernel"])
    assert not np.array_equal(before["output"]["kernel"], after["output"]["kernel"])
    moments = sum(leaf.size for leaf in jax.tree.leaves(run.state.opt_state) if leaf.ndim)
    assert moments == 2 * sum(leaf.size for leaf in jax.tree.leaves(after["output"]))


@pytest.mark.slow
def test_frozen_parameters_have_no_gradient(data):
    whole = fitted(data, "adamw", steps=1, log_every=1)
    part = fitted(data, {"hidden_0/.*": optax.set_to_zero(), ".*": "adamw"}, steps=1, log_every=1)
    params, inputs = whole.parts.fresh_state().params, whole_batch(whole)

    def loss(params):
        logits = whole.parts.task.model.apply({"params": params}, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(data[1])).mean()

    gradients = jax.jit(jax.grad(loss))(params)
    for run, counted in ((whole, gradients), (part, gradients["output"])):
        norms = [r["gradient_norm"] for r in run.history.records if "gradient_norm" in r]
        assert norms == [pytest.approx(float(optax.tree.norm(counted)), rel=1e-5)]


def test_a_group_with_its_own_optimizer_equals_that_optimizer_alone(data):
    both = fitted(data, {".*kernel": optax.adam(1e-2), ".*": optax.adam(1e-2)})
    one = fitted(data, optax.adam(1e-2))
    for found, wanted in zip(jax.tree.leaves(both.state.params), jax.tree.leaves(one.state.params), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_schedule_free_evaluates_its_average(data):
    run = fitted(data, OPTIMIZERS["schedule-free"]())
    params, state, _ = by_hand(run, data, OPTIMIZERS["schedule-free"]())
    wanted = contrib.schedule_free_eval_params(state, params)
    logits = run.parts.task.model.apply({"params": wanted}, whole_batch(run))
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(data[1])).mean()
    assert run.evaluate()["loss"] == pytest.approx(float(loss), rel=1e-4)


@pytest.mark.slow
def test_an_average_moves_when_the_weights_do(data):
    average = jaxnets.optim.EMA(decay=0.5)
    run = fitted(data, optax.MultiSteps(optax.sgd(0.1), 2), average=average, steps=6)
    state = run.parts.fresh_state()
    kept, params = state.params, state.params
    for update in range(3):
        params = by_hand(run, data, optax.MultiSteps(optax.sgd(0.1), 2), steps=2 * (update + 1))[0]
        kept = average.update(kept, params, jnp.int32(update))
    for found, wanted in zip(jax.tree.leaves(run.state.average["params"]), jax.tree.leaves(kept), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_names_and_values_that_are_no_optimizer(data):
    assert jaxnets.optim.as_optimizer("adamw") == AdamW()
    named = jaxnets.optim.as_optimizer("lion")
    assert (named.learning_rate, type(named)) == (1e-4, Named)
    run = fitted(data, Named("rmsprop", 1e-2, Constant()))
    np.testing.assert_allclose(jax.tree.leaves(run.state.params)[0],
                               jax.tree.leaves(fitted(data, optax.rmsprop(1e-2)).state.params)[0], atol=1e-6)  # fmt: skip
    for value, said in (
        ("lino", "no optimizer 'lino'. Did you mean 'lion'"),
        (optax.adam, "call it to make a transformation"),
        (AdamW, "got the class AdamW"),
        (0.1, "an Optax transformation such as"),
        ({"hidden_0/.*": "sgd"}, "no optimizer is given for the parameter 'output/"),
        ({"hiden/.*": "sgd", ".*": "sgd"}, "'hiden/.*' has no parameter"),
        ({"(": "sgd"}, "is not a regular expression"),
    ):
        with pytest.raises(UsageError) as error:
            fitted(data, value)
        assert said in str(error.value)
    assert isinstance(jaxnets.optim.as_optimizer({".*": optax.sgd(1.0)}), ByPath)
    assert isinstance(jaxnets.optim.as_optimizer(optax.sgd(1.0)), Optax)


def test_a_run_directory_identifies_an_optimizer_by_its_closure(data, tmp_path):
    fitted(data, optax.adam(1e-2), run_dir=tmp_path / "run")
    again = fitted(data, optax.adam(1e-2), run_dir=tmp_path / "run")
    assert int(again.state.step) == 8
    with pytest.raises(RunDirectoryError, match="value that it uses, is another now"):
        fitted(data, optax.adam(1e-3), run_dir=tmp_path / "run")


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_bits_of_the_uncut_one(data, tmp_path):
    whole = fitted(data, OPTIMIZERS["L-BFGS"](), steps=6)
    fitted(data, OPTIMIZERS["L-BFGS"](), steps=6, run_dir=tmp_path / "run", save_every=2)
    for late in ("4", "6"):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / late)
    resumed = fitted(data, OPTIMIZERS["L-BFGS"](), steps=6, run_dir=tmp_path / "run", save_every=2)
    for found, wanted in zip(jax.tree.leaves(resumed.state), jax.tree.leaves(whole.state), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_rules_need_no_optimizer_for_what_is_frozen_or_for_another_rule(blobs):
    model, options = jaxnets.models.MLP(widths=(4, 4)), {"steps": 2, "batch_size": 8, "progress": "none"}
    run = jaxnets.fit(
        model, blobs, optimizer={"hidden_1/.*": "adamw", "output/.*": "sgd"}, freeze="hidden_0/.*", **options
    )
    assert int(run.state.step) == 2
    nested = {
        "hidden_.*": jaxnets.optim.ByPath(
            (("hidden_0/.*", jaxnets.optim.AdamW()), ("hidden_1/.*", jaxnets.optim.SGD()))
        ),
        ".*": jaxnets.optim.SGD(),
    }
    assert int(jaxnets.fit(model, blobs, optimizer=nested, **options).state.step) == 2
