"""Keep freed memory with the process instead of giving it back to the system after every pass."""

from __future__ import annotations

import ctypes
import os

# Parameters of mallopt(3), see malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# Larger blocks go back to the system when they are freed: the most that glibc allows, and what it moves up to
# by itself while a program runs.
LARGEST_KEPT = 32 * 2**20
# Free memory beyond this at the end of the heap goes back.
MOST_KEPT = 2**30
# Whoever sets one of these has decided for himself.
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> None:
    """Let the process keep up to ``MOST_KEPT`` bytes that it has freed, for its next pass.

    By itself glibc gives memory back as soon as a few times the largest block are free, which is after each
    forward and backward pass of a small model, and the system then hands it out anew, page by page, set to
    zero: an eighth of the time of an update. Other allocators, and systems without glibc, are left as they
    are. So are programs whose environment says something about it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(name in os.environ for name in _VARIABLES):
        return
    mallopt(_M_MMAP_THRESHOLD, LARGEST_KEPT)
    mallopt(_M_TRIM_THRESHOLD, MOST_KEPT)
