"""What the C library does with memory that Python has given back."""

import ctypes

_M_TRIM_THRESHOLD = -1  # malloc.h
_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 4 << 20
_SPARE_BYTES = 8 << 20


def return_large_blocks() -> None:
    """Have large bodies and outputs go back to the kernel when they are done with.

    By itself glibc raises its threshold to the largest block ever freed, up to 32 MiB, and then keeps such blocks,
    for each thread's arena anew: twelve bodies of 15 MiB left 200 MiB behind, with this 5 MiB (mallopt(3)). A stream's
    pieces, smaller than 4 MiB, are still kept for the next ones. Without effect on another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _SPARE_BYTES)
