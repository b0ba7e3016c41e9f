"""A model that wraps another one and changes its layers when they are called."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn


class Wrapper(nn.Module):
    """Base of modules that have the call, the fields and the methods of their `model`, and change its layers.

    The model's parameters keep their paths. Between the layers nothing changes, also in `nn.scan` and `nn.remat`.
    """

    model: nn.Module
    """The model whose layers are changed."""

    def setup(self) -> None:
        """Parameters of the model keep their paths."""
        nn.share_scope(self, self.model)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """The result of the model with its layers changed; raises `UsageError` if a change applies to none of its layers."""
        return self.run("__call__", *inputs, **options)

    def run(self, method: str, *inputs: Any, **options: Any) -> Any:
        """The same for a method of the model, by its name."""
        seen: list[str] = []
        model: Any = self.model
        with nn.intercept_methods(self.interceptor(seen)):
            result = getattr(model, method)(*inputs, **options)
        if self.is_initializing():
            self.check(seen)
        return result

    def interceptor(self, seen: list[str]) -> Callable[..., Any]:
        """Replaces each method of each layer (see `nn.intercept_methods`); `seen` is passed to `check`."""
        raise NotImplementedError

    def check(self, seen: list[str]) -> None:
        """Raise `UsageError` if a change applies to no layer; called when the parameters are initialised."""
        del seen

    def apply(self, variables: Any, *inputs: Any, method: Any = None, **options: Any) -> Any:
        """As in Linen; `method` may also be the name of one of the model's."""
        if isinstance(method, str) and not hasattr(type(self), method):
            return super().apply(variables, method, *inputs, method="run", **options)
        return super().apply(variables, *inputs, method=method, **options)

    def clone(self, *, parent: Any = None, _deep_clone: Any = False, _reset_names: bool = False, **updates: Any) -> Any:
        """As in Linen; a field that only the model has is set on the model."""
        own = {field.name for field in dataclasses.fields(self)}
        theirs = {name: updates.pop(name) for name in list(updates) if name not in own}
        if theirs:
            updates["model"] = updates.get("model", self.model).clone(**theirs)
        return super().clone(parent=parent, _deep_clone=_deep_clone, _reset_names=_reset_names, **updates)

    def __getattr__(self, name: str) -> Any:
        """Fields and methods of the model that this class does not have (`vocab_size`, `empty_cache`)."""
        model = None if name.startswith("_") else vars(self).get("model")
        if model is not None and hasattr(model, name):
            return getattr(model, name)
        return super().__getattr__(name)


def without_wrappers(model: nn.Module) -> nn.Module:
    """The model inside its wrappers (`LoRA`, `Layered`); any other model is returned unchanged."""
    while isinstance(model, Wrapper):
        model = model.model
    return model


@contextlib.contextmanager
def changed_fields(layer: nn.Module, **fields: Any) -> Iterator[None]:
    """Sets other values in the fields of a layer. A copy would be another layer with another path."""
    before = {name: getattr(layer, name) for name in fields}
    try:
        for name, value in fields.items():
            object.__setattr__(layer, name, value)
        yield
    finally:
        for name, value in before.items():
            object.__setattr__(layer, name, value)
