"""Rates: how often each caller may do something, by token buckets in a bounded memory that forked processes share."""

from __future__ import annotations

import fcntl
import hashlib
import math
import mmap
import os
import struct
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass

BURST_SECONDS = 2.0
"""What a caller that was silent may take at once: so much of its rate."""
MAX_CALLERS = 10_240

_WAYS = 8
"""Buckets among which a caller has its place: looked through at each request."""
_BUCKET = struct.Struct("=16sdd")
"""Whose it is, what is left in it, and since when; unused where that is all zeros."""
_SET_BYTES = _WAYS * _BUCKET.size
_UNUSED = bytes(16)
_PATIENCE_SECONDS = 0.01
_LOOK_SECONDS = 0.0005


@dataclass(frozen=True)
class Quota:
    """Where one caller stands: its burst, what is left of that, and in how many seconds it is whole again.

    `retry_after`: seconds until its next request is taken, 0 if this one was.
    """

    limit: int
    remaining: int
    reset: int
    retry_after: int


class Rates:
    """One bucket for each caller: of `burst` requests, at first full, and refilled at its rate. For many threads.

    Processes forked from the one that made it share the buckets, so what a caller may do does not depend on how many
    web workers there are. Each caller has its place among eight buckets, named by a keyed hash; where those are all
    others', the one longest silent is forgotten and begins anew. What it costs is bounded (320 KiB), whoever calls. Our
    own rather than a library: those in Debian 13 (python3-limits) keep each key until its window ends, so that
    addresses at will grow them, and count in one process, or in a database of their own.
    """

    def __init__(self, burst: float | None = None, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`burst` is what two seconds bring, at least 1, if not given."""
        self._burst = burst
        self._monotonic = monotonic
        self._key = os.urandom(16)
        self._table = mmap.mmap(-1, MAX_CALLERS * _BUCKET.size)  # MAP_SHARED
        self._thread = threading.Lock()
        self._process = os.memfd_create("rates")
        weakref.finalize(self, os.close, self._process)

    def __len__(self) -> int:
        return sum(owner != _UNUSED for owner, _, _ in _BUCKET.iter_unpack(self._table[:]))

    def take(self, caller: str, rate: float, *, cost: float = 1.0) -> Quota:
        """Counts one request of a caller who may make `rate` a second, or one that counts for `cost`: whoever has one
        left may make that, too, and then waits the longer."""
        burst = max(1.0, self._burst or rate * BURST_SECONDS)
        owner = hashlib.blake2b(caller.encode(), digest_size=16, key=self._key).digest()
        with self._thread:
            locked = self._lock()
            try:
                now = self._monotonic()
                place, left, since = self._find(owner, burst, now)
                left = min(burst, left + max(0.0, now - since) * rate)
                taken = left >= 1
                left -= taken * cost
                _BUCKET.pack_into(self._table, place, owner, left, now)
            finally:
                if locked:
                    fcntl.lockf(self._process, fcntl.LOCK_UN)
        wait = 0 if taken else max(1, math.ceil((1 - left) / rate))
        return Quota(int(burst), int(left), math.ceil((burst - left) / rate), wait)

    def _find(self, owner: bytes, burst: float, now: float) -> tuple[int, float, float]:
        """Where the caller's bucket is, or is to be; what is left in it, and since when."""
        start = int.from_bytes(owner[:4]) % (MAX_CALLERS // _WAYS) * _SET_BYTES
        buckets = list(_BUCKET.iter_unpack(self._table[start : start + _SET_BYTES]))
        for way, (whose, left, since) in enumerate(buckets):
            if whose == owner:
                return start + way * _BUCKET.size, left, since
        way = min(range(_WAYS), key=lambda way: (buckets[way][0] != _UNUSED, buckets[way][2]))
        return start + way * _BUCKET.size, burst, now

    def _lock(self) -> bool:
        """Keep other processes out, if they let us: one that was stopped in between keeps nobody waiting, and what is
        then counted at the same time may be counted once. The kernel takes the lock from one that was killed."""
        for _ in range(int(_PATIENCE_SECONDS / _LOOK_SECONDS)):
            try:
                fcntl.lockf(self._process, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                time.sleep(_LOOK_SECONDS)
            else:
                return True
        return False
