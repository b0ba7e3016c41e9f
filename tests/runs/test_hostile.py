"""Files from strangers: whatever they hold, the answer is a clear error, and nothing runs or is written outside."""

import ast
import gzip
import io
import json
import os
import string
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from conftest import ROOT, run_cli
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxnets import config
from jaxnets.checkpoints import manifest as manifests
from jaxnets.checkpoints.manifest import FileEntry, Leaf, Manifest, verify_files
from jaxnets.checkpoints.read_leaves import read_leaves
from jaxnets.checkpoints.step_folders import StepFolders
from jaxnets.core.download import read_arrays
from jaxnets.core.errors import CheckpointError, DataError, JaxnetsError
from jaxnets.data.sources.images import read_idx
from jaxnets.report.log import read_records
from jaxnets.runs.directory import RunDirectory

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


def test_the_package_has_no_code_that_executes_files_it_reads():
    # runpy runs a configuration the user names; import_module gets names from a constant. Nothing else may.
    allowed = {
        ("cli/completion.py", "import_module"),
        ("config/find.py", "run_path"),
        ("config/serialize.py", "import_module"),
        ("core/lazy.py", "import_module"),
    }
    dangerous = {"eval", "exec", "compile", "__import__", "import_module", "run_path", "run_module", "loads_pickle"}
    for path in (ROOT / "jaxnets").rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name.split(".")[0] for alias in node.names} | {
                    (getattr(node, "module", "") or "").split(".")[0]
                }
                assert not names & {"pickle", "marshal", "shelve", "dill", "joblib", "yaml", "cloudpickle"}, path
            if not isinstance(node, ast.Call):
                continue
            builtin = isinstance(node.func, ast.Name)
            name = node.func.id if builtin else getattr(node.func, "attr", "")
            if name in dangerous and (builtin or name not in ("compile", "eval", "exec")):
                assert (path.relative_to(ROOT / "jaxnets").as_posix(), name) in allowed, f"{path}: {name}"
            if name == "load" and isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") == "np":
                assert any(k.arg == "allow_pickle" and k.value.value is False for k in node.keywords), path
            assert not any(k.arg == "shell" for k in node.keywords), path


# --- config.json


def experiment_data():
    return config.to_data(config.load("digits_cnn").experiment)


@st.composite
def mutated(draw, original):
    """Valid data with one thing in it replaced by anything."""
    data = json.loads(json.dumps(original))
    spots = []

    def walk(node):
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in items:
            spots.append((node, key))
            walk(value)

    walk(data)
    node, key = draw(st.sampled_from(spots))
    node[key] = draw(
        JSON | st.sampled_from(["os:system", "subprocess:Popen", "Experiment", "Loaded", "../../etc/passwd"])
    )
    return data


@FUZZ
@given(data=st.one_of(JSON, st.deferred(lambda: mutated(experiment_data()))))
def test_any_config_json_loads_or_is_a_clean_error(tmp_path, data):
    (tmp_path / "config.json").write_text(json.dumps(data))
    try:
        _, experiment = RunDirectory.existing(tmp_path)
    except JaxnetsError as error:
        assert str(error)
    else:
        assert isinstance(experiment, config.Experiment)
    assert os.listdir(tmp_path) == ["config.json"]


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, "9" * 10_000, '{"type": "Experiment"}', "\x00", '{"type": ["a"]}']
)
def test_a_config_json_that_is_no_configuration_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(JaxnetsError):
        RunDirectory.existing(tmp_path)


@pytest.mark.parametrize(
    "name", ["os:system", "builtins:eval", "jaxnets.cli.main:run", "posix.system", "Loaded", "Path", 3, None]
)
def test_a_class_that_is_not_built_in_is_not_looked_for(name):
    with pytest.raises(JaxnetsError, match=r"not built in|class of your own"):
        config.from_data({"type": name})


@FUZZ
@given(data=JSON)
def test_any_quarantine_or_log_loads_or_is_a_clean_error(tmp_path, data):
    (tmp_path / "quarantine.json").write_text(json.dumps(data))
    (tmp_path / "metrics.jsonl").write_text(json.dumps(data) + "\n" + json.dumps(data) + "\n")
    (tmp_path / "warm_start.json").write_text(json.dumps(data))
    for read in (
        lambda: RunDirectory(tmp_path).warm_started,
        lambda: RunDirectory(tmp_path).quarantine,
        lambda: read_records(tmp_path / "metrics.jsonl"),
    ):
        try:
            read()
        except JaxnetsError as error:
            assert str(error)


# --- manifests


def manifest_data():
    leaves = {"params/w": Leaf((4, 4), "float32", "0" * 16)}
    files = {"state/a": FileEntry(3, "ab" * 32)}
    return {"format": 1, "step": 7, "leaves": {k: vars(v) for k, v in leaves.items()},
            "files": {k: vars(v) for k, v in files.items()}, "host": {}, "metrics": {"accuracy": 0.5}, "about": {}}  # fmt: skip


def write_manifest(folder, data, *, sign=True):
    """As a forger would: with a digest that fits."""
    folder.mkdir(exist_ok=True)
    data = {**data, "self": manifests._own_digest(data)} if sign and isinstance(data, dict) else data
    (folder / manifests.NAME).write_text(json.dumps(data))


@FUZZ
@given(data=st.one_of(JSON, st.deferred(lambda: mutated(manifest_data()))), sign=st.booleans())
def test_any_manifest_loads_or_is_a_clean_error(tmp_path, data, sign):
    write_manifest(tmp_path / "7", data, sign=sign)
    try:
        manifest = StepFolders(tmp_path).verify(7)
    except CheckpointError as error:
        assert str(error)
    else:
        assert isinstance(manifest, Manifest)


@FUZZ
@given(raw=st.binary(max_size=200))
def test_any_bytes_as_a_manifest_are_a_clean_error(tmp_path, raw):
    (tmp_path / "7").mkdir(exist_ok=True)
    (tmp_path / "7" / manifests.NAME).write_bytes(raw)
    with pytest.raises(CheckpointError):
        StepFolders(tmp_path).verify(7)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "state/../../secret", "..", "", "a\\..\\b", "C:/x", "a//b", "a\0b"]
)
def test_a_path_that_leaves_the_checkpoint_is_refused(tmp_path, name):
    (tmp_path / "secret").write_text("abc")
    write_manifest(tmp_path / "7", {**manifest_data(), "files": {name: {"size": 3, "sha256": "x"}}})
    with pytest.raises(CheckpointError, match="which is not inside the checkpoint"):
        StepFolders(tmp_path).verify(7)


def test_a_link_that_leaves_the_checkpoint_is_refused(tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "a").write_text("abc")
    write_manifest(tmp_path / "7", manifest_data())
    os.symlink(tmp_path / "secret", tmp_path / "7" / "state", target_is_directory=True)
    with pytest.raises(CheckpointError, match="is a symbolic link"):
        verify_files(tmp_path / "7", manifests.read(tmp_path / "7"))


@pytest.mark.parametrize(
    "leaf",
    [
        {"shape": [2**62, 2**62], "dtype": "float32", "digest": ""},
        {"shape": [-1], "dtype": "float32", "digest": ""},
        {"shape": [1.5], "dtype": "float32", "digest": ""},
        {"shape": [True], "dtype": "float32", "digest": ""},
        {"shape": [1], "dtype": "object", "digest": ""},
        {"shape": [1], "dtype": "__class__", "digest": ""},
        {"shape": [1], "dtype": "(1,,2)f4", "digest": ""},
        {"shape": [1], "dtype": "f4,f4", "digest": ""},
        {"shape": [1], "dtype": "float32"},
    ],
)
def test_impossible_leaves_are_refused_before_allocation(tmp_path, leaf):
    write_manifest(tmp_path / "7", {**manifest_data(), "files": {}, "leaves": {"params/w": leaf}})
    with pytest.raises(CheckpointError):
        read_leaves(tmp_path / "7", StepFolders(tmp_path).manifest(7).leaves)


# --- data files


def npy(header, body=b""):
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def write_npz(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}"), "does not fit its"),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"cos\nsystem\n(S'x'\ntR."), "Python objects"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-3,)}"), "cannot be read|does not fit"),
        (npy("__import__('os').system('touch hacked')"), "cannot be read"),
        (npy("{'descr': '<f8'}"), "cannot be read"),
        (b"", "cannot be read"),
        (b"cposix\nsystem\n", "cannot be read"),
    ],
)
def test_a_hostile_npz_is_refused_before_allocation(tmp_path, monkeypatch, member, message):
    monkeypatch.chdir(tmp_path)
    write_npz(tmp_path / "x.npz", {"inputs.npy": member})
    with pytest.raises(DataError, match=message):
        read_arrays(tmp_path / "x.npz")
    assert os.listdir(tmp_path) == ["x.npz"]


def test_an_npz_that_unpacks_to_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros(10_000_000, np.uint8))
    assert (tmp_path / "bomb.npz").stat().st_size < 20_000
    monkeypatch.setattr("jaxnets.core.download.physical_memory", lambda: 1_000_000)
    with pytest.raises(DataError, match=r"unpacks to 0\.0 GB, and this machine has"):
        read_arrays(tmp_path / "bomb.npz")


@FUZZ
@given(data=st.data())
def test_any_damage_to_an_npz_is_a_clean_error(tmp_path, data):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, inputs=np.arange(12.0).reshape(3, 4), targets=np.arange(3))
    raw = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.npz"
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw)
    try:
        arrays = read_arrays(path, ("inputs",))
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert arrays["inputs"].dtype.kind in "biufc"


@FUZZ
@given(raw=st.binary(max_size=80), zipped=st.booleans(), magic=st.booleans())
def test_any_idx_file_loads_or_is_a_clean_error(raw, zipped, magic):
    content = (b"\0\0\x08" if magic else b"") + raw
    try:
        assert read_idx(gzip.compress(content) if zipped else content).dtype == np.uint8
    except DataError as error:
        assert str(error)


def test_an_idx_file_that_unpacks_to_too_much_is_refused(monkeypatch):
    monkeypatch.setattr("jaxnets.data.sources.images.LARGEST_IDX", 1000)
    with pytest.raises(DataError, match="unpacks to more than"):
        read_idx(gzip.compress(b"\0\0\x08\x01" + bytes(5000)))


# --- the command line


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arguments=st.lists(
        st.sampled_from(
            ["train", "evaluate", "ckpt", "ls", "verify", "digits_cnn", "--steps", "0", "--run-dir", "doctor"]
        )
        | st.text(string.printable.replace("\x00", ""), max_size=12).filter(lambda t: t not in ("-h", "--help")),
        max_size=4,
    ).filter(lambda a: a[:2] not in (["train", "digits_cnn"],) and a != ["doctor"])
)
def test_no_command_line_ends_in_a_traceback(tmp_path, arguments):
    done = run_cli(*arguments, cwd=tmp_path)
    assert done.returncode in (0, 1, 2), (arguments, done.stderr)
    assert "Traceback" not in done.stderr, (arguments, done.stderr)
    assert not {name for name in os.listdir(tmp_path) if name != "cache"}


@pytest.mark.parametrize("arguments", [("--help",), ("list",), ("train", "digits_cnn", "--help")])
def test_a_closed_pipe_is_not_an_error(arguments):
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "jaxnets", *arguments]
    done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=60)
    os.close(writes)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_run_with_a_closed_output_is_completed():
    reads, writes = os.pipe()
    os.close(reads)
    code = "from jaxnets.report.console import Lines; Lines().summary('title', [('loss', '1')], 'the report')"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=60)
    os.close(writes)
    assert (done.returncode, done.stderr) == (0, "")
