"""Read a command line without importing JAX.

Importing jax, flax and optax takes a second; a typing error should be reported without this delay. A configuration consists of
dataclasses, and their fields are sufficient to parse and check flags. So the command line is read twice: first inside
`stand_ins()`, where the heavy packages are replaced by inert modules and only the dataclasses are real, then, if that found no
error, with the real packages.

The first reading only reports errors of flags, names and values. Any other failure in it is left to the second reading.
"""

import contextlib
import dataclasses
import sys
import types
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from typing import Annotated, Any, cast, dataclass_transform

from jaxnets.core.errors import ConfigFileError, JaxnetsError, UsageError
from jaxnets.core.typecheck import fits

# tyro uses typeguard for a few annotations only, and its import is slow.
HEAVY = ("typeguard", "jax", "jaxlib", "flax", "optax", "orbax", "chex", "numpy", "matplotlib")


KEPT = ("tyro", "rich", "docstring_parser", "typing_extensions", "pygments", "markdown_it", "mdurl", "shtab")


class Inert:
    """Replaces any object of a heavy package: it can be called, indexed and passed on, and does nothing."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Nothing, inertly."""
        # A class decorator must return the class unchanged; the result of a function decorator is inert too.
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
    """Replaces `flax.linen.Module`: subclasses become frozen dataclasses of their own fields."""

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
    """Inside, heavy packages are inert and jaxnets' own modules are fresh copies; afterwards all of this is removed."""
    if any(name in sys.modules for name in ("jax", "numpy")):
        yield  # they are imported already
        return
    before = dict(sys.modules)
    ours = {module: set(vars(module)) for name, module in before.items() if name.split(".")[0] == "jaxnets"}
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        # Other modules that were imported meanwhile may use the stand-ins: they are removed too, except those that cannot be.
        for name in set(sys.modules) - set(before):
            if name.split(".")[0] not in KEPT and name.split(".")[0] not in sys.stdlib_module_names:
                del sys.modules[name]
        # A package also keeps its modules as attributes.
        for module, attributes in ours.items():
            for name in set(vars(module)) - attributes:
                delattr(module, name)


def read_experiment(verb: str, arguments: Sequence[str], options: type) -> tuple[Any, Any, Any]:
    """The configuration file of a command line, the experiment with its flags applied, and the command's own options.

    Args:
        verb: of the command, for its help.
        arguments: the name of a configuration, then flags.
        options: a dataclass of the flags that are not the experiment's.

    Raises:
        UsageError: a name, a flag or a value is wrong; raised before jax is imported wherever that can be known.
    """
    name, *flags = arguments
    if name.startswith("-"):
        raise UsageError(f"`jaxnets {verb}` takes the configuration first, then flags; got {name!r}")
    import tyro  # noqa: F401 (before the stand-ins, which take away whatever is first imported among them)

    complaint: str | None = None
    with stand_ins():
        # An error of the parser or of our own checks is final here; an error in the file itself may be caused by the
        # stand-ins.
        try:
            _read(verb, name, flags, options)
        except ConfigFileError:
            pass
        except JaxnetsError as error:
            complaint = str(error)
        except Exception as error:
            del error  # read again below, with the real packages
    if complaint is not None:
        raise UsageError(complaint)
    return _read(verb, name, flags, options)


def _read(verb: str, name: str, flags: list[str], options: type) -> tuple[Any, Any, Any]:
    """The configuration of a name, the experiment with flags applied, and the options of the command."""
    from jaxnets import config

    loaded = config.load(name)
    return loaded, *with_flags(loaded, f"jaxnets {verb} {name}", flags, options)


def with_choices(experiment: Any, flags: Sequence[str]) -> tuple[Any, list[str]]:
    """The experiment with the optimizers and schedules that flags choose by name, and the other flags. `--optimizer lion` and
    `--optimizer.schedule wsd` replace the class of the configuration by another one with its defaults. Its fields then become
    flags: `--optimizer.schedule.warmup 500ba`. They are read in the order in which they stand.

    Raises:
        UsageError: a name is unknown or missing.
    """
    from jaxnets.optim.choice import chosen, is_chosen_by_name

    rest, waiting = [], list(flags)
    while waiting:
        flag, *waiting = waiting
        name, equals, value = flag.partition("=")
        path = name[2:].replace("-", "_").split(".")
        holders = [experiment]
        for part in path if name.startswith("--") else ():
            holders.append(getattr(holders[-1], part, None))
        if len(holders) == 1 or not is_chosen_by_name(holders[-1]):
            rest.append(flag)
            continue
        if not equals:
            if not waiting or waiting[0].startswith("--"):
                raise UsageError(f"{flag} takes the name of one, such as `{flag} {type(holders[-1]).__name__}`")
            value, *waiting = waiting
        new = chosen(value, holders[-1])
        for holder, part in zip(reversed(holders[:-1]), reversed(path), strict=True):
            new = dataclasses.replace(holder, **{part: new})
        experiment = new
    return experiment, rest


def with_flags(loaded: Any, prog: str, flags: Sequence[str], options: type) -> tuple[Any, Any]:
    """The experiment of a configuration with flags applied, and the command's own options.

    Args:
        loaded: the configuration (`config.find.Loaded`).
        prog: the command, for its help.
        flags: what follows it.
        options: a dataclass of the flags that are not the experiment's.

    Raises:
        UsageError: a flag or a value is wrong.
    """
    import tyro

    experiment, flags = with_choices(loaded.experiment, flags)
    # An empty name takes "experiment." off the flags; AvoidSubcommands lets a field keep the class that the
    # configuration chose, so that its fields become plain flags.
    unnamed = tyro.conf.arg(name="")
    spec = dataclasses.make_dataclass(
        "Command",
        [
            ("experiment", Annotated[type(experiment), unnamed], experiment),
            ("options", Annotated[options, unnamed], options()),
        ],
        frozen=True,
    )
    try:
        parsed = tyro.cli(
            tyro.conf.AvoidSubcommands[spec],  # type: ignore[valid-type, misc]
            args=list(flags),
            prog=prog,
            description=loaded.summary,
        )
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
    return parsed.experiment, parsed.options
