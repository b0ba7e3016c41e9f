"""Penalties on weights: the soft threshold by number, minima in closed form, noise on weights, players and errors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_close, replace

import jaxnets
from jaxnets.core.errors import UsageError
from jaxnets.core.types import Aux, Mean
from jaxnets.models import MLP
from jaxnets.optim import LBFGS, SGD, Adam, Constant, Gradient, LocalSGD, Penalty, Plateau, ScheduleFree
from jaxnets.runs.build import assemble
from jaxnets.steps.recipe import Recipe
from jaxnets.steps.step import make_train_step
from jaxnets.tasks import Regression
from jaxnets.training.initial import create_state
from jaxnets.training.loop import fit

PARAMS = {"hidden": {"kernel": np.array([[0.5, -0.02], [2.0, -1.0]], np.float32), "bias": np.array([0.03], np.float32)}}


def test_the_soft_threshold_and_the_terms_by_number():
    found = Penalty(l1=0.5).thresholded(PARAMS, 0.1)["hidden"]
    np.testing.assert_allclose(found["kernel"], [[0.45, 0.0], [1.95, -0.95]], rtol=1e-6)
    assert found["kernel"][0, 1] == 0.0
    np.testing.assert_array_equal(found["bias"], PARAMS["hidden"]["bias"])
    squares, magnitudes = 0.25 + 0.0004 + 4 + 1, 0.5 + 0.02 + 2 + 1
    assert float(Penalty(l2=0.1).value(PARAMS)) == pytest.approx(0.05 * squares)
    assert float(Penalty(lp=0.1, p=1.0).value(PARAMS)) == pytest.approx(0.1 * magnitudes)
    assert float(Penalty(lp=0.3, p=3.0).value(PARAMS)) == pytest.approx(0.1 * (0.125 + 8e-6 + 8 + 1))
    assert float(Penalty(l2=2.0, on=("hidden/bias",)).value(PARAMS)) == pytest.approx(0.0009)
    slope = jax.grad(Penalty(lp=1.0, p=1.5, l2=0.0).value)({"kernel": jnp.array([0.0, 4.0, -4.0])})["kernel"]
    np.testing.assert_allclose(slope, [0.0, 2.0, -2.0])


TARGET = np.array([[2.0, 0.3], [-0.05, -1.0]], np.float32)


class Towards:
    """Half the squared distance of the only weights to a target, a mean over the batch; as much of a task as a state needs."""

    players = ()

    def init(self, key, batch):
        return {"params": {"kernel": jnp.zeros((2, 2))}}

    def init_optimizer(self, optimizer, params):
        return optimizer.init(params)

    def loss(self, variables, batch, key, train):
        off = jnp.square(variables["params"]["kernel"] - TARGET).sum() / 2
        return Mean.of(off * batch["mask"], batch["mask"]), Aux({}, {})


def prepared(recipe):
    """State, step and batch."""
    batch = {"mask": jnp.ones(4), "inputs": jnp.zeros((4, 1))}
    return create_state(Towards(), recipe, batch), make_train_step(Towards().loss, recipe), batch


def stepped(penalty, steps):
    """Weights after steps of gradient descent with a penalty, the metrics of each step, and the target."""
    rule = SGD(0.1, momentum=0.0, schedule=Constant())
    state, step, batch = prepared(Recipe(rule.build(steps), penalty=penalty, rate=rule.rate_at(steps)))
    state, metrics = jax.jit(lambda state: jax.lax.scan(lambda s, _: step(s, batch), state, length=steps))(state)
    return state.params["kernel"], metrics, TARGET


@pytest.mark.smoke
def test_l1_ends_at_the_soft_threshold_of_the_minimum_with_exact_zeros():
    """The minimum of (w - a)^2 / 2 + l |w| is sign(a) max(|a| - l, 0), which proximal gradient descent finds."""
    weights, _, target = stepped(Penalty(l1=0.4), 200)
    wanted = np.sign(target) * np.maximum(np.abs(target) - 0.4, 0)
    np.testing.assert_allclose(weights, wanted, atol=1e-6)
    np.testing.assert_array_equal(weights == 0, wanted == 0)
    # As a term of the loss the small ones go on moving around 0.
    rough, _, _ = stepped(Penalty(lp=0.4, p=1.0), 200)
    np.testing.assert_allclose(rough, wanted, atol=0.1)
    assert (np.asarray(rough) != 0).all()


def test_l2_halves_a_quadratic_and_its_size_is_logged():
    weights, metrics, target = stepped(Penalty(l2=1.0), 200)
    np.testing.assert_allclose(weights, target / 2, rtol=1e-5)  # of (w - a)^2 / 2 + w^2 / 2
    np.testing.assert_allclose(metrics["weight_penalty"].sum[-1], np.square(target / 2).sum() / 2, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"].sum[-1] / 4, np.square(target / 2).sum() / 2, rtol=1e-4)
    assert float(metrics["gradient_norm"].sum[-1]) < 1e-5  # of both together


@pytest.mark.slow
def test_ridge_regression_is_its_closed_form():
    """(X'X / n + l2 I)^-1 X'y / n, for a linear model without bias (Hastie et al., equation 3.44, for the mean loss)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 3)).astype(np.float32)
    y = (x @ np.array([1.0, -2.0, 0.5]) + 0.1 * rng.normal(size=64)).astype(np.float32)
    model = MLP(widths=())
    options = {"optimizer": LBFGS(), "steps": 15, "batch_size": 64, "progress": "none", "penalty": Penalty(l2=0.3)}
    run = jaxnets.fit(Regression(model=model), (x, y), test=(x, y), **options)
    # The model sees standardised inputs and targets.
    inputs = run.parts.feed.batch(run.parts.feed.load(0, 1, 1), 0, jnp.int32(0))
    a, b = (np.asarray(inputs[name], np.float64).reshape(64, -1) for name in ("inputs", "targets"))
    factor = float(jax.grad(lambda w: run.parts.task.loss(w, inputs, jax.random.key(0), True)[0].sum)(
        {"params": jax.tree.map(jnp.zeros_like, run.state.params)})["params"]["output"]["kernel"][0, 0] / -(a.T @ b)[0, 0])  # fmt: skip
    # The loss is factor / 2 times the mean square: 1 or 2 by its definition.
    a = a - a.mean(axis=0)  # the bias is free
    wanted = np.linalg.solve(a.T @ a / 64 * factor + 0.3 * np.eye(3), a.T @ (b - b.mean()) / 64 * factor)
    np.testing.assert_allclose(run.state.params["output"]["kernel"], wanted, rtol=2e-3, atol=2e-4)


def test_weight_noise_is_drawn_for_each_step_and_for_weights_only():
    params = {"a": {"kernel": jnp.zeros((100, 200)), "bias": jnp.zeros(4)}}
    one, two = (Penalty(weight_noise=0.2).noisy(params, jax.random.key(step)) for step in (0, 1))
    assert float(one["a"]["kernel"].std()) == pytest.approx(0.2, rel=0.02)
    assert abs(np.corrcoef(one["a"]["kernel"].ravel(), two["a"]["kernel"].ravel())[0, 1]) < 0.03
    assert not one["a"]["bias"].any()


def test_the_gradient_is_taken_at_the_noisy_weights():
    """On (w - a)^2 / 2 one step from 0 is rate (a - noise), with the noise of the stream of that step."""
    weights, _, target = stepped(Penalty(weight_noise=0.5), 1)
    recipe = Recipe(optax.identity(), penalty=Penalty(weight_noise=0.5))
    noise = recipe.seen({"kernel": jnp.zeros((2, 2))}, jnp.int32(0))["kernel"]
    np.testing.assert_allclose(weights, 0.1 * (target - noise), rtol=1e-5)
    assert np.abs(noise).min() > 0


def test_optimizers_that_evaluate_other_weights_use_the_same_loss():
    """The gradient of `value_fn` at the weights is the gradient that the optimizer gets, with terms, noise and clipping."""

    def update(gradients, state, params=None, *, value, value_fn, grad_fn, **others):
        return gradients, {"given": (value, gradients), "found": (value_fn(params), grad_fn(params))}

    def init(params):
        return {"given": (jnp.zeros(()), params), "found": (jnp.zeros(()), params)}

    fields = {"penalty": Penalty(l2=0.3, lp=0.1, weight_noise=0.5), "gradient": Gradient(clip_value=1.0, noise=0.1)}
    state, step, batch = prepared(Recipe(optax.GradientTransformationExtraArgs(init, update), **fields))
    state = dataclasses.replace(state, params={"kernel": jnp.full((2, 2), 0.7)})
    seen = jax.jit(step)(state, batch)[0].opt_state
    assert_close(seen["given"], seen["found"], rtol=1e-5)


@pytest.mark.slow
def test_micro_batches_see_the_same_penalty_and_the_same_noise(experiment, blobs):
    fields = {"penalty": Penalty(l2=0.1, l1=1e-3, weight_noise=0.1), "gradient": Gradient(noise=1e-3)}
    task = replace(experiment.task, model=MLP(widths=(8,)))
    plain = replace(experiment, task=task, optimizer=SGD(0.1, schedule=Constant()), steps=2, steps_per_call=2, **fields)
    params = []
    for count in (1, 3):
        parts = assemble(replace(plain, micro_batches=count), blobs)
        with jax.set_mesh(parts.mesh):
            params.append(fit(parts.program, parts.fresh_state(), start=0, stop=2).params)
    assert_close(*params, atol=1e-6)  # sums in another order


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer": optax.adam(1e-3)}, "Optax does not say a single one"),
        ({"optimizer": Plateau(Adam()), "eval_every": 5}, "Plateau does not say a single one"),
        ({"optimizer": ScheduleFree(SGD())}, "ScheduleFree evaluates an average"),
        ({"local": LocalSGD(replicas=2, every=2)}, "zeros in each of 2 replicas"),
        (
            {"penalty": Penalty(l2=1.0, on=("*/kernal",))},
            r"penalty.on '\*/kernal' matches no parameter; they are hidden_0",
        ),
    ],
)
def test_unsupported_penalties_are_refused_before_the_run(experiment, blobs, changes, said):
    with pytest.raises(UsageError, match=said):
        assemble(replace(experiment, **{"penalty": Penalty(l1=1e-3)} | changes), blobs)


@pytest.mark.parametrize("fields", [{"l1": -1.0}, {"p": 0.5}, {"weight_noise": float("nan")}])
def test_bad_fields_are_refused(fields):
    with pytest.raises(UsageError, match=f"penalty.{next(iter(fields))} is at least"):
        Penalty(**fields)
