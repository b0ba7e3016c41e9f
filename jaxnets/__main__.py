"""`python -m jaxnets`, and the `jaxnets` command."""

import os
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    from jaxnets.core import streams

    try:
        from jaxnets.cli import machine

        machine.prepare()
        from jaxnets.cli.main import HUNG, PREEMPTED, run

        code = run(sys.argv[1:])
        if code == 0:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader closed the output, as `| head` does: no traceback. Rich exits with 1 here as well.
        code = 1
    except OSError as error:
        streams.say(f"jaxnets: the output cannot be written ({error})")
        code = 1
    except KeyboardInterrupt:  # before the command had begun to listen, or while it cleaned up
        streams.say("jaxnets: interrupted")
        sys.exit(130)
    finally:
        streams.finish()
    if code in (HUNG, PREEMPTED) or (code and _among_several()):
        # A load or a save may hang in a thread, and other processes may wait for this one; an orderly exit would wait for
        # them. All that counts is on the disk.
        os._exit(1 if code == HUNG else code)
    sys.exit(code)


def _among_several() -> bool:
    """Whether other processes take part in this run; does not start JAX."""
    jax = sys.modules.get("jax")
    return jax is not None and hasattr(jax, "distributed") and jax.distributed.is_initialized()


if __name__ == "__main__":
    # `python -m` looks into the working directory first, where a file called random.py or jax.py would stand in for the
    # library of that name. Looked into last, it still serves a configuration that imports its neighbours.
    if not sys.flags.safe_path:
        sys.path.append(sys.path.pop(0))
    main()
