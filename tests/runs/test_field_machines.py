"""On other people's machines: consoles, homes, paths and streams as they occur, by the command line itself."""

import codecs
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, run_cli, run_here

CONFIG = '''"""Größe – 日本: a table of two columns."""
from jaxnets.config.experiment import Experiment
from jaxnets.data import Tabular
from jaxnets.models import MLP
from jaxnets.optim import AdamW
from jaxnets.tasks import Classification

def config():
    return Experiment(
        task=Classification(model=MLP(widths=(4,))), data=Tabular("größen.csv", target="größe"), steps=6, batch_size=16,
        log_every=2, save_every=3, optimizer=AdamW(learning_rate=0.3),
    )
'''
# Rows that one number tells apart, so that six steps are enough to say which class is which.
ROWS = "".join(f"{value},{('klein', 'groß')[value > 0]}\n" for value in (-3, 3, -2, 2, -4, 4) * 12)


@pytest.fixture(scope="module")
def odd_place(tmp_path_factory):
    """A folder and a home with odd names; files in it that stand in for libraries; a configuration with a BOM and CRLF."""
    home = tmp_path_factory.mktemp("home")
    here = home / "a b [1] ü#%'\""
    here.mkdir()
    for name in ("jax.py", "random.py", "json.py", "tyro.py"):
        (here / name).write_text("raise SystemExit('this is not the library')\n", encoding="utf-8")
    (here / "configs").write_text("a file where others have a folder", encoding="utf-8")
    (here / "größen.csv").write_text("wert,größe\n" + ROWS, encoding="utf-8")
    (here / "meine.py").write_bytes(codecs.BOM_UTF8 + CONFIG.replace("\n", "\r\n").encode())
    return home, here


def odd_environment(home):
    """A console of ASCII and no columns, variables set to nothing, no accelerator's settings."""
    return {
        "HOME": str(home), "PYTHONIOENCODING": "ascii", "COLUMNS": "0", "TERM": "dumb", "NO_COLOR": "1", "TMPDIR": "",
        "JAX_COMPILATION_CACHE_DIR": "", "JAXNETS_DATA": "", "JAXNETS_CACHE": "~/cache", "XLA_FLAGS": "",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "", "MPLBACKEND": "none of these", "MPLCONFIGDIR": "",
    }  # fmt: skip


@pytest.fixture(scope="module")
def odd_run(odd_place):
    """Train there once."""
    home, here = odd_place
    return run_cli("train", "meine.py", "--run-dir=~/runs/é [x]: 1", cwd=here, env=odd_environment(home))


@pytest.mark.slow
def test_a_run_under_odd_names_on_a_poor_console_is_whole(odd_run, odd_place):
    home, here = odd_place
    assert odd_run.returncode == 0, odd_run.stderr
    assert odd_run.stdout.isascii()
    assert odd_run.stderr.isascii()
    # No columns are no reason to show nothing, and no name is cut.
    assert re.search(r"test accuracy +\d", odd_run.stdout)
    assert re.search(r"waiting for data \(s\) +\d", odd_run.stdout)
    run = home / "runs" / "é [x]: 1"
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Größe – 日本" in page
    assert "groß" in page
    assert (home / "cache" / "xla").is_dir()
    assert not (here / "~").exists()
    assert not {"runs", "cache"} & {path.name for path in here.iterdir()}


@pytest.mark.slow
def test_a_run_in_an_odd_directory_can_be_used_afterwards(odd_run, odd_place):
    home, here = odd_place
    (here / "neue größen.csv").write_text("wert\n-3\n3\n", encoding="utf-8")
    said = run_cli("predict", "~/runs/é [x]: 1", "neue größen.csv", cwd=here, env=odd_environment(home))
    assert said.returncode == 0, said.stderr
    # Every character is there, though the console lacks one of them.
    assert said.stdout.encode().decode("unicode_escape").split() == ["klein", "groß"]


def test_checkpoints_under_names_that_are_patterns_verify(odd_run, odd_place, monkeypatch):
    home, here = odd_place
    monkeypatch.setenv("HOME", str(home))
    done = run_here("ckpt", "verify", "~/runs/é [x]: 1", cwd=here)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^6: good", done.stdout, re.M)


@pytest.fixture
def tiny(tmp_path):
    """A folder with the configuration and its table."""
    (tmp_path / "table.csv").write_text("wert,größe\n" + ROWS, encoding="utf-8")
    (tmp_path / "tiny.py").write_text(CONFIG.replace("größen.csv", "table.csv"), encoding="utf-8")
    return tmp_path


def shell(command, cwd):
    """A command line of a shell, in which PY is this Python with the package."""
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT)}
    command = command.replace("PY", f"'{sys.executable}' -m jaxnets")
    return subprocess.run(["bash", "-c", command], cwd=cwd, env=env, capture_output=True, encoding="utf-8", timeout=120)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
def test_closed_streams_do_not_fail_and_no_other_file_is_written(tiny):
    assert shell("PY train tiny.py --run-dir run >&- 2>&- <&-", tiny).returncode == 0
    verified = run_here("ckpt", "verify", "run", cwd=tiny)
    assert verified.returncode == 0, verified.stdout
    assert (tiny / "run" / "report.html").is_file()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_output_device_gives_one_message():
    done = shell("PY list > /dev/full", ROOT)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No space left" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_an_interrupt_that_a_callback_would_drop_ends_the_command(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import sys, time\nprint('begun', flush=True)\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    pass\n"
        "raise ValueError('it went on')\n",
        encoding="utf-8",
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "jaxnets", "train", "slow.py"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "begun\n"
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert (process.returncode, time.monotonic() - began < 5) == (130, True)
    assert told.startswith("jaxnets: interrupted")
    assert "Traceback" not in told


def test_help_works_on_terminals_of_any_width():
    # Below some width the layout of the help never came to an end.
    done = run_cli("train", "digits_softmax", "--help", env={"COLUMNS": "1"}, timeout=30)
    assert done.returncode == 0
    assert "--batch-size INT" in done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_characters_that_a_console_lacks_are_replaced(encoding):
    code = (
        "import sys; sys.argv = ['jaxnets', 'list']\n"
        "from jaxnets.core import streams; streams.prepare()\n"
        "print('≥ 0.98, größe, 日本, \\udcff', flush=True); print('× – 日', file=sys.stderr)"
    )
    env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, timeout=30, check=True)
    umlauts = "größe" if encoding != "ascii" else "gr\\xf6\\xdfe"
    assert done.stdout.decode(encoding).strip() == f">= 0.98, {umlauts}, \\u65e5\\u672c, \\udcff"
    assert done.stderr.decode(encoding).strip() in ("x - \\u65e5", "× – \\u65e5", "× - \\u65e5")


# --- sweeps that take a process for each condition


PLACES = {
    "spaces": "a b", "quotes": "q'\"q", "hash": "h#1%20?", "colon": "r:5", "dash": "-dash", "shell": "a;b&$HOME",
    "pattern": "run*", "brackets": "[bold]x[/bold]", "format": "%s{0}", "slash": "x/", "line": "new\nline", "wide": "日本",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", PLACES)
def test_any_name_works_as_a_run_directory(tiny, name):
    place = PLACES[name]
    assert run_cli("train", "tiny.py", f"--run-dir={place}", cwd=tiny).returncode == 0
    evaluated = run_here("evaluate", place, cwd=tiny)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "examples 14" in evaluated.stdout
    assert run_here("ckpt", "verify", place, cwd=tiny).returncode == 0


CONDITIONS = {
    "C locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "no such home": {"HOME": "/proc/1/none", "JAX_COMPILATION_CACHE_DIR": ""},
    "a file for a cache": {"JAXNETS_CACHE": __file__, "JAX_COMPILATION_CACHE_DIR": ""},
    "decimal comma": {"LC_ALL": "de_DE.UTF-8"},
    "a time zone that is none": {"TZ": "Mars/Olympus"},
    "no temporary folder": {"TMPDIR": "/nowhere"},
    "no place for matplotlib": {"MPLCONFIGDIR": "/proc/none"},
    "a screen of another machine": {"MPLBACKEND": "TkAgg", "DISPLAY": ":77"},
    "without assertions": {"PYTHONOPTIMIZE": "1"},
    "few columns": {"COLUMNS": "20"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONDITIONS)
def test_a_run_is_the_same_under_any_condition(tiny, name):
    env = {"JAXNETS_CACHE": "", **CONDITIONS[name]}
    done = run_cli("train", "tiny.py", "--run-dir", "run", cwd=tiny, env=env)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(r"test accuracy +\d", done.stdout)
    page = (tiny / "run" / "report.html").read_text(encoding="utf-8")
    assert "Größe – 日本" in page
    assert page.count("data:image/png;base64,") >= 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="becomes a user without a home")
def test_a_user_without_a_home_trains_and_gets_a_note(tiny):
    os.chmod(tiny, 0o777)
    for folder in tiny.parents:
        if folder.stat().st_uid == os.geteuid() and str(folder).startswith("/tmp/"):
            os.chmod(folder, 0o755)
    done = shell(
        "env -u HOME -u JAXNETS_CACHE -u JAX_COMPILATION_CACHE_DIR setpriv --reuid=54321 --regid=54321 --clear-groups "
        "PY train tiny.py --run-dir run",
        tiny,
    )
    if "setpriv" in done.stderr or "Permission denied" in done.stderr:
        pytest.skip(f"cannot become another user here: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    assert "no home directory for a cache; set JAXNETS_CACHE" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_or_read_only_disk_is_named_and_the_same_command_resumes_later(tiny):
    done = shell(
        "unshare -m bash -c '"
        "mkdir t && mount -t tmpfs -o size=64k tmpfs t || exit 99; PY train tiny.py --run-dir t/run; echo code $?; "
        "mount -o remount,ro t; PY train tiny.py --run-dir t/other; echo code $?; "
        "mount -o remount,rw,size=8m t; PY train tiny.py --run-dir t/run; echo code $?; PY ckpt verify t/run'",
        tiny,
    )
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip("cannot mount here")
    assert re.findall(r"code (\d+)", done.stdout) == ["1", "1", "0"], done.stderr
    assert "Read-only file system" in done.stderr
    assert re.search(r"^6: good", done.stdout, re.M)


@pytest.mark.slow
def test_undecodable_bytes_in_a_path_are_refused_before_any_work(tiny):
    if sys.platform == "win32":
        pytest.skip("paths are text there")
    done = shell("PY train tiny.py --run-dir $'a\\xffb'", tiny)
    assert done.returncode == 1
    assert "choose a name in plain ASCII" in done.stderr
    assert "step" not in done.stderr


@pytest.mark.slow
def test_two_concurrent_runs_with_one_cache(tiny):
    env = {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": "1",
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(tiny / "c"),
    }
    command = [sys.executable, "-m", "jaxnets", "train", "tiny.py", "--run-dir"]
    both = [subprocess.Popen([*command, name], cwd=tiny, env=env, stderr=subprocess.PIPE, text=True) for name in "ab"]
    assert [(process.communicate(timeout=120), process.returncode)[1] for process in both] == [0, 0]
    digests = [run_cli("ckpt", "digest", name, cwd=tiny).stdout for name in "ab"]
    assert digests[0] == digests[1]
    assert np.char.count(digests[0], "\n") > 5
