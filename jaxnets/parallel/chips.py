"""Published peaks of accelerators: what no program can exceed. Each row names its source.

Rates are those of one device in one direction. A vendor's "bidirectional" bandwidth counts both, so it is halved here.
"""

import dataclasses
import re

from jaxnets.core.errors import UsageError, did_you_mean

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of accelerator."""

    name: str
    """As a user types it: v5e, h100."""
    platform: str
    """tpu or gpu."""
    flops: float
    """Dense bfloat16 FLOP/s (float16 where there is no bfloat16)."""
    memory: int
    """Bytes of memory."""
    bandwidth: float
    """Bytes/s between this memory and the cores."""
    link: float
    """Bytes/s that a device sends to the others of its group, over all its links."""
    group: int
    """Devices that these links join: a TPU pod, the GPUs of a host."""
    network: float
    """Bytes/s that a device sends beyond its group."""
    dims: int
    """Dims of the torus of a TPU; 0 for GPUs, which a switch joins."""
    host: int
    """Devices of a host."""
    source: str
    """Where these numbers are published."""


_TPU = "docs.cloud.google.com/tpu/docs"
_NVIDIA = "nvidia.com/data-center"
CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip("v4", "tpu", 275e12, 32 * GIB, 1228e9, 150e9, 4096, 6.25e9, 3, 4, f"{_TPU}/v4"),
        Chip("v5e", "tpu", 197e12, 16 * GIB, 819e9, 200e9, 256, 3.125e9, 2, 4, f"{_TPU}/v5e"),
        Chip("v5p", "tpu", 459e12, 95 * GIB, 2765e9, 600e9, 8960, 6.25e9, 3, 4, f"{_TPU}/v5p"),
        Chip("v6e", "tpu", 918e12, 32 * GIB, 1638e9, 400e9, 256, 12.5e9, 2, 4, f"{_TPU}/v6e"),
        Chip("t4", "gpu", 65e12, 16 * GIB, 320e9, 16e9, 1, 6.25e9, 0, 4, f"{_NVIDIA}/tesla-t4 (float16, PCIe 3)"),
        Chip("l4", "gpu", 121e12, 24 * GIB, 300e9, 32e9, 1, 6.25e9, 0, 8, f"{_NVIDIA}/l4 (PCIe 4)"),
        Chip("a100", "gpu", 312e12, 80 * GIB, 2039e9, 300e9, 8, 25e9, 0, 8, f"{_NVIDIA}/a100 (SXM, 80 GB)"),
        Chip("h100", "gpu", 989e12, 80 * GIB, 3350e9, 450e9, 8, 50e9, 0, 8, f"{_NVIDIA}/h100 (SXM)"),
        Chip("h200", "gpu", 989e12, 141 * GIB, 4800e9, 450e9, 8, 50e9, 0, 8, f"{_NVIDIA}/h200 (SXM)"),
        Chip("b200", "gpu", 2250e12, 180 * GIB, 7700e9, 900e9, 8, 50e9, 0, 8, f"{_NVIDIA}/dgx-b200"),
    )
}


# What `device.device_kind` of JAX says of each. What has another peak is left out: H100 PCIe and NVL, parts of a card (MIG).
KINDS = {
    r"TPU v4": "v4",
    r"TPU v5 ?lite|TPU v5e": "v5e",
    r"TPU v5p?": "v5p",
    r"TPU v6 ?lite|TPU v6e": "v6e",
    r"Tesla T4": "t4",
    r"NVIDIA L4": "l4",
    r"NVIDIA A100-.*B": "a100",
    r"NVIDIA H100 80GB HBM3": "h100",
    r"NVIDIA H200": "h200",
    r"NVIDIA B200": "b200",
}


def chip_of(device_kind: str) -> Chip | None:
    """The row of a device by what JAX calls its kind; None for a CPU and for what is not in the table."""
    return next((CHIPS[name] for pattern, name in KINDS.items() if re.fullmatch(pattern, device_kind)), None)


def chip_named(name: str) -> Chip:
    """The row of a chip; raises `UsageError` for a name that is not in the table."""
    if name not in CHIPS:
        raise UsageError(f"there is no accelerator {name!r}. {did_you_mean(name, CHIPS)}")
    return CHIPS[name]
