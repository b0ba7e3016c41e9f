"""Time training steps of jaxnets and other libraries; see README.md."""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = (
    "raw_jax:step",
    "torch_loop:eager",
    "torch_loop:fused",
    "torch_loop:compile",
    "lightning_trainer:default",
    "lightning_trainer:tuned",
    "keras_on_jax:fit",
    "keras_on_jax:many",
    "jaxnets_fit:fit",
    "jaxnets_fit:no_guard",
)


class Peer:
    """A worker process for one library and variant."""

    def __init__(self, name, workload, pin):
        self.name, self.seconds, self.cpu = name, [], []
        framework, variant = name.split(":")
        environment = {**os.environ, "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"), "KERAS_BACKEND": "jax"}
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(HERE), str(HERE.parent), environment.get("PYTHONPATH")])
        )
        command = [sys.executable, str(HERE / "worker.py"), framework, workload, variant]
        if pin is not None:
            command = ["taskset", "-c", str(pin), *command]
            environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        log = (Path(tempfile.gettempdir()) / f"jaxnets-benchmark-{workload}-{framework}-{variant}.log").open("w")
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        self.start = self._read()

    def run(self, steps):
        """Run steps and return the measurements."""
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self):
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"ok": False, "why": "died"}

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def measure(workload, names, rounds, seconds, pin):
    """Result rows for one workload."""
    peers = []
    for name in names:
        peer = Peer(name, workload, pin)
        if peer.start["ok"]:
            peers.append(peer)
        else:
            print(f"  {name}: left out, {peer.start['why']}", flush=True)
            peer.close()
    # Turns last about equally long for every peer, so that the fixed cost of a call is spread over many steps.
    for peer in peers:
        peer.run(20)  # reach a steady state first
        peer.steps = 20
        for _ in range(2):  # twice, because a short run overestimates the time of a step
            peer.steps = max(10, int(seconds * peer.steps / peer.run(peer.steps)["wall"]))
    for turn in range(rounds):
        for peer in peers if turn % 2 == 0 else peers[::-1]:
            answer = peer.run(peer.steps)
            peer.seconds.append(answer["wall"] / peer.steps)
            peer.cpu.append(answer["cpu"] / peer.steps)
            peer.last = answer
    rows = []
    for peer in peers:
        rows.append(
            {
                "workload": workload,
                "peer": peer.name,
                "min_ms": 1e3 * min(peer.seconds),
                "median_ms": 1e3 * statistics.median(peer.seconds),
                "cpu_ms": 1e3 * min(peer.cpu),
                "first_step_s": peer.start["first_step_seconds"],
                "import_s": peer.start["import_seconds"],
                "rss_mb": peer.last["rss_mb"],
                "loss": peer.last["loss"],
                "steps": peer.steps,
                "rounds": rounds,
                "pinned": pin is not None,
            }
        )
        peer.close()
    return rows


def show(rows):
    base = next((row for row in rows if row["peer"] == "raw_jax:step"), rows[0])
    print(f"\n{rows[0]['workload']}: ms a step, {rows[0]['rounds']} turns")
    print(f"  {'peer':<26}{'min':>9}{'median':>9}{'cpu':>9}{'vs raw':>8}{'first step':>12}{'MB':>7}")
    for row in rows:
        key = "cpu_ms" if row["pinned"] else "min_ms"
        print(
            f"  {row['peer']:<26}{row['min_ms']:>9.3f}{row['median_ms']:>9.3f}{row['cpu_ms']:>9.3f}"
            f"{base[key] / row[key]:>7.2f}x{row['first_step_s']:>10.1f} s{row['rss_mb']:>7.0f}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", default=["tiny", "mlp", "cnn"])
    parser.add_argument("--peers", nargs="+", default=PEERS, metavar="PEER")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a turn")
    parser.add_argument("--pin", type=int, default=None, help="pin every peer to this core")
    arguments = parser.parse_args()
    names = [name for peer in arguments.peers for name in PEERS if name == peer or name.split(":")[0] == peer]
    stamp = {
        "date": datetime.date.today().isoformat(),
        "command": f"python benchmarks/train_step.py {' '.join(sys.argv[1:])}".strip(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    results = HERE / "results" / "train_step.jsonl"
    for workload in arguments.workloads:
        rows = measure(workload, names, arguments.rounds, arguments.seconds, arguments.pin)
        show(rows)
        with results.open("a") as file:
            for row in rows:
                rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
                file.write(json.dumps({**rounded, "load": round(os.getloadavg()[0], 1), **stamp}) + "\n")


if __name__ == "__main__":
    main()
