"""Checkpoints: what is saved comes back bit for bit on any mesh, and damage is found and named before use."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, assert_same_bits, replace, run_cli, run_here
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnets.checkpoints import checkpoint as checkpoint_module
from jaxnets.checkpoints import manifest as manifests
from jaxnets.checkpoints.checkpoint import Checkpoints, abstract
from jaxnets.checkpoints.digest import read_digests, start_digests
from jaxnets.checkpoints.retention import Keep
from jaxnets.checkpoints.step_folders import StepFolders
from jaxnets.checkpoints.warm_start import WarmStart
from jaxnets.core.errors import CheckpointError, HungError, UsageError
from jaxnets.models import MLP
from jaxnets.optim import EMA, SGD
from jaxnets.parallel import MeshShape, make_mesh
from jaxnets.runs.open import open_run
from jaxnets.runs.train import train
from jaxnets.tasks import Classification


def state_of(seed=0):
    """A tree with the dtypes and shapes that states have."""
    key = jax.random.key(seed)
    return {
        "step": jnp.asarray(seed, jnp.int32),
        "params": {"kernel": jax.random.normal(key, (16, 8)), "half": jax.random.normal(key, (8,), jnp.bfloat16)},
        "flags": jnp.asarray([True, False, True]),
    }


def target(state):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state)


@pytest.fixture
def saved(tmp_path):
    """A directory with checkpoints 10 and 20."""
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        for step in (10, 20):
            checkpoints.save(step, state_of(step), {"log": {"loss": [step, 1.0]}})
    return checkpoints


# --- digests


@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), max_size=3),
    dtype=st.sampled_from(["float32", "bfloat16", "int32", "uint8", "bool", "float8_e4m3fn"]),
    data=st.data(),
)
def test_one_flipped_bit_changes_the_digest(shape, dtype, data):
    array = np.asarray(jnp.asarray(np.random.default_rng(0).integers(0, 2, shape), dtype))
    raw = bytearray(array.tobytes())
    bit = (
        data.draw(st.integers(0, len(raw) * 8 - 1)) if dtype != "bool" else 8 * data.draw(st.integers(0, len(raw) - 1))
    )
    raw[bit // 8] ^= 1 << bit % 8
    flipped = np.frombuffer(bytes(raw), array.dtype).reshape(array.shape)
    one, two = (read_digests(start_digests({"x": a}))["x"] for a in (array, flipped))
    assert one != two


def test_a_digest_does_not_depend_on_the_mesh_and_does_on_the_order():
    x = jax.random.normal(jax.random.key(0), (16, 24))
    meshes = [make_mesh(MeshShape(data=-1, fsdp=f)) for f in (1, 2, 4, 8)]
    specs = [P(), P("fsdp"), P(None, "fsdp"), P(("data", "fsdp"))]
    digests = {
        read_digests(start_digests({"x": jax.device_put(x, NamedSharding(mesh, spec))}))["x"]
        for mesh in meshes
        for spec in specs
    }
    assert len(digests) == 1
    for other in (x[::-1], x.T, x.reshape(24, 16)[:, ::-1]):
        assert read_digests(start_digests({"x": other}))["x"] not in digests


# --- saving and restoring


def test_a_saved_state_is_restored_with_the_host_state(saved):
    state, host = saved.restore(20, target(state_of()))
    assert_same_bits(state, state_of(20))
    assert host == {"log": {"loss": [20, 1.0]}}
    assert saved.steps == [10, 20]
    assert saved.latest == 20


def test_saving_a_step_again_is_an_error_and_not_silently_skipped(saved):
    with pytest.raises(CheckpointError, match=r"checkpoint 20 was not saved: .* has it already"):
        saved.save(20, state_of(1))
    assert_same_bits(saved.restore(20, target(state_of()))[0], state_of(20))


def test_a_save_that_writes_nothing_is_an_error(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)

    class Idle:
        def save(self, *arguments, **options):
            pass

        def wait_until_finished(self):
            pass

    monkeypatch.setattr(checkpoints, "_async", Idle)
    checkpoints.save(1, state_of())
    with pytest.raises(CheckpointError, match="is empty after its save"):
        checkpoints.wait()
    assert checkpoints.steps == []


@pytest.mark.parametrize("count", [8, 4, 2, 1])
def test_a_state_comes_back_bit_for_bit_on_any_number_of_devices(tmp_path, count):
    state = state_of(3)
    wide = make_mesh(MeshShape(data=1, fsdp=8))
    cut = jax.device_put(state["params"]["kernel"], NamedSharding(wide, P("fsdp")))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {**state, "params": {**state["params"], "kernel": cut}})
        mesh = make_mesh(MeshShape(data=1, fsdp=-1), devices=jax.devices()[:count])
        placed = jax.tree.map(lambda a: NamedSharding(mesh, P("fsdp") if a.ndim == 2 else P()), state)
        back, _ = checkpoints.restore(1, abstract(state, placed))
        # And the other way: saved from few, restored to eight.
        checkpoints.save(2, back)
        placed = jax.tree.map(lambda a: NamedSharding(wide, P("fsdp") if a.ndim == 2 else P()), state)
        again, _ = checkpoints.restore(2, abstract(state, placed))
    assert back["params"]["kernel"].sharding.num_devices == count
    assert_same_bits(back, state)
    assert_same_bits(again, state)


# --- damage


def damage(path, how):
    raw = bytearray(path.read_bytes())
    if how == "deleted":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(raw[: len(raw) // 2])
    elif how == "longer":
        path.write_bytes(raw + b"x")
    else:
        raw[len(raw) // 2] ^= 0x10
        path.write_bytes(raw)


@pytest.mark.parametrize("how", ["flipped", "truncated", "deleted", "longer"])
def test_damage_to_any_file_is_found_and_named_and_the_step_before_is_used(saved, tmp_path, how):
    newest = saved.directory / "20"
    names = [
        p.relative_to(newest)
        for p in sorted(newest.rglob("*"))
        if p.is_file() and (p.stat().st_size or how == "longer")
    ]
    assert len(names) > 8
    for name in names:
        copy = tmp_path / "copy"
        shutil.copytree(saved.directory, copy)
        damage(copy / "20" / name, how)
        found = Checkpoints(copy).newest_verified()
        assert found.step == 10, name
        (why,) = found.rejected
        assert str(copy / "20" / (name if name.name != manifests.NAME or how != "deleted" else "")) in why
        with pytest.raises(CheckpointError):
            Checkpoints(copy).restore(20, target(state_of()))
        shutil.rmtree(copy)


@pytest.mark.parametrize(
    ("old", "new"),
    [('"loss": [', '"lost": ['), ("20,\n", "21,\n"), ('"format": 1', '"format": 0')],
    ids=["host", "sums", "format"],
)
def test_a_manifest_that_still_reads_but_was_changed_is_found(saved, old, new):
    path = saved.directory / "20" / manifests.NAME
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    found = saved.newest_verified()
    assert found.step == 10
    assert "do not match its own digest" in found.rejected[0]


def test_files_that_were_added_and_links_inside_are_found(saved, tmp_path):
    extra = saved.directory / "20" / "state" / "extra"
    extra.write_text("x")
    assert "state/extra is not in the manifest" in saved.newest_verified().rejected[0]
    extra.unlink()
    os.symlink(tmp_path, extra)
    assert "state/extra is a symbolic link" in saved.newest_verified().rejected[0]
    extra.unlink()
    os.mkfifo(extra)
    assert "state/extra is not a plain file" in saved.newest_verified().rejected[0]
    extra.unlink()
    assert saved.newest_verified().step == 20


def test_a_readable_checkpoint_with_wrong_values_is_skipped_and_set_aside(saved, monkeypatch):
    original = checkpoint_module.start_digests
    wrong = iter([True, False])

    def start(tree):
        return original({**tree, "step": tree["step"] + 1} if next(wrong) else tree)

    monkeypatch.setattr(checkpoint_module, "start_digests", start)
    found = saved.restore_newest(target(state_of()), set_aside=True)
    assert found.step == 10
    assert "20: step is not what was saved" in found.rejected[0]
    assert (saved.directory / "damaged-20-1").is_dir()
    assert_same_bits(found.state, state_of(10))


def test_the_best_by_a_metric_that_nothing_measures_is_an_error(tmp_path):
    with Checkpoints(tmp_path, keep=Keep(best="acuracy")) as checkpoints:
        checkpoints.save(1, state_of())
        with pytest.raises(UsageError, match=r"keep.best is 'acuracy'. Did you mean 'accuracy'"):
            checkpoints.save(2, state_of(), metrics={"accuracy": 0.5, "loss": 1.0})


def test_bytes_that_change_on_the_way_to_the_device_are_found(saved, monkeypatch):
    original = checkpoint_module.start_digests
    monkeypatch.setattr(
        checkpoint_module,
        "start_digests",
        lambda tree: original(
            {**tree, "params": {**tree["params"], "kernel": tree["params"]["kernel"].at[3, 3].add(1e-3)}}
        ),
    )
    with pytest.raises(CheckpointError, match="params/kernel is not what was saved"):
        saved.restore(20, target(state_of()))


def test_stray_and_unfinished_and_foreign_directories_are_never_chosen(saved):
    folder = saved.directory
    (folder / "999").mkdir()  # empty, newest by its number
    shutil.copytree(folder / "20", folder / "500")  # a copy under another number
    shutil.copytree(folder / "20", folder / "021")
    (folder / "٣٠").mkdir()  # digits, but not ours
    (folder / ("9" * 200)).mkdir()
    (folder / "700").write_text("a file")
    os.symlink(folder / "20", folder / "800")
    newer = json.loads((folder / "20" / "manifest.json").read_text())
    (folder / "900").mkdir()
    (folder / "900" / "manifest.json").write_text(json.dumps({**newer, "format": 99}))
    found = saved.newest_verified()
    assert found.step == 20
    printed = "\n".join(found.rejected)
    for part in (
        "999 has no manifest.json",
        "900/manifest.json has format 99, written by a newer jaxnets",
        "800/manifest.json is reached by a symbolic link",
        "700 is not a directory",
        "500 holds step 20: the directory was renamed",
    ):
        assert part in printed
    assert len(found.rejected) == 5


def test_a_step_saved_over_an_unfinished_or_damaged_one_replaces_it_and_keeps_the_evidence(saved):
    (saved.directory / "30").mkdir()
    saved.save(30, state_of(30))
    damage(next((saved.directory / "20" / "state").rglob("_METADATA")), "flipped")
    saved.save(20, state_of(20))
    saved.wait()
    assert saved.newest_verified().step == 30
    assert_same_bits(saved.restore(20, target(state_of()))[0], state_of(20))
    assert (saved.directory / "damaged-20-1").is_dir()


def test_a_failing_and_a_slow_rename_leave_the_step_before(saved, monkeypatch):
    original = os.replace

    def refuses(source, destination, **options):
        if str(destination).endswith("manifest.json"):
            raise OSError(5, "Input/output error")
        return original(source, destination, **options)

    monkeypatch.setattr(os, "replace", refuses)
    saved.save(30, state_of(30))
    with pytest.raises(CheckpointError, match=r"Input/output error.*\[10, 20\], untouched"):
        saved.wait()
    assert saved.newest_verified().step == 20
    release = threading.Event()
    monkeypatch.setattr(os, "replace", lambda *a, **k: (release.wait(20), original(*a, **k))[1])
    saved.save(40, state_of(40))
    assert saved.latest == 20  # not complete before its manifest is there
    release.set()
    saved.wait()
    assert saved.newest_verified().step == 40


def test_a_save_that_hangs_ends_with_all_stacks_and_the_checkpoint_before(saved, monkeypatch, capfd):
    release = threading.Event()
    monkeypatch.setattr(manifests.Manifest, "write", lambda self, folder: release.wait(30))
    slow = Checkpoints(saved.directory, save_seconds=0.3)
    slow.save(30, state_of(30))
    with pytest.raises(HungError, match=r"has not ended after 0.3 seconds; .*\[10, 20\]"):
        slow.wait()
    release.set()
    assert "most recent call first" in capfd.readouterr().err
    assert Checkpoints(saved.directory).newest_verified().step == 20


HANG = """
import time, jax.numpy as jnp
from jaxnets.checkpoints import checkpoint
checkpoint.start_digests = lambda tree: time.sleep(60)
checkpoint.Checkpoints("there", save_seconds=0.5).save(1, {"x": jnp.ones(3)})
"""


def test_a_copy_off_the_device_that_hangs_ends_the_process_with_all_stacks(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", HANG], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 1
    assert "Timeout (0:00:00.500000)!" in done.stderr
    assert "in save" in done.stderr


# --- what stays


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.integers(0, 400), min_size=1, unique=True),
    last=st.integers(1, 4),
    every=st.sampled_from([0, 1, 50]),
    best=st.sampled_from(["", "accuracy"]),
    mode=st.sampled_from(["max", "min"]),
    data=st.data(),
)
def test_retention_keeps_the_last_the_every_nth_and_the_best(steps, last, every, best, mode, data):
    measured = {
        step: {"accuracy": data.draw(st.floats(allow_infinity=False))} if data.draw(st.booleans()) else {}
        for step in steps
    }
    kept = Keep(last=last, every=every, best=best, mode=mode).choose(measured)
    assert set(sorted(steps)[-last:]) <= kept <= set(steps)
    assert not every or {s for s in steps if s % every == 0} <= kept
    scores = {s: m["accuracy"] for s, m in measured.items() if m and m["accuracy"] == m["accuracy"]}
    if best and scores:
        extreme = max(scores.values()) if mode == "max" else min(scores.values())
        assert any(scores.get(s) == extreme for s in kept)
    assert len(kept) <= last + bool(best) + (len([s for s in steps if s % every == 0]) if every else 0)


def test_checkpoints_that_are_not_kept_are_removed_and_the_best_stays(tmp_path):
    with Checkpoints(tmp_path, keep=Keep(last=2, every=40, best="accuracy")) as checkpoints:
        (tmp_path / "5").mkdir()  # left behind by a killed save
        for step, accuracy in ((10, 0.1), (20, 0.9), (30, 0.2), (40, 0.3), (50, 0.4), (60, 0.5)):
            checkpoints.save(step, state_of(step), metrics={"accuracy": accuracy})
    assert StepFolders(tmp_path).all == [20, 40, 50, 60]
    assert not list(tmp_path.glob(".removed*"))


# --- what does not fit


def test_a_checkpoint_that_does_not_fit_is_refused_with_one_table(saved):
    state = state_of()
    other = {
        "step": state["step"],
        "params": {"kernel": jnp.zeros((16, 9)), "half": state["params"]["half"].astype(jnp.float32)},
        "extra": jnp.zeros(2),
    }
    with pytest.raises(CheckpointError) as caught:
        saved.restore(20, target(other))
    text = str(caught.value)
    for row in (
        r"extra .* - .* float32\[2\] .*only this run has it",
        r"flags .* bool\[3\] .* - .*only the checkpoint has it",
        r"params/half .* bfloat16\[8\] .* float32\[8\] .*another number format",
        r"params/kernel .* float32\[16,8\] .* float32\[16,9\] .*another width",
        r"--warm-start\.fresh",
    ):
        assert re.search(row, text), (row, text)


@pytest.mark.slow
def test_warm_start_takes_what_fits_and_only_what_is_allowed_to_differ(tmp_path, experiment, blobs, one_device):
    options = {"dataset": blobs, "mesh": one_device, "progress": "none"}
    averaged = replace(experiment, average=EMA(0.9))
    first = train(averaged, run_dir=tmp_path / "first", **options)
    where = str(tmp_path / "first")
    # Everything fits: the averaged weights, a new optimizer state and step 0.
    begun = train(replace(experiment, warm_start=WarmStart(where), optimizer=SGD(1e-9), steps=1), **options)
    for a, b in zip(jax.tree.leaves(begun.state.params), jax.tree.leaves(first.state.average["params"]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert int(begun.state.step) == 1
    # Another head: refused with the table, allowed by name.
    wider = replace(experiment, task=Classification(model=MLP(widths=(32, 20), dropout=0.2)), steps=1)
    with pytest.raises(CheckpointError, match=r"params/hidden_1/kernel .*\[32,16\] .*\[32,20\]"):
        train(replace(wider, warm_start=WarmStart(where)), **options)
    allowed = WarmStart(where, fresh=("params/hidden_1/*", "params/output/*"))
    begun = train(replace(wider, warm_start=allowed, optimizer=SGD(1e-9)), **options)
    np.testing.assert_allclose(
        begun.state.params["hidden_0"]["kernel"], first.state.average["params"]["hidden_0"]["kernel"], atol=1e-6
    )
    with pytest.raises(Exception, match=r"fresh 'params/haed/\*' matches no leaf"):
        train(replace(wider, warm_start=WarmStart(where, fresh=("params/haed/*",))), **options)
    # A run that is resumed does not begin again.
    again = replace(experiment, warm_start=WarmStart(where))
    train(again, run_dir=tmp_path / "second", stop_at=10, **options)
    assert json.loads((tmp_path / "second" / "warm_start.json").read_text()) == {"run": where, "step": 20}
    resumed = train(again, run_dir=tmp_path / "second", **options)
    assert_same_bits(resumed.state, train(again, run_dir=tmp_path / "third", **options).state)


def test_damage_is_found_on_resuming_and_the_result_is_that_of_the_unharmed_run(
    tmp_path, experiment, blobs, one_device, capsys
):
    options = {"dataset": blobs, "mesh": one_device}
    whole = train(experiment, run_dir=tmp_path / "whole", progress="none", **options)
    train(experiment, run_dir=tmp_path / "cut", stop_at=13, progress="none", **options)
    data = max((tmp_path / "cut" / "checkpoints" / "13").rglob("d/*"), key=lambda p: p.stat().st_size)
    damage(data, "flipped")
    cut = train(experiment, run_dir=tmp_path / "cut", progress="lines", **options)
    printed = capsys.readouterr().err
    assert f"skipped a checkpoint: {data} is damaged" in printed
    assert "resuming cut at step 10 of 20" in printed
    assert_same_bits(whole.state, cut.state)


@pytest.mark.slow
def test_the_manifest_holds_experiment_data_and_versions(tmp_path, experiment, blobs, one_device):
    options = {"dataset": blobs, "mesh": one_device, "progress": "none", "run_dir": tmp_path / "run"}
    run = train(replace(experiment, keep=Keep(best="accuracy")), **options)
    manifest = StepFolders(tmp_path / "run" / "checkpoints").manifest(20)
    assert manifest.about["experiment"]["task"]["model"]["widths"] == [32, 16]
    assert manifest.about["data"]["fingerprint"] == run.parts.dataset.fingerprint
    assert manifest.about["versions"]["jax"] == jax.__version__
    assert set(manifest.metrics) == {"accuracy", "loss", "examples"}
    assert open_run(tmp_path / "run", dataset=blobs, mesh=one_device, step=10).state.step == 10


@pytest.mark.slow
def test_saving_by_the_clock(tmp_path, experiment, blobs, one_device, monkeypatch):
    ticks = iter(range(10_000))
    monkeypatch.setattr("jaxnets.training.hooks.time.monotonic", lambda: 30.0 * next(ticks))
    timed = replace(experiment, save_every="1min", steps_per_call=2)
    run = train(timed, dataset=blobs, mesh=one_device, run_dir=tmp_path / "run", progress="none")
    steps = Checkpoints(tmp_path / "run" / "checkpoints").steps
    assert len(steps) == 3
    assert steps[-1] == 20
    alone = train(experiment, dataset=blobs, mesh=one_device, progress="none")
    assert_same_bits(run.state, alone.state)


@pytest.mark.parametrize("text", ["ten minutes", "5", "-3min", "0s", "infh", "nanh", "5 parsecs"])
def test_an_invalid_time_is_refused(experiment, text):
    with pytest.raises(Exception, match='save_every is a number of steps, or a time such as "10min"'):
        replace(experiment, save_every=text)


# --- without the model's code


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run directory made by the command line."""
    folder = tmp_path_factory.mktemp("ckpt")
    done = run_cli(
        "train", "tabular", "--data.path", "iris", "--steps", 20, "--save-every", 10, "--run-dir", "run", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_ckpt_looks_at_a_run_without_its_code(trained):
    listed = run_cli("ckpt", "ls", "run", cwd=trained).stdout
    assert "10" in listed
    assert "complete" in listed
    good = run_cli("ckpt", "verify", "run", cwd=trained)
    assert (good.returncode, good.stdout.count(": good")) == (0, 2)
    digests = run_here("ckpt", "digest", "run", cwd=trained).stdout.splitlines()
    assert any(line.endswith("params/output/kernel") for line in digests)
    same = run_here("ckpt", "diff", "run:20", "run", cwd=trained)
    assert (same.returncode, "0 differ in value" in same.stdout) == (0, True)
    other = run_here("ckpt", "diff", "run:10", "run:20", cwd=trained)
    assert other.returncode == 1
    assert "params/output/kernel:" in other.stdout
    assert run_here("ckpt", "export", "run:20", "w.npz", cwd=trained).returncode == 0
    with np.load(trained / "w.npz", allow_pickle=False) as arrays:
        assert arrays["step"] == 20
        assert arrays["params/output/kernel"].dtype == np.float32


@pytest.mark.slow
def test_ckpt_names_damage_and_exits_1(trained, tmp_path):
    shutil.copytree(trained / "run", tmp_path / "run")
    data = max((tmp_path / "run" / "checkpoints" / "20").rglob("d/*"), key=lambda p: p.stat().st_size)
    damage(data, "flipped")
    done = run_here("ckpt", "verify", "run", cwd=tmp_path)
    assert done.returncode == 1
    assert f"20: {data} is damaged" in done.stdout
    assert "10: good" in done.stdout
    passed = run_here("ckpt", "digest", "run", cwd=tmp_path)
    assert "all of step 10" in passed.stdout
    assert "skipped: " in passed.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("sl", "run"), 2, "no command `jaxnets ckpt sl`. Did you mean 'ls'"),
        (("verify",), 2, "got 0"),
        (("ls", "nowhere"), 1, "'nowhere' has no checkpoints"),
        (("digest", "run:7"), 1, "is not a directory"),
        (("export", "run", "w.pkl"), 2, "writes .npz files, got 'w.pkl'"),
    ],
)
def test_ckpt_mistakes(trained, arguments, code, message):
    done = run_here("ckpt", *arguments, cwd=trained)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_lists_devices_and_problems(tmp_path):
    fine = run_cli("doctor", cwd=tmp_path)
    assert fine.returncode == 0, fine.stdout + fine.stderr
    assert f"jax                    {jax.__version__}" in fine.stdout
    assert "no problems found" in fine.stdout
    wrong = run_cli("doctor", cwd=tmp_path, env={"JAX_PLATFORMS": "tpu", "JAXNETS_DATA": str(tmp_path / "none")})
    assert wrong.returncode == 1
    assert "JAX cannot start its devices" in wrong.stdout
    assert "not a directory: correct or unset it" in wrong.stdout


@pytest.mark.parametrize("mode", ["max", "min"])
def test_of_equal_bests_the_first_is_kept(tmp_path, mode):
    """An evaluation has to be better to take the place of the best: one that is equal is not saved for it."""
    with Checkpoints(tmp_path, keep=Keep(last=1, best="score", mode=mode)) as checkpoints:
        for step in (1, 2, 3, 4):
            score = 0.5 if step < 4 else {"max": 0.4, "min": 0.6}[mode]
            checkpoints.save(step, {"x": jnp.full(3, step)}, {}, metrics={"score": score})
            checkpoints.wait()
        assert list(checkpoints.steps) == [1, 4]
