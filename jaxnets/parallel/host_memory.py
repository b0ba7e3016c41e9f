"""Makes glibc keep the memory that the CPU back end frees, and reports the memory of the process.

XLA on the CPU allocates the temporaries of each step and frees them at its end. By default glibc returns large blocks to the
system, which must clear and map them again in the next step: a tenth to a third of a step's time, measured. With these
settings glibc keeps and reuses the blocks; the price is that the process never returns memory.
"""

import ctypes
import functools
import os
import sys
from pathlib import Path

# <malloc.h>: serve no block by mmap, and never trim the top of the heap.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
NEVER = 2**31 - 1


@functools.cache
def keep_freed_memory() -> bool:
    """Make glibc keep freed memory, once per process; returns whether that succeeded.

    `JAXNETS_MALLOC=system` leaves the allocator unchanged, as do systems without glibc.
    """
    if os.environ.get("JAXNETS_MALLOC", "keep") == "system" or not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        return bool(libc.mallopt(M_MMAP_THRESHOLD, NEVER)) and bool(libc.mallopt(M_TRIM_THRESHOLD, NEVER))
    except (OSError, AttributeError):
        return False


def resident_memory() -> tuple[int, int] | None:
    """Bytes of this process in the memory of the machine: at their peak, and now (0 where the system does not say)."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    # Linux counts kilobytes, macOS bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return peak, 0
    now = pages * resource.getpagesize()
    return max(peak, now), now
