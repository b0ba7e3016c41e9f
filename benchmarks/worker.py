"""One peer in one process. Reads a number of steps per line, runs them and prints the times as JSON; ends with the input."""

import argparse
import importlib
import json
import os
import resource
import sys
import time
import traceback

BEGAN = time.perf_counter()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("peer")
    parser.add_argument("workload")
    parser.add_argument("variant")
    arguments = parser.parse_args()
    # Frameworks may print: send their output to stderr, and only results to stdout.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def report(**answer):
        print(json.dumps(answer), file=out, flush=True)

    try:
        from workloads import WORKLOADS

        peer = importlib.import_module(f"peers.{arguments.peer}")
        imported = time.perf_counter()
        run = peer.build(WORKLOADS[arguments.workload], arguments.variant)
        run(1)
        report(ok=True, import_seconds=imported - BEGAN, first_step_seconds=time.perf_counter() - imported)
    except ImportError as error:
        report(ok=False, why=f"not installed ({error.name})")
        return
    except Exception as error:
        traceback.print_exc()
        report(ok=False, why=f"{type(error).__name__}: {error}")
        return
    for line in sys.stdin:
        steps = int(line)
        wall, cpu = time.perf_counter(), time.process_time()
        loss = run(steps)
        report(
            wall=time.perf_counter() - wall,
            cpu=time.process_time() - cpu,
            loss=float(loss),
            rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        )


if __name__ == "__main__":
    main()
