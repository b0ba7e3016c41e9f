"""The parts that make a command fit for other people's machines, each by itself; Windows as far as it can be told from here."""

import ast
import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, assert_same_bits, run_here

from jaxnets import config
from jaxnets.checkpoints.checkpoint import Checkpoints, abstract
from jaxnets.checkpoints.read_leaves import read_leaves
from jaxnets.cli import checkpoints as ckpt
from jaxnets.cli import machine
from jaxnets.core import download, streams
from jaxnets.core.errors import DataError, RunDirectoryError, UsageError
from jaxnets.core.files import partial_name, replacing, sync, user_path
from jaxnets.core.types import ConfusionMatrix
from jaxnets.report import page, plots
from jaxnets.report.console import Lines, make_console
from jaxnets.runs import lock as run_lock


def test_a_tilde_is_the_home_and_without_one_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert user_path("~/a b") == tmp_path / "a b"
    assert user_path("a/~") == Path("a/~")
    assert user_path("~x.csv") == Path("~x.csv")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(UsageError, match="who has none; set HOME"):
        user_path("~/runs")


def test_folders_of_data_and_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JAXNETS_DATA", " ")
    monkeypatch.setenv("JAXNETS_CACHE", "")
    assert download.data_directory() is None
    assert download.cache_directory() == tmp_path / ".cache" / "jaxnets"
    monkeypatch.setenv("JAXNETS_CACHE", "~/c")
    monkeypatch.setenv("JAXNETS_DATA", "~/d")
    assert (download.cache_directory(), download.data_directory()) == (tmp_path / "c", tmp_path / "d")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXNETS_CACHE", "here")
    before = download.cache_directory()
    (tmp_path / "x").mkdir()
    assert before.is_absolute()  # or a later change of folder would move it


def test_without_a_home_local_data_are_found_and_a_note_about_the_cache_names_the_remedy(monkeypatch, tmp_path):
    def none():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", none)
    monkeypatch.setenv("JAXNETS_CACHE", "")
    monkeypatch.setenv("JAXNETS_DATA", str(tmp_path))
    (tmp_path / "x.npz").write_bytes(b"")
    assert download.locate("x.npz") == tmp_path / "x.npz"
    with pytest.raises(DataError, match="no home directory for a cache; set JAXNETS_CACHE"):
        download.cache_directory()
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    assert "each start compiles again" in machine.prepare_jax()


def test_invalid_data_directories_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXNETS_DATA", __file__)
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(DataError, match="which is not a folder"):
        download.download(download.Remote("http://nowhere/x"), wanted_for="x.npz")


def test_two_concurrent_downloads_fetch_a_file_once_and_completely(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXNETS_DATA", "")
    monkeypatch.setenv("JAXNETS_CACHE", str(tmp_path))
    fetched = []

    def slowly(remote, *, wanted_for):
        fetched.append(wanted_for)
        time.sleep(0.3)
        return b"0123"

    monkeypatch.setattr(download, "download", slowly)
    got = []

    def want():
        remote = download.Remote("http://nowhere/x")
        got.append(download.obtain("a/x.npz", (remote,), lambda files: {"x": np.frombuffer(files[0], np.uint8)}))

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetched) == (1 if sys.platform != "win32" else len(fetched))
    assert [arrays["x"].tobytes() for arrays in got] == [b"0123"] * 4
    assert not [path for path in (tmp_path / "data" / "a").iterdir() if path.name.endswith(".partial")]


def test_writers_of_one_file_do_not_mix(tmp_path):
    path = tmp_path / ("long" * 60 + ".npz")  # 244 letters: room for the file, not for more behind its name
    assert partial_name(path) != partial_name(path)
    with replacing(path) as one, replacing(path) as other:
        one.write(b"one")
        other.write(b"other")
    assert path.read_bytes() == b"one"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_checkpoints_under_patterns_come_back(tmp_path):
    state = {"w": jnp.arange(6.0).reshape(2, 3)}
    like = abstract(state, jax.tree.map(lambda a: a.sharding, state))
    for name in ("runs [old]", "run*", "run?"):
        with Checkpoints(tmp_path / name) as checkpoints:
            checkpoints.save(3, state)
        with Checkpoints(tmp_path / name) as checkpoints:
            assert_same_bits(checkpoints.restore(3, like)[0], state)
            leaves = checkpoints.folders.manifest(3).leaves
        np.testing.assert_array_equal(read_leaves(tmp_path / name / "3", leaves)["w"], state["w"])
        assert sorted(p.name for p in (tmp_path / name).iterdir()) == ["3"]


def test_an_undecodable_path_is_refused_before_any_work(tmp_path):
    with (
        pytest.raises(RunDirectoryError, match="choose a name in plain ASCII"),
        run_lock.hold(tmp_path / "a\udcffb"),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_run_whose_name_ends_in_a_number_is_no_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run:5" / "checkpoints").mkdir(parents=True)
    folders, step = ckpt._open("run:5")
    assert (folders.directory, step) == (tmp_path / "run:5" / "checkpoints", None)
    folders, step = ckpt._open("run:5:7")
    assert (folders.directory, step) == (tmp_path / "run:5" / "checkpoints", 7)


# --- streams


class Poor(io.StringIO):
    """A stream in ASCII, a terminal or not."""

    encoding = "ascii"

    def __init__(self, *, terminal=False):
        super().__init__()
        self.terminal = terminal

    def write(self, text):
        text.encode("ascii")
        return super().write(text)

    def isatty(self):
        return self.terminal


def test_a_summary_is_shown_on_a_console_that_lacks_its_characters(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Poor())
    monkeypatch.setattr(sys, "stderr", Poor())
    Lines().summary("größe [red]", [("expected", "accuracy ≥ 0.98"), ("note", "[bold]x[/bold]")], "report: ü [1]")
    said = sys.stdout.getvalue()
    assert "accuracy >= 0.98" in said
    assert "[bold]x[/bold]" in said  # names are no markup
    assert "report: \\xfc [1]" in said
    streams.say("日")
    assert sys.stderr.getvalue() == "\\u65e5\n"


def test_a_summary_on_a_narrow_terminal_cuts_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Poor(terminal=True))
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("TERM", "xterm")
    Lines().summary("a title", [("waiting for data (s)", "0.123456"), ("examples/s", "1,234,567")], "")
    said = "".join(sys.stdout.getvalue().split("\n"))
    assert "waiting for data (s): 0.123456" in said
    assert "examples/s: 1,234,567" in said


def test_programs_without_a_console_train_without_output(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    console = make_console("auto")
    assert isinstance(console, Lines)
    console.say("x")
    console.summary("title", [("a", "b")], "x")
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    monkeypatch.setattr(sys, "stdout", closed)
    assert isinstance(make_console("auto"), Lines)
    make_console("auto").summary("title", [("a", "b")], "x")


def test_no_progress_bar_on_a_terminal_without_cursor_control(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Poor(terminal=True))
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_console("auto"), Lines)


# --- the report


@pytest.mark.parametrize("setting", [{"text.usetex": True}, {"font.family": "none of these"}, {"savefig.dpi": 5}])
def test_pictures_do_not_depend_on_a_users_matplotlibrc_and_names_are_no_formulas(setting):
    import matplotlib

    exhibit = ConfusionMatrix("Classes", np.eye(3, dtype=int), ("$x^{", "_y", "\\frac $1"))
    plain = plots.to_png(plots.confusion_matrix(exhibit))
    with matplotlib.rc_context():
        matplotlib.rcParams.update(setting)
        assert plots.to_png(plots.confusion_matrix(exhibit)) == plain


def test_characters_without_a_glyph_are_noted_once():
    exhibit = ConfusionMatrix("Classes", np.eye(2, dtype=int), ("日本", "語"))
    with pytest.warns(UserWarning, match="fonts for plots lack") as heard:
        plots.to_png(plots.confusion_matrix(exhibit))
    assert len(heard) == 1


def test_an_invalid_matplotlib_back_end_does_not_prevent_the_report():
    code = (
        "import numpy as np; from jaxnets.report import images, plots; from jaxnets.core.types import Gallery\n"
        "assert plots.to_png(images.gallery(Gallery('x', np.zeros((2, 4, 4, 1)), ('', ''))))[:4] == b'\\x89PNG'"
    )
    env = {**os.environ, "MPLBACKEND": "none of these", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, timeout=60, encoding="utf-8")
    assert done.returncode == 0, done.stderr


def test_every_plot_has_its_own_file_on_any_system():
    taken = set()
    names = [
        page._slug(title, taken) for title in ("Curves", "curves (test)", "???", "!", "con", "Größe: a", "x" * 300)
    ]
    assert names == ["curves", "curves_2", "plot", "plot_2", "con_plot", "größe", "x" * 80]


# --- configurations


def test_a_configuration_that_ends_the_program_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quit.py").write_text("import sys\nsys.exit(0)\n", encoding="utf-8")
    with pytest.raises(UsageError, match="quit.py, line 2: SystemExit: 0"):
        config.load("quit.py")
    (tmp_path / "latin.py").write_bytes("x = 'größe'\n".encode("latin-1"))
    with pytest.raises(UsageError, match="saved as UTF-8"):
        config.load("latin.py")
    (tmp_path / "null.py").write_bytes(b"\0")
    with pytest.raises(UsageError, match=r"null\.py: source code"):
        config.load("null.py")
    (tmp_path / "BIG.PY").write_text("def config(): pass\n", encoding="utf-8")
    with pytest.raises(UsageError, match="returned NoneType"):
        config.load("BIG.PY")
    with pytest.raises(UsageError, match="no configuration file"):
        config.find.find("x" * 5000 + ".py")


def test_errors_of_the_system_are_one_line(tmp_path):
    done = run_here("train", "digits_softmax", "--run-dir", "x" * 300, cwd=tmp_path)
    assert done.returncode == 1
    assert "File name too long" in done.stderr or "cannot write the run directory" in done.stderr


def test_empty_environment_variables_are_treated_as_not_set():
    code = (
        "import os; from jaxnets.cli import machine; machine.prepare()\n"
        "assert not {'JAX_ENABLE_X64', 'XLA_FLAGS', 'JAXNETS_DATA'} & set(os.environ), os.environ\n"
        "assert os.environ['COLUMNS'] == '80' and os.environ['TMPDIR'] == ''"
    )
    empty = {"JAX_ENABLE_X64": "", "XLA_FLAGS": " ", "JAXNETS_DATA": "", "TMPDIR": "", "COLUMNS": "0"}
    env = {**os.environ, **empty, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, timeout=60, encoding="utf-8")
    assert done.returncode == 0, done.stderr


# --- Windows


def test_a_lock_that_cannot_be_removed_is_free_after_its_holder_ended(tmp_path, monkeypatch):
    # An open file cannot be removed there, and there are no POSIX locks.
    monkeypatch.setattr(run_lock, "fcntl_module", lambda: None)
    monkeypatch.setattr(run_lock, "BEAT_SECONDS", 0.05)
    unlink = Path.unlink

    def refuse(self, *arguments, **options):
        if self.name == run_lock.NAME:
            raise PermissionError("in use")
        return unlink(self, *arguments, **options)

    monkeypatch.setattr(Path, "unlink", refuse)
    for _ in range(2):  # the second finds the first one's file, and must not wait for a heartbeat to grow stale
        with run_lock.hold(tmp_path):
            assert run_lock._read(os.open(tmp_path / run_lock.NAME, os.O_RDONLY))["pid"] == os.getpid()


def test_a_file_is_synchronised_through_a_handle_that_may_write(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"1")
    modes, opened = [], Path.open

    def seen(self, mode="r", **options):
        modes.append(mode)
        return opened(self, mode, **options)

    monkeypatch.setattr(Path, "open", seen)
    monkeypatch.setattr(sys, "platform", "win32")
    sync(tmp_path / "x")
    assert modes == ["r+b"]
    assert (tmp_path / "x").read_bytes() == b"1"


# What is only on POSIX systems, and how it may be used: beside a check in the same file.
POSIX_ONLY = {
    ("os", "fork"), ("os", "getuid"), ("os", "geteuid"), ("os", "getpgid"), ("os", "killpg"), ("os", "setsid"), ("os", "mkfifo"),
    ("os", "sched_setaffinity"), ("os", "chown"), ("os", "statvfs"), ("os", "nice"), ("os", "wait"), ("os", "getloadavg"),
    ("signal", "SIGKILL"), ("signal", "SIGALRM"), ("signal", "SIGUSR1"), ("signal", "SIGUSR2"), ("signal", "SIGHUP"),
    ("signal", "SIGQUIT"), ("signal", "alarm"), ("signal", "pause"), ("signal", "sigwait"), ("time", "tzset"),
    ("signal", "pthread_sigmask"), ("signal", "pthread_kill"), ("os", "rename"),
}  # fmt: skip
POSIX_MODULES = {"fcntl", "pwd", "grp", "termios", "tty", "pty", "resource", "syslog", "curses", "readline"}


def files():
    return sorted(path for folder in ("jaxnets", "configs") for path in (ROOT / folder).rglob("*.py"))


def calls(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_every_text_file_is_opened_in_an_encoding_that_is_named():
    wrong = []
    for path in files():
        for call in calls(path):
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            named = {keyword.arg for keyword in call.keywords}
            strings = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            if name == "open" and any("b" in mode for mode in strings):
                continue
            by_path = isinstance(call.func, ast.Attribute) and name == "open"
            if by_path and not strings and not named:  # a data source's or an archive's own
                continue
            if by_path and getattr(getattr(call.func, "value", None), "id", "") in (
                "os",
                "archive",
                "tarfile",
                "direct",
            ):
                continue
            ours = isinstance(call.func, ast.Name) and name == "read_text"  # which finds the encoding
            text = (name in ("read_text", "write_text", "open") and not ours) or (
                name in ("run", "Popen", "check_output") and {"text", "universal_newlines"} & named
            )
            if text and "encoding" not in named:
                wrong.append(f"{path.relative_to(ROOT)}:{call.lineno} {name}")
    assert not wrong


def test_nothing_that_windows_lacks_is_used_without_a_check():
    wrong = []
    for path in files():
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute) and (getattr(node.value, "id", ""), node.attr) in POSIX_ONLY:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.attr}")
            if isinstance(node, ast.Import) and {alias.name for alias in node.names} & POSIX_MODULES:
                checked = "except ImportError" in source
                if not checked:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} import")
    assert not wrong


@pytest.mark.slow
def test_a_run_without_the_modules_that_windows_lacks(tmp_path):
    code = f"""
import os, sys
for name in {sorted(POSIX_MODULES - {"curses", "readline"})}:
    sys.modules[name] = None
import pathlib, signal
for module, names in ((os, ("sysconf", "sched_getaffinity", "O_NOFOLLOW", "getuid", "geteuid", "fork")), (signal, ("SIGALRM", "SIGHUP"))):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
import numpy as np, jaxnets
x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
data = (x, (x[:, 0] > 0).astype(int))
for _ in range(2):
    run = jaxnets.fit(jaxnets.models.MLP(widths=(4,)), data, steps=4, run_dir="run", progress="none", save_every=2)
assert (run.directory / "report.html").is_file() and not (run.directory / ".lock").exists()
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, timeout=120, encoding="utf-8")
    assert done.returncode == 0, done.stderr
