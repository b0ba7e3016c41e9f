"""Networks as directed graphs, word codes, automata, Turing machines and Hopfield's energy."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnets import theory
from jaxnets.models.hopfield import hebbian, recall

WORDS = st.text("01", max_size=40)


@settings(max_examples=3, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(0, 100))
def test_an_mlp_as_a_digraph_computes_the_same_and_stops(widths, seed):
    network = theory.initialised(widths, 2, seed=seed)
    net, x = theory.from_mlp(network), np.random.default_rng(seed).normal(size=(7, 2))
    layered = theory.run(net, net.start(x), rule="layered")
    parallel = theory.run(net, net.start(x), budget=len(widths) + 2)
    np.testing.assert_allclose(layered.outputs, network(x), atol=1e-5)
    np.testing.assert_array_equal(layered.outputs, parallel.outputs)
    assert bool(parallel.stopped.all())
    assert int(parallel.steps.max()) <= len(widths) + 1
    assert int(layered.steps.max()) <= 1


def test_the_net_of_the_lecture_with_two_inputs_and_layers_of_four_three_and_two():
    network = theory.initialised([4, 3], 2, seed=0)
    network = theory.of_layers([*theory.layers_of(network)[:2], (np.ones((3, 2)), np.zeros(2))], "relu")
    net = theory.from_mlp(network)
    assert [len(layer) for layer in (net.inputs, *net.layers)] == [2, 4, 3, 2]
    ended = theory.run(net, net.start([0.3, -0.7]), rule="layered")
    np.testing.assert_allclose(ended.outputs, network([[0.3, -0.7]])[0], atol=1e-6)


def test_a_network_that_never_stops_ends_with_its_budget():
    # One unit that is on where it was off.
    net = theory.Digraph(np.array([[-1.0]]), np.array([1.0]), (), (0,), "clip")
    ended = theory.run(net, [0.0], budget=101)
    assert (int(ended.steps), bool(ended.stopped), float(ended.outputs[0])) == (101, False, 1.0)
    exact = theory.run_exactly(net, [0], budget=100)
    assert (exact.steps, exact.stopped, exact.outputs) == (100, False, [0])


@settings(max_examples=60, deadline=None)
@given(WORDS)
def test_codes_are_those_of_their_definitions_and_go_back(word):
    binary, cantor = theory.binary_code(word), theory.cantor_code(word)
    assert binary == sum(Fraction(int(b), 2**i) for i, b in enumerate(word, 1)) + Fraction(1, 2 ** (len(word) + 1))
    assert theory.from_binary_code(binary) == word
    assert theory.from_cantor_code(cantor) == word
    if word:
        assert (Fraction(3, 4) <= cantor < 1) if word[0] == "1" else (Fraction(1, 4) <= cantor < Fraction(1, 2))


def test_each_word_has_its_own_code_and_the_example_of_the_lecture():
    words = ["".join(letters) for length in range(13) for letters in itertools.product("01", repeat=length)]
    assert len(words) == 8191
    assert (
        len({theory.binary_code(word) for word in words}) == len({theory.cantor_code(word) for word in words}) == 8191
    )
    assert theory.binary_code("11001") == Fraction(51, 64)
    # The codes of words of up to n bits are as near as the docstring says.
    codes = sorted(theory.binary_code(word) for word in words)
    assert min(b - a for a, b in itertools.pairwise(codes)) == Fraction(1, 2**13)


@pytest.mark.parametrize(("dtype", "most"), [(np.float32, 23), (np.float64, 52)])
def test_where_floats_lose_a_word(dtype, most):
    for length in (most - 1, most):
        assert theory.from_binary_code(float(dtype(float(theory.binary_code("1" * length))))) == "1" * length
    lost = dtype(theory.binary_code("1" * (most + 1)).numerator / 2.0 ** (most + 2))
    assert Fraction(float(lost)) != theory.binary_code("1" * (most + 1))


AUTOMATA = {
    "odd number of 1": theory.PARITY,
    "ends in 01": theory.Automaton(((1, 0), (1, 2), (1, 0)), accepting=(2,)),
    "a number divisible by 3": theory.Automaton(((0, 1), (2, 0), (1, 2)), accepting=(0,)),
}


@pytest.mark.parametrize("name", AUTOMATA)
@pytest.mark.parametrize("code", ["cantor", "binary"])
def test_a_network_accepts_what_its_automaton_accepts(name, code):
    automaton, longest = AUTOMATA[name], 8
    network = theory.automaton_net(automaton, code=code, gain=2.0 ** (longest + 1) if code == "binary" else None)
    words = ["".join(letters) for length in range(longest + 1) for letters in itertools.product("01", repeat=length)]
    start = np.array([network.start(word) for word in words]).astype(float)
    ended = theory.run(network.net, start, budget=4 * longest + 12)
    assert bool(ended.stopped.all())
    want = [automaton.accepts(word) for word in words]
    assert 0.2 < np.mean(want) < 0.8
    np.testing.assert_array_equal(ended.outputs[:, 0], want)


@settings(max_examples=10, deadline=None)
@given(st.text("01", min_size=20, max_size=60))
def test_the_cantor_code_reads_words_of_any_length_exactly(word):
    network = theory.automaton_net(theory.PARITY)
    ended = theory.run_exactly(network.net, network.start(word), budget=200)
    assert ended.stopped
    assert ended.outputs == [word.count("1") % 2]


def test_no_fixed_gain_reads_the_binary_code_of_long_words():
    short = theory.automaton_net(theory.PARITY, code="binary", gain=2.0**5)  # for words of up to 4 bits
    wrong = {
        length: sum(
            theory.run_exactly(short.net, short.start(word), budget=40).outputs[0] != word.count("1") % 2
            for word in map("".join, itertools.product("01", repeat=length))
        )
        for length in (4, 7)
    }
    assert wrong[4] == 0
    assert wrong[7] > 0


CHAMPIONS = [(2, 6, 4), (3, 14, 6), (4, 107, 13)]


@pytest.mark.smoke
@pytest.mark.parametrize(("states", "steps", "ones"), CHAMPIONS)
def test_busy_beavers_run_exactly_in_fractions_and_in_float64(states, steps, ones):
    machine = theory.BUSY_BEAVERS[states]
    history = machine.tapes()
    assert (len(history) - 1, sum(history[-1][0].values())) == (steps, ones)
    network = theory.turing_net(machine)
    assert len(network.net.bias) == 4 * states + 16
    exact = network.run(exactly=True)
    assert (exact.stopped, exact.steps, theory.ones(exact)) == (True, 3 * steps + 3, ones)
    with jax.enable_x64(True):
        ended = network.run()
        assert (bool(ended.stopped), int(ended.steps), theory.ones(ended)) == (True, 3 * steps + 3, ones)
        assert [Fraction(float(value)) for value in ended.state] == exact.state


def test_float32_loses_the_tape_of_four_states():
    ended = theory.turing_net(theory.BUSY_BEAVERS[4]).run()
    with pytest.raises(ValueError, match="the code of no tape|the code of no word"):
        theory.ones(ended)


RULES = st.tuples(st.sampled_from("01"), st.sampled_from("LR"), st.sampled_from("ABCH")).map("".join)


@settings(max_examples=25, deadline=None)
@given(st.lists(RULES, min_size=6, max_size=6), st.text("01", max_size=6))
def test_any_machine_and_its_network_have_the_same_tape_after_each_step(rules, word):
    machine = theory.TuringMachine(tuple(rules))
    network = theory.turing_net(machine)
    state = network.start(word)
    for tape, head in machine.tapes(word=word, budget=12)[1:]:
        state = theory.run_exactly(network.net, state, budget=3).state
        values = {name: state[unit] for name, unit in network.units.items()}
        left = sum(value for name, value in values.items() if name.startswith("left, went"))
        right = sum(value for name, value in values.items() if name.startswith("right, went"))
        places = [*tape, head]
        before = "".join(str(tape.get(place, 0)) for place in range(head - 1, min(places) - 1, -1))
        after = "".join(str(tape.get(place, 0)) for place in range(head, max(places) + 1))
        assert theory.from_cantor_code(left).rstrip("0") == before.rstrip("0")
        assert theory.from_cantor_code(right).rstrip("0") == after.rstrip("0")


def test_a_machine_that_never_halts_spends_its_budget():
    forever = theory.turing_net(theory.TuringMachine(("1RA", "1RA")))
    ended = forever.run(budget=30, exactly=True)
    assert not ended.stopped
    with pytest.raises(ValueError, match="has not halted after 30 updates"):
        theory.ones(ended)


def test_hopfields_energy_falls_with_single_updates_and_parallel_updates_may_cycle():
    patterns = jax.random.rademacher(jax.random.key(0), (4, 40), jnp.float32)
    weights = jnp.round(40 * hebbian(patterns))  # whole numbers, so nothing is rounded
    rows, state = np.asarray(weights), np.array(jax.random.rademacher(jax.random.key(1), (6, 40), jnp.float32))
    states, flips = [state.copy()], []
    for unit in list(range(40)) * 3:
        potential = state @ rows[unit]
        changed = np.where(potential == 0, state[:, unit], np.sign(potential))
        flips.append(changed != state[:, unit])
        state[:, unit] = changed
        states.append(state.copy())
    energies = np.asarray(theory.binary_energy(jnp.asarray(np.concatenate(states)), weights)).reshape(-1, 6)
    changes = np.diff(energies, axis=0)
    assert (changes <= 0).all()
    assert (changes[np.array(flips)] < 0).all()
    assert (energies[-1] < energies[0]).all()
    np.testing.assert_array_equal(recall(jnp.asarray(state), weights, sweeps=1), state)  # it has stopped
    # Two units that excite each other, updated at once from (1, -1), change places for ever.
    pair = theory.Digraph(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([-0.5, -0.5]), (), (0, 1), "step")
    ended = theory.run(pair, [1.0, 0.0], budget=50)
    assert not bool(ended.stopped)
    assert bool(theory.run(pair, [1.0, 1.0]).stopped)


def test_patterns_are_remembered_up_to_a_share_of_the_units():
    assert theory.recalled_fraction(8, 100) == 1
    assert theory.recalled_fraction(40, 100) < 0.5


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: theory.binary_code("12"), "the letters 0 and 1"),
        (lambda: theory.from_binary_code(Fraction(1, 3), longest=50), "the code of no word"),
        (lambda: theory.from_cantor_code(0.5), "the code of no word"),
        (lambda: theory.Automaton(((0, 2),), accepting=()), "states are numbered 0 to 0"),
        (lambda: theory.automaton_net(theory.PARITY, code="binary"), "needs a gain"),
        (lambda: theory.automaton_net(theory.PARITY, gain=4.0), "has its own"),
        (lambda: theory.TuringMachine(("1RB", "1LB")), "two rules for each"),
        (lambda: theory.TuringMachine(()), "two rules for each"),
        (lambda: theory.Digraph(np.ones((2, 3)), np.ones(2), (), ()), "2 units have weights"),
        (lambda: theory.Digraph(np.ones((1, 1)), np.ones(1), (), (1,)), "numbered 0 to 0, got \\[1\\]"),
        (
            lambda: theory.run(theory.turing_net(theory.BUSY_BEAVERS[2]).net, np.zeros(24), rule="layered"),
            "needs layers",
        ),
        (
            lambda: theory.run(theory.turing_net(theory.BUSY_BEAVERS[2]).net, np.zeros(24), budget=0),
            "budget is at least",
        ),
        (lambda: theory.run_exactly(theory.from_mlp(theory.tent(1)), [0] * 4), "step or clip, got relu"),
        (lambda: theory.recalled_fraction(0, 5), "patterns is at least 1"),
    ],
)
def test_invalid_networks_are_refused_with_the_reason(make, said):
    with pytest.raises(ValueError, match=said):
        make()
