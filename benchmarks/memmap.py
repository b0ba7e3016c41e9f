"""Training from files that are not read into memory: 1 GB of images beside the same in memory, and 10 GB of tokens.

Each case is a process of its own. The growth of memory is the largest RssAnon (what no file backs) less that after a run on a
few examples of the same shape, which has what JAX needs in any case.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SHAPE = (64, 64, 3)


def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024


class Peak:
    """The largest RssAnon in MB, looked at every 5 ms."""

    def __enter__(self):
        self.most, self._over = anonymous(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self):
        while not self._over.wait(0.005):
            self.most = max(self.most, anonymous())

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()


def images(folder, kind, steps):
    import jaxnets

    x = np.load(folder / "images.npy", mmap_mode="r")
    y = np.arange(len(x)) % 10
    options = {"batch_size": 128, "progress": "none", "log_every": 20}

    def model():
        return jaxnets.models.MLP(widths=(64,))

    jaxnets.fit(model(), (np.array(x[:1000]), y[:1000]), steps=40, **options)
    given = x if kind == "mapped" else np.array(x)
    before, began = anonymous(), time.perf_counter()
    with Peak() as peak:
        jaxnets.fit(model(), (given, y), steps=1, **options)
        first = time.perf_counter() - began
        run = jaxnets.fit(
            model(), (given, y), steps=steps, placement="auto" if kind == "mapped" else "device", **options
        )
    speeds = sorted(run.history.series("examples_per_second")[1])
    return {
        "lazy": run.parts.dataset.lazy,
        "on the device": run.parts.resident,
        "megabytes of file": round(x.nbytes / 2**20),
        "seconds to the first step and an evaluation": round(first, 2),
        "growth of memory (MB)": round(peak.most - before),
        "images a second (median)": round(speeds[len(speeds) // 2]),
        "images a second (best)": round(speeds[-1]),
    }


def tokens(folder, kind, steps):
    import jaxnets

    def source(name, length=256):
        return jaxnets.data.TokenFile(str(folder / name), tokens="bytes", length=length, test="val.bin")

    def experiment(data):
        return jaxnets.Experiment(
            task=jaxnets.tasks.NextToken(model=jaxnets.models.LanguageModel(layers=1, heads=2, width=32)),
            data=data,
            batch_size=16,
            steps=steps,
        )

    jaxnets.train(experiment(source("small_train.bin")), progress="none")
    before, began = anonymous(), time.perf_counter()
    with Peak() as peak:
        data = source("train.bin").open()
        opened = time.perf_counter() - began
        run = jaxnets.train(experiment(source("train.bin")), dataset=data, progress="none")
    return {
        "lazy": data.lazy,
        "megabytes of file": round((folder / "train.bin").stat().st_size / 2**20),
        "windows": len(data.train["inputs"]),
        "seconds to open": round(opened, 2),
        f"seconds for {steps} steps in all": round(time.perf_counter() - began, 2),
        "growth of memory (MB)": round(peak.most - before),
        "steps": int(run.state.step),
    }


def prepare(folder, count):
    rng = np.random.default_rng(0)
    made = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (count, *SHAPE))
    for start in range(0, count, 1000):
        made[start : start + 1000] = rng.integers(0, 256, made[start : start + 1000].shape, np.uint8)
    made.flush()
    with (folder / "train.bin").open("wb") as file:
        file.truncate(10_000_000_000)
        file.write(np.arange(2000, dtype=np.uint16).clip(0, 255).tobytes())
    for name in ("small_train.bin", "val.bin"):
        rng.integers(0, 256, 20_000).astype(np.uint16).tofile(folder / name)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10**9 // int(np.prod(SHAPE)))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--case", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        kind, of = given.case.split()
        print(json.dumps((images if of == "images" else tokens)(given.folder, kind, given.steps)))
        return
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), environment.get("PYTHONPATH")]))
    print(datetime.date.today().isoformat())
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), given.images)
        for case in ("mapped images", "resident images", "mapped tokens"):
            steps = given.steps if case.endswith("images") else 40
            command = [sys.executable, __file__, "--case", case, "--folder", folder, "--steps", str(steps)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            print(case)
            for name, value in json.loads(done.stdout.splitlines()[-1]).items():
                print(f"  {name:<46} {value}")


if __name__ == "__main__":
    main()
