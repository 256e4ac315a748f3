"""Memory that is freed and needed again at once."""

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, malloc.h
KEPT, MAPPED = 1 << 30, 1 << 25
"""Bytes at the end of the heap that are kept; those from which on memory is mapped apart, glibc's own largest value."""


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed: a step or a forward needs it again, and the system would fill it with zeros first.

    By its defaults the free end of the heap goes back to the system at a few MB, in every step. A training step of a
    Row LSTM of 28×28 pixels then waits for 5,700 pages (one thread of an AMD EPYC: 100 ms instead of 72), plain torch's
    loop for 3,200 (209 instead of 187). It holds for the whole process, and so only commands ask for it. Whoever has
    chosen by GLIBC_TUNABLES or MALLOC_TRIM_THRESHOLD_ has chosen; elsewhere than with glibc nothing happens.

    Returns:
        Whether it was done.
    """
    chosen = "trim_threshold" in os.environ.get("GLIBC_TUNABLES", "") or "MALLOC_TRIM_THRESHOLD_" in os.environ
    libc = ctypes.CDLL(None) if os.name == "posix" else None
    if chosen or not hasattr(libc, "gnu_get_libc_version") or not hasattr(libc, "mallopt"):
        return False
    return bool(libc.mallopt(_TRIM_THRESHOLD, KEPT) and libc.mallopt(_MMAP_THRESHOLD, MAPPED))  # type: ignore[union-attr]
