"""Fault injection: kills at random instants, damage to every file, and the cost of the safety. See docs/reliability.md.

python benchmarks/faults.py kills --count 200
python benchmarks/faults.py damage
python benchmarks/faults.py costs
"""

import argparse
import collections
import datetime
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

CONFIG = '''
"""A short run that saves, prunes and evaluates all the time."""
from jaxnets.config.experiment import Experiment
from jaxnets.data import Digits
from jaxnets.models import MLP
from jaxnets.optim import EMA
from jaxnets.tasks import Classification
from jaxnets.checkpoints.retention import Keep

def config():
    return Experiment(
        task=Classification(model=MLP(widths=(64,), dropout=0.1)), data=Digits(), steps=600, batch_size=32, average=EMA(0.99),
        log_every=7, eval_every=10, eval_batch_size=32, save_every=8, steps_per_call=4, keep=Keep(last=2, every=200),
    )
'''


def start(folder, *arguments):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAXNETS_CACHE": str(folder / "cache")}
    environment |= {"PYTHONPATH": str(HERE.parent), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    command = [sys.executable, "-m", "jaxnets", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def outcome(run):
    """The newest step of a finished run, its log without times, and the digests of its last state."""
    from jaxnets.checkpoints.step_folders import StepFolders

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    log = [{k: v for k, v in record.items() if k != "examples_per_second"} for record in lines]
    folders = StepFolders(run / "checkpoints")
    newest = folders.newest_verified().step
    return newest, log, {path: leaf.digest for path, leaf in folders.manifest(newest).leaves.items()}


def phase(run, before):
    """What the run was doing when it was killed, as far as its directory shows."""
    checkpoints = run / "checkpoints"
    if any(checkpoints.glob(".removed-*")):
        return "pruning"
    unfinished = [p for p in checkpoints.glob("[0-9]*") if not (p / "manifest.json").exists()]
    if any((p / "state").exists() for p in unfinished):
        return "committing (arrays written, no manifest)"
    if unfinished:
        return "saving (arrays in part)"
    if sorted(p.name for p in checkpoints.glob("[0-9]*")) == before:
        return "starting, restoring or compiling"
    return "training, evaluating or logging"


def kills(count, seed):
    """Send SIGKILL at random instants, restart, and compare the result with that of an uninterrupted run."""
    from jaxnets.checkpoints.step_folders import StepFolders

    rng, seen, ends = random.Random(seed), collections.Counter(), []
    bad, done, completed, began = [], 0, 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "short.py").write_text(CONFIG)
        whole = start(folder, "train", "short.py", "--run-dir", "whole", "--progress", "none")
        assert whole.wait() == 0, whole.stderr.read()
        wanted, run = outcome(folder / "whole"), folder / "run"
        while done < count:
            before = sorted(p.name for p in (run / "checkpoints").glob("[0-9]*"))
            process = start(folder, "train", "short.py", "--run-dir", "run", "--progress", "none")
            while process.poll() is None and not (run / ".lock").exists():
                time.sleep(0.01)
            try:
                _, errors = process.communicate(timeout=rng.uniform(0.0, 4.0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                done += 1
                seen[phase(run, before)] += 1
                found = StepFolders(run / "checkpoints").newest_verified()
                complete = StepFolders(run / "checkpoints").complete
                if complete and found.step != complete[-1]:
                    bad.append(f"kill {done}: step {complete[-1]} looks complete but does not verify: {found.rejected}")
            else:
                if process.returncode != 0:
                    bad.append(f"after kill {done}: the next start failed: {errors[-500:]}")
                else:
                    ends.append(outcome(run) == wanted)
                    completed += 1
                shutil.rmtree(run)
            if done % 10 == 0:
                left = (time.perf_counter() - began) / max(done, 1) * (count - done)
                print(
                    f"{done}/{count} kills, {completed} runs completed, {len(bad)} bad, {left:.0f} s left", flush=True
                )
        last = start(folder, "train", "short.py", "--run-dir", "run", "--progress", "none")
        assert last.wait() == 0, last.stderr.read()
        ends.append(outcome(run) == wanted)
    for text in bad:
        print("BAD", text)
    print(
        f"{count} kills: {len(bad)} bad restores; {sum(ends)} of {len(ends)} runs ended bit-equal to the unkilled one"
    )
    for what, times in seen.most_common():
        print(f"  {times:4d} while {what}")
    return {
        "kills": count,
        "bad": len(bad),
        "runs": len(ends),
        "bit_equal": sum(ends),
        "phases": dict(seen),
        "seed": seed,
    }


def damage():
    """Flip bits in, cut, extend and delete every file of a checkpoint, one at a time."""
    from jaxnets.checkpoints.step_folders import StepFolders

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "short.py").write_text(CONFIG)
        process = start(folder, "train", "short.py", "--run-dir", "run", "--stop-at", "40", "--progress", "none")
        assert process.wait() == 0, process.stderr.read()
        folders = StepFolders(folder / "run" / "checkpoints")
        newest, previous = folders.complete[-1], folders.complete[-2]
        files = [path for path in sorted(folders.path(newest).rglob("*")) if path.is_file()]
        counts = collections.Counter()
        for path in files:
            raw = path.read_bytes()
            ways = {"deleted": None, "one byte longer": raw + b"\0"}
            if raw:
                ways |= {"cut to half": raw[: len(raw) // 2]}
                for where in {0, len(raw) // 3, len(raw) // 2, len(raw) - 1}:
                    ways[f"bit flipped at {where}"] = (
                        raw[:where] + bytes([raw[where] ^ 1 << where % 8]) + raw[where + 1 :]
                    )
            for how, changed in ways.items():
                path.unlink() if changed is None else path.write_bytes(changed)
                found = folders.newest_verified()
                named = path.name in found.rejected[0] if found.rejected else False
                good = found.step == previous and named
                counts["found, named, previous step used" if good else f"NOT FOUND {path.name} {how}"] += 1
                path.write_bytes(raw)
        assert folders.newest_verified().step == newest
    for what, times in counts.items():
        print(f"{times:4d} {what}")
    return {"files": len(files), "cases": sum(counts.values()), "found": counts["found, named, previous step used"]}


def costs(rounds):
    """Times of saving, digests and restoring; and a step of mnist_cnn with guards and saves against one without."""
    import jax

    from jaxnets import config
    from jaxnets.checkpoints.checkpoint import Checkpoints, abstract
    from jaxnets.checkpoints.digest import read_digests, start_digests
    from jaxnets.runs.build import assemble

    result = {}
    with tempfile.TemporaryDirectory() as name:
        parts = assemble(config.load("mnist_cnn").experiment)
        state, big = None, {f"leaf_{i}": jax.random.normal(jax.random.key(i), (4096, 4096)) for i in range(4)}
        with jax.set_mesh(parts.mesh):
            state = parts.fresh_state()
            jax.block_until_ready((state, big))
            for what, tree in (("mnist_cnn", state), ("268 MB", big)):
                size = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
                digest, block, total = [], [], []
                with Checkpoints(Path(name) / what) as checkpoints:
                    for turn in range(rounds + 1):  # the first turn compiles and imports
                        began = time.perf_counter()
                        read_digests(start_digests(tree))
                        digest.append(time.perf_counter() - began)
                        began = time.perf_counter()
                        checkpoints.save(turn + 1, tree)
                        block.append(time.perf_counter() - began)
                        checkpoints.wait()
                        total.append(time.perf_counter() - began)
                    began = time.perf_counter()
                    placed = jax.tree.map(lambda a: a.sharding, tree)
                    checkpoints.restore(rounds + 1, abstract(tree, placed))
                    restore = time.perf_counter() - began
                row = {
                    "MB": size / 1e6,
                    "digest_s": statistics.median(digest[1:]),
                    "digest_s_per_GB": statistics.median(digest[1:]) / size * 1e9,
                    "save_blocks_s": statistics.median(block[1:]),
                    "save_total_s": statistics.median(total[1:]),
                    "restore_verified_s": restore,
                }
                result[what] = {k: round(v, 4) for k, v in row.items()}
                print(what, result[what], flush=True)
        result["mnist_cnn steps"] = _on_against_off(parts, Path(name), rounds)
        print(result["mnist_cnn steps"])
    return result


def _on_against_off(parts, folder, rounds, steps=60):
    """Milliseconds per step of mnist_cnn with guards, spike watch and saves every 20 s, and without; in alternation."""
    import dataclasses

    import jax

    from jaxnets.checkpoints.checkpoint import Checkpoints
    from jaxnets.training.guards import Guard, SpikeWatch
    from jaxnets.training.hooks import SaveHook
    from jaxnets.training.loop import Watch, fit
    from jaxnets.training.plan import Every
    from jaxnets.training.program import Program

    bare = parts.task.make_step(dataclasses.replace(parts.recipe, guard="off"))
    options = {"steps_per_call": parts.program.capacity, "state_shardings": parts.shardings}
    programs = {"off": Program(bare, parts.feed, **options), "on": parts.program}
    times = {name: [] for name in programs}
    with jax.set_mesh(parts.mesh), Checkpoints(folder / "on") as checkpoints:
        states = {name: parts.fresh_state() for name in programs}
        saver = SaveHook(Every(0), checkpoints, host=dict, seconds=20.0)
        at = 0
        for turn in range(rounds + 1):
            for name in list(programs)[:: 1 if turn % 2 else -1]:
                extra = {} if name == "off" else {"saver": saver, "watch": Watch(spikes=SpikeWatch(Guard(spike=1e6)))}
                began = time.perf_counter()
                states[name] = fit(programs[name], states[name], start=at, stop=at + steps, **extra)
                jax.block_until_ready(states[name])
                if turn:  # the first turn compiles
                    times[name].append((time.perf_counter() - began) / steps * 1e3)
            at += steps
    row = {f"{name}_ms": round(statistics.median(t), 2) for name, t in times.items()}
    row |= {f"{name}_min_ms": round(min(t), 2) for name, t in times.items()}
    return {
        **row,
        "on_over_off": round(statistics.median(a / b for a, b in zip(times["on"], times["off"], strict=True)), 4),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["kills", "damage", "costs"])
    parser.add_argument("--count", type=int, default=200, help="kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=7, help="turns of the cost measurements")
    arguments = parser.parse_args()
    if arguments.what == "kills":
        result = kills(arguments.count, arguments.seed)
    elif arguments.what == "damage":
        result = damage()
    else:
        result = costs(arguments.rounds)
    stamp = {
        "date": datetime.date.today().isoformat(),
        "command": f"python benchmarks/faults.py {' '.join(sys.argv[1:])}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    with (HERE / "results" / "faults.jsonl").open("a") as file:
        file.write(json.dumps({"what": arguments.what, **result, **stamp}) + "\n")


if __name__ == "__main__":
    main()
