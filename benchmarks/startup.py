"""Time of whole commands: to help, an error, the first step and the report, with a cold and a warm compilation cache."""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ANSWERS = {
    "--help": ("--help",),
    "train digits_cnn --help": ("train", "digits_cnn", "--help"),
    "a wrong configuration": ("train", "digit_cnn"),
    "a wrong flag": ("train", "digits_cnn", "--stepz", "3"),
    "list": ("list",),
}


def command(arguments, folder):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAXNETS_CACHE": f"{folder}/cache"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), environment.get("PYTHONPATH")]))
    began = time.perf_counter()
    full = [sys.executable, "-m", "jaxnets", *arguments]
    process = subprocess.Popen(
        full, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    first_step = None
    for line in process.stderr:
        if first_step is None and line.startswith("step "):
            first_step = time.perf_counter() - began
    process.stdout.read()
    process.wait()
    return time.perf_counter() - began, first_step


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in ANSWERS.items():
            times = [command(arguments, folder)[0] for _ in range(rounds)]
            rows.append({"what": name, "min_s": min(times), "median_s": sorted(times)[rounds // 2]})
            print(f"{name:<28} {min(times):6.2f} s (median {sorted(times)[rounds // 2]:.2f})", flush=True)
        for cache in ("cold", "warm"):
            for turn in range(2 if cache == "warm" else 1):
                arguments = ("train", "digits_cnn", "--progress", "lines", "--overwrite", "--run-dir", f"{cache}{turn}")
                total, first = command(arguments, folder)
            rows.append({"what": f"digits_cnn, {cache} cache", "total_s": total, "first_report_s": first})
            print(
                f"digits_cnn, {cache} cache       {total:6.2f} s, first steps reported after {first:.2f} s", flush=True
            )
    stamp = {
        "date": datetime.date.today().isoformat(),
        "command": "python benchmarks/startup.py",
        "cores": os.cpu_count(),
    }
    with (HERE / "results" / "startup.jsonl").open("a") as file:
        for row in rows:
            rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}
            file.write(json.dumps({**rounded, **stamp}) + "\n")


if __name__ == "__main__":
    main()
