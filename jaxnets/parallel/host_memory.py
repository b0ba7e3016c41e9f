"""Keep the memory that the CPU back end frees.

XLA on the CPU asks the C library for every step's temporaries and gives them back at the end of it. glibc hands large blocks
back to the system each time, which must then clear and map them again: a tenth to a third of a step's time, measured.
Told to keep them, it reuses them; the price is that memory once used stays with the process.
"""

import ctypes
import functools
import os
import sys

# <malloc.h>: serve no block by mmap, and never trim the top of the heap.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
NEVER = 2**31 - 1


@functools.cache
def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory, once a process; returns whether it did.

    `JAXNETS_MALLOC=system` leaves the allocator alone. Systems without glibc are left alone as well.
    """
    if os.environ.get("JAXNETS_MALLOC", "keep") == "system" or not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        return bool(libc.mallopt(M_MMAP_THRESHOLD, NEVER)) and bool(libc.mallopt(M_TRIM_THRESHOLD, NEVER))
    except (OSError, AttributeError):
        return False
