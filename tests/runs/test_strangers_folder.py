"""Working in a folder that somebody else filled: nothing in it runs unless it is named."""

import shutil
import subprocess

import pytest
from conftest import run_cli

from jaxnets import config
from jaxnets.core.errors import RunDirectoryError, UsageError
from jaxnets.report.log import read_records
from jaxnets.runs import environment
from jaxnets.runs.train import train

PLANTED = "from pathlib import Path\nPath('ran').write_text('')\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with two configurations that leave a trace when they run; one has the name of a shipped one."""
    (tmp_path / "configs").mkdir()
    for name in ("digits_cnn", "planted"):
        (tmp_path / "configs" / f"{name}.py").write_text(PLANTED)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_listing_names_the_files_of_a_folder_and_runs_none(folder):
    done = run_cli("list", cwd=folder)
    assert done.returncode == 0
    assert "in ./configs, not read: digits_cnn, planted" in done.stdout
    assert not (folder / "ran").exists()


def test_a_shipped_name_never_loads_a_file_of_the_working_directory(folder):
    done = run_cli("train", "digits_cnn", "--help", cwd=folder)
    assert done.returncode == 2
    assert "give that file by its path" in done.stderr
    assert not (folder / "ran").exists()
    with pytest.raises(UsageError, match="has no function config"):
        config.load("planted")  # by its name it runs: that is what the user wants
    assert (folder / "ran").exists()


@pytest.mark.parametrize("setting", ["core.fsmonitor", "filter.x.clean"])
def test_reading_the_commit_runs_no_program_of_the_repository(tmp_path, monkeypatch, setting):
    def git(*arguments):
        identity = ("-c", "user.name=n", "-c", "user.email=e@example.com")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.chdir(tmp_path)
    git("init")
    (tmp_path / "a.txt").write_text("1")
    git("add", "-A")
    git("commit", "-m", "first")
    clean = environment._git()
    assert len(clean) == 12
    (tmp_path / "a.txt").write_text("2")
    assert environment._git() == f"{clean}+"
    (tmp_path / ".gitattributes").write_text("* filter=x")
    git("config", setting, f"touch {tmp_path / 'ran'};")
    assert environment._git() == f"{clean}?"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("link", ["checkpoints", "plots", "plots/curves.png", "metrics.jsonl", ".lock"])
def test_a_run_does_not_write_through_links_in_its_directory(tmp_path, experiment, blobs, one_device, link):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep.txt").write_text("mine")
    run = tmp_path / "run"
    train(experiment, dataset=blobs, mesh=one_device, run_dir=run, stop_at=10, progress="none")
    (run / "plots").mkdir(exist_ok=True)
    target = outside / "keep.txt" if "." in link else outside
    place = run / link
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    place.symlink_to(target)
    for overwrite in (False, True):
        with pytest.raises(RunDirectoryError, match="is a symbolic link"):
            train(experiment, dataset=blobs, mesh=one_device, run_dir=run, overwrite=overwrite, progress="none")
    assert (outside / "keep.txt").read_text() == "mine"
    assert [path.name for path in outside.iterdir()] == ["keep.txt"]


def test_the_run_directory_itself_may_be_a_link(tmp_path, experiment, blobs, one_device):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    train(experiment, dataset=blobs, mesh=one_device, run_dir=tmp_path / "run", stop_at=10, progress="none")
    assert (tmp_path / "disk" / "config.json").exists()


@pytest.mark.parametrize(
    "record",
    [
        '{"step": 1, "split": ["test"], "loss": 1.0}',
        '{"step": true, "split": "test", "loss": 1.0}',
        '{"step": -1, "split": "test", "loss": 1.0}',
        '{"step": 1, "split": "test", "loss": {"a": 1}}',
        '{"step": 1, "split": "test", "loss": "low"}',
        '{"step": 1, "split": "event", "what": 3}',
        "[1, 2]",
    ],
)
def test_a_log_of_other_types_is_one_message(tmp_path, record):
    (tmp_path / "metrics.jsonl").write_text(record + '\n{"step": 2, "split": "test", "loss": 1.0}\n')
    with pytest.raises(RunDirectoryError, match="line 1 is not a record"):
        read_records(tmp_path / "metrics.jsonl")
