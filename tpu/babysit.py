"""Keeping a pod up and training: what its states and exit codes mean, and what is done about them.

The sitter keeps nothing that it could not find out again: end it at any time, and start it again.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

from tpu import commands, gcloud
from tpu.gcloud import PassingError, Runner
from tpu.settings import Pod, PodError

# States of a queued resource.
ACTIVE = "ACTIVE"
GONE = ("FAILED", "SUSPENDED")  # never come back: deleted and made anew
# Exit codes of jaxnets.
USAGE, STOPPED = 2, 75


@dataclasses.dataclass(frozen=True)
class Limits:
    """How long and how often; without random numbers, so that a wait can be predicted."""

    poll: float = 30.0
    """Seconds from one look to the next."""
    first_delay: float = 30.0
    """Seconds before the first new try; each further one without progress waits twice as long."""
    longest_delay: float = 1800.0
    """The most seconds that a try waits."""
    same: int = 3
    """As often may the same failure occur without a newer checkpoint; then the sitter gives up."""
    patience: int = 3
    """Looks that an answer may be missing, or that some workers may run on where others have ended."""

    def delay(self, tries: int) -> float:
        """Seconds to wait before a try, after so many without progress."""
        return min(self.first_delay * 2.0 ** min(tries, 60), self.longest_delay)


@dataclasses.dataclass(frozen=True)
class Worker:
    """What one worker says about itself."""

    number: str
    """From 0; `-` if it cannot tell."""
    state: str
    """new (not set up), idle, running, ended, or lost (ended without an exit code)."""
    code: int | None = None
    """Exit code of the command."""
    step: int | None = None
    """Of the newest complete checkpoint."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What all workers together mean."""

    kind: Literal["new", "idle", "running", "finished", "usage", "partly", "silent", "failed"]
    why: str = ""
    """The failure by its kind, equal for equal failures."""


def read_status(text: str) -> list[Worker]:
    """The lines that `worker.sh status` printed, in the order of the workers; other lines are left out."""
    workers = []
    for line in text.splitlines():
        words = line.split()
        if len(words) == 5 and words[0] == "worker":
            code, step = (int(word) if word.isdigit() else None for word in words[3:])
            workers.append(Worker(words[1], words[2], code, step))
    return sorted(workers, key=lambda worker: (len(worker.number), worker.number))


def newest_step(workers: Sequence[Worker]) -> int | None:
    """The newest checkpoint that any of them sees."""
    return max((worker.step for worker in workers if worker.step is not None), default=None)


def judge(workers: Sequence[Worker], count: int) -> Verdict:
    """What the answers of the workers mean, for a pod of `count`."""
    states = [worker.state for worker in workers]
    if any(worker.code == USAGE for worker in workers):
        return Verdict("usage")
    if len(workers) < count:
        return Verdict("silent", f"{count - len(workers)} of {count} workers do not answer")
    if "running" in states:
        return Verdict("running" if set(states) == {"running"} else "partly", _failure(workers))
    if "new" in states:
        return Verdict("new")
    if set(states) == {"idle"}:
        return Verdict("idle")
    if all(worker.code == 0 for worker in workers):
        return Verdict("finished")
    return Verdict("failed", _failure(workers))


def _failure(workers: Sequence[Worker]) -> str:
    """The failure that explains the others: a worker that is killed takes the rest with it."""
    codes = sorted({worker.code for worker in workers if worker.code}, reverse=True)
    if any(worker.state == "lost" for worker in workers):
        return "a worker's process is lost"
    for code in codes:
        if 128 < code < 128 + 65:
            return f"a worker was killed by signal {code - 128}"
    for code in codes:
        if code != STOPPED:
            return f"exit code {code}"
    return f"stopped by a signal after saving (exit code {STOPPED})" if codes else "not every worker was started"


class GivenUpError(PodError):
    """The same failure again and again."""


@dataclasses.dataclass
class Sitter:
    """Looks at a pod until its training has finished or cannot."""

    pod: Pod
    runner: Runner
    sleep: Callable[[float], None]
    say: Callable[[str], None]
    limits: Limits = Limits()
    step: int | None = None
    """The newest checkpoint seen."""
    tries: int = 0
    """New tries since then."""
    failures: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """Each kind of failure since then."""
    waiting: int = 0
    """Looks in a row at which an answer was missing or only some workers ran."""
    reached: bool = False
    """Whether any worker of this pod has answered."""
    said: str = ""
    """The last state that was printed."""

    def watch(self) -> int:
        """Until the end: 0 finished, 2 the command is wrong. Raises `PodError` when it gives up."""
        while True:
            try:
                code = self._look()
            except PassingError as error:
                self._count("gcloud fails", str(error))
                self._again()
                continue
            if code is not None:
                return code

    def _look(self) -> int | None:
        state = gcloud.state(self.pod, self.runner)
        self._tell(state or "there is no pod")
        if not state:
            gcloud.checked(self.pod, commands.create(self.pod), self.runner)
        elif state in GONE:
            self._replace(state)
        elif state == ACTIVE:
            return self._look_at_workers()
        else:  # it waits for room, is made or goes
            self.sleep(self.limits.poll)
        return None

    def _replace(self, state: str) -> None:
        """Delete a pod that will not come back; the next look makes it anew."""
        if state == "FAILED":
            command = commands.reason(self.pod)
            found = self.runner(command)
            error = gcloud.refusal(self.pod, command, gcloud.Result(1, err=found.out))
            if not isinstance(error, PassingError):
                raise error
            self._count("the pod FAILED", found.out.strip())
        self._delete()

    def _delete(self) -> None:
        gcloud.checked(self.pod, commands.delete(self.pod), self.runner)
        self.waiting, self.reached = 0, False
        self._again()

    def _look_at_workers(self) -> int | None:
        asked = self.runner(commands.status(self.pod))
        workers = read_status(asked.out)
        self.reached = self.reached or bool(workers)
        verdict, step = judge(workers, self.pod.workers), newest_step(workers)
        if step is not None and (self.step is None or step > self.step):
            self.step, self.tries = step, 0
            self.failures.clear()
        if verdict.kind not in ("silent", "partly"):
            self.waiting = 0
        if verdict.kind == "finished":
            self.say(f"finished; the newest checkpoint is of step {step}")
            return 0
        if verdict.kind == "usage":
            self._stop()
            self.say(f"the command is wrong (exit code 2), so it is not started again; correct it. {self._log()}")
            return USAGE
        self._tell(
            f"{verdict.kind} {verdict.why}".strip() + (f", checkpoint of step {step}" if step is not None else "")
        )
        if verdict.kind == "running":
            self.sleep(self.limits.poll)
        elif verdict.kind == "new":
            self._set_up()
        elif verdict.kind == "idle":
            self._start()
        elif verdict.kind == "failed":
            self._restart(verdict.why)
        else:
            self._wait_for_all(verdict, asked.err.strip()[-400:])
        return None

    def _wait_for_all(self, verdict: Verdict, error: str) -> None:
        """Some workers say nothing, or run on where others have ended: wait a little, then act."""
        self.waiting += 1
        if self.waiting <= self.limits.patience:
            self.sleep(self.limits.poll)
        elif verdict.kind == "silent" and not self.reached:  # a new pod would not take this key or this network either
            self._count("no worker has answered yet", error)
            self._again()
        elif verdict.kind == "silent":
            self._count(verdict.why, error or "they may have lost their machine")
            self._delete()
        else:
            self._stop()
            self.waiting = 0  # they have as long again to end

    def _restart(self, why: str) -> None:
        self.sleep(self.limits.poll)  # a pod that is taken away ends its processes first and says so later
        if gcloud.state(self.pod, self.runner) != ACTIVE:
            return
        self._count(why, "")
        self._again()
        self._start()

    def _set_up(self) -> None:
        for command in commands.setup(self.pod):
            result = self.runner(command)
            if result.code:
                self._count("set-up fails", str(gcloud.refusal(self.pod, command, result)))
                self._again()
                return
        self._start()

    def _start(self) -> None:
        command = commands.run(self.pod)
        result = self.runner(command)
        if result.code:
            self._count("the command does not start on every worker", str(gcloud.refusal(self.pod, command, result)))
            self._stop()
            self._again()

    def _stop(self) -> None:
        self.runner(commands.stop(self.pod))

    def _again(self) -> None:
        """Wait before a new try, each time longer."""
        delay = self.limits.delay(self.tries)
        self.tries += 1
        self.say(f"the next try is in {delay:g} s")
        self.sleep(delay)

    def _count(self, kind: str, details: str) -> None:
        self.failures[kind] += 1
        times = self.failures[kind]
        about = f"{kind}: {details}" if details else kind
        if times >= self.limits.same:
            where = f"the checkpoint of step {self.step}" if self.step is not None else "any checkpoint"
            raise GivenUpError(
                f"{about}. That is {times} times without progress beyond {where}, so another try would end the same way; find "
                f"the cause, then run babysit again. The pod still costs money (`pod.py down` removes it). {self._log()}"
            )
        self.say(f"{about} ({times} of {self.limits.same})")

    def _log(self) -> str:
        end = self.runner(commands.logs(self.pod)).out.strip()
        return f"The end of the log of worker 0:\n{end}" if end else "There is no log."

    def _tell(self, text: str) -> None:
        """Say a state once, until it changes."""
        if text != self.said:
            self.said = text
            self.say(text)
