"""Bytes that a backward pass needs of its forward pass, read from a jaxpr.

`jax.vjp` says which values it saves. A compiler does not keep all of them: what operations element by element make of another
saved value, it computes again inside the operation that needs it. So of the values that come from one product, convolution,
reduction or gather by such operations alone, one is counted, the widest. What a loop stacks for another loop is kept as it is.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

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

    @property
    def bytes(self) -> int:
        """Its size without the gaps of any layout."""
        return int(getattr(self.aval, "size", 0)) * int(getattr(getattr(self.aval, "dtype", None), "itemsize", 0))


class Saved:
    """The outputs of a jaxpr as a compiler keeps them.

    Its inputs, and what is made of them alone by cheap operations, do not count.
    """

    def __init__(self, jaxpr: Any) -> None:
        """Of a function whose outputs are what `jax.vjp` saves."""
        self._jaxpr = jaxpr
        self._inputs = _inputs(jaxpr)
        # By the identity of the variables, so the jaxpr has to stay.
        self._values = _values(jaxpr, self._inputs)
        self._bodies: dict[int, tuple[list[Value], dict[int, Value]]] = {}

    def bytes(self, size: Callable[[Any], int], *, stacked: bool = True) -> tuple[int, int, int]:
        """Bytes of them all, of the largest in its own dtype, and what of the first is the largest's.

        Args:
            size: bytes of an abstract array.
            stacked: count each value that a loop stacks: a compiler does not compute again across the end of a loop what was
                computed in it. Otherwise they are counted as if the rounds stood one after another.
        """
        needed = [self._values[id(var)] for var in self._jaxpr.outvars if id(var) in self._values]
        return self._kept(needed, size, set(self._inputs), stacked)

    def _kept(
        self, needed: Iterable[Value], size: Callable[[Any], int], free: set[Value], stacked: bool
    ) -> tuple[int, int, int]:
        """Bytes of some values, one for each that is not cheap to make, of the largest, and what is counted for that."""
        groups: dict[Value, int] = {}
        loops: dict[int, tuple[Any, set[int]]] = {}
        largest, source = 0, None
        for value in dict.fromkeys(needed):
            origin = value.origin
            if origin is None or origin in free:
                continue
            if origin.equation is not None and origin.equation.primitive.name == "scan":
                loops.setdefault(id(origin.equation), (origin.equation, set()))[1].add(origin.place)
                continue
            groups[origin] = max(groups.get(origin, 0), min(size(value.aval), size(origin.aval)))
            if size(value.aval) > largest:
                largest, source = size(value.aval), origin
        loop = sum(self._of_scan(scan, places, size, stacked) for scan, places in loops.values())
        return sum(groups.values()) + loop, largest, groups[source] if source is not None else 0

    def _of_scan(self, scan: Any, places: set[int], size: Callable[[Any], int], stacked: bool) -> int:
        """Bytes of the results of a loop: those that it stacks are found in its body, and count times its length."""
        body = getattr(scan.params["jaxpr"], "jaxpr", scan.params["jaxpr"])
        if id(body) not in self._bodies:
            inputs = _inputs(body)
            self._bodies[id(body)] = inputs, _values(body, inputs)
        inputs, values = self._bodies[id(body)]
        total, inner = 0, list[Value]()
        for place in sorted(places):
            result, inside = scan.outvars[place], body.outvars[place]
            if result.aval.ndim == inside.aval.ndim:  # carried from round to round, not stacked
                total += size(result.aval)
            elif id(inside) in values:
                inner.append(values[id(inside)])
        given = set(inputs)
        once = dict.fromkeys(inner)
        whole = sum(size(value.aval) for value in once if value in given or stacked)
        rest = 0 if stacked else self._kept([value for value in once if value not in given], size, set(), stacked)[0]
        return total + (whole + rest) * scan.params["length"]


def _inputs(jaxpr: Any) -> list[Value]:
    """Values for the constants and arguments of a jaxpr; each is its own origin."""
    values = [Value(var.aval) for var in [*jaxpr.constvars, *jaxpr.invars]]
    for value in values:
        value.origin = value
    return values


def _result(aval: Any, equation: Any, place: int, given: Sequence[Value]) -> Value:
    """The value that an operation makes of others."""
    value = Value(aval, equation, place)
    if equation.primitive.name in CHEAP:
        sources = [one for one in given if one.origin is not None]
        value.origin = max(sources, key=lambda one: one.bytes).origin if sources else None
    else:
        value.origin = value
    return value


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
        else:
            for place, var in enumerate(equation.outvars):
                values[id(var)] = _result(var.aval, equation, place, given)
    return values
