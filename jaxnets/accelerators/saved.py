"""Bytes that a backward pass needs of its forward pass, read from a jaxpr.

`jax.vjp` says which values it saves. A compiler does not keep all of them: what operations element by element make of another
saved value, it computes again inside the operation that needs it. So of the values that come from one product, convolution,
reduction or gather by such operations alone, one is counted, the widest. What a loop stacks for another loop is kept as it is.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jaxnets.accelerators.cuts import cut_of
from jaxnets.ops.beyond_promise import equations

# Operations that a compiler computes again rather than keep their results.
# fmt: off
CHEAP = frozenset((
    "abs", "add", "add_any", "and", "broadcast_in_dim", "ceil", "clamp", "concatenate", "convert_element_type",
    "copy", "copy_p", "cos", "custom_jvp_call", "div", "eq", "erf", "exp", "exp2",
    "expand_dims", "expm1", "floor", "ge", "gt", "integer_pow", "iota", "is_finite", "le",
    "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg",
    "not", "one_minus_square", "or", "pad", "pow", "real", "reshape", "rsqrt", "select_n", "sign",
    "sin", "slice", "sqrt", "square", "squeeze", "stop_gradient", "sub", "tanh", "transpose",
    "xor",
))
# fmt: on
INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")
CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")


@dataclasses.dataclass(eq=False)
class Value:
    """A value of a function, wherever it is inside of functions that it calls."""

    aval: Any
    equation: Any = None
    """What makes it; None for inputs."""
    place: int = 0
    """Its place among the results of the equation."""
    origin: "Value | None" = None
    """The value that it comes from by cheap operations alone, the largest of several; None: from constants alone."""
    cut: int | None = None
    """The dim that devices split between them, if its size allows it; None: each has all of it."""
    body: "tuple[list[Value], dict[int, Value]] | None" = None
    """Of a result of a loop: the inputs of a round, and what is in it."""

    @property
    def bytes(self) -> int:
        """Its size without the gaps of any layout."""
        return int(getattr(self.aval, "size", 0)) * int(getattr(getattr(self.aval, "dtype", None), "itemsize", 0))


class Saved:
    """The outputs of a jaxpr as a compiler keeps them.

    Its inputs, and what is made of them alone by cheap operations, do not count.
    """

    def __init__(self, jaxpr: Any, cuts: Sequence[int | None] = ()) -> None:
        """Of a function whose outputs are what `jax.vjp` saves.

        Args:
            jaxpr: of the function.
            cuts: for each of its inputs the dim that devices split where its size allows it; (): none.
        """
        self._jaxpr = jaxpr
        self._inputs = _inputs(jaxpr, cuts)
        # By the identity of the variables, so the jaxpr has to stay.
        self._values = _values(jaxpr, self._inputs)

    def bytes(self, size: Callable[[Any], int], *, stacked: bool = True, split: int = 1) -> tuple[int, int, int]:
        """Bytes of them all, of the largest in its own dtype, and what of the first is the largest's.

        Args:
            size: bytes of an abstract array.
            stacked: count each value that a loop stacks: a compiler does not compute again across the end of a loop what was
                computed in it. Otherwise they are counted as if the rounds stood one after another.
            split: devices that share what is split.
        """
        needed = [self._values[id(var)] for var in self._jaxpr.outvars if id(var) in self._values]

        def held(value: Value) -> int:
            whole = value.cut is None or value.aval.shape[value.cut] % split
            return size(value.aval) // (1 if whole else split)

        return _kept(needed, held, set(self._inputs), stacked)


def _kept(
    needed: Iterable[Value], size: Callable[[Value], int], free: set[Value], stacked: bool
) -> tuple[int, int, int]:
    """Bytes of some values, one for each that is not cheap to make, of the largest, and what is counted for that."""
    groups: dict[Value, int] = {}
    loops: dict[int, tuple[Value, set[int]]] = {}
    largest, source = 0, None
    for value in dict.fromkeys(needed):
        origin = value.origin
        if origin is None or origin in free:
            continue
        if origin.body is not None:
            loops.setdefault(id(origin.body), (origin, set()))[1].add(origin.place)
            continue
        groups[origin] = max(groups.get(origin, 0), min(size(value), size(origin)))
        if size(value) > largest:
            largest, source = size(value), origin
    loop = sum(_of_scan(one, places, size, stacked) for one, places in loops.values())
    return sum(groups.values()) + loop, largest, groups[source] if source is not None else 0


def _of_scan(one: Value, places: set[int], size: Callable[[Value], int], stacked: bool) -> int:
    """Bytes of the results of a loop, of which `one` is any: those that it stacks are found in its body, and count times its
    length."""
    scan, (inputs, values) = one.equation, one.body or ([], {})
    body = _opened(scan)
    total, inner = 0, list[Value]()
    for place in sorted(places):
        result, inside = scan.outvars[place], body.outvars[place]
        if result.aval.ndim == inside.aval.ndim:  # carried from round to round, not stacked
            carried = values.get(id(inside))
            total += size(Value(result.aval, cut=None if carried is None else carried.cut))
        elif id(inside) in values:
            inner.append(values[id(inside)])
    given = set(inputs)
    once = dict.fromkeys(inner)
    whole = sum(size(value) for value in once if value in given or stacked)
    rest = 0 if stacked else _kept([value for value in once if value not in given], size, set(), stacked)[0]
    return total + (whole + rest) * scan.params["length"]


def _opened(scan: Any) -> Any:
    """The jaxpr of one round of a loop."""
    return getattr(scan.params["jaxpr"], "jaxpr", scan.params["jaxpr"])


def _inputs(jaxpr: Any, cuts: Sequence[int | None] = ()) -> list[Value]:
    """Values for the constants and arguments of a jaxpr; each is its own origin."""
    values = [Value(var.aval) for var in [*jaxpr.constvars, *jaxpr.invars]]
    for value in values:
        value.origin = value
    for value, cut in zip(values[len(jaxpr.constvars) :], cuts, strict=False):
        value.cut = cut
    return values


def _result(aval: Any, equation: Any, place: int, given: Sequence[Value]) -> Value:
    """The value that an operation makes of others."""
    cheap = equation.primitive.name in CHEAP
    value = Value(aval, equation, place, cut=cut_of(equation, place, [one.cut for one in given], cheap=cheap))
    if cheap:
        sources = [one for one in given if one.origin is not None]
        value.origin = max(sources, key=lambda one: one.bytes).origin if sources else None
    else:
        value.origin = value
    return value


def _results_of_scan(equation: Any, given: Sequence[Value]) -> list[Value]:
    """The values that a loop makes of others."""
    body = _opened(equation)
    cuts, rows = list[int | None](), 0
    for one, var in zip(given, body.invars, strict=True):
        row = getattr(one.aval, "ndim", 0) > var.aval.ndim  # a round gets one row of it
        cuts.append(one.cut - row if one.cut is not None and one.cut >= row else None)
        rows += row
    stacked = [outer.aval.ndim > inner.aval.ndim for outer, inner in zip(equation.outvars, body.outvars, strict=True)]
    carried = slice(len(cuts) - rows - stacked.count(False), len(cuts) - rows)
    for _ in range(2):  # what is carried comes in as it goes out
        inputs = _inputs(body, cuts)
        values = _values(body, inputs)
        found = [getattr(values.get(id(var)), "cut", None) for var in body.outvars]
        if cuts[carried] == found[: stacked.count(False)]:
            break
        cuts[carried] = found[: stacked.count(False)]
    inside, results = (inputs, values), list[Value]()
    for place, (var, cut, more) in enumerate(zip(equation.outvars, found, stacked, strict=True)):
        value = Value(var.aval, equation, place, cut=cut if cut is None else cut + more, body=inside)
        value.origin = value
        results.append(value)
    return results


def _values(jaxpr: Any, inputs: Sequence[Value]) -> dict[int, Value]:
    """The values of a jaxpr's variables for these inputs, calls of functions opened."""
    values = {id(var): value for var, value in zip([*jaxpr.constvars, *jaxpr.invars], inputs, strict=True)}
    for equation in equations(jaxpr):
        given = [values.get(id(var)) or Value(var.aval) for var in equation.invars]
        inner = next((equation.params[key] for key in INNER if key in equation.params), None)
        if equation.primitive.name in CALLS and inner is not None:
            body = getattr(inner, "jaxpr", inner)
            constants = [Value(var.aval) for var in body.constvars]
            inside = _values(body, [*constants, *given[: len(body.invars)]])
            for outer, var in zip(equation.outvars, body.outvars, strict=False):
                values[id(outer)] = inside.get(id(var)) or Value(var.aval)
        elif equation.primitive.name == "scan":
            results = _results_of_scan(equation, given)
            values |= {id(var): value for var, value in zip(equation.outvars, results, strict=True)}
        else:
            for place, var in enumerate(equation.outvars):
                values[id(var)] = _result(var.aval, equation, place, given)
    return values
