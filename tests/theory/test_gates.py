"""Neurons, gates, Boolean functions and tables: each truth table, whole."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxnets
from jaxnets import theory
from jaxnets.data import from_arrays

LOGIC = {
    "and": lambda x: x.all(axis=1),
    "or": lambda x: x.any(axis=1),
    "nand": lambda x: ~x.all(axis=1),
    "nor": lambda x: ~x.any(axis=1),
}


def test_threshold_and_bias_are_the_same_neuron():
    rng = np.random.default_rng(0)
    weights, threshold = rng.normal(size=5), 0.7
    x = rng.normal(size=(10_000, 5))
    by_threshold, by_bias = theory.neuron(weights, threshold=threshold), theory.neuron(weights, bias=-threshold)
    want = x @ weights >= threshold
    clear = np.abs(x @ weights - threshold) > 1e-5  # float32 does not tell nearer ones
    assert 0.2 < want.mean() < 0.8
    np.testing.assert_array_equal(by_threshold.fires(x)[clear], want[clear])
    np.testing.assert_array_equal(by_threshold(x), by_bias(x))
    # The bias as the weight of an input that is always 1.
    folded = theory.neuron(theory.fold_bias(by_bias), bias=0)
    np.testing.assert_allclose(folded(np.c_[np.ones(len(x)), x]), by_bias(x), atol=1e-5)


@pytest.mark.smoke
@pytest.mark.parametrize("name", LOGIC)
def test_gates_have_their_truth_tables(name):
    for inputs in range(1, 9):
        x = theory.bits(inputs)
        np.testing.assert_array_equal(theory.gate(name, inputs).fires(x), LOGIC[name](x == 1), err_msg=str(inputs))


def test_not_and_counting_gates():
    np.testing.assert_array_equal(theory.gate("not", 1).fires([[0.0], [1.0]]), [True, False])
    x = theory.bits(6)
    for count in range(7):
        np.testing.assert_array_equal(theory.at_least(count, 6).fires(x), x.sum(axis=1) >= count)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=5), st.integers(-4, 4))
def test_a_neuron_for_the_other_coding_fires_for_the_same_words(weights, threshold):
    x = theory.bits(len(weights))
    neuron = theory.neuron(weights, threshold=threshold)
    np.testing.assert_array_equal(theory.recoded(neuron).fires(2 * x - 1), neuron.fires(x))


def test_xor_by_the_weights_of_the_lecture_and_by_no_single_neuron():
    x, xor = theory.bits(2), np.array([0, 1, 1, 0])
    network = theory.xor()
    np.testing.assert_array_equal(network(x)[:, 0], [-1, 1, 1, -1])  # -3 + 2 h1 + 2 h2
    np.testing.assert_array_equal(network.fires(x), xor)
    # The linear program is complete: it finds a line for every labelling of the corners but XOR and its negation.
    with_bias = np.c_[x, np.ones(4)]
    lines = {
        labels: theory.separating_plane(with_bias, 2 * np.array(labels) - 1)
        for labels in itertools.product((0, 1), repeat=4)
    }
    assert [labels for labels, line in lines.items() if line is None] == [(0, 1, 1, 0), (1, 0, 0, 1)]


@pytest.mark.parametrize("inputs", [1, 2, 3])
def test_every_function_of_few_bits(inputs):
    x = theory.bits(inputs)
    for table in itertools.product((0, 1), repeat=2**inputs):
        network = theory.boolean_function(table)
        np.testing.assert_array_equal(network.fires(x), table)
        assert network.units() == max(1, sum(table))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "step"),
    [pytest.param(7, 16, id="a sixteenth"), pytest.param(0, 1, id="all", marks=pytest.mark.nightly)],
)
def test_the_functions_of_four_bits(first, step):
    x = theory.bits(4)
    for number in range(first, 2**16, step):
        table = number >> np.arange(16) & 1
        np.testing.assert_array_equal(theory.boolean_function(table).fires(x), table)


@settings(max_examples=5, deadline=None)
@given(st.integers(4, 8).flatmap(lambda n: st.lists(st.integers(0, 1), min_size=2**n, max_size=2**n)))
def test_functions_of_more_bits(table):
    inputs = len(table).bit_length() - 1
    np.testing.assert_array_equal(theory.boolean_function(table).fires(theory.bits(inputs)), table)


@pytest.mark.parametrize("inputs", [1, 2, 5, 8])
def test_parity_takes_as_many_units_as_inputs_where_rows_take_exponentially_many(inputs):
    x = theory.bits(inputs)
    odd = x.sum(axis=1) % 2
    network = theory.parity(inputs)
    np.testing.assert_array_equal(network.fires(x), odd)
    assert network.units() == inputs
    assert theory.boolean_function(odd).units() == 2 ** (inputs - 1)


@settings(max_examples=6, deadline=None)
@given(st.integers(2, 120), st.integers(1, 6), st.integers(2, 10), st.integers(0, 100))
def test_lookup_of_any_finite_table(rows, inputs, classes, seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(rows, inputs))
    labels = rng.integers(0, classes, rows)
    network = theory.lookup(points, np.eye(classes)[labels])
    outputs = np.asarray(network(points))
    np.testing.assert_array_equal(outputs.argmax(axis=1), labels)
    np.testing.assert_array_equal(outputs, np.eye(classes)[labels])  # whole numbers come out exactly
    assert network.units() == rows - 1


def test_lookup_of_the_corners_of_a_cube():
    table = np.random.default_rng(3).integers(0, 10, 256)
    np.testing.assert_array_equal(theory.lookup(theory.bits(8), table)(theory.bits(8))[:, 0], table)


@pytest.mark.smoke
def test_a_construction_is_an_ordinary_model_that_trains_further():
    x, y = np.repeat(theory.bits(2), 8, axis=0).astype(np.float32), np.repeat([0, 1, 1, 0], 8)
    model, variables = theory.lookup(theory.bits(2), np.eye(2)[[0, 1, 1, 0]])
    data = from_arrays(x, y, test=(x, y), standardize=False)
    options = {"initial": variables, "optimizer": "adam", "progress": "none", "batch_size": 32}
    run = jaxnets.fit(model, data, steps=50, **options)
    assert run.evaluate()["accuracy"] == 1
    before = float(jnp.log1p(jnp.exp(-1.0)))  # logits 1 and 0
    assert run.evaluate()["loss"] < before - 0.01
    # The step has a straight-through gradient, so hidden weights move too.
    start, end = variables["params"]["hidden_0"]["bias"], run.variables["params"]["hidden_0"]["bias"]
    assert float(jnp.abs(start - jnp.asarray(end)).max()) > 0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: theory.gate("xor", 2), "a gate is one of and, or"),
        (lambda: theory.gate("not", 2), "exactly 1"),
        (lambda: theory.neuron([1.0], bias=1, threshold=2), "its bias or its threshold"),
        (lambda: theory.neuron([], bias=1), "one weight for each input"),
        (lambda: theory.at_least(4, 3), "4 of 3"),
        (lambda: theory.boolean_function([0, 1, 1]), "2\\^N values"),
        (lambda: theory.boolean_function([0, 2]), "values of 0 and 1"),
        (lambda: theory.parity(0), "at least 1 input, got 0"),
        (lambda: theory.lookup(np.ones((2, 1)), [1, 2]), "two points are equal"),
        (lambda: theory.lookup(np.ones((2, 1)), [1]), "a value for each"),
        (lambda: theory.of_layers([(np.ones((2, 3)), np.ones(2))], "step"), "layer 0 has a kernel"),
        (lambda: theory.layers_of(theory.Construction(jaxnets.models.CNN(), {})), "only an MLP"),
    ],
)
def test_impossible_constructions_are_refused_with_the_reason(make, said):
    with pytest.raises(ValueError, match=said):
        make()
