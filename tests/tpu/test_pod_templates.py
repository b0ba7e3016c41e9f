"""The scripts of a worker, run here with the commands of a TPU machine played; the templates for SLURM and GKE."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT))

from tpu import pod

TPU = ROOT / "tpu"
SCRIPTS = sorted(TPU.glob("*.sh"))
# The metadata server, a Python, and the tools that setup.sh calls; each writes down its call.
METADATA = """
case "$*" in
  *agent-worker-number) echo "${HOME##*-}" ;;
  *worker-network-endpoints) echo "${ENDPOINTS:-a:b:10.0.0.2,c:d:10.0.0.3}" ;;
  *) exit 22 ;;
esac"""
PYTHON = """
case "$*" in
  *ensurepip*) exit "${OLD:-0}" ;;
  *"-m venv"* | *"uv venv"*)
    for folder; do :; done
    mkdir -p "$folder/bin" && cp "$0" "$folder/bin/python" ;;
  *"-m pip install"*) exit "${PIP:-0}" ;;
esac"""


class Machine:
    """A home folder and a PATH of its own."""

    def __init__(self, root, number=0):
        self.home, self.bin, self.calls = root / f"worker-{number}", root / "bin", root / "calls"
        (self.home / "pod").mkdir(parents=True)
        for path in (TPU / "worker.sh", TPU / "setup.sh"):
            shutil.copy(path, self.home / "pod")
        if not self.bin.exists():
            self.bin.mkdir()
            self.fake("curl", METADATA)
            self.fake("sudo", '"$@"')
            for name in ("python3.13", "python3.12", "python3.11", "python3"):
                self.fake(name, PYTHON)
            self.fake("mountpoint", f"[ -e {root}/mounted ]")
            self.fake("gcsfuse", f"touch {root}/mounted")

    def fake(self, name, body):
        (self.bin / name).write_text(f'#!/bin/bash\necho "{name} $(printf "%.60s" "$*")" >>{self.calls}\n{body}\n')
        (self.bin / name).chmod(0o755)

    def called(self, text):
        return sum(text in line for line in self.calls.read_text().splitlines()) if self.calls.exists() else 0

    def run(self, *arguments, script="worker.sh", **environment):
        """The script with these arguments, as ssh runs it: its exit code and what it said."""
        variables = {"HOME": str(self.home), "PATH": f"{self.bin}:/usr/bin:/bin"} | environment
        command = ["bash", f"pod/{script}", *arguments]
        done = subprocess.run(command, cwd=self.home, env=variables, capture_output=True, text=True, timeout=20)
        return done.returncode, (done.stdout + done.stderr).strip()

    def wait(self, text):
        """Until the status has this text."""
        self.until(lambda: text in self.run("status")[1])

    def until(self, there):
        for _ in range(300):
            if there():
                return
            time.sleep(0.02)
        raise AssertionError(self.run("status")[1])

    def log(self):
        return (self.home / "pod" / "log").read_text()


@pytest.fixture
def machine(tmp_path):
    made = Machine(tmp_path)
    yield made
    made.run("stop", "2")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_shell(path):
    done = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", path], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_set_up_twice_installs_once_and_checks_twice(machine):
    arguments = ("jaxnets[tpu]", "16", "4", "my-bucket")
    for times in (1, 2):
        code, said = machine.run(*arguments, script="setup.sh")
        assert code == 0, said
        assert "ready, 16 chips" in said
        assert machine.called("-m venv") == 1
        assert machine.called("-m pip install") == 1
        assert machine.called("gcsfuse") == 1
        assert machine.called("-c") - machine.called("ensurepip") >= times
    assert machine.run("status")[1] == "worker 0 idle - -"
    assert machine.run("jaxnets[tpu]==9", *arguments[1:], script="setup.sh")[0] == 0
    assert machine.called("-m pip install") == 2  # another package is another set-up


def test_a_set_up_that_fails_is_done_again(machine):
    assert machine.run("jaxnets[tpu]", "16", "4", script="setup.sh", PIP="1")[0] == 1
    assert machine.run("status")[1] == "worker 0 new - -"
    assert machine.run("jaxnets[tpu]", "16", "4", script="setup.sh")[0] == 0
    assert machine.called("-m pip install") == 2
    assert machine.called("gcsfuse") == 0  # no bucket was asked for


def test_a_machine_with_an_old_python_gets_a_newer_one(machine):
    assert machine.run("jaxnets[tpu]", "16", "4", script="setup.sh", OLD="1")[0] == 0
    assert machine.called("pip install --quiet --user uv") == 1
    assert machine.called("uv venv") == 1


def test_a_new_wheel_of_the_same_name_is_installed(machine):
    wheel = machine.home / "pod" / "a.whl"
    for content in "ab":
        wheel.write_text(content)
        for _ in range(2):
            assert machine.run("pod/a.whl[tpu]", "16", "4", script="setup.sh")[0] == 0
    assert machine.called("pip install") == 2


def test_set_up_wants_its_arguments_and_leaves_a_training_alone(machine):
    code, said = machine.run("jaxnets", script="setup.sh")
    assert code == 2
    assert "got 1 arguments" in said
    machine.run("run", "sleep 30")
    code, said = machine.run("jaxnets[tpu]", "16", "4", script="setup.sh")
    assert code == 3
    assert "stop it first" in said


def test_a_worker_runs_once_is_stopped_and_keeps_the_exit_code(machine):
    command = 'trap "exit 75" TERM; echo begun "$COORDINATOR" "$PROCESSES" "$PROCESS_ID"; while :; do sleep 0.05; done'
    assert machine.run("run", command) == (0, "worker 0: started")
    machine.wait("running")
    code, said = machine.run("run", command)
    assert code == 3
    assert "stop it first" in said
    machine.until(lambda: "begun 10.0.0.2:8476 2 0" in machine.log())
    assert machine.run("stop", "10") == (0, "worker 0: ended with 75")
    assert machine.run("status")[1] == "worker 0 ended 75 -"
    assert machine.run("stop", "10") == (0, "worker 0: nothing runs")
    assert "exit code 75" in machine.log()


def test_a_training_that_does_not_stop_in_time_is_reported(machine):
    machine.run("run", 'trap "" TERM; echo begun; for i in {1..8}; do sleep 0.1; done')
    machine.until(lambda: "begun\n" in machine.log())
    code, said = machine.run("stop", "0")
    assert code == 4
    assert "still saving" in said
    machine.wait("ended")


def test_a_killed_command_and_a_lost_one_are_distinguished(machine):
    machine.run("run", "kill -9 $$")
    machine.wait("ended 137")
    machine.run("run", "exit 2")
    machine.wait("ended 2")
    group = machine.home / "pod" / "group"
    group.unlink(missing_ok=True)  # of the command before
    machine.run("run", "sleep 60")
    machine.until(lambda: group.exists() and group.read_text().strip())
    os.kill(int((machine.home / "pod" / "pid").read_text()), signal.SIGKILL)
    machine.wait("running")  # the command goes on without the process that held it
    assert machine.run("run", "true")[0] == 3
    assert machine.run("stop", "5")[1] == "worker 0: ended with no exit code"
    machine.wait("lost - -")
    # The number of a process that is not the training's, as after a restart of the machine.
    (machine.home / "pod" / "pid").write_text(str(os.getpid()))
    assert machine.run("status")[1] == "worker 0 lost - -"


def test_the_newest_complete_checkpoint_is_reported(machine):
    for name in ("5", "100", "20", "damaged-200-1"):
        folder = machine.home / "runs" / "a" / "checkpoints" / name
        folder.mkdir(parents=True)
        if name != "100":
            (folder / "manifest.json").write_text("{}")
    for named in ("runs/a", "~/runs/a"):
        assert machine.run("status", named)[1] == "worker 0 new - 20"
    assert machine.run("status", "runs/none")[1] == "worker 0 new - -"


def test_places_in_both_forms_of_the_metadata(machine):
    command = 'echo "$COORDINATOR $PROCESSES $PROCESS_ID" >place'
    for endpoints, want in (("host-a,host-b,host-c", "host-a:8476 3 0"), ("u:u:10.1.2.3", "10.1.2.3:8476 1 0")):
        machine.run("run", command, ENDPOINTS=endpoints)
        machine.wait("ended 0")
        assert (machine.home / "place").read_text().strip() == want


@pytest.mark.parametrize("held", [True, False])
def test_a_lock_is_removed_only_if_no_process_holds_the_chips(held, machine):
    lock = machine.home / "libtpu_lockfile"
    lock.touch()
    machine.fake("fuser", f"exit {0 if held else 1}")
    machine.run("run", "true", LIBTPU_LOCKFILE=str(lock))
    assert lock.exists() == held


# Runs a command on every worker here, and copies files there.
GCLOUD = """
import os, shutil, subprocess, sys
from pathlib import Path
root, words = Path(__file__).parent.parent, sys.argv[1:]
homes = sorted(root.glob("worker-*"))
if "describe" in words:
    print("ACTIVE")
for home in homes:
    if "scp" in words:
        for file in words[words.index("scp") + 1:]:
            if file.endswith(".sh"):
                shutil.copy(file, home / "pod")
    for word in words:
        if word.startswith("--command="):
            variables = {"HOME": str(home), "PATH": os.environ["PATH"]}
            done = subprocess.run(["bash", "-c", word[10:]], cwd=home, env=variables)
            if done.returncode:
                sys.exit(done.returncode)
"""
TRAINING = """
[ "$1 $2 $4 $6" = "train config.py 10.0.0.2:8476 2" ] || exit 2
mkdir -p bucket/runs/a/checkpoints/$((100 + $(wc -l <log)))
touch bucket/runs/a/checkpoints/100/manifest.json
echo "$8" >>log
[ "$(wc -l <log)" -ge 2 ] || exit "$((1 + 74 * $8))"
"""


def test_from_nothing_to_a_finished_run_with_the_real_scripts(tmp_path, monkeypatch):
    machines = [Machine(tmp_path, number) for number in (0, 1)]
    (tmp_path / "bucket").mkdir()
    for machine in machines:
        shutil.rmtree(machine.home / "pod")
        (machine.home / "bucket").symlink_to(tmp_path / "bucket")
        (machine.home / "log").touch()
    machine.fake("jaxnets", TRAINING)
    (machine.bin / "gcloud").write_text(f"#!{sys.executable} -IS\n{GCLOUD}")
    (machine.bin / "gcloud").chmod(0o755)
    monkeypatch.setenv("PATH", f"{machine.bin}:/usr/bin:/bin")
    monkeypatch.chdir(ROOT)
    told = []

    def sleep(_):
        for one in machines:
            one.wait("ended")

    flags = ["--name=a", "--project=my-project", "--zone=us-central2-b", "--accelerator=v4-16", "--bucket=my-bucket"]
    command = "jaxnets train config.py --run-dir bucket/runs/a"
    code = pod.main(["babysit", *flags, "--command", command], pod.Outside(sleep=sleep, say=told.append))
    assert code == 0, told
    assert any("exit code 1 (1 of 3)" in line for line in told)  # worker 0 failed, so 75 of worker 1 is not the cause
    assert "step 100" in told[-2]
    assert [(one.home / "log").read_text().split() for one in machines] == [["0", "0"], ["1", "1"]]
    assert machine.called("-m pip install") == 2  # once on each


def test_compiled_programs_are_kept_in_the_bucket_and_logs_of_libtpu_nowhere(machine):
    said = 'echo "[$JAX_COMPILATION_CACHE_DIR] [$TPU_LOG_DIR]"'
    machine.run("run", said)
    machine.wait("ended")
    assert "\n[] [disabled]\n" in machine.log()
    (machine.bin.parent / "mounted").touch()
    machine.run("run", said)
    machine.wait("ended")
    assert f"\n[{machine.home}/bucket/jax-cache] [disabled]\n" in machine.log()


# A cloud that is this machine: one worker, whose home is a folder.
HERE = """#!/bin/bash
export HOME={home}
case "$3 $4" in
  "queued-resources describe") echo ACTIVE ;;
  "tpu-vm scp") cp "$5" "$6" "$HOME/pod" ;;
  "tpu-vm ssh") for line; do :; done; cd "$HOME" && exec bash -c "${{line#--command=}}" ;;
esac
"""


@pytest.mark.slow
def test_a_real_run_that_is_killed_is_brought_back_and_finished(tmp_path, monkeypatch):
    machine = Machine(tmp_path)
    (tmp_path / "mounted").touch()
    tools = machine.home / "pod" / "venv" / "bin"
    tools.mkdir(parents=True)
    python = f"#!/bin/bash\nJAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=4 PYTHONPATH={ROOT} exec {sys.executable}"
    for path, text in (
        (machine.bin / "gcloud", HERE.format(home=machine.home)),
        (tools / "python", f'{python} "$@"\n'),
        (tools / "jaxnets", f'{python} -m jaxnets "$@"\n'),
    ):
        path.write_text(text)
        path.chmod(0o755)
    (machine.home / "pod" / "ready").write_text("jaxnets[tpu] ")  # it is installed
    monkeypatch.setenv("PATH", f"{machine.bin}:/usr/bin:/bin")
    checkpoints, told, killed = machine.home / "bucket" / "runs" / "a" / "checkpoints", [], []

    def sleep(_):
        time.sleep(0.1)
        if not killed and any(checkpoints.glob("*/manifest.json")):
            group = (machine.home / "pod" / "group").read_text().split()[0]
            killed.append(int(group))
            os.killpg(killed[0], signal.SIGKILL)

    flags = ["--name=a", "--project=my-project", "--zone=us-west4-a", "--accelerator=v5litepod-4", "--bucket=my-bucket"]
    command = "jaxnets train digits_softmax --steps 4000 --save-every 1000 --eval-every 4000 --run-dir bucket/runs/a"
    code = pod.main(["babysit", *flags, "--command", command], pod.Outside(sleep=sleep, say=told.append))
    assert code == 0, told
    assert killed
    assert any("killed by signal 9" in line for line in told)
    assert "resuming a at step" in machine.log()
    assert (checkpoints / "4000" / "manifest.json").exists()
    assert any("finished" in line and "step 4000" in line for line in told)


def slurm(tmp_path, code, *arguments):
    """slurm.sh with a played SLURM of two processes: the exit code, what was said, what was called."""
    machine = Machine(tmp_path)
    machine.fake("scontrol", 'if [ "$1" = show ]; then printf "node7\\nnode8\\n"; fi')
    body = f'shift; for id in 0 1; do SLURM_PROCID=$id SLURM_NTASKS=2 "$@"; done; exit {code}'
    machine.fake("srun", body)
    machine.fake("jaxnets", 'echo "$@"')
    variables = {"PATH": f"{machine.bin}:/usr/bin:/bin", "SLURM_JOB_ID": "70001", "SLURM_JOB_NODELIST": "node[7-8]"}
    command = ["bash", str(TPU / "slurm.sh"), *arguments]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=20)
    return done.returncode, done.stdout + done.stderr, machine.calls.read_text() if machine.calls.exists() else ""


def test_slurm_gives_each_process_its_place_and_goes_back_to_the_queue(tmp_path):
    code, said, called = slurm(tmp_path / "a", 75, "jaxnets", "train", "digits_cnn", "--run-dir", "/my runs/a")
    for number in (0, 1):
        place = f"--coordinator node7:30001 --processes 2 --process-id {number} --wait-seconds 300"
        assert f"train digits_cnn --run-dir /my runs/a {place}" in said
    assert code == 75
    assert "scontrol requeue 70001" in called
    for code in (0, 1, 2):
        done, _, called = slurm(tmp_path / f"code{code}", code, "jaxnets", "train", "digits_cnn")
        assert done == code
        assert "requeue" not in called
    assert slurm(tmp_path / "b", 0)[0] == 2


def test_slurms_directives_stand_before_its_commands():
    head = (TPU / "slurm.sh").read_text().split("\nset -euo")[0]
    directives = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(\S*)", head, flags=re.M))
    assert (TPU / "slurm.sh").read_text().count("#SBATCH --") == len(directives)
    assert directives["ntasks-per-node"] == directives["gpus-per-node"]  # JAX takes one GPU for each process
    assert directives["signal"] == "TERM@300"
    assert "requeue" in directives


def test_a_task_of_an_array_trains_its_part_of_a_sweep(tmp_path):
    machine = Machine(tmp_path)
    machine.fake("jaxnets", 'echo "$@"')

    def task(number, *, first="1", last="16", count="16"):
        place = {"ID": number, "MIN": first, "MAX": last, "COUNT": count}
        variables = {f"SLURM_ARRAY_TASK_{name}": value for name, value in place.items()}
        command = ["bash", str(TPU / "slurm_sweep.sh"), "jaxnets", "sweep", "digits_softmax", "--seed", "0", "1"]
        environment = {"PATH": f"{machine.bin}:/usr/bin:/bin"} | variables
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20)
        return done.returncode, done.stdout + done.stderr

    assert task("3") == (0, "sweep digits_softmax --seed 0 1 --part 3/16\n")
    for wrong in ({"first": "0", "last": "15"}, {"first": "3", "last": "7", "count": "2"}):
        code, said = task("3", **wrong)
        assert code == 2
        assert "numbered 1 to N" in said


def test_the_jobset_agrees_with_itself():
    yaml = pytest.importorskip("yaml")
    whole = yaml.safe_load((TPU / "jobset.yaml").read_text())
    assert (whole["apiVersion"], whole["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    job = whole["spec"]["replicatedJobs"][0]["template"]["spec"]
    inside = job["template"]["spec"]
    (container,) = inside["containers"]
    selector = inside["nodeSelector"]
    assert selector["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5-lite-podslice"
    rows, columns = map(int, selector["cloud.google.com/gke-tpu-topology"].split("x"))
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert chips == container["resources"]["requests"]["google.com/tpu"]
    assert job["parallelism"] == job["completions"] == rows * columns / chips
    # A wrong command ends the set; anything else starts all machines again.
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [2]}
    assert whole["spec"]["failurePolicy"]["rules"][0]["action"] == "FailJobSet"
    assert (job["backoffLimit"], inside["restartPolicy"]) == (0, "Never")
    (volume,) = inside["volumes"]
    assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/bucket"}]


def test_the_jobset_starts_what_jaxnets_takes(tmp_path):
    text = (TPU / "jobset.yaml").read_text()
    script = re.search(r"- \|\n((?: {22}.*\n)+)", text)[1].replace(" " * 22, "")
    machine = Machine(tmp_path)
    machine.fake("pip", "")
    machine.fake("jaxnets", 'printf "%s\\n" "$@"')
    variables = {"PATH": f"{machine.bin}:/usr/bin:/bin", "TPU_WORKER_ID": "3", "TPU_WORKER_HOSTNAMES": "a.b,c.d"}
    done = subprocess.run(["bash", "-c", script], env=variables, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    verb, *rest = done.stdout.split()

    from jaxnets.cli import fast_parse, train

    _, experiment, options = fast_parse.read_experiment(verb, rest, train.RunOptions)
    assert (options.coordinator, options.process_id) == ("a.b:8476", 3)
    assert options.wait_seconds >= 600  # each machine installs first
    assert options.processes == int(re.search(r"parallelism: (\d+)", text)[1])
    assert experiment.mesh.fsdp == 16
