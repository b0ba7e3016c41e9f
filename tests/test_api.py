"""What users import explains itself: each public name, and each field that a configuration or a flag can set."""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import textwrap

import pytest

import jaxnets

ROOMS = ["jaxnets", *(info.name for info in pkgutil.walk_packages(jaxnets.__path__, "jaxnets.") if info.ispkg)]


def public():
    """(room, name, object) of every class and function that a room offers."""
    for room in ROOMS:
        module = importlib.import_module(room)
        for name in getattr(module, "__all__", ()):
            item = getattr(module, name)
            if inspect.isclass(item) or inspect.isfunction(item):
                yield room, name, item


def says_something(text, *names, words=3):
    """Whether a text has at least so many words beside the names themselves."""
    said = {word.strip("`.,:;()").lower() for word in (text or "").split()}
    return len(said - {name.lower() for name in names}) >= words


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_have_docstrings(room):
    module = importlib.import_module(room)
    assert says_something(module.__doc__, room), f"{room} has no docstring that says something"
    silent = [
        name
        for where, name, item in public()
        # A dataclass without a docstring of its own is given its signature.
        if where == room and (not says_something(item.__doc__, name) or item.__doc__.startswith(f"{name}("))
    ]
    assert not silent, f"{room}: {silent} need a docstring that says what they are"


def fields_without_text(cls):
    """Names of the public fields in a class's own body that no docstring follows."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body
    fields = {field.name for field in dataclasses.fields(cls)}
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and node.target.id in fields and not node.target.id.startswith("_"):
            text = after.value if isinstance(after, ast.Expr) else None
            if not (isinstance(text, ast.Constant) and says_something(str(text.value), node.target.id, words=2)):
                yield node.target.id


def test_every_field_of_a_public_dataclass_is_explained():
    # The text is what `--help` shows for the flag.
    silent = {
        f"{cls.__name__}.{name}"
        for _, _, cls in public()
        if inspect.isclass(cls) and dataclasses.is_dataclass(cls)
        for name in fields_without_text(cls)
    }
    assert not silent, f"{sorted(silent)} need a docstring after the field"
