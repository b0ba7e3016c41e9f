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


def pictures(model):
    return jaxnets.fit(model, images(), **OPTIONS)


def autoencoder():
    from jaxnets.tasks import Reconstruction

    return jaxnets.fit(Reconstruction(model=models.Autoencoder(widths=(8,))), images(), **OPTIONS)


def encoder():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcdefg"), 8)) for _ in range(64)]
    data = jaxnets.from_texts(texts, rng.integers(0, 2, 64), length=8)
    return jaxnets.fit(models.TransformerEncoder(layers=1, heads=2, width=8), data, **OPTIONS)


def table():
    import pandas

    rng = np.random.default_rng(0)
    columns = {"a": rng.normal(5, 2, 64), "b": rng.choice(["x", "y", "z"], 64), "y": rng.choice(["no", "yes"], 64)}
    return jaxnets.fit(models.MLP(widths=(8,)), jaxnets.from_frame(pandas.DataFrame(columns), "y"), **OPTIONS)


WORK = {
    **{name: make for name, make in FAMILIES.items() if name != "graphs"},
    "autoencoder": autoencoder,
    "encoder": encoder,
    "table": table,
    "gru": lambda: recurrent("gru"),
    "both_directions": lambda: recurrent("lstm", bidirectional=True),
    "lenet": lambda: pictures(models.LeNet5()),
    "resnet": lambda: pictures(models.ResNet(depth=18, width=4)),
    "convnext": lambda: pictures(models.ConvNeXt(depths=(1,), widths=(4,))),
}  # fmt: skip
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


def test_a_run_in_bfloat16_is_written_in_float32(tmp_path):
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    run = jaxnets.fit(models.MLP(widths=(8,)), (x, x[:, 0] > 0), precision="bfloat16", **OPTIONS)
    with pytest.warns(DataWarning, match=r"predict\.onnx computes in float32, the run in bfloat16"):
        export_onnx(run, tmp_path / "out")


def test_an_operation_that_has_no_form_is_named():
    x = jax.ShapeDtypeStruct((1, 3), jnp.float32)
    with pytest.raises(UsageError, match=r"cannot convert the operation jaxnets_dense; use --format stablehlo"):
        to_onnx(lambda arrays: dense._multiply(arrays["x"], jnp.ones((3, 2))), {"x": x})


def test_what_is_traced_sees_the_platform_that_it_is_for():
    with compiling_for("onnx"):
        assert compiled_for() == "onnx"
    assert compiled_for() != "onnx"
