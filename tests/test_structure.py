"""The house: who may import whom, how long things get, and what is never used."""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT
from tiers import KEPT, NIGHTLY, SAMPLED, SWEEPS

PACKAGE = ROOT / "jaxnets"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    "jaxnets." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in FILES
}


def rooms():
    """Room -> the rooms it may import, in the order of the table in docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text().split("## Rooms")[1].split("\n## ")[0]
    table = {}
    for name, allowed in re.findall(r"^\| `([a-z/]+)` \|.*\| ([^|]*?) ?\|$", text, re.MULTILINE):
        names = (
            [*table] if allowed == "everything above" else [room.strip() for room in allowed.split(",") if room.strip()]
        )
        assert set(names) <= table.keys(), f"{name} names a room that is not above it"
        table[name] = {*names, "core"}
    return table


def room_of(path):
    """The folder of a file, `jaxnets` for those at the top."""
    return path.parent.relative_to(PACKAGE).as_posix().replace(".", "jaxnets", 1)


def imports(path):
    """The jaxnets modules that a file imports when it runs; what only type checkers read is left out."""
    tree = ast.parse(path.read_text())
    unread = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in inside]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name for name in names if name in MODULES and id(node) not in unread)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_table_of_rooms(path):
    room = room_of(path)
    allowed = rooms()[room] | {room}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}" for name in imports(path) if room_of(MODULES[name]) not in allowed
    ]
    assert not wrong, f"{wrong}; docs/architecture.md, Rooms, has what {room} may import"


def test_the_table_names_every_room_and_nothing_else():
    assert set(rooms()) == {room_of(path) for path in FILES}
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "api.py"}
    used = {room: set() for room in rooms()}
    for path in FILES:
        used[room_of(path)] |= {room_of(MODULES[name]) for name in imports(path)}
    for room, allowed in rooms().items():
        if room not in ("cli", "jaxnets"):
            assert allowed - {"core"} <= used[room], (
                f"{room} does not import {allowed - used[room]}; take it out of its row"
            )


@pytest.mark.slow
def test_the_way_from_the_command_to_the_loss_is_short():
    command = [sys.executable, str(ROOT / "tests" / "way_to_the_loss.py"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    way = json.loads(done.stdout.splitlines()[-1])["stack"]
    assert way[0] == "__main__.py"
    assert way[-2:] == ["steps/step.py", "tasks/classification.py"]
    assert len(way) <= 10
    assert sum(len((PACKAGE / name).read_text().splitlines()) for name in way) < 3_800


def test_the_lists_of_sweeps_name_existing_tests():
    written = {path.stem: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    for name in (*KEPT, *SAMPLED, *NIGHTLY, *SWEEPS):
        module, _, function = name.partition("[")[0].partition(".")
        assert f"def {function}" in written[module], f"tests/tiers.py names {name}, which is no test"


@pytest.mark.slow
def test_the_parts_of_a_suite_are_all_of_it():
    def collected(part):
        command = [sys.executable, "-m", "pytest", "-n", "0", "--collect-only", "tests/tasks/test_losses.py"]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | part, capture_output=True, text=True)
        return {line for line in done.stdout.splitlines() if "::" in line}

    whole, first, second = map(collected, ({}, {"JAXNETS_TEST_PART": "1/2"}, {"JAXNETS_TEST_PART": "2/2"}))
    assert first
    assert second
    assert first | second == whole
    assert not first & second
    assert len({line.partition("[")[0] for line in first} & {line.partition("[")[0] for line in second}) == 0


def test_tests_mirror_the_rooms():
    folders = {path.parent.relative_to(ROOT / "tests").as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
    assert folders <= {*rooms(), ".", "field", "tpu"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_stay_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 320
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            # A docstring that describes many arguments does not make a function long.
            first = node.body[0]
            said = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) else 0
            lines = node.end_lineno - node.lineno + 1 - said
            assert lines <= 75, f"{node.name} is {lines} lines long without its docstring"


def test_installing_it_compiles_nothing():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert len(project["dependencies"]) <= 9
    kinds = {path.suffix for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert kinds <= {".py", ".csv", ".html", ".npz", ".txt", ".typed"}


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
def test_public_names_of_a_room_are_in_the_listed_files(room):
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
