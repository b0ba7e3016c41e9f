"""What the environment says about several processes, as a pure function; the rules are compared with JAX's own."""

import os

import pytest

from jaxnets.core.errors import UsageError
from jaxnets.parallel import hosts
from jaxnets.parallel.launch import Launch, detect, expand_nodes, tpu_metadata

# As `srun --nodes 2 --ntasks-per-node 4` sets them, in the sixth task.
SLURM = {
    "SLURM_JOB_ID": "70001", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_NODEID": "1", "SLURM_PROCID": "5", "SLURM_LOCALID": "1",
}  # fmt: skip
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}  # fmt: skip
GKE = {"TPU_WORKER_HOSTNAMES": "run-0.pods,run-1.pods,run-2.pods,run-3.pods", "TPU_WORKER_ID": "2"}
JOBSET = {"JAX_COORDINATOR_ADDRESS": "run-0.pods:8476", "JAX_NUM_PROCESSES": "2", "JOB_COMPLETION_INDEX": "1"}
POD = {
    "worker-network-endpoints": "t1v-w-0,t1v-w-1,t1v-w-2,t1v-w-3",
    "agent-worker-number": "1",
    "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-16'\nWORKER_ID: '1'\n",
}
SLICES = "MEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\nMEGASCALE_COORDINATOR_ADDRESS: '10.0.0.2'\n"


def without(values, *names, **changes):
    return {name: value for name, value in {**values, **changes}.items() if name not in names}


def pod(**changes):
    values = {**POD, **changes}
    return lambda name: values.get(name, "")


def test_number_and_index_of_processes_are_read_from_each_launcher():
    one_a_node = {
        **SLURM,
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "0",
    }
    names = ("run-0.pods", "run-1.pods", "run-2.pods", "run-3.pods")
    assert detect(SLURM) == Launch("SLURM", f"gpu07:{61440 + 70001 % 4096}", 8, 5, (), (1,))
    assert detect(one_a_node) == Launch("SLURM", f"gpu07:{61440 + 70001 % 4096}", 2, 1, ("gpu07", "gpu08"), None)
    assert detect(OPEN_MPI) == Launch("Open MPI", f"10.96.0.1:{61440 + 1531576320 // 4096 % 4096}", 4, 3, (), (1,))
    assert detect(GKE) == Launch("Kubernetes, TPU_WORKER_HOSTNAMES", "run-0.pods:8482", 4, 2, names)
    assert detect(JOBSET) == Launch("JAX_COORDINATOR_ADDRESS", "run-0.pods:8476", 2, 1)
    assert detect({**JOBSET, "JAX_PROCESS_ID": "0"}).index == 0
    assert detect({}, pod()) == Launch(
        "Cloud TPU", "t1v-w-0:8482", 4, 1, tuple(POD["worker-network-endpoints"].split(","))
    )


def test_processes_are_numbered_across_slices():
    several = detect(
        {**GKE, "MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1", "MEGASCALE_COORDINATOR_ADDRESS": "run-a:8080"}
    )
    assert several == Launch("Kubernetes, TPU_WORKER_HOSTNAMES", "run-a:8482", 8, 6)
    assert detect({}, pod(**{"tpu-env": SLICES})) == Launch("Cloud TPU", "10.0.0.2:8482", 8, 5)
    # The older form of the end points has name, number and address of each.
    old = {"worker-network-endpoints": "a:0:10.1.0.1,b:1:10.1.0.2"}
    assert detect({}, pod(**old)).hosts == ("10.1.0.1", "10.1.0.2")


@pytest.mark.parametrize(
    "environment",
    [
        {},
        # The script of a batch job: a job of eight tasks, no step.
        without(SLURM, "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE", SLURM_PROCID="0"),
        # A shell in an allocation of eight tasks, which is a step of one.
        {**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NODELIST": "gpu07", "SLURM_PROCID": "0"},
        {**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
        {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"},  # a machine with one TPU
        {"TPU_WORKER_HOSTNAMES": "", "TPU_WORKER_ID": "0"},
        {**GKE, "JAX_PLATFORMS": "cpu"},  # one process that leaves the TPU alone
        {"JAX_COORDINATOR_ADDRESS": "host0:1234"},  # meant for a program that knows the rest
        {**JOBSET, "JAX_NUM_PROCESSES": "1", "JOB_COMPLETION_INDEX": "0"},
    ],
)  # fmt: skip
def test_one_process_is_alone(environment):
    assert detect(environment) is None


def test_a_single_tpu_vm_or_one_not_chosen_trains_alone():
    assert detect({}, pod(**{"worker-network-endpoints": "t1v-w-0"})) is None
    assert detect({}, lambda name: "") is None  # no metadata server, as in Colab
    assert detect({"JAX_PLATFORMS": "cpu"}, pod()) is None
    assert detect({"JAX_PLATFORMS": "tpu,cpu"}, pod()).index == 1


def test_of_two_launchers_the_inner_one_counts():
    assert detect({**SLURM, **OPEN_MPI}).launcher == "Open MPI"  # mpirun in an allocation
    assert detect({**SLURM, **OPEN_MPI, **JOBSET}).launcher == "JAX_COORDINATOR_ADDRESS"
    assert detect({**GKE, **JOBSET}).launcher == "JAX_COORDINATOR_ADDRESS"
    assert detect(GKE, pod()).launcher == "Kubernetes, TPU_WORKER_HOSTNAMES"


def test_devices_are_shared_by_the_processes_of_a_machine():
    assert detect({**SLURM, "CUDA_VISIBLE_DEVICES": "0,1,2,3"}).local_devices == (1,)
    assert (
        detect({**SLURM, "CUDA_VISIBLE_DEVICES": "3"}).local_devices is None
    )  # srun --gpus-per-task=1 shows one to each
    assert detect({**SLURM, "JAX_LOCAL_DEVICE_IDS": "0,2"}).local_devices is None  # JAX reads it
    uneven = {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "7,1", "SLURM_PROCID": "7", "SLURM_LOCALID": "0"}
    assert detect(uneven).local_devices is None
    assert (
        detect({**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}).local_devices is None
    )


def test_the_port_can_be_chosen_for_all():
    for environment in (SLURM, OPEN_MPI, GKE):
        assert detect({**environment, "JAX_COORDINATOR_PORT": "8476"}).coordinator.endswith(":8476")


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("node001", ["node001"]),
        ("node001,host2", ["node001", "host2"]),
        ("node[001-003,7],login", ["node001", "node002", "node003", "node7", "login"]),
        ("a[09-11]b,c[1,3]", ["a09b", "a10b", "a11b", "c1", "c3"]),
    ],
)
def test_lists_of_nodes(text, nodes):
    assert expand_nodes(text) == nodes


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({**SLURM, "SLURM_PROCID": ""}, "SLURM started several processes, but SLURM_PROCID is ''"),
        (without(GKE, "TPU_WORKER_ID"), "TPU_WORKER_ID is ''"),
        ({**JOBSET, "JOB_COMPLETION_INDEX": "2"}, "process_id is in 0 .. processes - 1, got process_id 2 of processes 2"),
        (without(JOBSET, "JOB_COMPLETION_INDEX"), "JOB_COMPLETION_INDEX is ''"),
        (without(OPEN_MPI, "OMPI_MCA_orte_hnp_uri"), "--process-id $OMPI_COMM_WORLD_RANK"),
    ],
)  # fmt: skip
def test_missing_variables_are_named(environment, message):
    with pytest.raises(UsageError) as error:
        detect(environment)
    assert message in str(error.value)


def test_processes_of_open_mpi_on_one_machine_need_no_address():
    alike = without(OPEN_MPI, "OMPI_MCA_orte_hnp_uri", OMPI_COMM_WORLD_LOCAL_SIZE="4", PMIX_NAMESPACE="prterun-1@1")
    first, other = detect({**alike, "OMPI_COMM_WORLD_RANK": "0"}), detect({**alike, "PMIX_NAMESPACE": "prterun-2@1"})
    assert first.coordinator.startswith("localhost:")
    assert first.coordinator == detect(alike).coordinator != other.coordinator


@pytest.mark.parametrize(
    ("name", "environment"), [("SlurmCluster", SLURM), ("OmpiCluster", OPEN_MPI), ("GkeTpuCluster", GKE)]
)
def test_the_rules_are_those_of_jax(monkeypatch, name, environment):
    clusters = pytest.importorskip("jax._src.clusters")
    if not hasattr(clusters, name):
        pytest.skip(f"this JAX has no {name}")
    cluster = getattr(clusters, name)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    if name == "GkeTpuCluster":  # which would ask the metadata server, and look for the first machine in the network
        for variable in ("COORDINATOR_ADDRESS", "NUM_SLICES", "SLICE_ID"):
            monkeypatch.setenv(f"MEGASCALE_{variable}", "")
        monkeypatch.setattr(cluster, "wait_for_coordinator", lambda *_: None)
    found = detect(environment)
    address = cluster.get_coordinator_address(timeout_secs=1, override_coordinator_port=None)
    theirs = address, cluster.get_process_count(), cluster.get_process_id()
    assert (found.coordinator, found.processes, found.index) == theirs


def test_flags_come_before_the_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "OMPI_", "JAX_COORD", "TPU_"))]:
        monkeypatch.delenv(name)
    assert hosts.requested("", 0, 0) is None
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert hosts.requested("", 0, 0).launcher == "SLURM"
    assert hosts.requested("", 1, 0) is None
    # Flags say who the processes are; the launcher says which of them share a machine, where each takes one GPU.
    assert hosts.requested("a:1", 8, 5) == Launch("--coordinator", "a:1", 8, 5, local_devices=(1,))
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "1(x8)")
    assert hosts.requested("a:1", 8, 5).local_devices is None
    with pytest.raises(UsageError, match="coordinator needs processes"):
        hosts.requested("a:1", 0, 0)


def test_only_a_machine_with_a_tpu_reads_its_metadata(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert tpu_metadata(tmp_path) is None
    (tmp_path / "vfio").mkdir()
    (tmp_path / "vfio" / "vfio").touch()  # there without a TPU as well
    assert tpu_metadata(tmp_path) is None
    (tmp_path / "vfio" / "0").touch()
    assert tpu_metadata(tmp_path) is not None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert tpu_metadata(tmp_path) is None
