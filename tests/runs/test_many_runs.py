"""Many runs: the table, the comparison, what can be removed, and a copy."""

import dataclasses
import json
import shutil
import time

import pytest
from conftest import assert_same_bits, replace, run_cli, run_here

from jaxnets.cli.completion import candidates
from jaxnets.cli.tidy import _chosen, superfluous
from jaxnets.core.errors import UsageError
from jaxnets.optim import AdamW
from jaxnets.runs import catalog, lock
from jaxnets.runs.open import open_run
from jaxnets.runs.train import train


@pytest.fixture(scope="module")
def folder(experiment, blobs, tmp_path_factory):
    """Two complete runs, one that stopped, and one whose log is damaged."""
    root = tmp_path_factory.mktemp("many")
    base = replace(experiment, steps=12, eval_every=6, save_every=4, log_every=3)
    train(base, dataset=blobs, run_dir=root / "fast", progress="none")
    slow = replace(base, optimizer=AdamW(learning_rate=1e-5))
    train(slow, dataset=blobs, run_dir=root / "sweep" / "slow", progress="none")
    train(replace(base, seed=5), dataset=blobs, run_dir=root / "stopped", stop_at=8, progress="none")
    (root / "broken").mkdir()
    (root / "broken" / "config.json").write_text("{")
    return root


def rows(done):
    """The first three cells of each row of a printed table."""
    return {line.split()[0]: line.split() for line in done.stdout.splitlines() if len(line.split()) > 2}


def test_the_table_of_runs(folder):
    done = run_here("runs", ".", cwd=folder)
    assert done.returncode == 0, done.stderr
    table = rows(done)
    assert table["fast"][1:3] == ["complete", "12"]
    assert table["sweep/slow"][1] == "complete"
    assert table["stopped"][1:5] == ["stopped", "8", "of", "12"]
    assert table["broken"][1] == "damaged"
    assert "broken: config.json" in done.stdout


def test_it_needs_no_jax(folder, tmp_path):
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text("raise SystemExit('jax was imported')")
    (folder / "of_text").mkdir(exist_ok=True)
    written = {"task": {"type": "NextToken", "model": {"type": "LanguageModel"}}}
    (folder / "of_text" / "config.json").write_text(json.dumps(written))
    words = ("completion", "words")
    for arguments in (
        *(
            ("ckpt", "ls", "fast"),
            ("runs", "."),
            ("compare", "fast", "stopped"),
            ("clean", "fast"),
            ("completion", "bash"),
        ),
        *((*words, "finetune", "gpt2", "chats.jsonl", "--"), (*words, "generate", "of_text", "--")),
    ):
        done = run_cli(*arguments, cwd=folder, env={"PYTHONPATH": str(tmp_path)})
        assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(folder / "of_text")
    assert done.stdout.split() == [
        *("--prompt", "--tokens", "--samples", "--temperature", "--top-k", "--top-p", "--seed", "--help")
    ]


def test_sorted_and_filtered_by_any_field(folder):
    done = run_here("runs", ".", "--sort", "accuracy", "--reverse", "--where", "state=complete", cwd=folder)
    names = [line.split()[0] for line in done.stdout.splitlines() if "complete" in line]
    assert names == ["fast", "sweep/slow"]
    done = run_here(
        "runs",
        ".",
        "--where",
        "optimizer.learning_rate<1e-3",
        "--columns",
        "seed",
        "optimizer.learning_rate",
        cwd=folder,
    )
    assert "sweep/slow" in rows(done)
    assert "fast" not in rows(done)
    wrong = run_here("runs", ".", "--where", "acuracy>0.5", cwd=folder)
    assert wrong.returncode == 2
    assert "accuracy" in wrong.stderr
    assert "is not a condition" in run_here("runs", ".", "--where", "accuracy", cwd=folder).stderr


def test_conditions_compare_numbers_as_numbers(folder):
    found = catalog.find(folder)

    def names(*where):
        return {entry.name for entry in catalog.matching(found, where)}

    assert names("step>=12") == {"fast", "sweep/slow"}
    assert names("step<12", "state!=damaged") == {"stopped"}
    assert names("task.model=mlp", "seed!=0") == {"stopped"}
    with pytest.raises(UsageError, match="no run has the field"):
        catalog.matching(found, ["nothing=1"])


def test_a_comparison_lists_the_differences(folder):
    done = run_here("compare", "fast", "sweep/slow", "--output", "curves.png", cwd=folder)
    assert done.returncode == 0, done.stderr
    table = rows(done)
    assert table["optimizer.learning_rate"][1:] == ["0.01", "1e-05"]
    assert "seed" not in table
    assert "steps" not in table
    assert table["accuracy"][1] == f"{catalog.existing(folder / 'fast').scores['accuracy']:.4g}"
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"
    refused = run_here("compare", "fast", cwd=folder)
    assert refused.returncode == 2


def test_a_locked_run_is_shown_as_training_and_not_changed(folder, blobs):
    with lock.hold(folder / "stopped"):
        assert catalog.existing(folder / "stopped").state == "training"
        done = run_here("clean", ".", "--yes", cwd=folder / "stopped")
        assert "in use" in done.stdout
    assert catalog.existing(folder / "stopped").state == "stopped"


@pytest.mark.slow
def test_clean_shows_first_and_leaves_the_newest_and_the_best(experiment, blobs, tmp_path):
    from jaxnets.checkpoints.retention import Keep

    kept = replace(experiment, steps=20, eval_every=4, save_every=4, keep=Keep(last=9, every=8, best="loss"))
    run = train(kept, dataset=blobs, run_dir=tmp_path / "run", progress="none")
    (tmp_path / "run" / ".metrics.jsonl.1-a.partial").write_text("x")

    def steps():
        return sorted(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir())

    before = steps()
    # The best step may be one that stays for another reason. So the rule is also tried with step 4 as the chosen one.
    gone = {choice: {p.name for p, _ in superfluous(tmp_path / "run", 1, choice)} for choice in ((), (4,))}
    assert gone[()] - gone[4,] == {"4"}
    entry = catalog.existing(tmp_path / "run")
    assert _chosen(entry) == {run.best.step}
    untested = dataclasses.replace(entry, records=tuple(r for r in entry.records if r["split"] != "test"))
    assert _chosen(untested) >= {4, 8, 12, 16, 20}  # any of them may be the best
    shown = run_here("clean", "run", cwd=tmp_path)
    assert "would be removed" in shown.stdout
    assert steps() == before
    assert run_here("clean", "run", "--yes", cwd=tmp_path).returncode == 0
    assert steps() == sorted({8, 16, 20, run.best.step})
    assert not list((tmp_path / "run").glob(".*.partial"))
    opened = open_run(tmp_path / "run", dataset=blobs)
    assert opened.best.step == run.best.step
    assert_same_bits(opened.best.variables, run.best.variables)


def test_a_copy_equals_the_run_and_its_configuration_is_written_last(folder, blobs, monkeypatch):
    done = run_here("copy", "fast", "there/copied", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert_same_bits(
        open_run(folder / "there" / "copied", dataset=blobs).state, open_run(folder / "fast", dataset=blobs).state
    )
    assert "is there already" in run_here("copy", "fast", "there/copied", cwd=folder).stderr
    import shutil

    copied = []
    real = shutil.copy2
    monkeypatch.setattr(shutil, "copy2", lambda a, b: (copied.append(b.name), real(a, b)))
    assert run_here("copy", "fast", "second", cwd=folder).returncode == 0
    assert copied[-1] == "config.json"
    first_manifest = copied.index("manifest.json")
    assert set(copied[first_manifest:-1]) == {"manifest.json"}
    assert "is inside the run itself" in run_here("copy", "fast", "fast/inside", cwd=folder).stderr


def test_a_run_with_a_stale_heartbeat_is_not_shown_as_training(folder):
    path = folder / "stopped" / lock.NAME
    path.write_text(json.dumps({"host": "a", "pid": 1, "token": "t", "beat": time.time() - 1000}))
    assert catalog.existing(folder / "stopped").state == "stopped"
    path.unlink()


def test_completion_offers_commands_configurations_runs_and_flags(folder, monkeypatch):
    (folder / "runs").mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    assert candidates(["tra"]) == ["train"]
    assert "digits_cnn" in candidates(["train", "digits_"])
    (folder / "runs" / "mine").mkdir(exist_ok=True)
    (folder / "runs" / "mine" / "config.json").write_text("{}")
    assert candidates(["evaluate", "runs/m"]) == ["runs/mine"]
    assert candidates(["train", "digits_cnn", "--optimizer.learn"]) == ["--optimizer.learning-rate"]
    assert candidates(["predict", "runs/mine", "x.npy", "--top"]) == ["--top-k"]
    assert candidates(["clean", "runs/mine", "--"]) == ["--yes", "--keep", "--help"]
    assert candidates(["copy", "runs/mine", "--"]) == ["--help"]
    assert candidates(["ui", "--no"]) == ["--no-browser"]
    assert candidates(["export", "runs/mine", "out", "--"])[:2] == ["--format", "--platforms"]
    assert candidates(["finetune", "gpt2", "chats.jsonl", "--lora"]) == ["--lora", "--lora-at"]
    assert "--data.template" in candidates(["finetune", "gpt2", "chats.jsonl", "--data."])
    assert candidates(["ckpt", "ver"]) == ["verify"]
    assert candidates(["ckpt", "diff", "runs/mine", ""]) == ["runs/mine"]
    made = {"NextToken": "--prompt", "Adversarial": "--guidance", "NextFrame": "--frames", "Classification": "--help"}
    for task, flag in made.items():
        written = {"task": {"type": task, "model": {"type": "MLP"}}}
        (folder / "runs" / "mine" / "config.json").write_text(json.dumps(written))
        assert flag in candidates(["generate", "runs/mine", "--"])
    for shell in ("bash", "zsh", "fish"):
        assert "completion words" in run_here("completion", shell, cwd=folder).stdout


def test_clean_keeps_permanent_checkpoints_and_all_if_none_is_undamaged(tmp_path):
    for step in (10, 20, 30):
        folder = tmp_path / "checkpoints" / str(step)
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")  # which verifies nowhere
    assert list(superfluous(tmp_path, 1, ())) == []


def test_a_link_to_a_run_is_copied_as_the_run(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder / "fast")
    done = run_here("copy", "link", "copied", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert catalog.existing(tmp_path / "copied").step == 12


def test_a_run_is_read_again_only_when_its_files_changed(folder):
    first = catalog.read(folder / "fast", "fast")
    assert catalog.read(folder / "fast", "fast") is first
    log = folder / "fast" / "metrics.jsonl"
    log.write_text(log.read_text() + '{"step": 12, "split": "hook", "x": 1.0}\n')
    assert catalog.read(folder / "fast", "fast").records[-1]["x"] == 1.0
