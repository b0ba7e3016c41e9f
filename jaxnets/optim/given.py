"""The user's own optimizers: any Optax transformation, a name, or one for each part of the parameters."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from jaxnets.core.errors import UsageError, did_you_mean
from jaxnets.optim.optimizers import SGD, Adam, AdamW, Optimizer
from jaxnets.optim.schedules import Schedule, WarmupCosine

# Optimizers of Optax by name, with the peak learning rate that their papers or Optax's docs start from.
NAMES: dict[str, tuple[Any, float]] = {
    "adafactor": (optax.adafactor, 1e-2),
    "adagrad": (optax.adagrad, 1e-2),
    "adan": (optax.adan, 1e-3),
    "lamb": (optax.lamb, 1e-3),
    "lion": (optax.lion, 1e-4),
    "muon": (contrib.muon, 2e-2),
    "nadamw": (optax.nadamw, 1e-3),
    "radam": (optax.radam, 1e-3),
    "rmsprop": (optax.rmsprop, 1e-3),
}
OURS: dict[str, type[Optimizer]] = {"adam": Adam, "adamw": AdamW, "sgd": SGD}


@dataclasses.dataclass(frozen=True)
class Optax(Optimizer):
    """An Optax transformation without changes: `Optax(optax.lion(1e-4))`, or the transformation itself wherever an optimizer
    goes.

    Its update gets those of the keywords `value`, `grad`, `value_fn` and `grad_fn` (of the batch) that it takes: L-BFGS,
    Polyak steps, reduction on a plateau and SAM use them. `optax.lookahead` works where it is the outermost transformation.
    """

    transformation: Any
    """An `optax.GradientTransformation`, with extra arguments or without."""

    def __post_init__(self) -> None:
        if not is_transformation(self.transformation):
            raise UsageError(f"Optax.transformation is an Optax transformation, got {self.transformation!r}")

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """See `Optimizer`."""
        del total_steps
        return with_lookahead(with_its_keywords(self.transformation))


@dataclasses.dataclass(frozen=True)
class Named(Optimizer):
    """An Optax optimizer by name, with a learning-rate schedule: `Named("lion")`, or `optimizer="lion"`."""

    kind: str
    """One of adafactor, adagrad, adan, lamb, lion, muon, nadamw, radam, rmsprop."""
    learning_rate: float = 0.0
    """Peak learning rate; 0: the usual one of this optimizer."""
    schedule: Schedule = WarmupCosine()
    """Shape of the learning rate over the run."""

    def __post_init__(self) -> None:
        if self.kind not in NAMES:
            raise UsageError(f"there is no optimizer {self.kind!r}. {did_you_mean(self.kind, (*NAMES, *OURS))}")
        if self.learning_rate < 0:
            raise UsageError(f"Named.learning_rate is positive, or 0 for the usual one; got {self.learning_rate}")
        if not self.learning_rate:
            object.__setattr__(self, "learning_rate", NAMES[self.kind][1])

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """See `Optimizer`."""
        make = NAMES[self.kind][0]
        return optax.with_extra_args_support(make(self.schedule.build(self.learning_rate, total_steps)))


@dataclasses.dataclass(frozen=True)
class Frozen(Optimizer):
    """Changes nothing, and has no moments: `ByPath` uses it for frozen parameters."""

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """See `Optimizer`."""
        del total_steps
        return optax.set_to_zero()

    def frozen(self, params: Any) -> Any:
        """See `Optimizer`."""
        return jax.tree.map(lambda _: True, params)


@dataclasses.dataclass(frozen=True)
class ByPath(Optimizer):
    """One optimizer for each group of parameters, chosen by the first pattern that matches a parameter's path.

    `{"body/.*": optax.set_to_zero(), ".*": optax.adamw(1e-3)}`, wherever an optimizer goes, makes one. A group that is set to
    zero is frozen: it does not change and has no moments.
    """

    rules: tuple[tuple[str, Optimizer], ...]
    """(regular expression for the whole path such as `layer_0/kernel`, optimizer), in the order in which they are tried."""

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """See `Optimizer`."""
        return self.parted(total_steps, self.labels)

    def parted(self, total_steps: int, labels: Callable[[Any], Any]) -> optax.GradientTransformation:
        """The transformation for parameters whose rules `labels` gives."""
        # Labels are numbers: two rules may have the same pattern, of which the first one counts.
        parts = {number: optimizer.build(total_steps) for number, (_, optimizer) in enumerate(self.rules)}
        return optax.with_extra_args_support(optax.partition(parts, labels))

    def under(self, name: str) -> Optimizer:
        """See `Optimizer`."""
        return Part(self, f"{name}/")

    def frozen(self, params: Any) -> Any:
        """See `Optimizer`."""
        return jax.tree.map(lambda number: isinstance(self.rules[number][1], Frozen), self.labels(params))

    def labels(self, params: Any, beginning: str = "") -> Any:
        """The number of each parameter's rule; raises `UsageError` for a parameter that has none, or a rule.

        With a `beginning` of all paths the tree is a part of the parameters, and rules may apply to other parts.
        """
        used = set()

        def label(path: Any, _: Any) -> int:
            name = beginning + _name(path)
            for number, (pattern, _optimizer) in enumerate(self.rules):
                if re.fullmatch(pattern, name):
                    used.add(number)
                    return number
            raise UsageError(f"no optimizer is given for the parameter {name!r}; end with a pattern '.*' for the rest")

        found = jax.tree_util.tree_map_with_path(label, params)
        for number, (pattern, _) in enumerate(self.rules):
            if number not in used and pattern != ".*" and not beginning:
                paths = [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
                raise UsageError(
                    f"the optimizer for {pattern!r} has no parameter; the whole path must match, and the paths are "
                    f"{', '.join(paths[:6])}{' ...' if len(paths) > 6 else ''}"
                )
        return found


@dataclasses.dataclass(frozen=True)
class Part(Optimizer):
    """`ByPath` for the parameters whose paths begin alike, which it gets without that beginning."""

    whole: ByPath
    """The rules, for whole paths."""
    beginning: str
    """With the last slash."""

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """See `Optimizer`."""
        return self.whole.parted(total_steps, self._labels)

    def frozen(self, params: Any) -> Any:
        """See `Optimizer`."""
        return jax.tree.map(lambda number: isinstance(self.whole.rules[number][1], Frozen), self._labels(params))

    def _labels(self, params: Any) -> Any:
        return self.whole.labels(params, self.beginning)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def is_transformation(value: Any) -> bool:
    """Whether a value is an Optax transformation (a pair of `init` and `update`)."""
    return isinstance(value, optax.GradientTransformation | optax.MultiSteps)


def as_optimizer(value: Any) -> Optimizer:
    """An `Optimizer` from one, an Optax transformation, a name, or a dict of path patterns and these.

    Raises:
        UsageError: anything else.
    """
    if isinstance(value, Optimizer):
        return value
    if isinstance(value, optax.MultiSteps):
        return Optax(value.gradient_transformation())
    if is_transformation(value):
        # The step does not compute gradients of parameters that are known to be frozen.
        return Frozen() if getattr(value.update, "__qualname__", "").startswith("set_to_zero.") else Optax(value)
    if isinstance(value, str):
        return OURS[value.lower()]() if value.lower() in OURS else Named(value.lower())
    if isinstance(value, Mapping):
        for pattern in value:
            check_pattern(pattern)
        return ByPath(tuple((pattern, as_optimizer(part)) for pattern, part in value.items()))
    kind = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
    hint = "; call it to make a transformation" if callable(value) and not isinstance(value, type) else ""
    raise UsageError(
        f"an optimizer is one of jaxnets.optim, an Optax transformation such as optax.adam(1e-3), a name such as 'lion', or a "
        f"dict of path patterns and these; got {kind}{hint}"
    )


def transformations(optimizer: Optimizer) -> list[Any]:
    """The Optax transformations of the user's in an optimizer."""
    if isinstance(optimizer, Optax):
        return [optimizer.transformation]
    inner = getattr(optimizer, "optimizer", None)  # that of `ByDepth`
    parts = [part for _, part in optimizer.rules] if isinstance(optimizer, ByPath) else [inner] if inner else []
    return [found for part in parts for found in transformations(part)] + [optimizer]


def check_pattern(pattern: Any) -> None:
    """Raise `UsageError` unless this is a regular expression."""
    try:
        re.compile(pattern)
    except (TypeError, re.error) as error:
        raise UsageError(f"{pattern!r} is not a regular expression for paths of parameters: {error}") from error


def with_its_keywords(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The transformation, called only with the keywords that it takes. One that takes any keywords passes them to `value_fn`,
    which takes none; it gets no `grad_fn`.
    """
    whole = optax.with_extra_args_support(inner)
    parameters = inspect.signature(inner.update).parameters
    named = set(parameters)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        named |= {"value", "grad", "value_fn"}

    def update(gradients: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        return whole.update(gradients, state, params, **{name: extra[name] for name in extra if name in named})

    return optax.GradientTransformationExtraArgs(inner.init, update)


class Synced(NamedTuple):
    """The state of a lookahead: the optimizer's, and the slow weights."""

    inner: Any
    slow: Any


def with_lookahead(inner: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """`optax.lookahead` keeps its slow weights beside the parameters; here they are part of the optimizer's state."""

    def init(params: Any) -> Any:
        if not getattr(inner.init, "__qualname__", "").startswith("lookahead."):
            return inner.init(params)
        both = optax.LookaheadParams.init_synced(params)
        return Synced(inner.init(both), jax.tree.map(jnp.copy, params))

    def update(gradients: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        if not isinstance(state, Synced):
            return inner.update(gradients, state, params, **extra)
        both = optax.LookaheadParams(params, state.slow)
        moves, new = inner.update(gradients, state.inner, both, **extra)
        return moves.fast, Synced(new, optax.apply_updates(state.slow, moves.slow))

    return optax.GradientTransformationExtraArgs(init, update)
