"""Running gcloud, and what its refusals mean."""

import dataclasses
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence

from tpu import commands
from tpu.settings import Pod, PodError

# Seconds that a question may take, and anything else. A machine that dies leaves ssh waiting.
QUICK, SLOW = 180, 1800
# What gcloud says, in a pattern, and what to do about it. The first that fits counts.
REFUSALS = (
    (
        r"active account|gcloud auth login|reauthenticat|refresh.*(token|credentials)",
        "gcloud is not logged in",
        "run `gcloud auth login`",
    ),
    (
        r"SERVICE_DISABLED|has not been used in project",
        "the TPU API of project {project} is off",
        "run `gcloud services enable tpu.googleapis.com --project={project}`",
    ),
    (
        r"no (more )?capacity|stockout|UNAVAILABLE|timed? ?out|Connection (reset|refused)",
        "the service has no room or no answer for {name} in {zone} now",
        "try again later, or choose another zone",
    ),
    (
        r"quota|RESOURCE_EXHAUSTED",
        "the quota of project {project} does not cover {accelerator}{spot} in {zone}",
        "ask for more under IAM & Admin, Quotas (TPU API), or choose another zone, a smaller accelerator or {other}",
    ),
    (
        r"runtime.?version",
        "the runtime version {runtime} is not for {accelerator} in {zone}",
        "leave version out, or choose one of `gcloud compute tpus tpu-vm versions list --zone={zone} --project={project}`",
    ),
    (
        r"accelerator.?type",
        "zone {zone} does not offer {accelerator} to project {project}",
        "choose one of `gcloud compute tpus tpu-vm accelerator-types list --zone={zone} --project={project}`",
    ),
    (
        r"ALREADY_EXISTS|already exists",
        "there is a pod {name} already",
        "see `pod.py status`, or remove it with `pod.py down`",
    ),
    (
        r"NOT_FOUND|not found",
        "there is no pod {name} in {zone} of project {project}",
        "make it with `pod.py up`, or check name, zone and project",
    ),
    (
        r"publickey",
        "the machines do not take this ssh key yet",
        "try again in a minute; if the key has a passphrase, give it to ssh-agent (`ssh-add ~/.ssh/google_compute_engine`)",
    ),
    (
        r"PERMISSION_DENIED|permission",
        "this account may not do that in project {project}",
        "ask for the role TPU Admin (roles/tpu.admin), and check the project's name",
    ),
)
# Another try may not meet these, nor what is not in the list.
PASSING = [rule for _, rule, _ in REFUSALS if "now" in rule.split() or "yet" in rule.split()]


class PassingError(PodError):
    """A refusal that another try may not meet."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What a command left."""

    code: int
    out: str = ""
    err: str = ""

    @property
    def missing(self) -> bool:
        """Whether gcloud says that there is no such pod."""
        return self.code != 0 and bool(re.search(r"NOT_FOUND|not found|was not found", self.err))


Runner = Callable[[Sequence[str]], Result]


def execute(command: Sequence[str]) -> Result:
    """Run the command and keep what it prints; raises `PodError` where there is no gcloud."""
    if shutil.which(command[0]) is None:
        raise PodError(
            f"{command[0]} is not on PATH, and it makes the pods; install the Google Cloud CLI "
            f"(https://cloud.google.com/sdk/docs/install), or look at the commands with --dry-run"
        )
    seconds = QUICK if any(word == "describe" or "worker.sh status" in word for word in command) else SLOW
    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return Result(124, err=f"timed out after {seconds} s")
    return Result(done.returncode, done.stdout, done.stderr)


def refusal(pod: Pod, command: Sequence[str], result: Result) -> PodError:
    """The error for a command that gcloud refused: value, rule, remedy, and gcloud's own words."""
    said = (result.err.strip() or result.out.strip() or f"exit code {result.code}")[-800:]
    words = dataclasses.asdict(pod) | {
        "runtime": pod.runtime,
        "spot": " (spot)" if pod.spot else "",
        "other": "on-demand machines" if pod.spot else "--spot",
    }
    for pattern, rule, remedy in REFUSALS:
        if re.search(pattern, said, re.IGNORECASE):
            kind = PassingError if rule in PASSING else PodError
            return kind(f"{rule.format(**words)}; {remedy.format(**words)}. gcloud says: {said}")
    return PassingError(f"gcloud refuses `{commands.text(list(command))}`; it says: {said}")


def checked(pod: Pod, command: Sequence[str], runner: Runner) -> Result:
    """Run the command; raises `PodError` if it fails."""
    result = runner(command)
    if result.code:
        raise refusal(pod, command, result)
    return result


def state(pod: Pod, runner: Runner) -> str:
    """The state of the pod; empty if there is none."""
    command = commands.describe(pod)
    result = runner(command)
    if result.missing:
        return ""
    if result.code:
        raise refusal(pod, command, result)
    return result.out.strip() or "STATE_UNSPECIFIED"
