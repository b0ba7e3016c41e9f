"""`jaxnets summary`: the layers of a configuration's model and the cost of a step. No weight is allocated."""

import collections
import dataclasses
import re
from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxnets.cli.units import show_bytes, show_count
from jaxnets.config.experiment import Experiment
from jaxnets.core.types import Batch
from jaxnets.ops.beyond_promise import compiled_for, equations
from jaxnets.report.tables import fitting
from jaxnets.runs.build import Parts, assemble, batch_spec
from jaxnets.runs.micro_batches import undivided
from jaxnets.steps.local import whole_step
from jaxnets.tasks.base import Task
from jaxnets.training.program import count_flops, flops_of, inner_jaxprs

# Columns that the whole table needs.
NUMBER_COLUMNS = ("parameters", "FLOPs", "bytes", "output bytes")
# This many equal consecutive layers are shown as one.
ALIKE = 3


@dataclasses.dataclass
class Layer:
    """A module: its parameters, outputs and FLOPs, without the modules inside it."""

    path: tuple[str, ...]
    """Its names from the network down; the first is the network's class."""
    kind: str
    shape: str = ""
    """Of its outputs, at its first call."""
    parameters: int = 0
    parameter_bytes: int = 0
    output_bytes: int = 0
    """Of its first call, at every turn of the loops around it."""
    flops: float = 0.0
    """Of its matrix products and convolutions over all calls, forward, for the whole batch."""


def layers_of(task: Task, batch: Batch) -> list[Layer]:
    """The modules of every network that a task initialises, in the order of their first calls.

    Args:
        task: a bound task.
        batch: one batch, or its shapes.
    """
    numbers: dict[tuple[int, tuple[str, ...]], int] = {}
    order: list[Layer] = []
    networks: list[str] = []
    open_calls: list[str] = []
    trees: dict[int, Any] = {}

    def watch(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module, root = context.module, not open_calls
        if root and not module.is_initializing():
            return call(
                *args, **kwargs
            )  # a model with state is called once more, to check that the state keeps its shape
        if root:
            networks.append(_role(task, module))
        network = len(networks) - 1
        key = (network, module.path)
        if key not in numbers:
            numbers[key] = len(order)
            order.append(Layer((networks[-1], *module.path), type(module).__name__))
        layer = order[numbers[key]]
        open_calls.append(context.method_name)
        try:
            # The scope marks every operation that is traced inside, in loops and nested functions too.
            with jax.named_scope(f"layer@{numbers[key]}"):
                result = call(*args, **kwargs)
        finally:
            open_calls.pop()
        if context.method_name == "__call__" and not layer.shape:
            layer.shape, layer.output_bytes = _describe(result)
        if root:
            trees[network] = module.variables.get("params", {})
        return result

    def create(key: Any, batch: Batch) -> Any:
        with nn.intercept_methods(watch):
            return task.init(key, batch)

    traced = jax.make_jaxpr(create)(jax.random.key(0), batch)
    for network, tree in trees.items():
        _count_parameters(tree, {path: order[n] for (which, path), n in numbers.items() if which == network})
    flops: dict[int, float] = collections.defaultdict(float)
    turns: dict[int, int] = {}
    _count_work(traced.jaxpr, flops, turns)
    for number, layer in enumerate(order):
        layer.flops, layer.output_bytes = flops[number], layer.output_bytes * turns.get(number, 1)
    return order


def summarize(name: str, experiment: Experiment, *, compiled: bool = False) -> None:
    """Print the layers with shapes, parameters, FLOPs and bytes, and the cost of the state and of a step."""
    from rich.console import Console

    parts = assemble(undivided(experiment), experiment.data.outline())
    batch = batch_spec(parts.dataset, experiment.batch_size)
    console = Console(highlight=False)
    with jax.set_mesh(parts.mesh):
        layers = layers_of(parts.task, batch)
        console.print(fitting(console, (_table(layers, wide=True), _table(layers, wide=False))))
        step = whole_step(parts.task, parts.recipe)
        flops = count_flops(jax.make_jaxpr(step)(parts.abstract, batch).jaxpr)
        console.print(
            f"Of one batch of {experiment.batch_size}: shapes, FLOPs of matrix products and convolutions (forward), bytes of "
            f"parameters and outputs in float32.\nA row counts what the rows inside it do not.\n"
        )
        for line in _facts(name, parts, flops):
            console.print(line)
        if compiled:
            program = jax.jit(step, donate_argnums=0).lower(parts.abstract, batch).compile()
            for line in _compiled(program):
                console.print(line)


def _facts(name: str, parts: Parts, flops: float) -> Iterable[str]:
    state, experiment = parts.abstract, parts.experiment
    yield f"{name}: {parts.parameters:,} parameters, batch of {experiment.batch_size}"
    for label, tree in (("parameters", state.params), ("optimizer", state.opt_state), ("average", state.average)):
        yield f"  {label:<22}{show_bytes(_nbytes(tree)):>12}"
    where = "device" if parts.resident else "host"
    yield f"  {'data':<22}{show_bytes(parts.dataset.nbytes):>12}  ({where})"
    yield f"  {'FLOPs of a step':<22}{show_count(flops):>12}  (forward, backward and what is computed again)"
    yield f"  {'steps in one dispatch':<22}{parts.program.capacity:>12}"


def _compiled(compiled: Any) -> Iterable[str]:
    """The compiler's analysis, on this platform."""
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    yield f"compiled for {compiled_for()}"
    if memory is not None:
        yield f"  {'arguments':<22}{show_bytes(memory.argument_size_in_bytes):>12}  (state and batch)"
        yield f"  {'temporary':<22}{show_bytes(memory.temp_size_in_bytes):>12}"
    if "flops" in cost:
        yield f"  {'FLOPs of a step':<22}{show_count(cost['flops']):>12}  (the body of a loop counted once)"


def _table(layers: list[Layer], *, wide: bool) -> Any:
    """All columns if there is room; else without the bytes, which are in the sums below."""
    from rich import box
    from rich.table import Table

    total = Layer((), "", "", *(sum(getattr(layer, field) for layer in layers) for field in NUMBERS))
    total.output_bytes = sum(layer.output_bytes for layer in layers if not _inside(layer, layers))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("layer", "kind", "output"):
        table.add_column(column, no_wrap=True, overflow="ellipsis" if column == "kind" else "fold")
    for column in NUMBER_COLUMNS if wide else NUMBER_COLUMNS[:2]:
        table.add_column(column, justify="right", no_wrap=True)
    for label, layer in _shortened(layers):
        if layer.parameters or layer.flops or _inside(layer, layers) or len(layer.path) == 1:
            kind = layer.kind if layer.kind != label else ""
            table.add_row(label, kind, layer.shape, *_cells(layer)[: len(table.columns) - 3])
    table.add_section()
    table.add_row("total", "", "", *_cells(total)[: len(table.columns) - 3])
    return table


NUMBERS = ("parameters", "parameter_bytes", "output_bytes", "flops")


def _cells(layer: Layer) -> tuple[str, ...]:
    return (
        f"{layer.parameters:,}" if layer.parameters else "",
        show_count(layer.flops) if layer.flops else "",
        show_bytes(layer.parameter_bytes) if layer.parameter_bytes else "",
        show_bytes(layer.output_bytes) if layer.output_bytes else "",
    )


def _inside(layer: Layer, layers: list[Layer]) -> bool:
    """Whether there are modules inside."""
    depth = len(layer.path)
    return any(other.path[:depth] == layer.path and len(other.path) > depth for other in layers)


def _shortened(layers: list[Layer]) -> Iterable[tuple[str, Layer]]:
    """Each layer with its indented name; equal consecutive layers are combined and their numbers added."""
    start = 0
    while start < len(layers):
        size = _extent(layers, start)
        count = 1
        while _alike(layers, start, start + count * size, size, count):
            count += 1
        count = count if count >= ALIKE else 1
        shown = layers[start : start + size] if count > 1 else layers[start : start + 1]
        for index, layer in enumerate(shown):
            label = "  " * (len(layer.path) - 1) + layer.path[-1]
            if count > 1 and index == 0:
                label += f" to {layers[start + (count - 1) * size].path[-1].rsplit('_', 1)[1]}"
            scaled = {field: getattr(layer, field) * count for field in NUMBERS}
            yield label, dataclasses.replace(layer, **scaled)
        start += len(shown) * count


def _extent(layers: list[Layer], start: int) -> int:
    """The number of rows of a layer and all layers inside it."""
    path = layers[start].path
    end = start + 1
    while end < len(layers) and len(layers[end].path) > len(path) and layers[end].path[: len(path)] == path:
        end += 1
    return end - start


def _alike(layers: list[Layer], first: int, other: int, size: int, offset: int) -> bool:
    """Whether the rows from `other` on are those from `first` on under the name `offset` further in the count."""
    if other + size > len(layers) or _extent(layers, other) != size:
        return False
    one, two = (re.fullmatch(r"(.*_)([0-9]+)", layers[at].path[-1]) for at in (first, other))
    if one is None or two is None or one[1] != two[1] or int(two[2]) != int(one[2]) + offset:
        return False
    depth = len(layers[first].path)
    if layers[first].path[: depth - 1] != layers[other].path[: depth - 1]:
        return False
    rows = ([dataclasses.replace(layers[at + i], path=layers[at + i].path[depth:]) for i in range(size)]
            for at in (first, other))  # fmt: skip
    return next(rows) == next(rows)


def _describe(result: Any) -> tuple[str, int]:
    """Shapes and bytes of a module's outputs."""
    leaves = [leaf for leaf in jax.tree.leaves(result) if hasattr(leaf, "shape")]
    shown = ", ".join(str(list(leaf.shape)) for leaf in leaves[:1]) + (", ..." if len(leaves) > 1 else "")
    return shown, _nbytes(leaves)


def _role(task: Task, module: nn.Module) -> str:
    """The name of a network: its class, or the task's name for it if there are several."""
    held = {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}
    held = {name: value for name, value in held.items() if isinstance(value, nn.Module)}
    names = [name for name, value in held.items() if _values(value) == _values(module)]
    return names[0] if len(held) > 1 and names else type(module).__name__


def _values(module: nn.Module) -> tuple[Any, ...]:
    own = [field.name for field in dataclasses.fields(module) if field.name not in ("parent", "name")]
    return type(module), *(getattr(module, name) for name in own)


def _count_parameters(tree: Any, found: dict[tuple[str, ...], Layer]) -> None:
    """Give every array to the innermost module on its path; stacked ones to the module that is looped over."""
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        path = tuple(str(getattr(key, "key", key)) for key in keys)
        depth = next(depth for depth in range(len(path), -1, -1) if path[:depth] in found)
        layer = found[path[:depth]]
        layer.parameters += leaf.size
        layer.parameter_bytes += leaf.size * leaf.dtype.itemsize


def _count_work(
    jaxpr: Any,
    flops: dict[int, float],
    turns: dict[int, int],
    *,
    around: tuple[int, ...] = (0,),
    repeats: int = 1,
) -> None:
    """FLOPs and turns of the loops, by the numbers in the marks of `layers_of` that an operation stands in.

    FLOPs are the innermost module's. A module is counted as often as the loops around it run, not those within it: operations
    in its own loops do not count. `around` are the modules that the loops around these operations stand in.
    """
    for equation in equations(jaxpr):
        own = tuple(int(mark) for mark in re.findall(r"layer@([0-9]+)", str(equation.source_info.name_stack)))
        flops[(*around, *own)[-1]] += repeats * flops_of(equation)
        for number in own:
            if number not in around:
                turns[number] = max(repeats, turns.get(number, 1))
        for count, inner in inner_jaxprs(equation):
            _count_work(inner, flops, turns, around=(*around, *own), repeats=repeats * count)


def _nbytes(tree: Any) -> int:
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
