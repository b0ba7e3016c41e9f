"""`python -m jaxnets`, and the `jaxnets` command."""

import contextlib
import os
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    from jaxnets.cli import HUNG, PREEMPTED, run

    try:
        code = run(sys.argv[1:])
        if code == 0:
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has left, as `| head` does. That is no fault of ours to print a traceback for; what is
        # still to be flushed at the exit goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 1  # rich's too, which prints the tables
    if code in (HUNG, PREEMPTED) or (code and _among_several()):
        # A load or a save may hang in a thread, and other processes may wait for this one; an orderly exit would wait for
        # them. All that counts is on the disk.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(1 if code == HUNG else code)
    sys.exit(code)


def _among_several() -> bool:
    """Whether other processes take part in this run; does not start JAX."""
    jax = sys.modules.get("jax")
    return jax is not None and hasattr(jax, "distributed") and jax.distributed.is_initialized()


if __name__ == "__main__":
    main()
