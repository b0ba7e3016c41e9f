"""Exported programs run in a process without jaxnets: the predictor gives the same outputs, the step the same training."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import run_here

import jaxnets
from jaxnets import models, tasks
from jaxnets.checkpoints.digest import leaf_paths
from jaxnets.core.errors import DataError, UsageError
from jaxnets.data import Augment, from_graphs
from jaxnets.data.feed import Transform
from jaxnets.data.sources.ring import Ring
from jaxnets.interop import read_safetensors
from jaxnets.interop.stablehlo import write_program
from jaxnets.optim import SGD, AdamW, Constant
from jaxnets.runs.export import export_arrays, export_programs

# What a program without jaxnets does with the files: it has JAX and NumPy.
STRANGER = """
import json, sys
sys.modules["jaxnets"] = None
sys.modules["flax"] = None
import jax, numpy as np
from jax import export
for folder in sys.argv[1:]:
    load = lambda name: dict(np.load(f"{folder}/{name}.npz"))
    read = lambda name: export.deserialize(bytearray(open(f"{folder}/{name}.stablehlo", "rb").read()))
    np.savez(f"{folder}/outputs.npz", outputs=np.asarray(read("predictor").call(load("weights"), load("asked"))))
    step, state = read("train_step"), load("state")
    for number in range(10):
        batch = {k.split(":")[1]: v for k, v in load("batches").items() if k.startswith(f"{number}:")}
        state, metrics = step.call(state, batch)
    np.savez(f"{folder}/trained.npz", **jax.device_get(state))
    assert all(len(pair) == 2 for pair in metrics.values())
"""
OPTIONS = {"steps": 4, "batch_size": 16, "seed": 2, "progress": "none", "optimizer": SGD(1e-2, schedule=Constant())}


def images():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 96)
    x = (rng.integers(0, 200, (96, 8, 8, 1)) + 20 * y[:, None, None, None]).astype(np.uint8)
    return jaxnets.from_arrays(x, y, name="images")


def dense():
    rng = np.random.default_rng(0)
    x = rng.normal(1e6, 3.0, (96, 4))  # float64, far from zero
    adam = OPTIONS | {"optimizer": AdamW(1e-3, schedule=Constant())}
    return jaxnets.fit(models.MLP(widths=(8,), dropout=0.1), (x, (x[:, 0] > 1e6).astype(int)), **adam)


def regression():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(96, 4)).astype(np.float32)
    return jaxnets.fit(models.MLP(widths=(8,)), (x, x.sum(1) * 100 + 7), average=jaxnets.optim.EMA(0.9), **OPTIONS)


def convolutional():
    import dataclasses

    data = dataclasses.replace(images(), augment=Augment(shift=1, flip=True))
    return jaxnets.fit(models.CNN(features=(4,), dense=(8,)), data, **OPTIONS)


def residual():
    return jaxnets.fit(models.CifarResNet(depth=8, width=4), images(), **OPTIONS)


def attention():
    return jaxnets.fit(models.ViT(patch=4, layers=1, heads=2, width=8), images(), **OPTIONS)


def recurrent():
    rng = np.random.default_rng(0)
    return jaxnets.fit(
        models.RNN(widths=(8,), cell="lstm"), (rng.normal(size=(64, 6, 2)), rng.integers(0, 2, 64)), **OPTIONS
    )


def language():
    from jaxnets.data.sources.text import from_tokens
    from jaxnets.data.text.tokenizers import Characters

    rng = np.random.default_rng(0)
    ids = rng.integers(0, 9, 600)
    data = from_tokens(ids[:500], ids[500:], Characters(tuple("abcdefghi")), name="t", source="s", length=16)
    model = models.LanguageModel(layers=2, heads=2, width=16, length=32, positions="rotary")
    return jaxnets.fit(tasks.NextToken(model=model), data, **OPTIONS)


def variational():
    return jaxnets.fit(
        tasks.Variational(model=models.VAE(latent=2, widths=(8,)), likelihood="gaussian"), images(), **OPTIONS
    )


def adversarial():
    return jaxnets.fit(
        tasks.Adversarial(model=models.MLP(widths=(8,)), critic=models.MLP(widths=(8,)), latent=4),
        Ring().open(),
        **OPTIONS,
    )


def graphs():
    rng = np.random.default_rng(0)
    made = [(rng.normal(size=(n, 3)), np.array([[i, (i + 1) % n] for i in range(n)])) for n in rng.integers(3, 6, 48)]
    data = from_graphs(made, rng.integers(0, 2, 48))
    return jaxnets.fit(tasks.GraphClassification(model=models.GIN(widths=(8,))), data, **OPTIONS)


FAMILIES = {
    f.__name__: f
    for f in (
        dense, regression, convolutional, residual, attention, recurrent, language, variational, adversarial, graphs,
    )
}  # fmt: skip
DEFAULT = ("dense", "convolutional")


def batches(run, start, count):
    """Batches as the host sends them, for steps from `start`."""
    parts = run.parts
    transform = Transform(parts.dataset.preparation, parts.task.encode_targets)
    sent = {}
    for number in range(count):
        payload = parts.feed.load(start + number, 1, 1)
        rows, mask = (np.asarray(part)[0] for part in payload[1:])
        batch = transform.on_host({name: array[rows] for name, array in parts.dataset.train.items()})
        batch |= {"mask": mask.astype(np.float32), "index": rows.astype(np.int32)}
        sent |= {f"{number}:{name}": array for name, array in batch.items()}
    return sent


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Makes and exports some families, and lets one stranger use them all."""

    def make(names):
        root = tmp_path_factory.mktemp("exported")
        runs = {}
        for name in names:
            run, folder = FAMILIES[name](), root / name
            files = export_programs(
                run, folder, platforms=("cpu", "cuda", "tpu") if name == "convolutional" else ("cpu",)
            )
            assert {"predictor.stablehlo", "train_step.stablehlo", "weights.safetensors", "about.json"} <= {*files}
            for file in ("weights", "state"):
                np.savez(folder / f"{file}.npz", **read_safetensors(folder / f"{file}.safetensors"))
            about = json.loads((folder / "about.json").read_text())
            test = run.parts.dataset.test
            asked = {n: test[n][:5] for n in about["inputs"]}
            for n, scale in about["scale_first"].items():
                asked[n] = (asked[n] - scale["subtract"]) / scale["divide"]
            asked = {n: asked[n].astype(form["dtype"]) for n, form in about["inputs"].items()}
            np.savez(folder / "asked.npz", **asked)
            np.savez(folder / "batches.npz", **batches(run, 4, 10))
            runs[name] = run
        env = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
        done = subprocess.run(
            [sys.executable, "-c", STRANGER, *(str(root / name) for name in names)],
            capture_output=True, text=True, env=env, timeout=400, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return root, runs

    return make


def check(root, name, run):
    test = run.parts.dataset.test
    asked = {n: test[n][:5] for n in run.parts.dataset.preparation.names}
    outputs = np.load(root / name / "outputs.npz")["outputs"]
    np.testing.assert_allclose(outputs, run.outputs(asked), rtol=1e-6, atol=1e-6, err_msg=name)
    further = leaf_paths(run.fit(steps=10, progress="none").state)
    trained = dict(np.load(root / name / "trained.npz"))
    assert trained.keys() == further.keys()
    for path, leaf in further.items():
        # Two compilations round differently; Adam (in `dense`) magnifies the last bit of small gradients.
        np.testing.assert_allclose(trained[path], np.asarray(leaf), rtol=2e-5, atol=2e-6, err_msg=f"{name}: {path}")


@pytest.mark.slow
def test_exported_programs_predict_and_train_without_jaxnets(exported):
    root, runs = exported(DEFAULT)
    for name, run in runs.items():
        check(root, name, run)


@pytest.mark.slow
def test_exported_programs_of_every_family_predict_and_train(exported):
    root, runs = exported([name for name in FAMILIES if name not in DEFAULT])
    for name, run in runs.items():
        check(root, name, run)


@pytest.mark.slow
def test_the_example_in_the_folder_runs_and_the_command_writes_it(tmp_path):
    pytest.importorskip("safetensors")
    run = jaxnets.fit(models.MLP(widths=(8,)), images(), run_dir=tmp_path / "run", **OPTIONS)
    done = run_here(
        "export", "run", "out", "--format", "stablehlo", "--platforms", "cpu", "--no-train-step", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "about.json", "example.py", "predictor.stablehlo", "weights.safetensors",
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": ""}
    ran = subprocess.run(
        [sys.executable, "out/example.py"], cwd=tmp_path, capture_output=True, text=True, env=env, check=False
    )
    assert ran.returncode == 0, ran.stderr
    again = run_here("export", "run", "out", "--format", "stablehlo", cwd=tmp_path)
    assert "holds files already" in again.stderr
    wrong = run_here("export", "run", "other", cwd=tmp_path)
    assert "--format stablehlo" in wrong.stderr
    assert run.class_names == tuple(json.loads((tmp_path / "out" / "about.json").read_text())["classes"])


def test_the_weights_are_exported_alone(tmp_path, monkeypatch):
    run = jaxnets.fit(models.MLP(widths=(8,)), images(), **OPTIONS)
    assert export_arrays(run, tmp_path / "arrays") == ["about.json", "weights.safetensors"]
    found = read_safetensors(tmp_path / "arrays" / "weights.safetensors")
    for path, leaf in leaf_paths(run.variables).items():
        np.testing.assert_array_equal(found[path], np.asarray(leaf))
    with pytest.raises(DataError, match="holds files already"):
        export_arrays(run, tmp_path / "arrays")
    # What cannot be exported leaves no folder.
    with pytest.raises(UsageError, match="cpu, cuda, tpu"):
        export_programs(run, tmp_path / "programs", platforms=("abacus",))
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(UsageError, match=r"pip install jaxnets\[export\]"):
        export_programs(run, tmp_path / "programs")
    assert not (tmp_path / "programs").exists()


def test_an_unknown_platform_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cpu, cuda, tpu"):
        write_program(tmp_path / "f", lambda x: x, (jax.ShapeDtypeStruct((2,), np.float32),), ("gpu",))
