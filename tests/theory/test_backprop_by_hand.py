"""Gradients of the teaching engine: those of jax, bit for bit in float64."""

import random
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnets import theory


@jax.custom_jvp
def tanh(x):
    """jax's tanh with its derivative written as `1 - y^2`. Its own rule is arranged in another way in each version."""
    return jnp.tanh(x)


@tanh.defjvp
def _tanh_jvp(primals, tangents):
    y = jnp.tanh(primals[0])
    return y, tangents[0] * (1 - y * y)


def program(seed, inputs, operations):
    """Random operations on earlier numbers, as (name, first, second)."""
    rng = random.Random(seed)
    names = ("+", "*", "-", "tanh", "relu")
    return [(rng.choice(names), rng.randrange(inputs + i), rng.randrange(inputs + i)) for i in range(operations)]


def evaluate(steps, numbers, tanh, relu):
    """The last number of a program, plus the two before it."""
    made = list(numbers)
    for name, a, b in steps:
        if name == "tanh":
            made.append(tanh(made[a]))
        elif name == "relu":
            made.append(relu(made[a]))
        else:
            x, y = made[a], made[b]
            made.append(x + y if name == "+" else x * y if name == "*" else x - y)
    return made[-1] + made[-2] + made[-3]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(3, 30))
@pytest.mark.smoke
def test_gradients_of_random_graphs_equal_those_of_jax_bit_for_bit(seed, inputs, operations):
    steps = program(seed, inputs, operations)
    numbers = np.random.default_rng(seed).normal(size=inputs).tolist()
    nodes = [theory.Node(number) for number in numbers]
    result = evaluate(steps, nodes, theory.Node.tanh, theory.Node.relu)
    result.backward()
    with jax.enable_x64(True):
        value, gradients = jax.value_and_grad(lambda x: evaluate(steps, x, tanh, jax.nn.relu))(
            [jnp.float64(number) for number in numbers]
        )
        # Not a number is not equal to itself; huge products may give it.
        np.testing.assert_array_equal([float(value)], [result.value])
        np.testing.assert_array_equal([float(g) for g in gradients], [node.gradient for node in nodes])


def test_a_neuron_and_jaxs_own_tanh_by_hand_and_from_the_left():
    w, x, b = (theory.Node(value) for value in (0.5, -1.5, 0.25))
    out = (2 * (w * x + b) - 1).tanh() + 1.0
    out.backward()
    y = np.tanh(2 * (0.5 * -1.5 + 0.25) - 1)
    assert w.gradient == pytest.approx((1 - y**2) * 2 * -1.5, rel=1e-14)
    assert b.gradient == pytest.approx((1 - y**2) * 2, rel=1e-14)
    out.backward()  # gradients are set, not added to those of the call before
    assert b.gradient == pytest.approx((1 - y**2) * 2, rel=1e-14)


def test_derivatives_of_any_order_are_those_of_jax():
    x, y = theory.Node(0.3), theory.Node(-0.7)
    numbers = []
    derivative = (x * y).tanh() * x
    for _ in range(3):
        derivative = derivative.derivative(x)
        numbers.append(derivative.value)
    with jax.enable_x64(True):
        function = lambda x: jnp.tanh(x * -0.7) * x  # noqa: E731
        for found in numbers:
            function = jax.grad(function)
            assert found == pytest.approx(float(function(0.3)), rel=1e-12)
    # The third derivative of tanh, in closed form.
    z = theory.Node(0.4)
    third = z.tanh().derivative(z).derivative(z).derivative(z)
    t = np.tanh(0.4)
    assert third.value == pytest.approx(-2 * (1 - t**2) * (1 - 3 * t**2), rel=1e-13)
    # The derivative is a graph: its diagram begins with the nodes of the function, and it may not depend on an input.
    assert f"n{z.number}[" in third.mermaid()
    assert (x * y).derivative(x).derivative(x).value == 0.0
    assert (x * y).derivative(x).derivative(y).value == 1.0


def test_it_trains_xor_by_gradient_descent():
    network = theory.initialised([3], 2, seed=3)
    (kernel, bias), (out, constant) = theory.layers_of(network)
    weights = [theory.node(v) for v in (*kernel.ravel(), *bias, *out.ravel(), *constant)]

    def loss():
        total = theory.node(0.0)
        for x, y in zip(theory.bits(2).tolist(), (0, 1, 1, 0), strict=True):
            hidden = [(weights[j] * x[0] + weights[3 + j] * x[1] + weights[6 + j]).tanh() for j in range(3)]
            error = sum((weights[9 + j] * h for j, h in enumerate(hidden)), weights[12]) - y
            total = total + error * error
        return total

    first = loss().value
    for _ in range(300):
        result = loss()
        result.backward()
        for weight in weights:
            weight.value -= 0.1 * weight.gradient
    assert loss().value < 0.01 * first


def test_the_graph_is_a_diagram_of_every_node_and_edge():
    a, b = theory.Node(2.0), theory.Node(3.0)
    product = a * b
    result = product + a
    result.backward()
    text = result.mermaid()
    assert text.startswith("graph LR")
    assert len(re.findall(r'^  n\d+\[".*"\]$', text, re.M)) == len(result.history()) == 4
    edges = {tuple(map(int, edge)) for edge in re.findall(r"n(\d+) --> n(\d+)", text)}
    p, r = product.number, result.number
    assert edges == {(a.number, p), (b.number, p), (p, r), (a.number, r)}
    assert "given<br>2<br>∂ 4" in text


def test_the_engine_is_short():
    import inspect

    from jaxnets.theory import backprop

    assert len(inspect.getsource(backprop).splitlines()) <= 100
