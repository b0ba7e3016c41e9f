"""Saves, evaluations and resuming on eight devices, for every kind of state.

On a CPU that acts as eight devices, programs that run at the same time can exchange their collectives in different orders, which
hangs or aborts the process. It shows most often on one core, so the processes here run on one.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

IMPORTS = """from jaxnets.config import Experiment
from jaxnets.data import Digits, Ring, Text
from jaxnets.models import CNN, CifarResNet, LanguageModel, MLP
from jaxnets.optim import EMA, AdamW
from jaxnets.parallel import MeshShape
from jaxnets.tasks import Adversarial, Classification, NextToken

def config():
    return Experiment(steps=6, save_every=2, eval_every=2, log_every=2, batch_size=16, mesh=MeshShape(fsdp=8), """
KINDS = {
    "language": "task=NextToken(model=LanguageModel(layers=2, width=32, heads=2, length=16)), "
    "data=Text(path='words.txt', length=16))",
    "gan": "task=Adversarial(model=MLP(widths=(16,)), critic=MLP(widths=(16,)), latent=4, critic_steps=2), data=Ring())",
    "batch_statistics": "task=Classification(model=CifarResNet(depth=8, width=8)), data=Digits())",
    "average": "task=Classification(model=CNN(features=(8,), dense=(16,))), data=Digits(), average=EMA(0.9))",
}


def on_one_core(*arguments, cwd):
    """The command line with eight devices on one core."""
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": str(ROOT)}
    pin = (
        (lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})) if hasattr(os, "sched_setaffinity") else None
    )
    command = [sys.executable, "-m", "jaxnets", *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=200, preexec_fn=pin)


def records(run):
    """The test records of a run's log."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record for record in lines if record["split"] == "test"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_with_saves_and_evaluations_ends_and_resumes(kind, tmp_path):
    shutil.copy(ROOT / "tests" / "fixtures" / "before_rooms" / "words.txt", tmp_path)
    (tmp_path / "here.py").write_text(IMPORTS + KINDS[kind] + "\n")
    whole = on_one_core("train", "here.py", "--run-dir", "whole", "--progress", "none", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr[-2000:]
    cut = on_one_core("train", "here.py", "--run-dir", "cut", "--progress", "none", "--stop-at", "3", cwd=tmp_path)
    assert cut.returncode == 0, cut.stderr[-2000:]
    on = on_one_core("train", "here.py", "--run-dir", "cut", "--progress", "none", cwd=tmp_path)
    assert on.returncode == 0, on.stderr[-2000:]
    assert records(tmp_path / "cut") == records(tmp_path / "whole")
    assert len(records(tmp_path / "whole")) == 3
