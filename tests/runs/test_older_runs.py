"""Runs that were written before a change of names and rooms: they open, score what they scored, and go on.

The two in `fixtures/before_rooms` were trained by the version before every file moved into a room.
"""

import json
import shutil

import pytest
from conftest import ROOT, replace

from jaxnets.checkpoints import manifest as manifests
from jaxnets.config import Experiment, from_data, to_data
from jaxnets.core import renames
from jaxnets.data import Text
from jaxnets.models import LanguageModel
from jaxnets.optim import AdamW
from jaxnets.runs.open import open_run
from jaxnets.runs.train import train
from jaxnets.tasks import NextToken

OLD = ROOT / "tests" / "fixtures" / "before_rooms"


def last(run_dir, split):
    """The last record of a split in the log, without the numbers that say how fast it was."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    record = [record for record in records if record["split"] == split][-1]
    return {name: value for name, value in record.items() if name not in ("split", "step", "examples_per_second")}


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A copy of the old runs, which is also the working directory."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.smoke
@pytest.mark.parametrize("name", ["images", "text"])
def test_an_older_run_opens_and_has_its_recorded_score(old, name):
    found = open_run(old / name).evaluate()
    # Another processor may add in another order: the last digits of float32 sums over some hundred examples.
    assert found == pytest.approx(last(old / name, "test"), rel=1e-4)


def experiment():
    """What `text` was trained by, in today's names."""
    model = LanguageModel(
        layers=1,
        width=16,
        heads=2,
        kv_heads=1,
        head_dim=8,
        positions="rotary",
        rope_theta=5000.0,
        rope_scaling=(8.0, 1.0, 4.0, 8192.0),
        qk_norm="rms",
        length=16,
    )
    data = Text(path="words.txt", length=16)
    return Experiment(
        task=NextToken(model=model),
        data=data,
        optimizer=AdamW(),
        steps=6,
        batch_size=8,
        log_every=2,
        eval_every=3,
        save_every=3,
    )


@pytest.mark.slow
def test_an_older_run_resumes_from_its_checkpoint(old, capsys):
    before = last(old / "text", "test"), last(old / "text", "train")
    shutil.rmtree(old / "text" / "checkpoints" / "6")
    run = train(experiment(), run_dir=old / "text", progress="lines")
    assert "resuming text at step 3 of 6" in capsys.readouterr().err
    assert int(run.state.step) == 6
    after = last(old / "text", "test"), last(old / "text", "train")
    for old_record, new_record in zip(before, after, strict=True):
        assert new_record == pytest.approx(old_record, rel=1e-4)


def test_a_pending_hook_of_an_older_run_is_run(old):
    directory = old / "text" / "checkpoints" / "6"
    data = json.loads((directory / "manifest.json").read_text())
    # As it was written when a signal came during the evaluation: the record is not there, and the manifest says so.
    data["host"] = {
        **{key: value for key, value in data["host"].items() if key not in ("owed", "pending")},
        "owed": ["evaluate"],
    }
    data.pop("self")
    data["self"] = manifests._own_digest(data)
    (directory / "manifest.json").write_text(json.dumps(data))
    assert manifests.read(directory).host["pending"] == ["evaluate"]
    wanted = last(old / "text", "test")
    lines = [line for line in (old / "text" / "metrics.jsonl").read_text().splitlines()]
    (old / "text" / "metrics.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    assert '"test"' in lines[-1]
    train(experiment(), run_dir=old / "text", progress="none")
    assert last(old / "text", "test") == pytest.approx(wanted, rel=1e-4)


def test_every_old_name_of_a_field_is_read_as_the_new_one(monkeypatch):
    data = to_data(replace(experiment(), steps=7))
    monkeypatch.setitem(renames.FIELDS, "Experiment", {"updates": "steps"})
    data["updates"] = data.pop("steps")
    assert from_data(data) == replace(experiment(), steps=7)
    assert renames.with_new_fields(data)["steps"] == 7
