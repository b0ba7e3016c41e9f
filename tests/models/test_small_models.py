"""Hopfield networks, neural ODEs, the perceptron's basis functions and the copy problem, each against its definition."""

import itertools
import runpy
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, replace

from jaxnets.core.errors import DataError, UsageError
from jaxnets.data import CopyProblem, LogicGate, TwoSpirals
from jaxnets.models import RNN, Hopfield, NeuralODE, Perceptron
from jaxnets.models.hopfield import energy, hebbian, recall, retrieve
from jaxnets.models.neural_ode import integrate
from jaxnets.optim import Adam
from jaxnets.runs.build import assemble
from jaxnets.tasks import Classification, NextToken, PerceptronRule
from jaxnets.training.loop import fit


def trained(experiment, task, dataset, mesh, **changes):
    parts = assemble(replace(experiment, task=task, **changes), dataset, mesh=mesh)
    with jax.set_mesh(mesh):
        state = fit(parts.program, parts.fresh_state(), start=0, stop=parts.experiment.steps)
        return state, parts.evaluator.metrics(state.variables)


CASES = {
    "hopfield": Hopfield(patterns=6, width=5, steps=2, outputs=3),
    "neural_ode": NeuralODE(width=6, extra=1, steps=2, outputs=3),
    "polynomial": Perceptron(outputs=3, basis="polynomial", degree=3),
    "radial": Perceptron(outputs=3, basis="radial", centres=7, width=2.0),
}


@pytest.mark.parametrize("name", CASES)
def test_shapes_dtypes_precision_and_gradients(name):
    if name == "neural_ode":
        pytest.importorskip("diffrax")
    model, x = CASES[name], jax.random.normal(jax.random.key(1), (5, 2, 2))
    params = jax.jit(model.init)(jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda a: a + 0.3 * jax.random.normal(jax.random.key(a.size), a.shape), params)
    y = jax.jit(model.apply)({"params": params}, x)
    assert y.shape == (5, 3)
    assert y.dtype == jnp.float32
    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    y_low = jax.jit(model.apply)({"params": low}, x.astype(jnp.bfloat16))
    assert y_low.dtype == jnp.bfloat16
    np.testing.assert_allclose(y_low.astype(jnp.float32), y, atol=0.05 * float(jnp.abs(y).max()) + 0.05)
    weights = jax.random.normal(jax.random.key(3), y.shape)
    gradients = jax.jit(jax.grad(lambda p: (model.apply({"params": p}, x, train=True) * weights).sum()))(params)
    silent = [
        jax.tree_util.keystr(path)
        for path, g in jax.tree_util.tree_leaves_with_path(gradients)
        if not np.abs(g).max() > 0
    ]
    assert not silent


@pytest.mark.parametrize(
    ("model", "inputs", "parameters"),
    [
        (Hopfield(patterns=6, width=5, outputs=3), 4, 4 * 5 + 5 + 6 * 5 + 5 * 3 + 3),
        # The field reads the state, its zeros and the time.
        (NeuralODE(width=6, extra=1, outputs=3), 4, (5 + 1) * 6 + 6 + 6 * 5 + 5 + 5 * 3 + 3),
        (Perceptron(basis="polynomial", degree=3), 4, 34 + 1),
        (Perceptron(basis="radial", centres=9), 4, 9 + 1),
    ],
)
def test_parameter_counts(model, inputs, parameters):
    if isinstance(model, NeuralODE):
        pytest.importorskip("diffrax")
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, inputs))))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Hopfield(patterns=0), "Hopfield.patterns is at least 1, got 0"),
        (lambda: Hopfield(beta=-1.0), "beta is above 0"),
        (lambda: NeuralODE(steps=0), "NeuralODE.steps is at least 1, got 0"),
        (lambda: Perceptron(degree=0), "Perceptron.degree is at least 1, got 0"),
        (lambda: Perceptron(width=0.0), "Perceptron.width is at least"),
        (lambda: RNN(vocab_size=0), "RNN.vocab_size is at least 1, got 0"),
        (lambda: Perceptron(basis="polynomial", degree=4).expand(jnp.zeros((1, 64))), "choose a lower degree"),
    ],
)
def test_bad_hyper_parameters_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def numpy_retrieve(query, patterns, beta):
    scores = beta * query @ patterns.T
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True) @ patterns


def test_retrieval_is_attention_forward_and_gradient():
    rng = np.random.default_rng(0)
    query, patterns, w = rng.normal(size=(3, 7)), rng.normal(size=(11, 7)), rng.normal(size=(3, 7))
    twice = numpy_retrieve(numpy_retrieve(query, patterns, 0.7), patterns, 0.7)
    few, many = (jnp.asarray(a, jnp.float32) for a in (query, patterns))
    np.testing.assert_allclose(retrieve(few, many, beta=0.7, steps=2), twice, rtol=1e-5, atol=1e-5)
    got = jax.grad(lambda p: (retrieve(few, p, beta=0.7) * w).sum())(many)
    for place in itertools.product(range(0, 11, 3), range(0, 7, 2)):
        slopes = []
        for move in (1e-6, -1e-6):
            moved = patterns.copy()
            moved[place] += move
            slopes.append((numpy_retrieve(query, moved, 0.7) * w).sum())
        assert float(got[place]) == pytest.approx((slopes[0] - slopes[1]) / 2e-6, abs=1e-5 * float(jnp.abs(got).max()))


def test_a_hopfield_network_equals_a_numpy_reference():
    model, x = Hopfield(patterns=6, width=5, outputs=3), np.random.default_rng(0).normal(size=(4, 3))
    params = jax.jit(model.init)(jax.random.key(0), x.astype(np.float32))["params"]
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    found = numpy_retrieve(x @ p["query"]["kernel"] + p["query"]["bias"], p["patterns"], 5**-0.5)
    expected = found @ p["output"]["kernel"] + p["output"]["bias"]
    np.testing.assert_allclose(
        jax.jit(model.apply)({"params": params}, x.astype(np.float32)), expected, rtol=1e-5, atol=1e-5
    )


def test_stored_patterns_are_found_in_one_step_and_the_energy_falls():
    patterns = jax.random.normal(jax.random.key(0), (40, 64))
    broken = jnp.where(jax.random.uniform(jax.random.key(1), patterns.shape) < 0.4, 0.0, patterns)
    assert float(jnp.abs(broken - patterns).max(axis=1).min()) > 1
    np.testing.assert_allclose(retrieve(broken, patterns, beta=1.0), patterns, atol=1e-3)
    # Where it is not found at once the energy falls at every step, and never below 0.
    state, energies = jax.random.normal(jax.random.key(2), (8, 64)), []
    for _ in range(6):
        energies.append(np.asarray(energy(state, patterns, beta=0.05), np.float64))
        state = retrieve(state, patterns, beta=0.05)
    falls = -np.diff(energies, axis=0)
    assert (falls > -1e-4).all()
    assert (falls[0] > 1).all()
    assert (np.array(energies) > 0).all()


def test_the_binary_network_recalls_what_it_stores():
    rng = np.random.default_rng(0)
    patterns = jnp.asarray(rng.choice([-1.0, 1.0], (5, 120)), jnp.float32)
    weights = hebbian(patterns)
    np.testing.assert_allclose(weights, weights.T)
    assert (np.diag(weights) == 0).all()
    noisy = patterns * jnp.where(jnp.asarray(rng.random((5, 120))) < 0.15, -1.0, 1.0)
    np.testing.assert_array_equal(jax.jit(recall)(noisy, weights), patterns)


def exponential(a, t):
    """`exp(a t)` by its series, in float64."""
    total = term = np.eye(len(a))
    for k in range(1, 40):
        term = term @ a * t / k
        total = total + term
    return total


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "steps", "error"), [("tsit5", 16, 1e-5), ("dopri5", 16, 1e-5), ("heun", 64, 2e-3)])
def test_a_linear_equation_has_the_solution_of_the_matrix_exponential(solver, steps, error):
    pytest.importorskip("diffrax")
    rng = np.random.default_rng(0)
    a, x = rng.normal(size=(3, 3)), rng.normal(size=(5, 3))

    def velocity(time, x, a):
        return x @ a.T

    def end(a, x, adjoint="checkpoint"):
        return integrate(velocity, x, a, time=1.5, steps=steps, solver=solver, adjoint=adjoint)

    a32, x32 = jnp.asarray(a, jnp.float32), jnp.asarray(x, jnp.float32)
    expected = x @ exponential(a, 1.5).T
    np.testing.assert_allclose(jax.jit(end)(a32, x32), expected, rtol=error, atol=error * np.abs(expected).max())
    if solver != "tsit5":
        return
    w = rng.normal(size=expected.shape)
    w32 = jnp.asarray(w, jnp.float32)
    for adjoint, allowed in (("checkpoint", 1e-5), ("backsolve", 1e-3)):
        slope = jax.jit(jax.grad(lambda a, adjoint=adjoint: (end(a, x32, adjoint) * w32).sum()))
        # As the training loop runs it, where a transfer is an error.
        with jax.transfer_guard("disallow"):
            got = slope(a32)
        for place in np.ndindex(3, 3):
            slopes = []
            for move in (1e-6, -1e-6):
                moved = a.copy()
                moved[place] += move
                slopes.append((x @ exponential(moved, 1.5).T * w).sum())
            difference = (slopes[0] - slopes[1]) / 2e-6
            assert float(got[place]) == pytest.approx(difference, abs=allowed * float(jnp.abs(got).max()))


def test_a_neural_ode_equals_a_numpy_reference_forward_and_gradient():
    pytest.importorskip("diffrax")
    model = NeuralODE(width=5, extra=2, steps=3, solver="euler", outputs=2)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    params = jax.jit(model.init)(jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda a: a + 0.3 * jax.random.normal(jax.random.key(a.size), a.shape), params)
    w = np.random.default_rng(1).normal(size=(4, 2))

    def reference(p):
        state = np.concatenate([x, np.zeros((4, 2))], axis=1)
        for step in range(3):
            seen = np.concatenate([state, np.full((4, 1), step / 3)], axis=1)
            hidden = np.tanh(seen @ p["field"]["hidden"]["kernel"] + p["field"]["hidden"]["bias"])
            state = state + (hidden @ p["field"]["velocity"]["kernel"] + p["field"]["velocity"]["bias"]) / 3
        return state @ p["output"]["kernel"] + p["output"]["bias"]

    wide = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    np.testing.assert_allclose(jax.jit(model.apply)({"params": params}, x), reference(wide), rtol=1e-5, atol=1e-5)
    got = jax.jit(jax.grad(lambda p: (model.apply({"params": p}, x) * w).sum()))(params)
    scale = max(float(np.abs(g).max()) for g in jax.tree.leaves(got))
    for path, gradient in jax.tree_util.tree_leaves_with_path(got):
        leaf = wide
        for key in path:
            leaf = leaf[key.key]
        for index in list(np.ndindex(leaf.shape))[::2]:
            kept, slopes = leaf[index], []
            for move in (1e-6, -1e-6):
                leaf[index] = kept + move
                slopes.append((reference(wide) * w).sum())
            leaf[index] = kept
            assert float(gradient[index]) == pytest.approx((slopes[0] - slopes[1]) / 2e-6, abs=1e-5 * scale), path


@pytest.mark.slow
def test_a_neural_ode_separates_two_spirals(experiment, one_device):
    pytest.importorskip("diffrax")
    data = TwoSpirals(turns=0.75, train=400, test=200).open()
    task = Classification(model=NeuralODE(width=32, steps=4))
    run = {"optimizer": Adam(learning_rate=1e-2), "batch_size": 100, "steps": 400}
    assert trained(experiment, task, data, one_device, **run)[1]["accuracy"] > 0.97


def test_without_diffrax_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffrax", None)
    with pytest.raises(UsageError, match=r"pip install jaxnets\[ode\]"):
        NeuralODE().init(jax.random.key(0), jnp.zeros((1, 2)))


def test_basis_functions_equal_their_formulas():
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    got = Perceptron(basis="polynomial", degree=3).expand(jnp.asarray(x))
    powers = [p for p in itertools.product(range(4), repeat=3) if 1 <= sum(p) <= 3]
    expected = np.stack([np.prod(x**p, axis=1) for p in powers], axis=1)
    assert got.shape == expected.shape == (5, 19)
    order = [np.argsort(a[0]) for a in (np.asarray(got), expected)]
    np.testing.assert_allclose(np.asarray(got)[:, order[0]], expected[:, order[1]], rtol=1e-5)
    bumps = np.asarray(Perceptron(basis="radial", centres=50, width=0.7).expand(jnp.asarray(x)))
    assert bumps.shape == (5, 50)
    assert ((bumps > 0) & (bumps <= 1)).all()
    # Three bumps or more tell where a point is: their logarithms are squared distances to the same centres.
    centres = np.asarray(jax.random.normal(jax.random.key(0), (50, 3)))
    np.testing.assert_allclose(np.log(bumps[0]) * -0.49, ((x[0] - centres) ** 2).sum(1), rtol=1e-4)


def test_xor_is_separable_by_products_and_novikoffs_bound_holds_there(experiment, one_device):
    dataset = LogicGate(gate="xor").open()
    task = PerceptronRule(model=Perceptron(basis="polynomial", degree=2))
    state, values = trained(experiment, task, dataset, one_device, batch_size=4, steps=300)
    assert values["converged"] == values["accuracy"] == 1
    a, b = np.array([[0, 0], [0, 1], [1, 0], [1, 1.0]]).T
    rows, side = np.stack([a, b, a * a, a * b, b * b, np.ones(4)], axis=1), np.array([-1, 1, 1, -1])
    w = np.r_[np.asarray(state.params["neuron"]["kernel"])[:, 0], np.asarray(state.params["neuron"]["bias"])]
    margin = (side * (rows @ w)).min() / np.linalg.norm(w)
    assert margin > 0
    assert values["bound"] == pytest.approx((np.linalg.norm(rows, axis=1).max() / margin) ** 2, rel=1e-3)
    assert 0 < values["updates"] <= values["bound"]
    plain = PerceptronRule(model=Perceptron())
    assert trained(experiment, plain, dataset, one_device, batch_size=4, steps=300)[1]["converged"] == 0
    bumps = PerceptronRule(model=Perceptron(basis="radial", centres=16))
    values = trained(experiment, bumps, dataset, one_device, batch_size=4, steps=2000)[1]
    assert values["converged"] == 1
    assert values["updates"] <= values["bound"]


def test_the_copy_problem_follows_its_definition():
    data = CopyProblem(remember=3, gap=4, symbols=5, train=200, test=20, seed=3).open()
    x, y = data.train["inputs"], data.train["targets"]
    assert x.shape == y.shape == (200, 10)
    np.testing.assert_array_equal(x[:, :3], y[:, -3:])
    assert (x[:, 3:6] == 5).all()
    assert (x[:, 6] == 6).all()
    assert (x[:, 7:] == 5).all()
    assert (y[:, :7] == 5).all()
    assert set(y[:, -3:].ravel()) == set(range(5))
    assert data.card.class_names == ("a", "b", "c", "d", "e", "_", ">")
    # Knowing the form alone: blanks for sure, and a guess among the symbols.
    losses = np.where(y == 5, 0.0, np.log(5))
    assert CopyProblem(remember=3, gap=4, symbols=5).baseline == pytest.approx(losses.mean())
    with pytest.raises(DataError, match="remember is at least 1, got 0"):
        CopyProblem(remember=0).open()
    with pytest.raises(DataError, match="at most 24, got 25"):
        CopyProblem(symbols=25).open()


@pytest.mark.slow
def test_a_recurrent_network_reads_tokens_and_copies_them(experiment, one_device):
    source = CopyProblem(remember=1, gap=4, symbols=3, train=400, test=100)
    task = NextToken(model=RNN(cell="gru", widths=(32,), answer="every", embedding=8))
    run = {"optimizer": Adam(learning_rate=2e-2), "batch_size": 50, "steps": 150}
    state, values = trained(experiment, task, source.open(), one_device, **run)
    assert state.params["embedding"]["embedding"].shape == (5, 8)
    assert state.params["output"]["bias"].shape == (5,)
    assert values["loss"] < 0.2 * source.baseline
    wrong = replace(experiment, task=NextToken(model=RNN()))
    data = source.open()
    with pytest.raises(DataError, match="a logit for each token at each position"):
        assemble(wrong, data, mesh=one_device)


def test_tokens_are_rows_of_the_embedding():
    model = RNN(cell="simple", widths=(4,), answer="every", vocab_size=6, embedding=3)
    tokens = np.random.default_rng(0).integers(0, 6, (2, 5))
    params = jax.jit(model.init)(jax.random.key(0), tokens)["params"]
    numbers = np.asarray(params["embedding"]["embedding"])[tokens]
    rest = {name: leaf for name, leaf in params.items() if name != "embedding"}
    np.testing.assert_allclose(
        model.apply({"params": params}, tokens), model.apply({"params": rest}, numbers), rtol=1e-5, atol=1e-6
    )
    assert model.apply({"params": params}, tokens).shape == (2, 5, 6)


def test_early_stopping_keeps_the_last_step_at_which_both_measures_were_as_good_as_ever():
    early_stopping = runpy.run_path(str(ROOT / "benchmarks" / "cora_validation.py"))["early_stopping"]
    #            1    2    3    4    5    6    7    8
    loss = [0.90, 0.80, 0.85, 0.70, 0.75, 0.76, 0.77, 0.10]
    right = [0.50, 0.60, 0.70, 0.70, 0.65, 0.70, 0.60, 1.00]

    def advance(seed, step):
        return step + 1, {"loss": loss[step], "accuracy": right[step]}

    def stopped(patience, longest):
        return early_stopping(lambda seed: 0, advance, 0, patience=patience, longest=longest)

    # At step 3 accuracy alone is the best so far, at 6 it equals the best: both keep training alive, neither is kept.
    assert stopped(2, 7) == (4, 4, {"loss": 0.70, "accuracy": 0.70}, 7)
    assert stopped(1, 8) == (4, 4, {"loss": 0.70, "accuracy": 0.70}, 5)
    assert stopped(2, 8) == (8, 8, {"loss": 0.10, "accuracy": 1.00}, 8)
