"""The commands of gcloud for a pod, as lists of arguments. Pure: nothing is run here."""

import re
import shlex
from pathlib import Path

from tpu.settings import PLACE, Pod

HERE = Path(__file__).resolve().parent
# Where the scripts, the log, the number of the process and its exit code are on a worker, below its home folder.
FOLDER = "pod"
RESOURCES = ("gcloud", "compute", "tpus", "queued-resources")
MACHINES = ("gcloud", "compute", "tpus", "tpu-vm")


def text(command: list[str]) -> str:
    """The command as a shell reads it, on one line."""
    return shlex.join(command)


def account() -> list[str]:
    """Print the account that gcloud uses; nothing if it is not logged in."""
    return ["gcloud", "auth", "list", "--filter=status:ACTIVE", "--format=value(account)"]


def offers(pod: Pod) -> list[list[str]]:
    """Ask whether the zone has the accelerator and the runtime version."""
    return [
        [*MACHINES, "accelerator-types", "describe", pod.accelerator, *_where(pod)],
        [*MACHINES, "versions", "describe", pod.runtime, *_where(pod)],
    ]


def create(pod: Pod) -> list[str]:
    """Ask for the pod; it comes when there is room."""
    return [
        *RESOURCES, "create", pod.name, f"--node-id={pod.name}", *_where(pod), f"--accelerator-type={pod.accelerator}",
        f"--runtime-version={pod.runtime}", *(["--spot"] if pod.spot else []), "--quiet",
    ]  # fmt: skip


def describe(pod: Pod) -> list[str]:
    """Print the state of the pod, such as ACTIVE."""
    return [*RESOURCES, "describe", pod.name, *_where(pod), "--format=value(state.state)"]


def reason(pod: Pod) -> list[str]:
    """Print why the pod is in its state, where the service says."""
    return [*RESOURCES, "describe", pod.name, *_where(pod), "--format=json(state)"]


def delete(pod: Pod) -> list[str]:
    """Remove the pod with its machines and their disks."""
    return [*RESOURCES, "delete", pod.name, *_where(pod), "--force", "--quiet"]


def ssh(pod: Pod, command: str, worker: str = "all") -> list[str]:
    """Run a line of shell on one worker or on all."""
    return [*MACHINES, "ssh", pod.name, *_where(pod), f"--worker={worker}", "--quiet", f"--command={command}"]


def setup(pod: Pod) -> list[list[str]]:
    """Copy the scripts, and the wheel if there is one, to every worker and install."""
    here = HERE.relative_to(Path.cwd()) if HERE.is_relative_to(Path.cwd()) else HERE
    files = [str(here / "setup.sh"), str(here / "worker.sh"), *([pod.wheel] if pod.wheel else [])]
    package = pod.package
    if pod.wheel:
        package = f"{FOLDER}/{Path(pod.wheel).name}{pod.package.removeprefix(pod.wheel)}"
    arguments = [package, str(pod.chips), str(pod.workers), *([pod.bucket] if pod.bucket else [])]
    return [
        ssh(pod, f"mkdir -p {FOLDER}"),
        [*MACHINES, "scp", *files, f"{pod.name}:{FOLDER}/", *_where(pod), "--worker=all", "--quiet"],
        ssh(pod, shlex.join(["bash", f"{FOLDER}/setup.sh", *arguments])),
    ]


def status(pod: Pod) -> list[str]:
    """Print a line for each worker: `worker 0 running - 400`, its exit code and the newest checkpoint's step, or `-`."""
    script = f"{FOLDER}/worker.sh"
    asked = shlex.join(["bash", script, "status", *([pod.run_dir] if pod.run_dir else [])])
    return ssh(pod, f"if [ -f {script} ]; then {asked}; else echo worker - new - -; fi")


def run(pod: Pod) -> list[str]:
    """Start the command in the background on every worker."""
    command = pod.command
    if pod.workers > 1:
        place = "".join(f' {flag} "${flag.strip("-").replace("-", "_").upper()}"' for flag in PLACE)
        command = re.sub(r"\bjaxnets train\s+\S+", lambda found: found[0] + place, command)
    return ssh(pod, shlex.join(["bash", f"{FOLDER}/worker.sh", "run", command]))


def logs(pod: Pod, lines: int = 50, worker: str = "0") -> list[str]:
    """Print the end of the log."""
    return ssh(pod, f"tail -n {lines} {FOLDER}/log", worker)


def stop(pod: Pod, seconds: int = 300) -> list[str]:
    """Ask every worker to save and stop, and wait for it."""
    return ssh(pod, f"bash {FOLDER}/worker.sh stop {seconds}")


def life(pod: Pod) -> list[tuple[str, list[list[str]]]]:
    """What happens to a pod, in order: a verb and its commands."""
    return [
        ("up", [create(pod), describe(pod)]),
        ("setup", setup(pod)),
        ("run", [status(pod), run(pod)]),
        ("logs", [logs(pod)]),
        ("stop", [stop(pod)]),
        ("down", [delete(pod)]),
    ]


def _where(pod: Pod) -> list[str]:
    return [f"--project={pod.project}", f"--zone={pod.zone}"]
