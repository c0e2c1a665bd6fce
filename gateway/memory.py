"""What the C library does with memory that Python has given back."""

import ctypes

_M_TRIM_THRESHOLD = -1  # malloc.h
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGE_BYTES = 2 << 20
_ARENAS = 2


def return_large_blocks() -> None:
    """Have large bodies and outputs go back to the kernel when they are done with.

    By itself glibc raises its threshold for that to the largest block ever freed, up to 32 MiB, and keeps what is
    smaller, in an arena for each thread or two (mallopt(3)): twelve bodies of 15 MiB left 200 MiB behind, with this
    7 MiB. A stream's pieces, smaller than 2 MiB, are still kept for the next ones; more arenas would serve nobody
    while Python's lock is held. Without effect on another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_ARENA_MAX, _ARENAS)
