"""Detects the launcher of this process and the number of processes: SLURM, Open MPI, Cloud TPU, Kubernetes.

`detect` reads environment variables and returns a `Launch`, or None for a process that is alone. The rules are those of
`jax.distributed.initialize`, except for two. The tasks of a SLURM *step* count, so that one process in an allocation for
many is alone and does not wait for others. And a process that is the only one on its machine keeps all devices of it.
"""

import dataclasses
import importlib.util
import re
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from jaxnets.core.errors import UsageError

# The default port of the first process: JAX's own for TPUs, and the range that it uses for SLURM.
TPU_PORT = 8482
FIRST_PORT, PORTS = 61440, 4096
METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"
# Device files of TPUs: generations up to v4, and later ones.
TPU_FILES = ("accel[0-9]*", "vfio/[0-9]*")

Metadata = Callable[[str], str]


@dataclasses.dataclass(frozen=True)
class Launch:
    """One process of several."""

    launcher: str
    """Name of the launcher."""
    coordinator: str
    """`host:port` of the first process."""
    processes: int
    """Number of processes."""
    index: int
    """Number of this process, from 0."""
    hosts: tuple[str, ...] = ()
    """The machine of each process by its number, if known."""
    local_devices: tuple[int, ...] | None = None
    """Which GPUs of this machine are its own; None: all."""

    def __post_init__(self) -> None:
        if self.processes < 1 or not 0 <= self.index < self.processes:
            raise UsageError(
                f"process_id is in 0 .. processes - 1, got process_id {self.index} of processes {self.processes} "
                f"({self.launcher})"
            )
        if not re.fullmatch(r".+:[0-9]+", self.coordinator):
            raise UsageError(f"coordinator is host:port of the first process, got {self.coordinator!r}")


def detect(environment: Mapping[str, str], tpu_metadata: Metadata | None = None) -> Launch | None:
    """How this process was started with others; None if it is alone.

    The first that applies: `JAX_COORDINATOR_ADDRESS`, Open MPI, SLURM, a TPU in Kubernetes, a Cloud TPU VM.

    Args:
        environment: the environment variables.
        tpu_metadata: an attribute of this Cloud TPU VM by its name; None where this is none.

    Raises:
        UsageError: there are several processes, and a value that they need to meet is missing or wrong.
    """
    port = environment.get("JAX_COORDINATOR_PORT", "")
    platforms = environment.get("JAX_PLATFORMS", "")
    with_tpu = not platforms or "tpu" in platforms.split(",")
    launch = _named(environment) or _open_mpi(environment, port) or _slurm(environment, port)
    if launch is None and with_tpu:
        launch = _tpu_in_kubernetes(environment, port)
        if launch is None and tpu_metadata is not None:
            launch = _tpu_vm(tpu_metadata, port)
    return launch if launch is not None and launch.processes > 1 else None


def _number(environment: Mapping[str, str], name: str, launcher: str) -> int:
    text = environment.get(name, "")
    if not re.fullmatch("[0-9]+", text.strip()):
        raise UsageError(
            f"{launcher} started several processes, but {name} is {text!r}, and it must be a number; set it, or give "
            f"--processes 1 to train in this process alone"
        )
    return int(text)


def _named(environment: Mapping[str, str]) -> Launch | None:
    """JAX's own variable of the address; the count and the number come with it, as in the templates of `tpu/`."""
    coordinator = environment.get("JAX_COORDINATOR_ADDRESS", "")
    if not coordinator or "JAX_NUM_PROCESSES" not in environment:
        return None  # the address alone may be meant for another program
    launcher = "JAX_COORDINATOR_ADDRESS"
    index = "JAX_PROCESS_ID" if "JAX_PROCESS_ID" in environment else "JOB_COMPLETION_INDEX"
    count = _number(environment, "JAX_NUM_PROCESSES", launcher)
    if ":" not in coordinator:
        coordinator += f":{environment.get('JAX_COORDINATOR_PORT') or TPU_PORT}"
    return Launch(launcher, coordinator, count, _number(environment, index, launcher)) if count > 1 else None


def _open_mpi(environment: Mapping[str, str], port: str) -> Launch | None:
    launcher = "Open MPI"
    if environment.get("OMPI_COMM_WORLD_SIZE", "1") == "1":
        return None
    count = _number(environment, "OMPI_COMM_WORLD_SIZE", launcher)
    index = _number(environment, "OMPI_COMM_WORLD_RANK", launcher)
    on_this_machine = _number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE", launcher)
    address = environment.get("OMPI_MCA_orte_hnp_uri", "")
    found = re.search(r"tcp://(.+?)[,:]|tcp6://\[(.+?)[,\]]", address)
    if found:
        host = found[1] or found[2]
        number = int(address.split(".", 1)[0]) // PORTS
    elif on_this_machine == count:
        host, number = "localhost", zlib.crc32(environment.get("PMIX_NAMESPACE", "").encode())
    else:
        raise UsageError(
            f"Open MPI started {count} processes on several machines and does not say where the first is; give its address: "
            f"--coordinator HOST:12355 --processes $OMPI_COMM_WORLD_SIZE --process-id $OMPI_COMM_WORLD_RANK"
        )
    coordinator = f"{host}:{port or number % PORTS + FIRST_PORT}"
    return Launch(launcher, coordinator, count, index, local_devices=own_devices(environment))


def _slurm(environment: Mapping[str, str], port: str) -> Launch | None:
    launcher = "SLURM"
    # A shell in an allocation, and the script of a batch job, know the tasks of the whole job but are one task themselves.
    if environment.get("SLURM_STEP_NUM_TASKS", "1") == "1" or "SLURM_STEP_NODELIST" not in environment:
        return None
    count = _number(environment, "SLURM_STEP_NUM_TASKS", launcher)
    index = _number(environment, "SLURM_PROCID", launcher)
    nodes = expand_nodes(environment["SLURM_STEP_NODELIST"])
    number = _number(environment, "SLURM_JOB_ID", launcher)
    coordinator = f"{nodes[0]}:{port or number % PORTS + FIRST_PORT}"
    return Launch(
        launcher, coordinator, count, index, tuple(nodes) if len(nodes) == count else (), own_devices(environment)
    )


def expand_nodes(text: str) -> list[str]:
    """The machines of a SLURM list: `node[001-003,7],login` -> `node001 node002 node003 node7 login`."""
    nodes = []
    for name in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        before, _, rest = name.partition("[")
        inside, _, after = rest.partition("]")
        for part in inside.split(","):
            first, _, last = part.partition("-")
            numbers = range(int(first), int(last) + 1) if last else [first]
            nodes += [
                f"{before}{number:0{len(first)}d}{after}" if last else f"{before}{first}{after}" for number in numbers
            ]
    return nodes


def own_devices(environment: Mapping[str, str]) -> tuple[int, ...] | None:
    """Which GPUs of this machine a process that SLURM or Open MPI started takes; None for all.

    One each where several processes share a machine; all for the only one, and where the launcher shows each its own already.
    """
    if environment.get("OMPI_COMM_WORLD_SIZE", "1") != "1":
        launcher, name = "Open MPI", "OMPI_COMM_WORLD_LOCAL_RANK"
        here = _number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE", launcher)
    elif environment.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        launcher, name = "SLURM", "SLURM_LOCALID"
        here = _tasks_of_this_node(environment)
    else:
        return None
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    if here == 1 or "JAX_LOCAL_DEVICE_IDS" in environment or (visible and "," not in visible):
        return None
    return (_number(environment, name, launcher),)


def _tasks_of_this_node(environment: Mapping[str, str]) -> int:
    """From a list such as `2(x3),1`: two on each of three nodes, one on the next."""
    tasks = re.finditer(r"([0-9]+)(?:\(x([0-9]+)\))?", environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
    spread = [int(match[1]) for match in tasks for _ in range(int(match[2] or 1))]
    node = int(environment.get("SLURM_NODEID", "0"))
    return spread[node] if node < len(spread) else _number(environment, "SLURM_STEP_NUM_TASKS", "SLURM")


def _tpu_in_kubernetes(environment: Mapping[str, str], port: str) -> Launch | None:
    launcher = "Kubernetes, TPU_WORKER_HOSTNAMES"
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES", "")
    names = [host.strip() for host in hosts.split(",") if host.strip()]
    if not names:
        return None
    slices = int(environment.get("MEGASCALE_NUM_SLICES") or 1)
    if len(names) * slices == 1:
        return None
    worker = _number(environment, "TPU_WORKER_ID", launcher)
    return _tpu(launcher, names, worker, environment, port)


def _tpu_vm(metadata: Metadata, port: str) -> Launch | None:
    ends = metadata("worker-network-endpoints")
    if not ends:
        return None
    # Each is a host name, or name:id:address.
    names = [part.split(":")[-1] for part in ends.split(",")]
    slices = dict(re.findall(r"^\s*(MEGASCALE_\w+)\s*:\s*'?([^'\n]*?)'?\s*$", metadata("tpu-env"), re.MULTILINE))
    if len(names) * int(slices.get("MEGASCALE_NUM_SLICES") or 1) == 1:
        return None
    worker = _number({"agent-worker-number": metadata("agent-worker-number")}, "agent-worker-number", "Cloud TPU")
    return _tpu("Cloud TPU", names, worker, slices, port)


def _tpu(launcher: str, names: list[str], worker: int, slices: Mapping[str, str], port: str) -> Launch:
    """The launch of a slice, or of several that a network joins: the first process is that of the first slice."""
    count, which = int(slices.get("MEGASCALE_NUM_SLICES") or 1), int(slices.get("MEGASCALE_SLICE_ID") or 0)
    first = slices.get("MEGASCALE_COORDINATOR_ADDRESS") or names[0]
    known = tuple(names) if count == 1 else ()
    index = which * len(names) + worker
    return Launch(launcher, f"{first.split(':')[0]}:{port or TPU_PORT}", len(names) * count, index, known)


def tpu_metadata(root: Path = Path("/dev")) -> Metadata | None:
    """A function that reads the metadata of this Cloud TPU VM; None on any other machine."""
    if importlib.util.find_spec("libtpu") is None or not any(True for name in TPU_FILES for _ in root.glob(name)):
        return None
    # A proxy cannot answer for this machine.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(name: str) -> str:
        request = urllib.request.Request(METADATA + name, headers={"Metadata-Flavor": "Google"})
        try:
            with direct.open(request, timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:  # no such attribute, or a TPU that is not in Google Cloud's machines, as in Colab
            return ""

    return ask
