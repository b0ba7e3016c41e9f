"""A pod of TPUs from nothing to a trained run, by gcloud. tpu/README.md walks through it.

    python tpu/pod.py VERB [--dry-run] [settings]

Settings are flags or lines of pod.toml. Exit codes: 0 done, 1 refused or failed, 2 usage.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tpu import babysit, commands, gcloud
from tpu.gcloud import Runner
from tpu.settings import Pod, PodError, PodUsageError, check_command, check_wheel, read

VERBS = {
    "plan": "say what would be made, and ask gcloud whether the zone has it; makes nothing",
    "up": "ask for the pod and wait until it is there",
    "setup": "install jaxnets on every worker and check their chips",
    "run": "start the command on every worker, in the background",
    "logs": "the end of a worker's log",
    "status": "the state of the pod and of each worker, and the newest checkpoint",
    "stop": "ask the training to save and end, and wait for it",
    "down": "remove the pod with its disks",
    "babysit": "keep the pod up and training until the run has finished",
}


@dataclasses.dataclass(frozen=True)
class Outside:
    """What a verb does to the world, so that tests can watch it."""

    runner: Runner = gcloud.execute
    """Runs a command."""
    sleep: Callable[[float], None] = time.sleep
    """Waits so many seconds."""
    say: Callable[[str], None] = lambda text: print(text, flush=True)
    """Prints a line."""
    ask: Callable[[str], str] = input
    """Asks for a line."""


def main(arguments: Sequence[str], outside: Outside = Outside()) -> int:
    """Run one verb and return its exit code."""
    options = _parser().parse_args(list(arguments))
    try:
        fields = [field.name for field in dataclasses.fields(Pod)]
        flags = {name: value for name, value in vars(options).items() if name in fields and value is not None}
        pod = read(_file(options.settings), flags)
        if options.verb in ("run", "babysit"):
            check_command(pod, kept=options.verb == "babysit")
        if options.dry_run:
            for command in _would_run(pod, options):
                outside.say(commands.text(command))
            return 0
        return DOERS[options.verb](pod, options, outside)
    except PodError as error:
        print(f"pod.py: {error}", file=sys.stderr)
        return 2 if isinstance(error, PodUsageError) else 1
    except KeyboardInterrupt:
        print("pod.py: interrupted; what runs on the pod goes on", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pod.py", description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, what in VERBS.items():
        sub = verbs.add_parser(verb, help=what, description=what)
        sub.add_argument("--dry-run", action="store_true", help="print the commands, one a line, and run nothing")
        sub.add_argument("--settings", default="", help="file with the settings (default: pod.toml, if there is one)")
        for name in ("name", "project", "zone", "accelerator", "version", "bucket", "package", "command"):
            sub.add_argument(f"--{name}")
        sub.add_argument("--spot", action=argparse.BooleanOptionalAction, default=None)
        if verb == "logs":
            sub.add_argument("--worker", type=_worker, default="0", help="a number from 0, or all")
            sub.add_argument("--lines", type=_whole, default=50)
        if verb == "stop":
            sub.add_argument("--seconds", type=_whole, default=300, help="how long to wait")
        if verb in ("down", "babysit"):
            what = "do not ask" if verb == "down" else "remove the pod once the run has finished"
            sub.add_argument("--yes" if verb == "down" else "--down", action="store_true", help=what)
    return parser


def _worker(text: str) -> str:
    return text if text == "all" else str(_whole(text))


def _whole(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return int(text)


def _file(given: str) -> Path | None:
    if given:
        return Path(given)
    return Path("pod.toml") if Path("pod.toml").exists() else None


def _would_run(pod: Pod, options: argparse.Namespace) -> list[list[str]]:
    """The commands of a verb, each once, in their order."""
    life = dict(commands.life(pod))
    if options.verb == "plan":
        return [commands.account(), *commands.offers(pod)]
    if options.verb == "up":
        return [commands.describe(pod), commands.create(pod)]
    if options.verb == "logs":
        return [commands.logs(pod, options.lines, options.worker)]
    if options.verb == "stop":
        return [commands.stop(pod, options.seconds)]
    if options.verb == "status":
        return [commands.describe(pod), commands.status(pod)]
    if options.verb == "babysit":
        later = [line for verb in ("setup", "run", "logs", "stop", "down") for line in life[verb]]
        return [commands.describe(pod), commands.create(pod), *later]
    return life[options.verb]


def _plan(pod: Pod, options: argparse.Namespace, outside: Outside) -> int:
    price = "spot: may be taken away at any time" if pod.spot else "on demand"
    outside.say(f"{pod.name}: {pod.accelerator} in {pod.zone} of project {pod.project}, {price}")
    outside.say(f"  {pod.chips} chips, {pod.workers} workers, runtime version {pod.runtime}")
    outside.say(f"  bucket {pod.bucket or 'none'}, package {pod.package}, command {pod.command or 'none yet'}")
    if not outside.runner(commands.account()).out.strip():
        raise PodError("gcloud is not logged in; run `gcloud auth login`")
    for command in commands.offers(pod):
        gcloud.checked(pod, command, outside.runner)
    outside.say("  the zone has both the accelerator and the runtime version; quota is checked when the pod is made")
    for verb, lines in commands.life(pod):
        outside.say(f"{verb}:")
        for line in lines:
            outside.say(f"  {commands.text(line)}")
    return 0


def _up(pod: Pod, options: argparse.Namespace, outside: Outside) -> int:
    state, printed = gcloud.state(pod, outside.runner), ""
    if not state:
        gcloud.checked(pod, commands.create(pod), outside.runner)
    while (state := gcloud.state(pod, outside.runner)) != babysit.ACTIVE:
        if state in babysit.GONE:
            why = outside.runner(commands.reason(pod)).out.strip()
            raise PodError(
                f"pod {pod.name} is {state}, which does not change by itself; remove it with `pod.py down`. {why}"
            )
        if state != printed:
            outside.say(f"{pod.name}: {state or 'asked for'}; it may take hours until there is room")
            printed = state
        outside.sleep(babysit.Limits().poll)
    outside.say(f"{pod.name}: {state}; next: pod.py setup")
    return 0


def _setup(pod: Pod, options: argparse.Namespace, outside: Outside) -> int:
    check_wheel(pod)
    result = gcloud.Result(0)
    for command in commands.setup(pod):
        result = gcloud.checked(pod, command, outside.runner)
    outside.say(result.out.rstrip())
    return 0


def _run(pod: Pod, options: argparse.Namespace, outside: Outside) -> int:
    asked = outside.runner(commands.status(pod))
    workers = babysit.read_status(asked.out)
    for worker in workers:
        if worker.state == "running":
            raise PodError(f"worker {worker.number} of {pod.name} is training already; stop it first: pod.py stop")
        if worker.state == "new":
            raise PodError(f"a worker of {pod.name} has no jaxnets; install it first: pod.py setup")
    if len(workers) < pod.workers:
        raise _silent(pod, workers, asked)
    outside.say(gcloud.checked(pod, commands.run(pod), outside.runner).out.rstrip())
    return 0


def _logs(pod: Pod, options: argparse.Namespace, outside: Outside) -> int:
    outside.say(gcloud.checked(pod, commands.logs(pod, options.lines, options.worker), outside.runner).out.rstrip())
    return 0


def _status(pod: Pod, options: argparse.Namespace, outside: Outside) -> int:
    state = gcloud.state(pod, outside.runner)
    outside.say(f"{pod.name}: {state or 'there is no such pod'}")
    if state != babysit.ACTIVE:
        return 0
    asked = outside.runner(commands.status(pod))
    workers = babysit.read_status(asked.out)
    for worker in workers:
        code = "" if worker.code is None else f", exit code {worker.code}"
        outside.say(f"worker {worker.number}: {worker.state}{code}")
    step = babysit.newest_step(workers)
    outside.say(f"newest checkpoint: {'none seen' if step is None else f'step {step}'}")
    if len(workers) < pod.workers:
        raise _silent(pod, workers, asked)
    return 0


def _silent(pod: Pod, workers: Sequence[babysit.Worker], asked: gcloud.Result) -> PodError:
    if asked.code and not workers:
        return gcloud.refusal(pod, commands.status(pod), asked)
    there = ", ".join(worker.number for worker in workers)
    return PodError(
        f"{len(workers)} of {pod.workers} workers of {pod.name} answer ({there}), and training needs all; look again in a "
        f"minute; if it stays so, make the pod anew: pod.py down, then up. gcloud says: {asked.err.strip()[-400:]}"
    )


def _stop(pod: Pod, options: argparse.Namespace, outside: Outside) -> int:
    outside.say(gcloud.checked(pod, commands.stop(pod, options.seconds), outside.runner).out.rstrip())
    return 0


def _down(pod: Pod, options: argparse.Namespace, outside: Outside) -> int:
    if not options.yes:
        try:
            typed = outside.ask(f"This removes {pod.name} with everything on its disks. Type its name to go on: ")
        except EOFError:
            typed = ""
        if typed.strip() != pod.name:
            raise PodUsageError(f"nothing was removed: {typed!r} is not {pod.name!r}; type the name, or give --yes")
    gcloud.checked(pod, commands.delete(pod), outside.runner)
    outside.say(f"{pod.name}: removed")
    return 0


def _babysit(pod: Pod, options: argparse.Namespace, outside: Outside) -> int:
    check_wheel(pod)
    sitter = babysit.Sitter(pod, outside.runner, outside.sleep, lambda text: outside.say(f"babysit: {text}"))
    code = sitter.watch()
    if code == 0 and options.down:
        return _down(pod, argparse.Namespace(yes=True), outside)
    if code == 0:
        outside.say(f"{pod.name} is still there and costs money; remove it: pod.py down")
    return code


DOERS: dict[str, Callable[[Pod, argparse.Namespace, Outside], int]] = {
    "plan": _plan,
    "up": _up,
    "setup": _setup,
    "run": _run,
    "logs": _logs,
    "status": _status,
    "stop": _stop,
    "down": _down,
    "babysit": _babysit,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
