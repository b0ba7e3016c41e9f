"""The command line, as a user runs it: in a process of its own."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, run_cli, run_here

FAST = ("--steps", 30, "--eval-every", 15, "--save-every", 10, "--task.model.features", 8, 8, "--task.model.dense", 16)


@pytest.mark.smoke
def test_train_stop_resume_evaluate(tmp_path):
    whole = run_cli("train", "digits_cnn", *FAST, "--run-dir", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    assert re.search(r"test accuracy +0\.\d+", whole.stdout)
    assert re.search(r"step 30/30 .* examples/s", whole.stderr)
    cut = run_cli("train", "digits_cnn", *FAST, "--run-dir", "cut", "--stop-at", 13, cwd=tmp_path)
    assert "stopped at step 13 of 30" in cut.stderr
    resumed = run_cli("train", "digits_cnn", *FAST, "--run-dir", "cut", cwd=tmp_path)
    assert "resuming cut at step 13 of 30" in resumed.stderr
    lines = [
        [
            {k: v for k, v in json.loads(line).items() if k != "examples_per_second"}
            for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()
        ]
        for run in ("whole", "cut")
    ]
    assert lines[0] == lines[1]
    evaluated = run_here("evaluate", "cut", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    shown = dict(line.split() for line in evaluated.stdout.splitlines())
    assert shown["examples"] == "359"
    assert float(shown["accuracy"]) == pytest.approx(lines[0][-1]["accuracy"], abs=1e-6)
    assert (tmp_path / "cut" / "report.html").stat().st_size > 50_000


@pytest.mark.slow
def test_overrides_get_their_own_directory(tmp_path):
    done = run_cli("train", "tabular", "--steps", 5, "--data.path", "iris", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (directory,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"tabular-[0-9a-f]{8}", directory.name)


@pytest.mark.slow
def test_a_custom_table(tmp_path):
    rng = np.random.default_rng(0)
    rows = "".join(f"{a:.3f},{b:.3f},{3 * a - b:.3f}\n" for a, b in rng.normal(size=(400, 2)))
    (tmp_path / "my.csv").write_text("a,b,price\n" + rows)
    options = ("--data.path", "my.csv", "--data.target", "price", "--steps", 300)
    done = run_cli("train", "tabular", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(re.search(r"test r2 +(\S+)", done.stdout)[1]) > 0.9


MISTAKES = {
    "verb": (("trian", "digits_cnn"), 2, "Did you mean 'train'"),
    "nothing": (("train",), 2, "needs the name of a configuration"),
    "config": (("train", "digit_cnn"), 2, "Did you mean 'digits_cnn'"),
    "field": (("train", "digits_cnn", "--stepz", "3"), 2, "--steps INT"),
    "nested field": (("train", "digits_cnn", "--task.model.featuers", "3"), 2, "--task.model.features"),
    "type": (("train", "digits_cnn", "--steps", "many"), 2, "tokens '2M tok'; got 'many'"),
    "zero": (("train", "digits_cnn", "--steps", "0"), 2, "steps is at least 1, got 0"),
    "rate": (("train", "digits_cnn", "--optimizer.learning-rate", "-1"), 2, "learning_rate is positive, got -1"),
    "flag first": (("train", "--steps", "3"), 2, "takes the configuration first"),
    "list": (("list", "all"), 2, "takes no arguments"),
    "run": (("evaluate", "nowhere"), 1, "holds no run"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_message_and_a_code_without_importing_jax(tmp_path, name):
    arguments, code, message = MISTAKES[name]
    # A jax that cannot be imported: whatever is answered is answered without it.
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text("raise SystemExit('jax was imported')")
    done = run_cli(*arguments, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert message in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "arguments", [("--help",), ("train", "--help"), ("train", "mnist_mlp", "--help"), ("list",), ("--version",)]
)
def test_help_and_lists_do_not_import_jax(tmp_path, arguments):
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text("raise SystemExit('jax was imported')")
    done = run_cli(*arguments, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    if arguments[-1] == "--help" and len(arguments) == 3:
        for part in (
            "--task.model.widths [INT",
            "Units of each hidden layer",
            "{none,layer,batch}",
            "--run-dir",
            "default: 128",
        ):
            assert part in done.stdout
    if arguments == ("list",):
        for path in (ROOT / "configs").glob("*.py"):
            assert path.stem in done.stdout


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("evaluate", "--help"), "It has no flags."),
        (("evaluate", "RUN", "--help"), "jaxnets evaluate RUN_DIRECTORY"),
        (("predict", "--help"), ".csv   rows of a table"),
        (("predict", "RUN", "--help"), "--raw the model's own outputs"),
        (("generate", "-h"), "--prompt --beam"),
        (("export", "RUN", "--help"), "leaves a trained language model"),
    ],
)
def test_each_command_explains_itself(arguments, part, tmp_path):
    said = run_here(*arguments, cwd=tmp_path)
    assert said.returncode == 0
    assert part in said.stdout


def test_an_invalid_platform_gives_one_message(tmp_path):
    done = run_cli("train", "digits_softmax", "--steps", 1, cwd=tmp_path, env={"JAX_PLATFORMS": "abacus"})
    assert done.returncode == 1
    assert "abacus" in done.stderr
    assert "check JAX_PLATFORMS" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_configuration_may_compute_and_import(tmp_path):
    (tmp_path / "neighbour.py").write_text(
        "import flax.linen as nn\nclass Net(nn.Module):\n  @nn.compact\n  def __call__(self, x, *, train=False):\n"
        "    return nn.Dense(10)(x.reshape(x.shape[0], -1))\n"
    )
    (tmp_path / "mine.py").write_text(
        "import sys; sys.path.insert(0, '.')\nimport numpy as np\nfrom neighbour import Net\n"
        "from jaxnets.config import Experiment\nfrom jaxnets.data import Digits\nfrom jaxnets.tasks import Classification\n"
        "def config():\n"
        "  return Experiment(task=Classification(model=Net()), data=Digits(), steps=int(np.ceil(2.5)), batch_size=32)\n"
    )
    done = run_cli("train", "mine.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "broken.py").write_text("from jaxnets.optim import Adamw\n")
    listed = run_cli("list", cwd=tmp_path)
    assert "not read: broken" in listed.stdout
    broken = run_cli("train", "broken", cwd=tmp_path)
    assert broken.returncode == 2
    assert "line 1: ImportError: cannot import name 'Adamw'" in broken.stderr
    assert "Traceback" not in broken.stderr


@pytest.mark.slow
def test_errors_that_need_the_data_exit_1_without_a_traceback(tmp_path):
    for flags, message in (
        (("--batch-size", 5000), "larger than the training set (1438 examples)"),
        (("--mesh.data", 3), "needs 3 devices, but there are 1"),
        (("--task.model.features", 4, 4, 4, 4), "at least 16x16"),
        (("--data.holdout", 0), "empty split"),
    ):
        done = run_cli("train", "digits_cnn", *flags, cwd=tmp_path)
        assert done.returncode in (1, 2)
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_an_error_about_missing_data_names_the_searched_folders(tmp_path):
    env = {"JAXNETS_DATA": str(tmp_path), "JAXNETS_CACHE": str(tmp_path / "cache"), "https_proxy": "http://127.0.0.1:9"}
    done = run_cli("train", "mnist_mlp", cwd=tmp_path, env=env)
    assert done.returncode == 1
    assert f"JAXNETS_DATA={tmp_path}" in done.stderr
    assert "mnist.npz" in done.stderr


def test_summary_shows_layers(tmp_path):
    done = run_cli("summary", "digits_cnn", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "conv_0_0" in done.stdout
    assert re.search(r"digits_cnn: [\d,]+ parameters", done.stdout)


def test_the_stand_ins_are_removed_afterwards():
    code = """
import sys
from jaxnets.cli import fast_parse as declare
import tyro
before = set(sys.modules)
with declare.stand_ins():
    import jax
    assert isinstance(jax.numpy.zeros(3), declare.Inert)
    from jaxnets import config
    assert config.load("mnist_mlp").experiment.task.model.widths == (512, 512)
left = {name for name in set(sys.modules) - before if name.split(".")[0] in (*declare.HEAVY, "jaxnets")}
assert not left, left
assert not any(type(finder).__name__ == "_Finder" for finder in sys.meta_path)
from jaxnets import config
import flax.linen
assert isinstance(config.load("mnist_mlp").experiment.task.model, flax.linen.Module)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
