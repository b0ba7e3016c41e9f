"""Working in a folder that somebody else filled: nothing in it runs unless it is named."""

import subprocess

import pytest
from conftest import run_cli

from jaxnets import config
from jaxnets.core.errors import UsageError
from jaxnets.runs import environment

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


def test_a_shipped_name_is_never_a_strangers_file(folder):
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
