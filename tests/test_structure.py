"""The house: who may import whom, how long things get, and what is never used."""

import ast
import importlib
import subprocess
import sys

import pytest
from conftest import ROOT

PACKAGE = ROOT / "jaxnets"
FILES = sorted(PACKAGE.rglob("*.py"))
# Room -> the rooms it may import. What is in COMMON is for all.
MAY_IMPORT = {
    "ops": set(),
    "models": {"ops"},
    "tasks": {"models", "ops"},
    "data": {"ops"},
    "optim": {"ops"},
    "parallel": {"ops"},
    "training": {"tasks", "data", "optim", "parallel", "ops"},
    "interop": {"models"},
    "report": set(),
}
COMMON = {"contracts", "errors", "files", "lazy", "streams", "typecheck"}


def imports(path):
    """The jaxnets modules that a file imports, as (room or module, full name)."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("jaxnets."):
                yield name.split(".")[1], name


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_follow_the_map(room):
    allowed = MAY_IMPORT[room] | COMMON | {room}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (PACKAGE / room).rglob("*.py")
        for target, name in imports(path)
        if target not in allowed
    ]
    assert not wrong


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_stay_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 320
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 75, f"{node.name} is {node.end_lineno - node.lineno + 1} lines long"


@pytest.mark.smoke
def test_importing_everything_leaves_nnx_and_the_devices_alone():
    code = """
import sys, pkgutil, importlib, jaxnets
assert "jax" not in sys.modules, "import jaxnets must cost nothing"
for info in pkgutil.walk_packages(jaxnets.__path__, "jaxnets."):
    if not info.name.startswith("jaxnets.configs") and info.name != "jaxnets.__main__":
        importlib.import_module(info.name)
assert "flax.nnx" not in sys.modules
assert "matplotlib" not in sys.modules and "orbax.checkpoint" not in sys.modules
from jax._src import xla_bridge
assert not xla_bridge._backends, "a device was touched at import"
for name in jaxnets.__all__:
    getattr(jaxnets, name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("room", ["models", "tasks", "data"])
def test_what_a_room_offers_is_where_it_says(room):
    module = importlib.import_module(f"jaxnets.{room}")
    assert sorted(module.FILES) == sorted(module.__all__)
    for name, file in module.FILES.items():
        item = getattr(module, name)
        assert item.__module__ == f"jaxnets.{room}.{file}"
    # What type checkers see is what there is.
    text = (PACKAGE / room / "__init__.py").read_text()
    assert {f"from jaxnets.{room}.{file} import {name} as {name}" for name, file in module.FILES.items()} == {
        line.strip() for line in text.splitlines() if line.strip().startswith(f"from jaxnets.{room}.")
    }
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = module.Nothing
