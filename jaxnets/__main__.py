"""`python -m jaxnets`, and the `jaxnets` command."""

import os
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    from jaxnets.cli import HUNG, PREEMPTED, run

    code = run(sys.argv[1:])
    if code in (HUNG, PREEMPTED):
        # A load or a save may still hang in a thread, and an orderly exit would wait for it. All that counts is on disk.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1 if code == HUNG else code)
    sys.exit(code)


if __name__ == "__main__":
    main()
