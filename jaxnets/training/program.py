"""The compiled program: one dispatch runs one or many training steps.

A step of a small network takes less time than its dispatch to the device. So a program runs up to `steps_per_call`
steps in a loop on the device. Their number is an argument, not part of the program: a call can end before each hook, and the
program is still compiled once. The loop's body is the same computation as a single step, and gives the same bits.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from jaxnets.checkpoints.digest import leaf_paths
from jaxnets.core.errors import RecompileError
from jaxnets.core.types import Batch
from jaxnets.data.feed import Feed, Payload
from jaxnets.ops import to_devices
from jaxnets.ops.attention_kernels import kernel_flops
from jaxnets.ops.beyond_promise import compiled_for, equations, is_traced
from jaxnets.ops.bilinear import PLAIN
from jaxnets.parallel.partition import HOST
from jaxnets.steps.recipe import Metrics, Step

# Work in one dispatch: FLOPs, and elements written at the price of some FLOPs each. A dispatch costs some tenths of a ms,
# which is small beside this much work. On the CPU it takes some 10 ms; more would gain nothing, and the compiler optimises
# the body of a loop less: a step of `fashion_cnn` takes 1.2 times as long in a loop, one of `cora_gcn` 1.8 times.
WORK_PER_CALL = 1e10
WORK_PER_CALL_ON_CPU = 2e9
ELEMENT_COST = 20
MOST_STEPS_PER_CALL = 200


class Program:
    """`(state, payload, count) -> (state, metrics)` over the batches of a feed, compiled once, the state donated."""

    def __init__(self, step: Step, feed: Feed, *, steps_per_call: int, state_shardings: Any = None) -> None:
        if steps_per_call < 1:
            raise ValueError(f"steps_per_call is at least 1, got {steps_per_call}")
        self.capacity = steps_per_call
        self.feed = feed
        self.traces = 0
        self.leaves: tuple[str, ...] = ()
        """Paths of the parameters in the order of their leaves; known once the program is compiled."""
        self._shardings = state_shardings
        self._signature: dict[str, str] = {}

        def run(state: Any, payload: Payload, count: Array) -> tuple[Any, Metrics]:
            # This runs while tracing only, so it counts compilations: one, for the whole run.
            self.traces += 1
            self._check_signature({"state": state, "data": payload, "count": count})
            self.leaves = tuple(leaf_paths(state.params))
            if steps_per_call == 1:
                state, metrics = step(state, feed.batch(payload, 0, state.step))
                return state, jax.tree.map(lambda m: m[None], metrics)

            def step_on_batch(i: Any, state: Any) -> tuple[Any, Metrics]:
                return step(state, feed.batch(payload, i, state.step))

            shapes = jax.eval_shape(step_on_batch, 0, state)[1]
            empty = jax.tree.map(lambda m: jnp.zeros((steps_per_call, *m.shape), m.dtype), shapes)

            def body(i: Array, carry: tuple[Any, Metrics]) -> tuple[Any, Metrics]:
                state, history = carry
                state, metrics = step_on_batch(i, state)
                return state, jax.tree.map(lambda h, m: h.at[i].set(m), history, metrics)

            if is_traced(count):
                return jax.lax.fori_loop(0, count, body, (state, empty))
            carry = state, empty
            for i in range(int(count)):  # JAX looks for a NaN and would treat a loop as one operation
                carry = body(jnp.int32(i), carry)
            return carry

        options: dict[str, Any] = {}
        self._whole: Any = None
        if state_shardings is not None:
            mesh = jax.tree.leaves(state_shardings)[0].mesh
            self._whole = NamedSharding(mesh, PartitionSpec())
            options = {"out_shardings": (state_shardings, self._whole)}
        self._run = jax.jit(run, donate_argnums=0, **options)

    def over(self, step: Step, feed: Feed) -> "Program":
        """A program of as many steps in a call, with the state in the same places, over the batches of another feed."""
        return Program(step, feed, steps_per_call=self.capacity, state_shardings=self._shardings)

    def __call__(self, state: Any, payload: Payload, count: int) -> tuple[Any, Metrics]:
        """Run `count` steps (at most the capacity); metrics are stacked, `[capacity]` for each, the first `count` valid."""
        number = jax.device_put(np.int32(count)) if self._whole is None else to_devices(np.int32(count), self._whole)
        return self._run(state, payload, number)

    def lower(self, state: Any) -> Any:
        """The program before compilation, for a state of `jax.ShapeDtypeStruct`; it needs no device."""
        described = jax.tree.map(
            lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), state, self._shardings
        )
        count = jax.ShapeDtypeStruct((), jnp.int32, sharding=self._whole)
        return self._run.lower(described, self.feed.describe(self.capacity), count)

    def _check_signature(self, arguments: Any) -> None:
        """Raise `RecompileError` at a second trace, with the differences from the first."""
        seen = {path: _describe(leaf) for path, leaf in leaf_paths(arguments).items()}
        before, self._signature = self._signature or seen, seen
        if self.traces == 1 or looks_for_nans():
            return
        changed = [
            f"  {path}: {before.get(path, 'absent')} before, {seen.get(path, 'absent')} now"
            for path in [*before, *(path for path in seen if path not in before)]
            if before.get(path) != seen.get(path)
        ]
        what = "\n".join(changed[:8]) or "  no shape or dtype: the mesh, a sharding or a setting of jax's own"
        raise RecompileError(
            f"the training step would be compiled a second time, because of\n{what}\nA step must give back the state "
            f"with the shapes and dtypes it got, and every batch must have those of the first"
        )

    def adopt(self, state: Any) -> Any:
        """A copy of a state with the shardings of the program: the caller's arrays are never donated."""
        if self._shardings is None:
            return jax.tree.map(jnp.copy, state)
        return jax.device_put(jax.tree.map(_copied, state, self._shardings), self._shardings)


def looks_for_nans() -> bool:
    """Whether JAX is set to name the operation that makes a NaN or an infinity; it then runs the operations one by one."""
    return any(getattr(jax.config, name) for name in ("jax_debug_nans", "jax_debug_infs"))


def _copied(leaf: Array, place: Any) -> Array:
    return jax.device_put(leaf, place, may_alias=False) if place.memory_kind == HOST else jnp.copy(leaf)


def _describe(leaf: Any) -> str:
    aval = jax.typeof(leaf)
    weak = " (weakly typed: it was a Python number)" if getattr(aval, "weak_type", False) else ""
    return f"{aval.dtype}[{','.join(map(str, aval.shape))}]{weak}"


def choose_steps_per_call(step: Step, state: Any, batch: Batch) -> int:
    """The number of steps per dispatch: enough that the cost of a dispatch is small; 1 if steps are large.

    It is computed from the operations of one step in its trace, so it depends only on the program.
    """
    jaxpr = jax.make_jaxpr(step)(state, batch).jaxpr
    work = max(1.0, count_flops(jaxpr) + ELEMENT_COST * count_elements(jaxpr))
    wanted = WORK_PER_CALL_ON_CPU if compiled_for() == "cpu" else WORK_PER_CALL
    return int(min(MOST_STEPS_PER_CALL, max(1, wanted // work)))


def count_flops(jaxpr: Any) -> float:
    """Floating-point operations of the matrix products and convolutions in a jaxpr, loops of known length unrolled."""
    inside = (
        repeats * count_flops(inner) for equation in equations(jaxpr) for repeats, inner in inner_jaxprs(equation)
    )
    return sum(map(flops_of, equations(jaxpr))) + sum(inside)


def count_elements(jaxpr: Any) -> float:
    """Elements that the operations of a jaxpr write, loops of known length unrolled."""
    total = 0.0
    for equation in equations(jaxpr):
        inner = inner_jaxprs(equation)
        total += sum(repeats * count_elements(body) for repeats, body in inner)
        total += 0 if inner else sum(getattr(v.aval, "size", 0) for v in equation.outvars)
    return total


def flops_of(equation: Any) -> float:
    """Floating-point operations of one matrix product or convolution; 0 for anything else."""
    name, params = equation.primitive.name, equation.params
    if (known := kernel_flops(equation)) is not None:
        return known
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        depth = 1
        for dim in contracted:
            depth *= equation.invars[0].aval.shape[dim]
        return 2.0 * depth * equation.outvars[0].aval.size
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        out_features = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        holes = math.prod(params["lhs_dilation"])  # zeros between the inputs are not multiplied
        return 2.0 * equation.outvars[0].aval.size * kernel.size / out_features / holes
    if name in PLAIN:
        plain = functools.partial(PLAIN[name], **params)
        return count_flops(jax.make_jaxpr(plain)(*(v.aval for v in equation.invars)).jaxpr)
    return 0.0


def inner_jaxprs(equation: Any) -> list[tuple[int, Any]]:
    """The jaxprs inside an equation's parameters, each with how many times it runs (1 where that is not known)."""
    if equation.primitive.name in ("dot_general", "conv_general_dilated") or kernel_flops(equation) is not None:
        return []
    repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
    if equation.primitive.name == "shard_map":  # every device along its axes runs the inside on its part
        sizes, axes = equation.params["mesh"].shape, equation.params.get("newly_manual_axes", ())
        repeats = math.prod(sizes[axis] for axis in axes)
    values = equation.params.values()
    found = [v for value in values for v in jax.tree.leaves(value, is_leaf=_is_jaxpr) if _is_jaxpr(v)]
    return [(repeats, getattr(v, "jaxpr", v)) for v in found]


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")
