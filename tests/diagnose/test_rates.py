"""The range test: against the known limits of gradient descent on a quadratic."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import diagnose
from jaxnets.checkpoints.digest import read_digests, start_digests
from jaxnets.core.errors import UsageError

CURVATURES = jnp.array([0.5, 2.0, 20.0])


def quadratic(momentum=0.0, trace_count=None):
    """`(state, batch, rate) -> (state, loss)` on sum(c w^2) / 2 whose gradient has the batch as noise."""
    inner = optax.trace(momentum)

    def step(state, noise, rate):
        if trace_count is not None:
            trace_count.append(1)
        w, buffer = state
        loss = (CURVATURES * w * w).sum() / 2
        moved, buffer = inner.update(CURVATURES * w + noise, buffer)
        return (w - rate * moved, buffer), loss

    w = jnp.array([3.0, -2.0, 1.0])
    return step, (w, inner.init(w))


@pytest.mark.smoke
def test_the_turn_is_where_descent_on_a_quadratic_begins_to_diverge():
    """Gradient descent converges below 2 / largest curvature. The noise of batches keeps the steepest direction alive."""
    step, state = quadratic()
    noise = 0.3 * jax.random.normal(jax.random.key(0), (4, 150, 3))
    found, limit = diagnose.rate_test(step, [state] * 4, list(noise)), 2 / 20
    # The rate grows by 13 % from step to step.
    assert ((limit / 1.5 < found.turns) & (found.turns < limit * 1.5)).all()
    assert limit / 8 < found.pick < limit
    assert (found.steepest < found.turns).all()


def test_the_suggested_rate_with_momentum_is_below_the_limit():
    """Heavy-ball descent converges below 2 (1 + momentum) / largest curvature (Polyak 1964); its updates lag ten steps."""
    step, state = quadratic(0.9)
    noise = 0.3 * jax.random.normal(jax.random.key(0), (2, 150, 3))
    found, limit = diagnose.rate_test(step, [state] * 2, list(noise)), 2 * (1 + 0.9) / 20
    assert ((limit / 5 < found.turns) & (found.turns < limit)).all()


def test_repeats_share_one_compilation_and_do_not_change_their_states():
    traces = []
    step, state = quadratic(trace_count=traces)
    before = read_digests(start_digests(state))
    noise = jax.random.normal(jax.random.key(0), (3, 60, 3)) * 0.01
    found = diagnose.rate_test(step, [state] * 3, list(noise), diagnose.growing_rates(1e-4, 10, 60))
    assert read_digests(start_digests(state)) == before
    assert len(traces) <= 2  # the scan's body: its shapes and its program
    assert found.losses.shape == (3, 60)
    assert 1 <= found.spread < 2
    assert np.isinf(found.losses[:, -1]).all()
    again = diagnose.rate_test(step, [state] * 3, list(noise), diagnose.growing_rates(1e-4, 10, 60))
    np.testing.assert_array_equal(found.losses, again.losses)


def test_losses_are_those_of_the_steps_one_by_one():
    step, state = quadratic()
    rates = diagnose.growing_rates(1e-3, 0.05, 12)
    found = diagnose.losses_by_rate(step, state, jnp.zeros((12, 3)), rates)
    w, want = np.array([3.0, -2.0, 1.0]), []
    curvatures = np.asarray(CURVATURES)
    for rate in rates:
        want.append((curvatures * w * w).sum() / 2)
        w = w - rate * curvatures * w
    np.testing.assert_allclose(found, want, rtol=1e-5)


def test_a_loss_that_does_not_fall_gives_no_suggestion():
    noise = np.random.default_rng(0).normal(size=(2, 40)).astype(np.float32)
    found = diagnose.RateTest(diagnose.growing_rates(1e-4, 1, 40), 2 + 0.1 * noise)
    assert not found.learned.any()
    with pytest.raises(UsageError, match="did not fall"):
        _ = found.pick


def test_a_loss_of_any_sign_ends_the_test_where_it_explodes():
    def step(state, batch, rate):
        return state + 1, jnp.where(state < 5, -state, 100.0)

    found = diagnose.losses_by_rate(step, jnp.zeros(()), jnp.zeros(10), jnp.ones(10))
    np.testing.assert_array_equal(found, [0, -1, -2, -3, -4, 100, *[np.inf] * 4])


@pytest.mark.parametrize("bad", [{"low": 0.0}, {"low": 2.0, "high": 1.0}, {"steps": 3}])
def test_ranges_that_make_no_sense_are_refused(bad):
    with pytest.raises(UsageError):
        diagnose.growing_rates(**bad)
    with pytest.raises(UsageError, match="each repeat"):
        diagnose.rate_test(None, [], [])
