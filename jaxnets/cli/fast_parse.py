"""Read a command line without importing JAX.

Importing jax, flax and optax takes a second; a typing error should be answered at once. A configuration is made of
dataclasses whose fields say all that is needed to parse and check flags. So the command line is read twice: first inside
`stand_ins()`, where the heavy packages are replaced by inert modules and only the dataclasses are real, then, if that
found nothing to complain about, in earnest.

The first reading only ever answers what it can be sure of. Anything unexpected in it is left for the second to judge.
"""

import contextlib
import dataclasses
import sys
import types
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from typing import Any, cast, dataclass_transform

from jaxnets.core.typecheck import fits

# typeguard is tyro's helper for a handful of annotations and takes longer to import than to do without.
HEAVY = ("typeguard", "jax", "jaxlib", "flax", "optax", "orbax", "chex", "numpy", "matplotlib")


KEPT = ("tyro", "rich", "docstring_parser", "typing_extensions", "pygments", "markdown_it", "mdurl", "shtab")


class Inert:
    """Stands for anything a heavy package defines: it can be called, indexed and passed around, and does nothing."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Nothing, inertly."""
        # A class decorator must leave the class alone; whatever a function decorator made is inert as well.
        return args[0] if len(args) == 1 and isinstance(args[0], type) else self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __getitem__(self, key: Any) -> "Inert":
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __or__(self, other: Any) -> Any:
        return Any

    def __ror__(self, other: Any) -> Any:
        return Any

    def __set_name__(self, owner: type, name: str) -> None:
        pass

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        # A class derived from one of theirs is most likely a layer.
        return (Module,)


@dataclass_transform()
class Module:
    """Stands for `flax.linen.Module`: subclasses become frozen dataclasses of their own fields."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        dataclasses.dataclass(frozen=True)(cls)

    def __post_init__(self) -> None:
        pass


class _InertModule(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _REAL.get(f"{self.__name__}.{name}") or Inert()


def _check_type(value: Any, annotation: Any) -> None:
    if not fits(value, annotation):
        raise TypeError


_REAL: dict[str, Any] = {
    "flax.linen.Module": Module,
    "typeguard.check_type": _check_type,
    "typeguard.TypeCheckError": TypeError,
}


class _Finder:
    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if name.split(".")[0] in HEAVY:
            return ModuleSpec(name, cast(Any, self), is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _InertModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Inside, heavy packages are inert and jaxnets' own modules are fresh copies; afterwards nothing of that is left."""
    if any(name in sys.modules for name in ("jax", "numpy")):
        yield  # the price is paid already
        return
    before = dict(sys.modules)
    ours = {module: set(vars(module)) for name, module in before.items() if name.split(".")[0] == "jaxnets"}
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        # Whatever else was imported meanwhile may be built on the stand-ins: it goes too, save what cannot be.
        for name in set(sys.modules) - set(before):
            if name.split(".")[0] not in KEPT and name.split(".")[0] not in sys.stdlib_module_names:
                del sys.modules[name]
        # A package also keeps its modules as attributes.
        for module, attributes in ours.items():
            for name in set(vars(module)) - attributes:
                delattr(module, name)
