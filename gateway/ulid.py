"""Ids that sort by time: a prefix and a ULID (48 bits of milliseconds, 80 random bits)."""

from __future__ import annotations

import os
import threading
import time

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base32: no I, L, O, U."""

LENGTH = 26
_RANDOM_BITS = 80


def new(prefix: str) -> str:
    """`prefix` + 26 characters; each id of one process is greater than the one before, in every thread."""
    return prefix + _encode(_sequence.next())


def is_ulid(text: str) -> bool:
    """Whether `text` is 26 characters of the alphabet and fits into 128 bits."""
    return len(text) == LENGTH and text[0] <= "7" and all(char in ALPHABET for char in text)


class _Sequence:
    """The last number given. Within a millisecond, or when the clock steps back, it counts up by one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def next(self) -> int:
        with self._lock:
            fresh = time.time_ns() // 1_000_000 << _RANDOM_BITS | int.from_bytes(os.urandom(10), "big")
            same_millisecond = fresh >> _RANDOM_BITS <= self._last >> _RANDOM_BITS
            self._last = self._last + 1 if same_millisecond else fresh
            return self._last

    def forget(self) -> None:
        """After fork: parent and child would count up from the same number."""
        self._lock = threading.Lock()
        self._last = 0


def _encode(number: int) -> str:
    return "".join(ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


_sequence = _Sequence()
os.register_at_fork(after_in_child=_sequence.forget)
