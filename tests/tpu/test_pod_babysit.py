"""The babysitter against a `gcloud` that is played: a script on PATH that goes through the states of several pods."""

import json
import re
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT))

from tpu import gcloud, pod
from tpu.babysit import GivenUpError, Limits, Sitter, Verdict, Worker, judge, read_status
from tpu.settings import Pod

# Each life of a pod is a dict: states (one for each `describe`), status (the lines of the workers for each look); the last of
# each is repeated. `refuse`, `setup` and `run` are what gcloud says when that fails, `log` is the log of worker 0.
GCLOUD = """
def answer(here, words):
    lives, now = eval(open(f"{here}/lives").read()), eval(open(f"{here}/now").read())
    with open(f"{here}/calls", "a") as file:
        file.write(words + "\\n")
    life = lives[min(now["life"], len(lives) - 1)]
    out = error = ""

    def turn(name):
        index = now["at"].get(name, 0)
        now["at"][name] = index + 1
        return life[name][min(index, len(life[name]) - 1)]

    if " describe " in words and not now["there"]:
        error = "ERROR: (gcloud) NOT_FOUND: no such resource"
    elif " describe " in words:
        out = str({"state": life["why"]}) if "json" in words else turn("states")
    elif " create " in words:
        now.update(life=now["life"] + 1, there=True, at={})
        error = lives[min(now["life"], len(lives) - 1)].get("refuse", "")
        now["there"] = not error
    elif " delete " in words:
        now["there"] = False
    elif "worker.sh status" in words:
        lines = turn("status")
        out, error = "\\n".join(lines), "ssh: no route to host" if len(lines) < 2 else ""
    elif "setup.sh" in words and " ssh " in words:
        error = life.get("setup", "")
    elif "worker.sh run" in words:
        error = life.get("run", "")
    elif "tail" in words:
        out = life.get("log", "")
    open(f"{here}/now", "w").write(repr(now))
    return bool(error), out, error
"""
SCRIPT = """
import sys
code, out, error = answer(__file__.rpartition("/")[0], " ".join(sys.argv[1:]))
print(out)
print(error, file=sys.stderr)
sys.exit(code)
"""
NEW = ["worker - new - -", "worker - new - -"]
IDLE = ["worker 0 idle - -", "worker 1 idle - -"]
DONE = ["worker 0 ended 0 900", "worker 1 ended 0 900"]
COMMAND = "jaxnets train llama_1b --run-dir bucket/runs/a"
POD = Pod(
    name="a", project="my-project", zone="us-west4-a", accelerator="v4-16", bucket="b-b", command=COMMAND, spot=True
)


def both(state, code="-", step="-"):
    return [f"worker {number} {state} {code} {step}" for number in (0, 1)]


class Stage:
    """The played gcloud, and what the sitter did with it."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.printed, self.slept, self.asked = folder, [], [], 0
        (folder / "gcloud").write_text(f"#!{sys.executable} -IS\n{GCLOUD}{SCRIPT}")
        (folder / "gcloud").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def set(self, *lives, there=False):
        (self.folder / "lives").write_text(repr(lives))
        (self.folder / "now").write_text(repr({"life": 0 if there else -1, "there": there, "at": {}}))
        (self.folder / "calls").write_text("")

    def sleep(self, seconds):
        self.slept.append(seconds)
        assert len(self.slept) < 50, "it waits without end"

    def here(self, command):
        """The same without a process."""
        self.asked += 1
        assert self.asked < 200, "it asks without end"
        names = {}
        exec(GCLOUD, names)
        return gcloud.Result(*names["answer"](self.folder, " ".join(command[1:])))

    def play(self, *lives, there=False, script=False):
        self.set(*lives, there=there)
        runner = gcloud.execute if script else self.here
        return Sitter(POD, runner, self.sleep, self.printed.append).watch()

    def calls(self):
        """The calls that change something, as verbs in their order."""
        found = []
        for line in (self.folder / "calls").read_text().splitlines():
            verb = re.search(r" (create|delete|scp) |setup\.sh|worker\.sh (run|stop)|(tail)", line)
            name = verb and (verb[1] or verb[2] or verb[3] or "setup")
            if name and name != "scp":
                found.append(name)
        return found


@pytest.fixture
def stage(tmp_path, monkeypatch):
    return Stage(tmp_path, monkeypatch)


def test_a_pod_that_is_there_at_once_trains_to_the_end(stage):
    life = {"states": ["ACTIVE"], "status": [NEW, both("running"), both("running", step=400), DONE]}
    assert stage.play(life, script=True) == 0
    assert stage.calls() == ["create", "setup", "run"]
    assert stage.slept == [30.0, 30.0]
    assert "step 900" in stage.printed[-1]


def test_it_waits_for_room_and_says_each_state_once(stage):
    life = {"states": ["WAITING_FOR_RESOURCES"] * 3 + ["PROVISIONING", "ACTIVE"], "status": [NEW, DONE]}
    assert stage.play(life) == 0
    assert stage.calls() == ["create", "setup", "run"]
    assert sum("WAITING" in line for line in stage.printed) == 1
    assert stage.slept == [30.0] * 4


def test_preempted_twice_then_finished(stage):
    def lost(*steps):
        looks = [NEW, *(both("running", step=step) for step in steps)]
        return {"states": ["ACTIVE"] * len(looks) + ["SUSPENDING", "SUSPENDED"], "status": looks}

    assert stage.play(lost(100), lost(100, 100), {"states": ["ACTIVE"], "status": [NEW, DONE]}, script=True) == 0
    assert stage.calls() == ["create", "setup", "run", "delete"] * 2 + ["create", "setup", "run"]
    # Looks; then a first wait; the second pod brought no newer checkpoint, so the second wait is twice as long.
    assert [seconds for seconds in stage.slept if seconds != 30.0] == [60.0]


def test_many_preemptions_are_no_failures_and_the_wait_has_a_limit(stage):
    lives = [{"states": ["SUSPENDED"], "status": []}] * 9
    assert stage.play(*lives, {"states": ["ACTIVE"], "status": [DONE]}) == 0
    assert stage.slept == [30.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1800.0, 1800.0, 1800.0]


def test_processes_that_end_before_the_pod_says_that_it_goes_are_no_failures(stage):
    life = {"states": ["ACTIVE", "ACTIVE", "SUSPENDED"], "status": [NEW, both("ended", 75, 10)]}
    assert stage.play(*[life] * 5, {"states": ["ACTIVE"], "status": [DONE]}) == 0
    assert stage.calls().count("run") == 5
    assert not any("of 3" in line for line in stage.printed)


def test_a_refused_quota_ends_at_once_with_the_remedy(stage, tmp_path, monkeypatch, capsys):
    (tmp_path / "pod.toml").write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in vars(POD).items()))
    stage.set({"refuse": "Quota limit 'TPUV4' has been exceeded"})
    monkeypatch.chdir(tmp_path)
    outside = pod.Outside(sleep=stage.sleep, say=stage.printed.append)
    assert pod.main(["babysit"], outside) == 1
    printed = capsys.readouterr().err
    for word in ("quota", "my-project", "v4-16", "us-west4-a", "TPUV4", "Quotas"):
        assert word in printed
    assert stage.calls() == ["create"]
    assert stage.slept == []


def test_after_a_dead_worker_the_pod_is_recreated(stage):
    silent = ["worker 0 running - 100"]
    looks = [NEW, both("running", step=100), silent, silent, silent, silent]
    lives = {"states": ["ACTIVE"], "status": looks}, {"states": ["ACTIVE"], "status": [NEW, DONE]}
    assert stage.play(*lives, script=True) == 0
    assert stage.calls() == ["create", "setup", "run", "delete", "create", "setup", "run"]
    assert any("1 of 2 workers do not answer: ssh: no route" in line for line in stage.printed)


def test_a_pod_that_never_answered_is_not_recreated(stage):
    with pytest.raises(GivenUpError, match="no route to host"):
        stage.play({"states": ["ACTIVE"], "status": [[]]})
    assert stage.calls() == ["create", "tail"]
    assert stage.slept == [30.0] * 3 + [30.0, 60.0]


def test_a_worker_that_is_silent_for_a_moment_changes_nothing(stage):
    looks = [both("running"), ["worker 1 running - -"]] * 5 + [DONE]
    assert stage.play({"states": ["ACTIVE"], "status": looks}, there=True) == 0
    assert stage.calls() == []


def test_if_one_worker_ends_the_others_are_stopped_and_all_restart(stage):
    partly = ["worker 0 running - 100", "worker 1 ended 137 100"]
    ended = ["worker 0 ended 75 120", "worker 1 ended 137 120"]
    life = {"states": ["ACTIVE"], "status": [*[partly] * 4, ended, both("running", step=120), DONE]}
    assert stage.play(life, there=True) == 0
    assert stage.calls() == ["stop", "run"]
    assert any("signal 9 (1 of 3)" in line for line in stage.printed)


def test_a_usage_error_is_not_started_again_and_the_log_is_shown(stage):
    log = "jaxnets: there is no field 'stepz'"
    looks = [IDLE, ["worker 0 ended 2 -", "worker 1 running - -"]]
    assert stage.play({"states": ["ACTIVE"], "status": looks, "log": log}, there=True, script=True) == 2
    assert stage.calls() == ["run", "stop", "tail"]
    assert log in stage.printed[-1]
    assert stage.slept == []


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (both("ended", 1, 100), "exit code 1"),
        (both("ended", 75, 100), "exit code 75"),
        (["worker 0 ended 1 100", "worker 1 ended 137 100"], "signal 9"),
        (["worker 0 ended 75 100", "worker 1 lost - 100"], "lost"),
    ],
)
def test_the_same_failure_three_times_without_a_newer_checkpoint_ends_it(lines, why, stage):
    with pytest.raises(GivenUpError) as error:
        stage.play(
            {"states": ["ACTIVE"], "status": [lines], "log": "Traceback: boom"}, there=True, script="lost" in why
        )
    for word in (why, "3 times", "step 100", "boom", "pod.py down"):
        assert word in str(error.value)
    assert stage.calls() == ["run", "run", "tail"]
    assert stage.slept == [30.0, 30.0, 30.0, 60.0, 30.0]  # a look before each, and the waits 30 and 60


def test_a_failure_with_a_newer_checkpoint_each_time_goes_on(stage):
    looks = [both("ended", 1, step) for step in range(100, 800, 100)]
    assert stage.play({"states": ["ACTIVE"], "status": [*looks, DONE]}, there=True) == 0
    assert stage.calls() == ["run"] * 7
    assert set(stage.slept) == {30.0}


def test_a_set_up_that_fails_three_times_ends_it(stage):
    life = {"states": ["ACTIVE"], "status": [NEW], "setup": "setup.sh: JAX sees 4 devices"}
    with pytest.raises(GivenUpError, match="JAX sees 4 devices"):
        stage.play(life)
    assert stage.calls() == ["create", "setup", "setup", "setup", "tail"]
    assert stage.slept == [30.0, 60.0]


def test_a_start_that_fails_on_a_worker_stops_the_others(stage):
    with pytest.raises(GivenUpError, match="does not start"):
        stage.play({"states": ["ACTIVE"], "status": [IDLE], "run": "worker 1: no space"}, there=True)
    assert stage.calls() == ["run", "stop", "run", "stop", "run", "tail"]


def test_a_pod_that_fails_says_why(stage):
    life = {"states": ["FAILED"], "status": [], "why": "the request expired"}
    with pytest.raises(GivenUpError, match="request expired"):
        stage.play(life)
    assert stage.calls() == ["create", "delete"] * 2 + ["create", "tail"]


def test_a_gcloud_that_fails_for_a_moment_is_asked_again(stage):
    results = [gcloud.Result(1, err="connection reset")] * 2 + [gcloud.Result(0, "ACTIVE")]
    sitter = Sitter(POD, lambda _: results.pop(0), stage.sleep, stage.printed.append)
    results.append(gcloud.Result(0, "\n".join(DONE)))
    assert sitter.watch() == 0
    assert stage.slept == [30.0, 60.0]


def test_the_state_of_the_pod_follows_from_the_reports_of_the_workers():
    def worker(state, code=None, step=None):
        return Worker("0", state, code, step)

    for workers, kind in (
        ([worker("running")] * 2, "running"),
        ([worker("running")], "silent"),
        ([], "silent"),
        ([worker("new"), worker("idle")], "new"),
        ([worker("idle")] * 2, "idle"),
        ([worker("ended", 0)] * 2, "finished"),
        ([worker("ended", 0), worker("lost")], "failed"),
        ([worker("ended", 0), worker("running")], "partly"),
        ([worker("ended", 2)], "usage"),
        ([worker("idle"), worker("ended", 0)], "failed"),
    ):
        assert judge(workers, 2).kind == kind, workers
    assert judge([worker("ended", 139), worker("ended", 1)], 2) == Verdict("failed", "a worker was killed by signal 11")
    assert judge([worker("ended", 255), worker("ended", 75)], 2).why == "exit code 255"
    assert read_status("a\nworker 11 ended 0 7\nworker 2 running - -\n") == [
        Worker("2", "running"),
        Worker("11", "ended", 0, 7),
    ]


def test_waits_are_announced_and_have_a_limit():
    limits = Limits()
    assert [limits.delay(tries) for tries in range(8)] == [30, 60, 120, 240, 480, 960, 1800, 1800]
    assert limits.delay(10_000) == 1800
