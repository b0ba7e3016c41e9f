"""The collectives of a compiled program: how many, how many bytes, over which axes of the mesh.

Reads the text of optimised HLO, the form in which every compiler of XLA gives a program back.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4}
BYTES |= {"f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16, "f8e4m3fn": 1, "f8e5m2": 1}
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")

_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)")
_TYPE = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_CALLS = re.compile(r"(body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One instruction that moves data between devices."""

    kind: str
    """all-reduce, all-gather, reduce-scatter, all-to-all, collective-permute."""
    bytes: int
    """Size of its largest operand or result on one device."""
    repeats: int
    """How often it runs in one run of the program; a loop of unknown length counts once."""
    axes: tuple[str, ...]
    """Axes of the mesh along which the devices exchange."""
    devices: int
    """Devices that exchange with each other."""
    reach: int
    """How far apart two of them are at most, in the order of the mesh's devices; below the size of a host they share one."""
    shapes: tuple[str, ...]
    """Its operands' and results' types, the largest first, such as f32[16,2048]."""
    source: str
    """The operation of the JAX program that it belongs to, as far as the compiler says."""

    @property
    def sent(self) -> float:
        """Bytes that each device sends in one run, by the ring algorithms, which are optimal in bandwidth."""
        share = (self.devices - 1) / self.devices
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)
        return self.bytes * factor * self.repeats


def collectives(hlo: str, mesh: Any) -> list[Collective]:
    """Every collective of a compiled program.

    Args:
        hlo: the text of the optimised module (`compiled.as_text()`).
        mesh: the mesh that it was compiled for.
    """
    bodies = dict(_computations(hlo))
    repeats = _repeats(bodies)
    sizes = {axis: int(size) for axis, size in mesh.shape.items()}
    found: dict[str, Collective] = {}
    for name, lines in bodies.items():
        for line in lines:
            if (one := _collective(line, name, sizes)) is not None and one.devices > 1:
                # One that runs beside computations stands in the text once for each of its phases, on one channel.
                channel = re.search(r"channel_id=(\d+)", line)
                times = repeats[name]
                found.setdefault(channel[1] if channel else line, dataclasses.replace(one, repeats=times))
    return list(found.values())


def _collective(line: str, computation: str, sizes: Mapping[str, int]) -> Collective | None:
    match = _INSTRUCTION.match(line)
    if match is None:
        return None
    _, result, operation, rest = match.groups()
    kind = re.sub(r"-(start|done)$", "", operation)
    if kind not in KINDS or operation.endswith("-done"):
        return None
    types = sorted({*_types(result), *_types(rest.split("replica_groups=")[0])}, key=_size, reverse=True)
    # The TPU's form of a reduce-scatter is a fusion of an all-reduce and a slice.
    scattered = kind == "all-reduce" and "reduce-scatter" in computation
    # An all-reduce of a tuple reduces each of its parts; the other kinds list operand and result.
    each = [_size(one) for one in _types(result)] if kind == "all-reduce" and operation == kind else [_size(types[0])]
    total = sum(each) if not operation.endswith("-start") else max(each)
    axes, devices, reach = _axes(line, sizes)
    source = re.search(r'op_name="([^"]*)"', line)
    return Collective(
        "reduce-scatter" if scattered else kind,
        int(total),
        1,
        axes,
        devices,
        reach,
        tuple(f"{dtype}[{dims}]" for dtype, dims in types),
        source[1] if source else "",
    )


def _types(text: str) -> list[tuple[str, str]]:
    return [(dtype, dims) for dtype, dims in _TYPE.findall(text) if dtype in BYTES]


def _size(one: tuple[str, str]) -> float:
    return BYTES[one[0]] * math.prod(int(n) for n in one[1].split(",") if n)


def _axes(line: str, sizes: Mapping[str, int]) -> tuple[tuple[str, ...], int, int]:
    """The axes along which the devices of one group differ, how many devices a group has, and how far apart they are."""
    total = math.prod(sizes.values())
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", line):
        groups = [[int(n) for n in re.findall(r"\d+", pair)] for pair in re.findall(r"\{[^{}]*", pairs[1])]
    else:
        groups = _groups(line, total)
    coordinates = [np.unravel_index(device, tuple(sizes.values())) for device in range(total)]
    moved: set[str] = set()
    for group in groups:
        for axis, places in zip(sizes, zip(*(coordinates[device] for device in group), strict=True), strict=True):
            if len({int(place) for place in places}) > 1:
                moved.add(axis)
    reach = max((max(group) - min(group) for group in groups), default=0)
    return tuple(axis for axis in sizes if axis in moved), max(map(len, groups), default=1), reach


def _groups(line: str, total: int) -> list[list[int]]:
    """The groups of devices of a collective: written out, as an iota `[2,4]<=[4,2]T(1,0)`, or by axes of a mesh."""
    order = r"(?:, device_ids=\(\[([\d,]+)\]T\(([\d,]+)\)\))?"  # of the devices in the mesh, where it is not theirs
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\]" + order + r" \{([^}]*)\}", line):
        axes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", named[1])}
        together = [list(axes).index(name) for name in re.findall(r"'([^']+)'", named[4])]
        apart = [dim for dim in range(len(axes)) if dim not in together]
        devices: np.ndarray = np.arange(math.prod(axes.values()))
        if named[2]:
            dims, moved = ([int(n) for n in part.split(",")] for part in named.groups()[1:3])
            devices = devices.reshape(dims).transpose(moved)
        devices = devices.reshape(tuple(axes.values())).transpose(apart + together)
        width = math.prod(list(axes.values())[dim] for dim in together)
        return [list(map(int, row)) for row in devices.reshape(-1, width)]
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
        shape, dims = ([int(n) for n in part.split(",")] for part in iota.groups()[:2])
        devices = np.arange(math.prod(dims)).reshape(dims)
        devices = devices.transpose([int(n) for n in iota[3].split(",")]) if iota[3] else devices
        return [list(map(int, row)) for row in devices.reshape(shape[0], -1)]
    if written := re.search(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}", line):
        groups = [[int(n) for n in group.split(",") if n] for group in re.findall(r"\{([\d,]*)\}", written[1])]
        return [group for group in groups if group] or [list(range(total))]
    return [list(range(total))]


def _computations(hlo: str) -> Iterator[tuple[str, list[str]]]:
    """The computations of a module: name and lines."""
    name, lines = "", list[str]()
    for line in hlo.splitlines():
        head = None if line.startswith(" ") else _COMPUTATION.match(line)
        if head:
            if name:
                yield name, lines
            name, lines = head[1], []
        elif name:
            lines.append(line)
    if name:
        yield name, lines


def _repeats(bodies: Mapping[str, list[str]]) -> dict[str, int]:
    """How often each computation runs: the product of the known lengths of the loops around it."""
    callers: dict[str, list[tuple[str, int]]] = collections.defaultdict(list)
    for name, lines in bodies.items():
        for line in lines:
            length = _length(line, bodies)
            for role, callee in _CALLS.findall(line):
                callers[callee].append((name, length if role == "body" else 1))
            for group in re.findall(r"branch_computations=\{([^}]*)\}", line):
                callers_of_branches = re.findall(r"[\w.\-]+", group)
                for callee in callers_of_branches:
                    callers[callee].append((name, 1))
    known: dict[str, int] = {}

    def times(name: str) -> int:
        if name not in known:
            known[name] = 1  # a module has no recursion; this only ends the walk in a text that is not one
            known[name] = sum(times(caller) * length for caller, length in callers[name]) or 1
        return known[name]

    return {name: times(name) for name in bodies}


def _length(line: str, bodies: Mapping[str, list[str]]) -> int:
    """The number of rounds of the `while` in a line; 1 where the compiler does not say."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line):
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", line)
    if condition:  # the TPU's compiler compares the counter with a constant there
        bounds = re.findall(r" s32\[\]\S* constant\((\d+)\)", "\n".join(bodies.get(condition[1], ())))
        return int(bounds[0]) if len(bounds) == 1 else 1
    return 1
