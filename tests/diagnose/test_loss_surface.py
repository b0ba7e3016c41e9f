"""Critical points, sharpness, stability, slices and paths: by quadratics and functions whose answers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import diagnose
from jaxnets.core.errors import UsageError
from jaxnets.models import MLP


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        (lambda w: w[0] ** 2 + 3 * w[1] ** 2, "minimum"),
        pytest.param(lambda w: -(w[0] ** 2) - 3 * w[1] ** 2, "maximum", marks=pytest.mark.slow),
        (lambda w: w[0] * w[1], "saddle"),
        (lambda w: w[0] ** 2 + w[1] ** 4, "degenerate"),
        pytest.param(lambda w: w[0] ** 4 + w[1] ** 4, "degenerate", marks=pytest.mark.slow),
        (lambda w: w[0] ** 2 + w[1], "not critical"),
    ],
)
def test_critical_points_are_classified(loss, kind):
    found = diagnose.critical_point(loss, jnp.zeros(2))
    assert found.kind == kind
    assert found.eigenvalues[0] <= found.eigenvalues[1]


@pytest.mark.slow
def test_the_least_squares_solution_is_a_minimum_and_its_neighbour_no_critical_point():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 5)), rng.normal(size=30)
    best = jnp.asarray(np.linalg.lstsq(x, y, rcond=None)[0])

    def loss(params):
        return jnp.square(x @ params["w"] - y).mean()

    found = diagnose.critical_point(loss, {"w": best})
    assert found.kind == "minimum"
    np.testing.assert_allclose(found.eigenvalues, np.linalg.eigvalsh(2 * x.T @ x / 30)[[0, -1]], rtol=1e-8)
    assert diagnose.critical_point(loss, {"w": best + 1e-3}).kind == "not critical"


@pytest.mark.smoke
def test_sharpness_is_half_the_largest_eigenvalue_times_the_squared_radius():
    values = jnp.asarray([7.0, 3.0, 1.0, -20.0])
    found = diagnose.sharpness(lambda w: (values * w * w).sum() / 2, jnp.zeros(4), 0.1)
    assert found == pytest.approx(7 / 2 * 0.01, rel=1e-3)
    assert found <= 7 / 2 * 0.01 + 1e-12
    # On a slope: a linear loss rises by rho times its length.
    assert diagnose.sharpness(lambda w: w @ jnp.asarray([3.0, 4.0]), jnp.zeros(2), 0.1) == pytest.approx(0.5, rel=1e-4)
    with pytest.raises(UsageError, match="rho is above 0"):
        diagnose.sharpness(lambda w: w @ w, jnp.zeros(2), 0)


def test_stability_is_the_rate_times_the_largest_eigenvalue():
    def loss(w):
        return (w**4).sum()  # its Hessian is diag(12 w^2)

    trees = [jnp.asarray([1.0, 2.0, 0.5]), jnp.asarray([0.1, 0.2, 0.3])]
    found = diagnose.stability(loss, trees, [0.01, 0.1])
    np.testing.assert_allclose(found, [0.01 * 48, 0.1 * 12 * 0.09], rtol=1e-8)
    np.testing.assert_allclose(diagnose.stability(loss, trees, 0.01), [0.48, 0.01 * 12 * 0.09], rtol=1e-8)
    with pytest.raises(UsageError, match="3 rates and 2 points"):
        diagnose.stability(loss, trees, [0.1] * 3)


@pytest.mark.slow
def test_training_on_the_whole_batch_comes_to_the_edge_of_stability():
    """Gradient descent on a small network: the product rises from far below 2 and stays around it (Cohen et al. 2021)."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(50, 4)))
    y = jnp.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3]
    model = MLP(widths=(32, 32), outputs=1, activation="tanh")
    params = jax.tree.map(lambda a: a.astype(jnp.float64), model.init(jax.random.key(0), x)["params"])

    def loss(params):
        return jnp.square(model.apply({"params": params}, x) - y).mean()

    rate, trees = 0.1, [params]

    @jax.jit
    def on(params):
        descend = lambda _, p: jax.tree.map(lambda w, g: w - rate * g, p, jax.grad(loss)(p))  # noqa: E731
        return jax.lax.fori_loop(0, 1000, descend, params)

    for _ in range(8):
        trees.append(on(trees[-1]))
    found = diagnose.stability(loss, trees, rate, steps=15)
    assert found[0] < 1.2
    assert 1.7 < found[3:].mean() < 2.3
    assert loss(trees[-1]) < loss(trees[3])


def test_a_filter_direction_has_the_norms_of_the_filters_and_leaves_biases():
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.asarray(rng.normal(size=(3, 3, 2, 5))), "bias": jnp.ones(5)}
    direction = diagnose.filter_direction(params, seed=3)
    norms = [np.linalg.norm(np.asarray(tree["kernel"]).reshape(-1, 5), axis=0) for tree in (params, direction)]
    np.testing.assert_allclose(*norms, rtol=1e-12)
    assert not direction["bias"].any()
    # A network that is scaled by 10 has a slice that is scaled likewise.
    tenfold = diagnose.filter_direction(jax.tree.map(lambda a: 10 * a, params), seed=3)
    np.testing.assert_allclose(tenfold["kernel"], 10 * direction["kernel"], rtol=1e-12)


def test_slices_are_the_loss_at_their_points():
    def loss(w):
        return w[0] ** 2 + 10 * w[1]

    centre, first, second = jnp.asarray([1.0, 0.0]), jnp.asarray([1.0, 0.0]), jnp.asarray([0.0, 1.0])
    at = [-1.0, 0.0, 2.0]
    np.testing.assert_allclose(diagnose.loss_slice(loss, centre, [first], at), [0, 1, 9])
    plane = diagnose.loss_slice(loss, centre, [first, second], at)
    np.testing.assert_allclose(plane, np.asarray([0, 1, 9])[:, None] + 10 * np.asarray(at)[None, :])
    with pytest.raises(UsageError, match="one or two directions, got 3"):
        diagnose.loss_slice(loss, centre, [first] * 3, at)


def permuted(params, orders):
    """A copy with the units of each hidden layer in another order."""
    params = jax.tree.map(np.asarray, params)
    for number, order in enumerate(orders):
        hidden, following = f"hidden_{number}", f"hidden_{number + 1}" if number + 1 < len(orders) else "output"
        params[hidden] = {"kernel": params[hidden]["kernel"][:, order], "bias": params[hidden]["bias"][order]}
        params[following] = {**params[following], "kernel": params[following]["kernel"][order]}
    return jax.tree.map(jnp.asarray, params)


@pytest.mark.parametrize("widths", [(9,), (9, 7, 8)])
def test_a_permuted_copy_is_put_back_in_order(widths):
    rng = np.random.default_rng(0)
    sizes, names = [4, *widths, 3], [*(f"hidden_{i}" for i in range(len(widths))), "output"]
    params = {
        name: {"kernel": rng.normal(size=sizes[i : i + 2]), "bias": rng.normal(size=sizes[i + 1])}
        for i, name in enumerate(names)
    }
    copy = permuted(params, [rng.permutation(width) for width in widths])
    found = diagnose.matched(params, copy)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(a, b)


def test_networks_other_than_mlps_of_the_same_shape_are_refused():
    layer = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    with pytest.raises(UsageError, match="different shapes"):
        diagnose.matched({"output": layer}, {"output": {**layer, "bias": jnp.ones(3)}})
    with pytest.raises(UsageError, match="got conv_0, output"):
        diagnose.matched({"conv_0": layer, "output": layer}, {"conv_0": layer, "output": layer})


@pytest.mark.slow
def test_a_curve_goes_around_the_barrier_that_the_line_crosses():
    """A ring of minima with a hill inside."""

    def loss(w):
        return jnp.square(jnp.sqrt((w * w).sum() + 1e-12) - 1)

    a, b = jnp.asarray([1.0, 0.0]), jnp.asarray([0.0, 1.0])
    straight = diagnose.losses_along(loss, diagnose.straight(a, b))
    assert diagnose.barrier(straight) == pytest.approx((1 - np.sqrt(0.5)) ** 2)
    control = diagnose.connected(loss, a, b, steps=200, optimizer=optax.adam(0.02))
    bent = diagnose.losses_along(loss, diagnose.bezier(a, control, b))
    assert bent[0] == pytest.approx(0, abs=1e-12)
    assert bent[-1] == pytest.approx(0, abs=1e-12)
    assert diagnose.barrier(bent) < 0.05 * diagnose.barrier(straight)
    # Below the line between unequal ends there is no barrier.
    assert diagnose.barrier(np.asarray([0.0, 0.4, 1.0])) == 0
    assert diagnose.barrier(np.asarray([0.0, 0.7, 1.0])) == pytest.approx(0.2)


@pytest.mark.slow
def test_matching_and_a_curve_lower_the_barrier_between_two_trained_networks():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(200, 2)))
    y = jnp.tanh(3 * x[:, :1] * x[:, 1:])
    model = MLP(widths=(32,), outputs=1, activation="tanh")

    def loss(params):
        return jnp.square(model.apply({"params": params}, x) - y).mean()

    @jax.jit
    def trained(key):
        params, chain = model.init(key, x)["params"], optax.adam(1e-2)

        def step(state, _):
            params, memory = state
            updates, memory = chain.update(jax.grad(loss)(params), memory)
            return (optax.apply_updates(params, updates), memory), None

        return jax.lax.scan(step, (params, chain.init(params)), length=1500)[0][0]

    a, b = (trained(key) for key in jax.random.split(jax.random.key(1)))
    nearer = diagnose.matched(a, b)
    assert loss(nearer) == pytest.approx(float(loss(b)), rel=1e-6)
    apart, matched = (diagnose.barrier(diagnose.losses_along(loss, diagnose.straight(a, end))) for end in (b, nearer))
    assert matched < 0.7 * apart
    control = diagnose.connected(loss, a, nearer, steps=400)
    bent = diagnose.barrier(diagnose.losses_along(loss, diagnose.bezier(a, control, nearer)))
    assert bent < 0.2 * matched
