"""What XLA's compiler for GPUs has to know of a GPU that is not there: its description, as the text that XLA reads.

Numbers are those of the vendor's data sheets and of the CUDA programming guide's table of compute capabilities. Without a
device the compiler chooses kernels by rules and does not time them, so speed may differ from that on a real one. Memory and
exchanges do not depend on that.
"""

import dataclasses

from jaxnets.parallel.chips import chip_named


@dataclasses.dataclass(frozen=True)
class Device:
    """What a data sheet does not share with the table of peaks."""

    capability: tuple[int, int]
    """Compute capability."""
    cores: int
    """Streaming multiprocessors."""
    threads: int
    """Threads that one of them holds."""
    shared: int
    """Bytes of shared memory of one of them; a block may have all but 1 KiB of it."""
    cache: int
    """Bytes of the L2 cache."""
    clock: float
    """GHz, at most."""


DEVICES = {
    "t4": Device((7, 5), 40, 1024, 65_536, 4 << 20, 1.59),
    "l4": Device((8, 9), 58, 1536, 102_400, 48 << 20, 2.04),
    "a100": Device((8, 0), 108, 2048, 167_936, 40 << 20, 1.41),
    "h100": Device((9, 0), 132, 2048, 233_472, 50 << 20, 1.98),
    "h200": Device((9, 0), 132, 2048, 233_472, 50 << 20, 1.98),
    "b200": Device((10, 0), 148, 2048, 233_472, 126 << 20, 1.965),
}

TEXT = """gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared}
  threads_per_core_limit: {threads}
  core_count: {cores}
  fpus_per_core: {units}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}
  l2_cache_size: {cache}
  clock_rate_ghz: {clock}
  device_memory_size: {memory}
  shared_memory_per_block_optin: {most_shared}
  cuda_compute_capability {{ major: {major} minor: {minor}{features} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 2 }}
device_description_str: "{name}"
"""


def described(name: str) -> str:
    """The description of a GPU of `chips.CHIPS`, for `topology_devices`."""
    chip, device = chip_named(name), DEVICES[name]
    major, minor = device.capability
    return TEXT.format(
        **dataclasses.asdict(device),
        units=128 if (major, minor) in ((8, 9), (9, 0), (10, 0)) else 64,
        bandwidth=int(chip.bandwidth),
        memory=chip.memory,
        most_shared=device.shared if major == 7 else device.shared - 1024,
        major=major,
        minor=minor,
        features=" feature_extension: ACCELERATED_FEATURES" if major >= 9 else "",
        name=f"NVIDIA {name.upper()}",
    )
