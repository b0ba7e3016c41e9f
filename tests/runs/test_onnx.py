"""A run as an ONNX file: ONNX Runtime gives the outputs of the run, for any number of raw examples."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import run_here
from test_export import FAMILIES, OPTIONS, images

import jaxnets
from jaxnets import models
from jaxnets.core.errors import DataError, DataWarning, UsageError
from jaxnets.data import Tabular
from jaxnets.interop.onnx import run_onnx, to_onnx
from jaxnets.ops import dense
from jaxnets.ops.beyond_promise import compiled_for, compiling_for
from jaxnets.runs import export_onnx as exports
from jaxnets.runs.export_onnx import export_onnx

onnxruntime = pytest.importorskip("onnxruntime", reason='pip install "jaxnets[onnx]"')
pytest.importorskip("jax2onnx", reason='pip install "jaxnets[onnx]"')


def recurrent(cell, **options):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(64, 6, 2)), rng.integers(0, 2, 64)
    return jaxnets.fit(models.RNN(widths=(8,), cell=cell, **options), data, **OPTIONS)


def autoencoder():
    from jaxnets.tasks import Reconstruction

    return jaxnets.fit(Reconstruction(model=models.Autoencoder(widths=(8,))), images(), **OPTIONS)


def encoder():
    rng = np.random.default_rng(0)
    model = models.TransformerEncoder(vocab_size=9, layers=1, heads=2, width=8)
    data = jaxnets.from_arrays(rng.integers(1, 9, (64, 8)), rng.integers(0, 2, 64), input_kind="tokens")
    return jaxnets.fit(model, data, **OPTIONS)


def table(tmp_path):
    rng = np.random.default_rng(0)
    numbers, words, classes = rng.normal(5, 2, 64), rng.choice([*"xyz"], 64), rng.choice([*"no"], 64)
    rows = [f"{numbers[row]:.3f},{words[row]},{classes[row]}" for row in range(64)]
    (tmp_path / "table.csv").write_text("\n".join(["a,b,y", *rows]))
    return jaxnets.fit(models.MLP(widths=(8,)), Tabular(str(tmp_path / "table.csv"), target="y").open(), **OPTIONS)


def resnet():
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (32, 32, 32, 3)).astype(np.uint8), rng.integers(0, 2, 32)
    return jaxnets.fit(models.ResNet(depth=18, width=4), data, **OPTIONS)


WORK = {
    **{name: make for name, make in FAMILIES.items() if name != "graphs"},
    "autoencoder": autoencoder,
    "encoder": encoder,
    "gru": lambda: recurrent("gru"),
    "convnext": lambda: jaxnets.fit(models.ConvNeXt(depths=(1,), widths=(4,)), images(), **OPTIONS),
}
QUICK = ("convolutional",)


def check(run, folder):
    """Outputs of the file against those of the run, for two numbers of examples."""
    assert export_onnx(run, folder) == ["about.json", "predict.onnx"]
    about = json.loads((folder / "about.json").read_text())
    session = onnxruntime.InferenceSession(folder / "predict.onnx", providers=["CPUExecutionProvider"])
    for count in (2, 5):
        asked = {name: run.parts.dataset.test[name][:count] for name in about["inputs"]}
        given = dict(asked)
        for name, scale in about["scale_first"].items():
            given[name] = (given[name] - scale["subtract"]) / scale["divide"]
        given = {name: given[name].astype(form["dtype"]) for name, form in about["inputs"].items()}
        own = run.outputs(asked)
        (found,) = session.run(["outputs"], given)
        np.testing.assert_allclose(found, own, rtol=1e-4, atol=1e-4 * np.abs(own).max())


@pytest.mark.parametrize("name", QUICK)
def test_onnx_runtime_gives_the_outputs_of_the_run(name, tmp_path):
    check(WORK[name](), tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in WORK if name not in QUICK])
def test_onnx_runtime_gives_the_outputs_of_other_families(name, tmp_path):
    check(WORK[name](), tmp_path / "out")


def test_the_command_and_its_mistakes(tmp_path, monkeypatch):
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    run = jaxnets.fit(models.MLP(widths=(8,)), (x, x[:, 0] > 0), run_dir=tmp_path / "run", **OPTIONS)
    done = run_here("export", "run", "out", "--format", "onnx", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "out: about.json, predict.onnx\n"), done.stderr
    found = run_onnx((tmp_path / "out" / "predict.onnx").read_bytes(), {"inputs": x})
    np.testing.assert_allclose(found, run.outputs(x), rtol=1e-4, atol=1e-4)
    with pytest.raises(DataError, match="holds files already"):
        export_onnx(run, tmp_path / "out")
    # Another program than the run's is refused, and no folder is left.
    with monkeypatch.context() as patch:
        patch.setattr(exports, "run_onnx", lambda program, rows: run_onnx(program, rows) * 1.001)
        with pytest.raises(UsageError, match=r"MLP as ONNX differ .* by 0.001 of .* nothing was written"):
            export_onnx(run, tmp_path / "other")
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(UsageError, match=r'needs jax2onnx: pip install "jaxnets\[onnx\]"'):
        export_onnx(run, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_a_run_in_bfloat16_is_written_in_float32(tmp_path):
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    run = jaxnets.fit(models.MLP(widths=(8,)), (x, x[:, 0] > 0), precision="bfloat16", **OPTIONS)
    with pytest.warns(DataWarning, match=r"predict\.onnx computes in float32, the run in bfloat16"):
        export_onnx(run, tmp_path / "out")


def test_an_operation_that_has_no_form_is_named():
    x = jax.ShapeDtypeStruct((1, 3), jnp.float32)
    with pytest.raises(UsageError, match=r"cannot convert the operation jaxnets_dense; use --format stablehlo"):
        to_onnx(lambda arrays: dense._multiply(arrays["x"], jnp.ones((3, 2))), {"x": x})


@pytest.mark.slow
def test_onnx_runtime_gives_the_outputs_for_a_table(tmp_path):
    check(table(tmp_path), tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("make", [FAMILIES["graphs"], lambda: recurrent("lstm", bidirectional=True), resnet])
def test_a_family_that_cannot_be_converted_is_refused(make, tmp_path):
    with pytest.raises(UsageError, match="jax2onnx cannot convert .*; use --format stablehlo"):
        export_onnx(make(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_trace_for_export_uses_the_target_platform():
    with compiling_for("onnx"):
        assert compiled_for() == "onnx"
    assert compiled_for() != "onnx"
