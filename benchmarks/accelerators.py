"""Every shipped configuration through the compiler of a TPU or GPU that is not there.

    pip install "jaxnets[tpu]"
    python -m benchmarks.accelerators                       # all, on v5e:2x4
    python -m benchmarks.accelerators gpt2_124m llama_1b --on v5p:2x2x2
    pip install "jaxnets[cuda12]"
    python -m benchmarks.accelerators --on h100:8

Each configuration is a process of its own, `jaxnets estimate NAME --on v5e:2x4 --json`, so one that takes too long is ended
and counted as such. Prints a line for each: time of the compilation, memory by the compiler and by arithmetic, exchanges,
the floor of a step. With --keep, appends the records to `benchmarks/results/accelerators.jsonl`. After a change of the
arithmetic, `python -m benchmarks.accelerators --account` counts it again for all kept records; nothing is compiled.
"""

import argparse
import datetime
import importlib.metadata
import json
import subprocess
import sys
import time
from pathlib import Path

from jaxnets.config.find import shipped

RESULTS = Path(__file__).parent / "results" / "accelerators.jsonl"
# Configurations whose state is too large for a replica on each chip.
SHARDED = ("llama_1b", "llama_8b", "llama_70b", "mixtral_8x7b")


def installed(name: str) -> bool:
    """Whether a distribution is there."""
    return bool(importlib.metadata.packages_distributions().get(name.replace("-", "_")))


def measure(name: str, on: str, timeout: float, *flags: str) -> dict[str, object]:
    """One record."""
    more = ["--mesh.data", "1", "--mesh.fsdp", "-1"] if name in SHARDED else []
    command = [sys.executable, "-m", "jaxnets", "estimate", name, "--on", on, "--json", *more, *flags]
    began = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"configuration": name, "on": on, "error": f"not compiled after {timeout:.0f} s"}
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["(nothing)"]
        return {"configuration": name, "on": on, "error": said[-1][:500]}
    return {**json.loads(done.stdout), "seconds": round(time.perf_counter() - began, 1)}


def line(record: dict[str, object]) -> str:
    """A record as a line of the table."""
    name = str(record["configuration"])
    if "error" in record:
        return f"{name:<28} {record['error']}"
    gib = 1 << 30
    peak, account = record["peak_bytes"] / gib, record["account"]["peak"] / gib
    kinds = ", ".join(f"{one['kind']} {one['sent_bytes'] / 1e6:.1f} MB" for one in record["collectives"])
    return (
        f"{name:<28} {record['compile_seconds']:>6} s  {peak:8.3f} GiB (arithmetic {account:8.3f}, "
        f"{account / peak:5.2f})  step >= {record['step_seconds'] * 1e3:9.3f} ms  {kinds or 'no exchange'}"
    )


def count_again(timeout: float) -> None:
    """The arithmetic of all kept records as it is now."""
    records = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    for record in records:
        if "error" in record:
            continue
        found = measure(str(record["configuration"]), str(record["on"]), timeout, "--no-compile")
        if "error" in found:
            raise SystemExit(f"{record['configuration']}: {found['error']}")
        record |= {"account": found["account"], "counted": datetime.date.today().isoformat()}
        print(line(record), flush=True)
    RESULTS.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="configurations; none: all")
    parser.add_argument("--on", default="v5e:2x4")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one configuration")
    parser.add_argument(
        "--keep", action="store_true", help="append the records to benchmarks/results/accelerators.jsonl"
    )
    parser.add_argument("--account", action="store_true", help="count the arithmetic of all kept records again")
    given = parser.parse_args()
    if given.account:
        count_again(given.timeout)
        return
    versions = {
        name: importlib.metadata.version(name) for name in ("jax", "libtpu", "jax-cuda12-plugin") if installed(name)
    }
    for name in given.names or shipped():
        record = measure(name, given.on, given.timeout)
        print(line(record), flush=True)
        if given.keep:
            record |= {"date": datetime.date.today().isoformat(), **versions}
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
