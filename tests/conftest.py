"""Eight CPU devices for every test, ranks never promoted by accident, nothing read from the network."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUM_CPU_DEVICES"] = "8"

import atexit
import contextlib
import dataclasses
import functools
import gc
import io
import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

# One compilation cache for the whole session, subprocesses included: most of the suite's time is compiling, and many
# tests compile the same program.
# The workers of a parallel run share the cache of the process that started them.
CACHE = os.environ.get("JAXNETS_TEST_CACHE", "")
if not CACHE:
    CACHE = os.environ["JAXNETS_TEST_CACHE"] = tempfile.mkdtemp(prefix="jaxnets-tests-")
    atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import KEPT, NIGHTLY, SAMPLED, SWEEPS

from jaxnets.cli import main as cli
from jaxnets.config.experiment import Experiment
from jaxnets.data import InMemory, from_arrays
from jaxnets.models import MLP
from jaxnets.optim import AdamW
from jaxnets.parallel import MeshShape, make_mesh
from jaxnets.report import plots
from jaxnets.tasks import Classification

jax.config.update("jax_numpy_rank_promotion", "raise")

# A process that runs thousands of tests holds millions of objects, compiled programs among them. By default the collector
# looks through them so often that it takes a tenth of the time, and more towards the end.
gc.set_threshold(20_000, 20, 50)

ROOT = Path(__file__).resolve().parents[1]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Mark `SWEEPS` and the cases that `KEPT` does not name as slow, `NIGHTLY` and the rest of `SAMPLED` as nightly.

    `JAXNETS_TEST_PART=2/6` leaves the second of six parts of all tests; a test is always in the same part, with all its cases.
    """
    for item in items:
        if f"{item.module.__name__}.{item.name}".startswith(NIGHTLY):
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.nightly)
        long = f"{item.module.__name__}.{item.name}" in SWEEPS
        if long or item.module.__name__ in SWEEPS:
            item.add_marker(pytest.mark.slow)
        name, case = item.originalname, item.name.removeprefix(item.originalname or "")
        kept = KEPT.get(f"{item.module.__name__}.{name}")
        if kept is not None and not any(part in case for part in kept):
            item.add_marker(pytest.mark.slow)
        sampled = SAMPLED.get(f"{item.module.__name__}.{name}")
        if sampled and not long and item.get_closest_marker("slow") and not any(part in case for part in sampled):
            item.add_marker(pytest.mark.nightly)
    part, _, parts = os.environ.get("JAXNETS_TEST_PART", "1/1").partition("/")
    names = [f"{item.module.__name__}.{item.originalname}" for item in items]
    there = [zlib.crc32(name.encode()) % int(parts) == int(part) - 1 for name in names]
    config.hook.pytest_deselected(items=[item for item, here in zip(items, there, strict=True) if not here])
    items[:] = [item for item, here in zip(items, there, strict=True) if here]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch, tmp_path):
    """No test may reach the network or the user's cache."""
    monkeypatch.setenv("JAXNETS_CACHE", str(tmp_path / "cache"))


# What these files hold concerns the programs as users run them; elsewhere compiling fast matters more.
OPTIMIZED = ("test_ops", "test_torch", "test_loop", "test_parallel", "test_run", "test_cli", "test_docs")


@pytest.fixture(autouse=True, scope="module")
def _compile_fast(request):
    """Half of a test's time is the compiler's optimisation, which most tests have no use for."""
    fast = request.module.__name__ not in OPTIMIZED
    jax.config.update("jax_disable_most_optimizations", fast)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(fast)  # for the processes that tests start
    yield
    jax.config.update("jax_disable_most_optimizations", False)


# Where the sharpness of pictures matters.
SHARP = ("test_field_reports", "test_field_machines_parts", "test_many_runs")


@pytest.fixture(autouse=True)
def _coarse_pictures(request, monkeypatch):
    """Most of the time of a report is drawing; elsewhere its pictures may be small."""
    if request.module.__name__ not in SHARP:
        monkeypatch.setattr(plots, "to_png", functools.partial(plots.to_png, dpi=20))


@pytest.fixture(scope="session")
def blobs():
    """Four noisy classes in 12 dims: 203 training examples (which nothing divides) and 61 for the test."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 12)) * 1.5
    y = rng.integers(0, 4, 264)
    x = (centres[y] + rng.normal(size=(264, 12))).astype(np.float32)
    return from_arrays(x[:203], y[:203], test=(x[203:], y[203:]), name="blobs")


@pytest.fixture(scope="session")
def pictures():
    """Images 8x8 of four classes, uint8, the class told by a bright quadrant."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, 4, 200)
    x = rng.integers(0, 100, (200, 8, 8, 1)).astype(np.uint8)
    for image, label in zip(x, y, strict=True):
        row, column = divmod(int(label), 2)
        image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 120
    return from_arrays(x[:160], y[:160], test=(x[160:], y[160:]), name="pictures")


@pytest.fixture(scope="session")
def experiment():
    """A small classification with dropout, a schedule and clipping: everything that depends on the step."""
    return Experiment(
        task=Classification(model=MLP(widths=(32, 16), dropout=0.2)),
        data=InMemory("blobs"),
        optimizer=AdamW(learning_rate=1e-2, clip_norm=1.0),
        steps=20,
        batch_size=24,
        log_every=7,
        eval_every=10,
        save_every=10,
    )


@pytest.fixture(scope="session")
def one_device():
    """A mesh of one device."""
    return make_mesh(MeshShape(), devices=jax.devices()[:1])


def whole_batch(run):
    """The inputs of a run whose batch is its whole data, in their own order, as the model gets them."""
    batch = run.parts.feed.batch(run.parts.feed.load(0, 1, 1), 0, jnp.int32(0))
    return jnp.asarray(np.asarray(batch["inputs"])[np.argsort(np.asarray(batch["index"]))])


def leaves(tree):
    """The leaves of a tree as numpy arrays, by path."""
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def assert_same_bits(a, b):
    """Two trees have the same structure and every leaf the same bits."""
    a, b = leaves(a), leaves(b)
    assert a.keys() == b.keys()
    different = [path for path in a if a[path].dtype != b[path].dtype or a[path].tobytes() != b[path].tobytes()]
    assert not different, f"leaves differ: {different[:5]}"


def assert_close(a, b, *, rtol=0.0, atol=0.0):
    """Two trees have the same structure and nearly equal leaves."""
    a, b = leaves(a), leaves(b)
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_allclose(a[path], b[path], rtol=rtol, atol=atol, err_msg=path)


def drawn(model, *inputs):
    """Variables of the model's shapes with every number away from where it starts; drawn by numpy, so nothing compiles."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        x = rng.normal(size=leaf.shape)
        if leaf.ndim > 1:
            return jnp.asarray(x / np.sqrt(np.prod(leaf.shape[:-1])), leaf.dtype)
        return jnp.asarray((path[-1].key in ("scale", "var")) + 0.2 * abs(x), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(model.init, jax.random.key(0), *inputs))


def output_and_gradient(apply, variables):
    """What `apply(variables)` gives and the gradient of the sum of its squared sines, by one compiled program; in numpy, where
    looking at each array compiles nothing."""

    def score(variables):
        y = apply(variables)
        return (jnp.sin(y) ** 2).sum(), y

    gradient, y = jax.device_get(jax.jit(jax.grad(score, has_aux=True))(variables))
    return y, gradient


def run_cli(*arguments, cwd=None, env=None, devices=1, timeout=240):
    """`python -m jaxnets ...` as a user runs it; returns the finished process."""
    full = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), "COLUMNS": "120"}
    full.update(env or {})
    full["PYTHONPATH"] = os.pathsep.join(filter(None, [full.get("PYTHONPATH"), str(ROOT)]))
    command = [sys.executable, "-m", "jaxnets", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=full, capture_output=True, text=True, timeout=timeout)


def run_here(*arguments, cwd):
    """The same command without a process of its own, which costs seconds: for the second and later look at one run."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.run(list(map(str, arguments)))
        except SystemExit as exit_:  # a flag that cannot be read
            code = exit_.code
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def replace(experiment, **changes):
    """The experiment with fields replaced."""
    return dataclasses.replace(experiment, **changes)
