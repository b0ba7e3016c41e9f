"""A model around another one, whose layers it changes as they are called."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn


class Wrapper(nn.Module):
    """Base of modules that are called as their `model` is, have its fields and methods, and change what its layers do.

    The model's parameters keep their paths. Between the layers nothing changes, also in `nn.scan` and `nn.remat`.
    """

    model: nn.Module
    """The model whose layers are changed."""

    def setup(self) -> None:
        """Parameters of the model keep their paths."""
        nn.share_scope(self, self.model)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """What the model returns, with its layers changed; raises `UsageError` where a change is for none of its layers."""
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
        """What runs in place of each method of each layer (see `nn.intercept_methods`); `seen` is what `check` gets."""
        raise NotImplementedError

    def check(self, seen: list[str]) -> None:
        """Raise `UsageError` where a change is for no layer; called when the parameters are made."""
        del seen

    def apply(self, variables: Any, *inputs: Any, method: Any = None, **options: Any) -> Any:
        """As in Linen; `method` may also be the name of one of the model's."""
        if isinstance(method, str) and not hasattr(type(self), method):
            return super().apply(variables, method, *inputs, method="run", **options)
        return super().apply(variables, *inputs, method=method, **options)

    def clone(self, *, parent: Any = None, _deep_clone: Any = False, _reset_names: bool = False, **updates: Any) -> Any:
        """As in Linen; a field that only the model has is set there."""
        own = {field.name for field in dataclasses.fields(self)}
        theirs = {name: updates.pop(name) for name in list(updates) if name not in own}
        if theirs:
            updates["model"] = updates.get("model", self.model).clone(**theirs)
        return super().clone(parent=parent, _deep_clone=_deep_clone, _reset_names=_reset_names, **updates)

    def __getattr__(self, name: str) -> Any:
        """Fields and methods of the model that no module has (`vocab_size`, `empty_cache`)."""
        model = None if name.startswith("_") else vars(self).get("model")
        if model is not None and hasattr(model, name):
            return getattr(model, name)
        return super().__getattr__(name)


def without_wrappers(model: nn.Module) -> nn.Module:
    """The model inside its wrappers (`LoRA`, `Layered`); any other model as it is."""
    while isinstance(model, Wrapper):
        model = model.model
    return model


@contextlib.contextmanager
def changed_fields(layer: nn.Module, **fields: Any) -> Iterator[None]:
    """A layer with other values in its fields. A copy of it would be another layer, with a path of its own."""
    before = {name: getattr(layer, name) for name in fields}
    try:
        for name, value in fields.items():
            object.__setattr__(layer, name, value)
        yield
    finally:
        for name, value in before.items():
            object.__setattr__(layer, name, value)
