"""A digest of the code of a class that is not part of the library, to see that it was edited between two runs.

The digest covers the code that runs: the instructions of its methods, the values that they close over, the functions, classes
and constants of the user's own modules that they use, and the fields of such classes. Comments, docstrings and line numbers do
not count. It works for modules, scripts, notebooks and classes defined inside functions, and needs no source text.

Instructions differ between versions of Python, so the digest contains the version; digests of two versions are not compared.
"""

import contextlib
import dataclasses
import dis
import functools
import hashlib
import inspect
import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The key of the digest of a class's code in a configuration as data, beside its "type".
CODE = "type_code"
# Methods that `dataclass` generates from the fields, which are included themselves; and attributes that Python and Flax add.
GENERATED = frozenset((
    "__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__init__", "__repr__", "__eq__", "__hash__",
    "__match_args__", "__dataclass_fields__", "__dataclass_params__", "__annotations__", "__parameters__", "__orig_bases__",
    "__firstlineno__", "__static_attributes__", "__abstractmethods__", "_abc_impl", "__setattr__", "__delattr__",
    "__getstate__", "__setstate__", "__replace__", "__annotate__", "__annotate_func__", "__annotations_cache__",
))  # fmt: skip
# Of an array larger than this only the shape and dtype count.
LARGEST_ARRAY = 1 << 20


def code_digest(item: Any) -> str:
    """Such as `3.11:0123abcd0123abcd`: equal for classes or functions with the same code."""
    walk = _Walk()
    walk.add(item)
    return f"{sys.version_info[0]}.{sys.version_info[1]}:{walk.hash.hexdigest()[:16]}"


def name_of(item: Any) -> str | None:
    """The name that a class or function was defined with; None for anything else."""
    name = getattr(item, "__qualname__", getattr(item, "__name__", None))
    return name if isinstance(name, str) else None


def described(item: Any) -> dict[str, str]:
    """A class or function in a configuration as data: `package:name`, with a digest of its code if it is the user's."""
    plain = inspect.unwrap(item) if callable(item) and not isinstance(item, type) else item
    module, name = str(getattr(plain, "__module__", None)), name_of(plain) or type(plain).__name__
    if is_own(module) or name_of(plain) is None:
        return {"type": f"{module}:{name}", CODE: code_digest(item)}
    return {"type": f"{module.split('.')[0]}:{name}"}


def without_code(data: Any) -> Any:
    """A configuration as data without the digests of code."""
    if isinstance(data, dict):
        return {key: without_code(value) for key, value in data.items() if key != CODE}
    return [without_code(item) for item in data] if isinstance(data, list) else data


def codes(data: Any, path: str = "") -> dict[str, tuple[str, str]]:
    """The user's classes and functions in a configuration as data: path to (name, digest; "" if none was saved)."""
    found = {}
    if isinstance(data, dict):
        if isinstance(data.get("type"), str) and ":" in data["type"]:
            found[path] = data["type"], str(data.get(CODE, ""))
        for key, value in data.items():
            found |= codes(value, f"{path}.{key}" if path else key)
    elif isinstance(data, list):
        for index, item in enumerate(data):
            found |= codes(item, f"{path}[{index}]")
    return found


def edited(saved: Any, wanted: Any) -> tuple[list[str], list[str]]:
    """The names of classes and functions whose code differs from a saved configuration, and of those that cannot be
    compared."""
    other, unknown = [], []
    before, now = codes(saved), codes(wanted)
    for path in now.keys() & before.keys():
        (name, old), (_, new) = before[path], now[path]
        if not new or name != now[path][0]:
            continue  # not the user's, or another name, which is reported as a difference anyway
        if not old or old.split(":")[0] != new.split(":")[0]:
            unknown.append(name)
        elif old != new:
            other.append(name)
    return sorted(set(other)), sorted(set(unknown))


def is_own(module: str | None) -> bool:
    """Whether a module is the user's: not of this library, of Python or of an installed package."""
    if module in (None, "__main__"):
        return True
    if str(module).split(".")[0] in ("jaxnets", "builtins"):
        return False
    loaded = sys.modules.get(str(module))
    place = getattr(loaded, "__file__", None)
    if loaded is None or place is None:
        # Run from text, as a notebook's cell or a configuration file is; or built into Python.
        return str(module) not in sys.builtin_module_names
    return not any(Path(place).resolve().is_relative_to(root) for root in _installed())


@functools.cache
def _installed() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    roots = {Path(sysconfig.get_path(name)).resolve() for name in names}
    return (
        *roots,
        *(Path(path).resolve() for path in sys.path if Path(path).name in ("site-packages", "dist-packages")),
    )


class _Walk:
    """Adds objects to a hash, each once."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.seen: dict[int, int] = {}
        self.inside: set[int] = set()  # containers that are being added
        self.kept: list[Any] = []  # so that no two objects of a walk have the same id

    def say(self, *words: Any) -> None:
        """Add some words."""
        self.hash.update(repr(words).encode())

    def add(self, item: Any) -> None:
        """Add an object by its content, and a named one the second time by its number."""
        if item is None or isinstance(item, bool | int | float | complex | str | bytes):
            self.say("value", type(item).__name__, item)
        elif id(item) in self.inside:
            self.say("itself")
        elif isinstance(item, tuple | list | dict | types.MappingProxyType):
            # Equal ones may be one object or two, which makes no difference.
            self.inside.add(id(item))
            self.say(type(item).__name__, len(item))
            self.add_all(item if isinstance(item, tuple | list) else (part for pair in item.items() for part in pair))
            self.inside.discard(id(item))
        elif id(item) in self.seen:
            self.say("again", self.seen[id(item)])
        else:
            self.seen[id(item)] = len(self.seen)
            self.kept.append(item)
            self.add_new(item)

    def add_new(self, item: Any) -> None:
        """Add an object for the first time."""
        # Flax wraps the properties of a module.
        item = getattr(item, "wrapped", item) if type(item).__name__ == "_DescriptorWrapper" else item
        if isinstance(item, types.CodeType):
            self.add_code(item)
        elif isinstance(item, set | frozenset):
            self.say("set", sorted(repr(part) for part in item))
        elif isinstance(item, functools.partial):
            self.say("partial")
            self.add_all((item.func, item.args, item.keywords))
        elif isinstance(item, staticmethod | classmethod | types.MethodType):
            self.say(type(item).__name__)
            self.add_all((item.__func__, getattr(item, "__self__", None)))
        elif isinstance(item, property | functools.cached_property):
            self.add_all(getattr(item, name, None) for name in ("fget", "fset", "func"))
        elif isinstance(item, types.ModuleType):
            self.say("module", item.__name__)
            if is_own(item.__name__):
                self.add({name: value for name, value in vars(item).items() if isinstance(value, bool | int | float | str)
                          and not name.startswith("__")})  # fmt: skip
        else:
            self.add_named(item)

    def add_named(self, item: Any) -> None:
        """A function, a class, or an instance of one."""
        plain = inspect.unwrap(item) if callable(item) and not isinstance(item, type) else item
        module, name = getattr(plain, "__module__", None), name_of(plain)
        if isinstance(plain, types.FunctionType) and is_own(module):
            self.add_function(plain)
        elif isinstance(plain, type) and is_own(module):
            self.add_class(plain)
        elif name is not None:  # of some library, compiled or not
            self.say("named", module, name)
            # What a library's function closes over is chosen by the user: `optax.adam(1e-3)`, `initializers.normal(0.02)`.
            self.add_all(_closed_over(plain))
        else:
            self.add_instance(plain)

    def add_instance(self, item: Any) -> None:
        """An object by its class and its attributes, as far as they can be read."""
        self.add(type(item))
        if dataclasses.is_dataclass(item):
            fields = [field.name for field in dataclasses.fields(item) if field.name not in ("parent", "name")]
            self.add({name: getattr(item, name, None) for name in fields})
        elif hasattr(item, "shape") and hasattr(item, "dtype"):
            self.say("array", tuple(item.shape), str(item.dtype))
            if getattr(item, "nbytes", LARGEST_ARRAY + 1) <= LARGEST_ARRAY and hasattr(item, "__array__"):
                self.hash.update(item.__array__().tobytes())
        elif is_own(type(item).__module__) and hasattr(item, "__dict__"):
            self.add(vars(item))

    def add_all(self, items: Any) -> None:
        """Add one after the other."""
        for item in items:
            self.add(item)

    def add_class(self, cls: type) -> None:
        """A class of the user's: its bases, fields and methods."""
        self.say("class", cls.__qualname__, sorted(getattr(cls, "__annotations__", {})))
        self.add_all(base for base in cls.__bases__ if base is not object)
        for name in sorted(vars(cls).keys() - GENERATED):
            self.say("attribute", name)
            self.add(vars(cls)[name])
        for name in ("__init__", "__eq__", "__hash__", "__repr__"):  # written by hand, not by `dataclass`
            method = inspect.unwrap(vars(cls).get(name) or object)
            if (
                isinstance(method, types.FunctionType)
                and method.__code__.co_filename != "<string>"
                and _of(method, cls)
            ):
                self.say("attribute", name)
                self.add(method)

    def add_function(self, function: types.FunctionType) -> None:
        """A function of the user's: its code and what that refers to."""
        self.say("function", function.__name__)
        self.add(function.__code__)
        self.add_all((function.__defaults__, function.__kwdefaults__))
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            self.say("closes over", name)
            try:
                value = cell.cell_contents
            except ValueError:  # not filled yet
                continue
            # `super()` and a class that names itself lead back to the class, which is on its way already.
            self.add(value)
        names = set(_names(function.__code__))
        for name in sorted(names & function.__globals__.keys()):
            value = function.__globals__[name]
            if isinstance(value, types.ModuleType) and is_own(value.__name__):
                # What it may take from a module of the user's own.
                self.add_all(vars(value)[part] for part in sorted(names & vars(value).keys()))
            elif not isinstance(value, types.ModuleType):
                self.say("uses", name)
                self.add(value)

    def add_code(self, code: types.CodeType) -> None:
        """Instructions as text: numbers of constants would change when a docstring is added or removed."""
        self.say(
            "code", code.co_argcount, code.co_kwonlyargcount, code.co_varnames[: code.co_argcount], code.co_flags & 0x2C
        )
        for instruction in dis.get_instructions(code):
            if instruction.opname in ("RESUME", "NOP", "CACHE", "EXTENDED_ARG"):
                continue
            argument = instruction.argval
            if isinstance(argument, types.CodeType | frozenset):
                self.say(instruction.opname)
                self.add_new(argument)
            else:
                self.say(instruction.opname, repr(argument))


def _closed_over(function: Any) -> list[Any]:
    """The values in a function's closure; cells that are not filled yet are left out."""
    if not isinstance(function, types.FunctionType):
        return []
    values = []
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):
            values.append(cell.cell_contents)
    return values


def _of(method: types.FunctionType, cls: type) -> bool:
    """Whether a method was written in a class's own body."""
    return method.__qualname__ == f"{cls.__qualname__}.{method.__name__}"


def _names(code: types.CodeType) -> Iterator[str]:
    """Names that a function looks up, functions inside it included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
