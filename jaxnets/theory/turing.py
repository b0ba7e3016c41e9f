"""A Turing machine as a recurrent network with rational weights (Siegelmann and Sontag 1995).

The tape is two stacks of bits, left and right of the head, and a stack is one number (`words.cantor_code`). Three updates
of the network are one step of the machine.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnets.theory.digraph import Digraph, Ended, run, run_exactly
from jaxnets.theory.wiring import Wiring
from jaxnets.theory.words import cantor_code, from_cantor_code

HALT = "H"


@dataclasses.dataclass(frozen=True)
class TuringMachine:
    """A machine with one tape of bits, infinite on both sides, on which 0 is the blank."""

    rules: tuple[str, ...]
    """`rules[2 * state + bit]`: the bit to write, the move (L or R) and the next state, as in `1RB`. States are A, B, ...;
    H halts."""

    def __post_init__(self) -> None:
        states = [chr(ord("A") + number) for number in range(len(self.rules) // 2)]
        good = all(len(r) == 3 and r[0] in "01" and r[1] in "LR" and r[2] in [*states, HALT] for r in self.rules)
        if len(self.rules) % 2 or not 2 <= len(self.rules) <= 14 or not good:
            raise ValueError(
                f"a machine has two rules for each of its states A to at most G; a rule is a bit, L or R, a state or H,"
                f" such as 1RB; got {self.rules}"
            )

    @property
    def states(self) -> int:
        """The number of states, without the one that halts."""
        return len(self.rules) // 2

    def rule(self, state: int, bit: int) -> tuple[int, int, int | None]:
        """The bit to write, the move (-1 or 1), and the next state (None halts)."""
        write, move, following = tuple(self.rules[2 * state + bit])
        return int(write), 1 if move == "R" else -1, None if following == HALT else ord(following) - ord("A")

    def tapes(self, *, word: str = "", budget: int = 1000) -> list[tuple[dict[int, int], int]]:
        """By the definition: the tape (place to bit) and the place of the head, at the start and after each step."""
        tape, head, state = {place: int(bit) for place, bit in enumerate(word)}, 0, 0
        history = [(dict(tape), head)]
        while len(history) <= budget:
            write, move, following = self.rule(state, tape.get(head, 0))
            tape[head], head = write, head + move
            history.append((dict(tape), head))
            if following is None:
                break
            state = following
        return history


BUSY_BEAVERS = {
    2: TuringMachine(("1RB", "1LB", "1LA", "1RH")),
    3: TuringMachine(("1RB", "1RH", "0RC", "1RB", "1LC", "1LA")),
    4: TuringMachine(("1RB", "1LB", "1LA", "0LC", "1RH", "1LD", "1RD", "0RA")),
}
"""The machines with 2, 3 and 4 states that leave the most ones on an empty tape before they halt (Rado 1962): 4, 6 and 13."""


@dataclasses.dataclass(frozen=True, eq=False)
class TuringNet:
    """A network that simulates a machine."""

    machine: TuringMachine
    """The simulated machine."""
    net: Digraph
    """Outputs: `halted`, `left` and `right`, the stacks once it has halted."""
    units: Mapping[str, int]
    """The number of a unit by its name."""

    def start(self, word: str = "") -> np.ndarray:
        """The configuration of the first state with the head on the first bit of a word: fractions, `[U]`."""
        zero = cantor_code("")
        state = np.array([zero] * len(self.net.bias), object)
        state[self.units["next A"]] = zero + 1
        state[self.units["right, went right"]] = cantor_code(word)
        return state

    def run(self, word: str = "", *, budget: int = 1000, exactly: bool = False) -> Ended:
        """Run it for at most `budget` updates (three for each step of the machine); `Ended.outputs` are halted, left and
        right.

        Args:
            word: on the tape at the start.
            budget: updates.
            exactly: in fractions, without rounding; else in the floats that are enabled.
        """
        if exactly:
            return run_exactly(self.net, self.start(word), budget=budget)
        return run(self.net, self.start(word).astype(float), budget=budget)


def turing_net(machine: TuringMachine) -> TuringNet:
    """The network of a machine with `S` states: `4 S + 16` saturated-linear units.

    1. `bit` and `below` read the tops of the right and left stack, `clip(4 q - 2)`; units hold the state and the stacks.
    2. One unit for each pair of state and bit is on; `right popped` and `left popped` are the stacks without their tops.
    3. The next state, and four candidates for the new stacks, of which `clip(value + gate - 1)` lets those of the right
       move pass.

    An empty stack is 0: its top reads as 0, and popping leaves 0. So the tape has no end. When the machine halts, `halted`,
        `left` and
    `right` keep the result, everything else falls to 0, and the network has reached a fixed point.
    """
    names = [chr(ord("A") + state) for state in range(machine.states)]
    reads = {(state, bit): f"{names[state]} reads {bit}" for state in range(machine.states) for bit in (0, 1)}
    stacks = ("left, went right", "left, went left", "right, went right", "right, went left")
    left, right = dict.fromkeys(stacks[:2], 1.0), dict.fromkeys(stacks[2:], 1.0)
    w = Wiring(
        [
            *(f"state {name}" for name in names), "bit", "below", "left now", "right now",
            *reads.values(), "left popped", "right popped", "left then", "below then",
            *(f"next {name}" for name in names), "next H", *stacks, "halted", "left", "right",
        ]
    )  # fmt: skip
    for name in names:
        w.unit(f"state {name}", 0, {f"next {name}": 1})
    w.unit("bit", -2, _times(4, right))
    w.unit("below", -2, _times(4, left))
    w.unit("left now", 0, left)
    w.unit("right now", 0, right)

    for (state, bit), name in reads.items():
        w.unit(name, -bit, {f"state {names[state]}": 1, "bit": 2 * bit - 1})
    w.unit("left popped", -1, {"left now": 4, "below": -2})
    w.unit("right popped", -1, {"right now": 4, "bit": -2})
    w.unit("left then", 0, {"left now": 1})
    w.unit("below then", 0, {"below": 1})

    went: dict[str, dict[str, Any]] = {stack: {} for stack in stacks}
    into: dict[str, dict[str, float]] = {f"next {name}": {} for name in [*names, HALT]}
    for (state, bit), name in reads.items():
        write, move, following = machine.rule(state, bit)
        into[f"next {HALT if following is None else names[following]}"][name] = 1
        if move > 0:  # the bit goes on the left stack
            went["left, went right"][name] = 1 + (2 * write + 1) / 4
            went["right, went right"][name] = 1
        else:  # the bit goes on the right stack, and the one below the left top on it
            went["left, went left"][name] = 1
            went["right, went left"][name] = 1 + (2 * write + 1) / 16 + 1 / 4
    for name, edges in into.items():
        w.unit(name, 0, edges)
    w.unit("left, went right", -1, {"left then": 1 / 4, **went["left, went right"]})
    w.unit("left, went left", -1, {"left popped": 1, **went["left, went left"]})
    w.unit("right, went right", -1, {"right popped": 1, **went["right, went right"]})
    w.unit("right, went left", -1, {"right popped": 1 / 16, "below then": 1 / 2, **went["right, went left"]})

    w.unit("halted", 0, {"halted": 1, "next H": 1})
    w.unit("left", -1, {"left": 1, "halted": 1, "next H": 1, **left})
    w.unit("right", -1, {"right": 1, "halted": 1, "next H": 1, **right})
    return TuringNet(machine, w.digraph(outputs=("halted", "left", "right")), w.numbers)


def _times(factor: float, edges: Mapping[str, float]) -> dict[str, float]:
    return {name: factor * weight for name, weight in edges.items()}


def ones(ended: Ended) -> int:
    """How many ones a network left on the tape.

    Raises:
        ValueError: it has not halted, or rounding left numbers that are the code of no tape.
    """
    halted, left, right = map(_number, ended.outputs)
    if halted != 1:
        raise ValueError(f"the network has not halted after {int(ended.steps)} updates; raise the budget")
    return (from_cantor_code(left) + from_cantor_code(right)).count("1")


def _number(value: Any) -> Any:
    return float(value) if hasattr(value, "dtype") else value
