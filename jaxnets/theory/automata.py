"""Finite automata as recurrent networks of saturated-linear units.

The word is one number, and the network reads it bit by bit, as a stack.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np

from jaxnets.theory.digraph import Digraph
from jaxnets.theory.wiring import Wiring
from jaxnets.theory.words import binary_code, cantor_code


@dataclasses.dataclass(frozen=True)
class Automaton:
    """A deterministic finite automaton over the letters 0 and 1."""

    moves: tuple[tuple[int, int], ...]
    """`moves[state]` is where the letters 0 and 1 lead."""
    accepting: tuple[int, ...]
    """States in which a word is accepted."""
    start: int = 0
    """The first state."""

    def __post_init__(self) -> None:
        states = range(len(self.moves))
        named = [self.start, *self.accepting, *(state for pair in self.moves for state in pair)]
        if not self.moves or any(state not in states for state in named):
            raise ValueError(f"states are numbered 0 to {len(self.moves) - 1}, got {sorted(set(named))}")

    def accepts(self, word: str) -> bool:
        """Whether it accepts a word of 0 and 1, by the definition."""
        state = self.start
        for letter in word:
            state = self.moves[state]["01".index(letter)]
        return state in self.accepting


PARITY = Automaton(((0, 1), (1, 0)), accepting=(1,))
"""Words with an odd number of 1."""


@dataclasses.dataclass(frozen=True, eq=False)
class AutomatonNet:
    """A network that recognises the language of an automaton."""

    net: Digraph
    """Its output unit is 1 where the word is accepted, once it has stopped."""
    units: Mapping[str, int]
    """The number of a unit by its name."""
    code: Literal["binary", "cantor"]
    """How a word is a number."""

    def start(self, word: str) -> np.ndarray:
        """The configuration in which the network begins to read a word: fractions, `[U]`."""
        code = binary_code(word) if self.code == "binary" else cantor_code(word)
        state = np.array([code * 0] * len(self.net.bias), object)
        state[self.units["word"]], state[self.units["begin"]] = code, code * 0 + 1
        return state


def automaton_net(
    automaton: Automaton, *, code: Literal["binary", "cantor"] = "cantor", gain: float | None = None
) -> AutomatonNet:
    """A network of `5 + 3 S` or so saturated-linear units that accepts what an automaton with `S` states accepts.

    Two updates read a bit. In the first, `one` and `zero` find the first bit of the word, and one unit for each state holds
    the state. In the second, one unit for each pair of state and bit is on, and `word` drops the bit. When the word is
    empty, `accept` is set and keeps itself, and the states fall to 0: the network stops.

    Args:
        automaton: the language.
        code: cantor compares with the gain 4 at any length. binary is the course's code; its comparisons have a margin of
            `2^-(n + 1)` for words of `n` bits.
        gain: the weight of the comparisons of the binary code; words of `n` bits need `2^(n + 1)`.
    """
    if (code == "binary") != (gain is not None and gain > 0):
        raise ValueError(
            f"the binary code needs a gain, 2^(n + 1) for words of up to n bits, and the Cantor code has its own; "
            f"got {code!r} and {gain}"
        )
    states = range(len(automaton.moves))
    pairs = {(state, bit): f"state {state} reads {bit}" for state in states for bit in (0, 1)}
    w = Wiring(["word", "begin", "one", "some", "kept", "accept", *(f"state {s}" for s in states), *pairs.values()])
    alive = {"begin": 1.0, **dict.fromkeys(pairs.values(), 1.0)}
    if gain:
        # Of words that are not empty, the code is over 1/2 where the first bit is 1, and under it where it is 0.
        w.unit("one", -gain / 2, word=gain)
        w.unit("some", gain / 2, word=-gain)
        w.unit("word", 0, kept=2, one=-1)
        zero, empty = {"some": 1.0}, {"some": -1.0, "one": -1.0}
    else:
        w.unit("one", -2, word=4)
        w.unit("some", 0, word=4)
        w.unit("word", 0, kept=4, one=-2, some=-1)
        zero, empty = {"some": 1.0, "one": -1.0}, {"some": -1.0}
    w.unit("kept", -1, {"word": 1, **alive})
    for state in states:
        entering = {name: 1.0 for (before, bit), name in pairs.items() if automaton.moves[before][bit] == state}
        if state == automaton.start:
            entering["begin"] = 1.0
        w.unit(f"state {state}", 0, entering)
        w.unit(pairs[state, 0], -1, {f"state {state}": 1, **zero})
        w.unit(pairs[state, 1], -1, {f"state {state}": 1, "one": 1})
    w.unit("accept", 0, {"accept": 3, **empty, **{f"state {state}": 1.0 for state in automaton.accepting}})
    return AutomatonNet(w.digraph(outputs=("accept",)), w.numbers, code)
