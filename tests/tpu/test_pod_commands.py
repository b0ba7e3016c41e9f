"""The commands of a pod: what they print with --dry-run, what they do, and how settings and gcloud's refusals are answered."""

import re
import shlex
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT))

from tpu import commands, gcloud, pod
from tpu.settings import Pod, PodError, PodUsageError, check_command, read

README = (ROOT / "tpu" / "README.md").read_text()
GOLDEN = re.findall(r"```\n\$ python tpu/pod\.py ([^\n]*)\n(.*?)```", README, flags=re.S)
SETTINGS = {"name": "llama", "project": "my-project", "zone": "us-west4-a", "accelerator": "v5litepod-16"}
TRAIN = "jaxnets train llama_1b --run-dir bucket/runs/llama_1b"


def a_pod(**changed):
    return Pod(**(SETTINGS | changed))


@pytest.fixture
def settings(tmp_path):
    """The pod.toml of the walkthrough."""
    path = tmp_path / "pod.toml"
    path.write_text(re.search(r"```toml\n(.*?)```", README, flags=re.S)[1])
    return path


class World:
    """gcloud as a table: words that a command has, and what it answers."""

    def __init__(self, *answers):
        self.answers, self.ran, self.printed, self.slept = list(answers), [], [], []

    def run(self, command):
        self.ran.append(list(command))
        for words, *result in self.answers:
            if all(word in " ".join(command) for word in words.split()):
                result = result[0]
                return result.pop(0) if isinstance(result, list) else result
        return gcloud.Result(0, "me@example.org\n" if "auth" in command else "")

    def sleep(self, seconds):
        self.slept.append(seconds)
        assert len(self.slept) < 50, "it waits without end"

    def outside(self, answer=""):
        return pod.Outside(self.run, self.sleep, self.printed.append, lambda question: answer)


@pytest.mark.parametrize(("arguments", "printed"), GOLDEN, ids=[arguments.split()[0] for arguments, _ in GOLDEN])
def test_the_walkthrough_shows_what_dry_run_prints(arguments, printed, settings, monkeypatch):
    monkeypatch.chdir(ROOT)
    world = World()
    assert pod.main([*arguments.split(), "--settings", str(settings)], world.outside()) == 0
    assert world.printed == printed.splitlines()
    assert world.ran == []  # nothing is run
    for line in world.printed:
        assert shlex.split(line)[0] == "gcloud"


def test_the_walkthrough_has_every_verb():
    assert {arguments.split()[0] for arguments, _ in GOLDEN} == {*pod.VERBS} == {*pod.DOERS}


def test_the_command_of_the_walkthrough_is_one_that_jaxnets_takes(settings):
    from jaxnets.cli import fast_parse, train

    found = shlex.split(re.search(r"worker\.sh run (.*)$", commands.run(read(settings, {}))[-1])[1])[0]
    for name, value in {"COORDINATOR": "host:8476", "PROCESSES": "4", "PROCESS_ID": "3"}.items():
        found = found.replace(f'"${name}"', value)
    program, verb, *rest = shlex.split(found)
    assert (program, verb) == ("jaxnets", "train")
    _, experiment, options = fast_parse.read_experiment(verb, rest, train.RunOptions)
    assert (options.coordinator, options.processes, options.process_id) == ("host:8476", 4, 3)
    assert options.run_dir == "bucket/runs/llama_1b"
    assert experiment.mesh.fsdp == 16


@pytest.mark.parametrize(
    ("accelerator", "chips", "workers", "runtime"),
    [
        ("v5litepod-16", 16, 4, "v2-alpha-tpuv5-lite"),
        ("v5litepod-8", 8, 1, "v2-alpha-tpuv5-lite"),
        ("v5p-8", 4, 1, "v2-alpha-tpuv5"),
        ("v5p-128", 64, 16, "v2-alpha-tpuv5"),
        ("v6e-8", 8, 1, "v2-alpha-tpuv6e"),
        ("v6e-256", 256, 64, "v2-alpha-tpuv6e"),
        ("v4-8", 4, 1, "tpu-ubuntu2204-base"),
        ("v4-16", 8, 2, "tpu-ubuntu2204-base"),
    ],
)
def test_an_accelerator_has_chips_workers_and_a_runtime_version(accelerator, chips, workers, runtime):
    found = a_pod(accelerator=accelerator)
    assert (found.chips, found.workers, found.runtime) == (chips, workers, runtime)
    assert a_pod(accelerator=accelerator, version="v9").runtime == "v9"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"accelerator": "v7x-8"}, "'v7x-8' v5litepod GKE"),
        ({"accelerator": "v5e-16"}, "'v5e-16' v5litepod"),
        ({"accelerator": "v5litepod-12"}, "'v5litepod-12' 1, 4, 8, 16"),
        ({"accelerator": "v4-4"}, "'v4-4' TensorCores"),
        ({"zone": "us-west4"}, "'us-west4' us-west4-a"),
        ({"name": "Llama 1"}, "'Llama 1' lower-case"),
        ({"name": ""}, "name --name pod.toml"),
        ({"bucket": "gs://my-bucket"}, "'gs://my-bucket' without gs://"),
        ({"project": "My Project"}, "'My Project' id"),
        ({"version": "a b"}, "'a b' runtime"),
    ],
)
def test_a_wrong_setting_is_named_with_the_rule_and_the_remedy(changed, words, capsys):
    flags = [f"--{name}={value}" for name, value in (SETTINGS | changed).items()]
    world = World()
    assert pod.main(["up", *flags, "--settings", ""], world.outside()) == 2
    printed = capsys.readouterr().err
    for word in words.split():
        assert word in printed
    assert world.ran == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("names = 'a'", "names setting accelerator"),
        ("spot = 'yes'", "spot 'yes' true"),
        ("zone = 3", "zone 3 text"),
        ("zone = ", "TOML"),
    ],
)
def test_a_wrong_file_is_named(line, words, tmp_path):
    path = tmp_path / "pod.toml"
    path.write_text(line)
    with pytest.raises(PodUsageError) as error:
        read(path, {})
    for word in [str(path), *words.split()]:
        assert word in str(error.value)
    with pytest.raises(PodUsageError, match="cannot be read"):
        read(tmp_path / "none.toml", {})


def test_flags_go_before_the_file(settings):
    found = read(settings, {"name": "other", "spot": False})
    assert (found.name, found.spot, found.zone) == ("other", False, "us-west4-a")
    assert "--spot" not in commands.create(found)


def test_a_command_must_keep_its_run_where_all_workers_see_it():
    check_command(a_pod(command=TRAIN, bucket="my-bucket"), kept=True)
    check_command(a_pod(command="jaxnets train mnist_cnn", accelerator="v4-8"))
    for changed, word in (
        ({"command": ""}, "missing"),
        ({"command": TRAIN}, "--bucket"),
        ({"command": "jaxnets train llama_1b", "bucket": "b-b"}, "default place"),
        ({"command": "jaxnets train llama_1b --run-dir=runs/a", "bucket": "b-b"}, "'runs/a'"),
        ({"command": f"{TRAIN} --processes 4", "bucket": "b-b"}, "--processes"),
        ({"command": f"{TRAIN} 'a", "bucket": "b-b"}, "quotes"),
    ):
        with pytest.raises(PodUsageError, match=re.escape(word)):
            check_command(a_pod(**changed))
    with pytest.raises(PodUsageError, match="disks"):
        check_command(a_pod(command="jaxnets train mnist_cnn", accelerator="v4-8"), kept=True)


@pytest.mark.parametrize("text", ["a 'b' \"c\"", "$HOME; rm -rf /", "`id`", "x && y | z > w", "é\\n"])
def test_any_command_arrives_as_it_was_written(text):
    whole = shlex.split(commands.text(commands.run(a_pod(command=text, accelerator="v4-8"))))
    remote = next(word for word in whole if word.startswith("--command=")).partition("=")[2]
    assert shlex.split(remote) == ["bash", "pod/worker.sh", "run", text]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("ERROR: You do not currently have an active account selected.", "not logged in; `gcloud auth login`"),
        ("Quota limit 'TPUV5sPreemptible' has been exceeded.", "quota my-project v5litepod-16 us-west4-a Quotas"),
        ("PERMISSION_DENIED: Cloud TPU API has not been used in project my-project", "services enable"),
        ("PERMISSION_DENIED: no", "roles/tpu.admin"),
        ("ALREADY_EXISTS: llama", "pod.py down"),
        ("INVALID_ARGUMENT: runtime version x", "v2-alpha-tpuv5-lite versions list"),
        ("INVALID_ARGUMENT: accelerator_type", "accelerator-types list"),
        ("something else", "queued-resources create something else"),
    ],
)
def test_a_refusal_of_gcloud_is_explained(said, words, capsys):
    flags = [f"--{name}={value}" for name, value in SETTINGS.items()]
    world = World(
        (" create", gcloud.Result(1, err=said)), ("describe", gcloud.Result(1, err="ERROR: NOT_FOUND: no resource"))
    )
    assert pod.main(["up", *flags], world.outside()) == 1
    printed = capsys.readouterr().err
    for word in words.split():
        assert word in printed
    assert said in printed


def test_without_gcloud_the_error_names_the_remedy(tmp_path, monkeypatch, capsys, settings):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert pod.main(["up", "--settings", str(settings)]) == 1
    printed = capsys.readouterr().err
    assert "gcloud is not on PATH" in printed
    assert "docs/install" in printed
    assert pod.main(["up", "--dry-run", "--settings", str(settings)]) == 0


def test_a_hanging_request_times_out(tmp_path, monkeypatch):
    (tmp_path / "gcloud").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "gcloud").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(gcloud, "QUICK", 0.1)
    with pytest.raises(gcloud.PassingError, match="try again later.*timed out after 0.1 s"):
        gcloud.state(a_pod(), gcloud.execute)


def test_plan_queries_the_zone_and_reports_a_missing_login(settings, capsys):
    world = World()
    assert pod.main(["plan", "--settings", str(settings)], world.outside()) == 0
    assert "16 chips, 4 workers" in "\n".join(world.printed)
    assert not any("create" in command or "delete" in command for command in world.ran)
    world = World(("auth list", gcloud.Result(0)))
    assert pod.main(["plan", "--settings", str(settings)], world.outside()) == 1
    assert "gcloud auth login" in capsys.readouterr().err


def test_up_waits_until_the_pod_is_there_and_refuses_one_that_is_gone(settings, capsys):
    states = ["WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    answers = [gcloud.Result(1, err="NOT_FOUND"), *(gcloud.Result(0, state) for state in states)]
    world = World(("describe", answers))
    assert pod.main(["up", "--settings", str(settings)], world.outside()) == 0
    assert sum("create" in command for command in world.ran) == 1
    assert len(world.slept) == 3
    assert len(world.printed) == 3  # a state is printed once
    world = World(("describe", gcloud.Result(0, "SUSPENDED")))
    assert pod.main(["up", "--settings", str(settings)], world.outside()) == 1
    assert "pod.py down" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["worker 0 idle - -", "worker 1 running - 400", "worker 2 idle - -", "worker 3 idle - -"], "training already"),
        (["worker - new - -"] * 4, "pod.py setup"),
        (["worker 0 idle - -"] * 3, "3 of 4 workers"),
        ([], "ssh: no route"),
    ],
)
def test_run_refuses_a_pod_that_is_not_ready(lines, said, settings, capsys):
    world = World(("worker.sh status", gcloud.Result(0 if lines else 1, "\n".join(lines), "ssh: no route")))
    assert pod.main(["run", "--settings", str(settings)], world.outside()) == 1
    assert said in capsys.readouterr().err
    assert len(world.ran) == 1


def test_status_shows_each_worker_and_names_a_dead_one(settings, capsys):
    lines = ["noise", "worker 2 ended 75 400", "worker 0 running - 200", "worker 10 lost - -"]
    world = World(("describe", gcloud.Result(0, "ACTIVE")), ("status", gcloud.Result(1, "\n".join(lines), "no route")))
    assert pod.main(["status", "--settings", str(settings)], world.outside()) == 1
    want = ["worker 0: running", "worker 2: ended, exit code 75", "worker 10: lost", "newest checkpoint: step 400"]
    assert world.printed == ["llama: ACTIVE", *want]
    assert "3 of 4 workers" in capsys.readouterr().err


def test_down_removes_nothing_unless_the_name_is_typed(settings, capsys):
    for answer, code in (("", 2), ("yes", 2), ("llama", 0)):
        world = World()
        assert pod.main(["down", "--settings", str(settings)], world.outside(answer)) == code
        assert len(world.ran) == (code == 0)
    assert "nothing was removed: 'yes'" in capsys.readouterr().err
    world = World()
    assert pod.main(["down", "--yes", "--settings", str(settings)], world.outside()) == 0
    assert "--force" in world.ran[0]


def test_a_wheel_must_be_there_before_it_is_copied(settings, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    world = World()
    assert pod.main(["setup", "--settings", str(settings)], world.outside()) == 2
    assert "pip wheel" in capsys.readouterr().err
    assert world.ran == []
    assert issubclass(PodUsageError, PodError)
    for url in ("https://a.org/j.whl", "jaxnets[tpu]", "git+https://a.org/j"):
        assert a_pod(package=url).wheel == ""


def test_no_file_of_the_folder_needs_more_than_the_standard_library():
    allowed = {*sys.stdlib_module_names, "tpu"}
    for path in (ROOT / "tpu").glob("*.py"):
        text = path.read_text()
        assert {found.split(".")[0] for found in re.findall(r"^(?:from|import) (\S+)", text, flags=re.M)} <= allowed
        assert len(text.splitlines()) <= 320
