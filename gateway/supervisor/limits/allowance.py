"""How many bytes the spool may hold: at most spool.total, and never so many that less than spool.min_free is left.

What has ended gives way to what runs, the oldest first; what runs gives way to nobody.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable

from gateway.config import SpoolConfig
from gateway.errors import SpoolFull

log = logging.getLogger(__name__)

_FREE_CHECK_SECONDS = 1.0


class Allowance:
    """The bytes of those that have ended, and those granted to what runs."""

    def __init__(self, config: SpoolConfig, make_room: Callable[[int], object]) -> None:
        """`make_room` is asked to forget those that have ended until so many bytes more are allowed."""
        self.kept = 0
        """Bytes of those that have ended."""
        self._config = config
        self._make_room = make_room
        self._granted: dict[str, int] = {}
        self._free_checked = 0.0

    def require_free(self) -> None:
        """Looks at the disk, once in a second. Raises SpoolFull when nothing more may be begun."""
        now = time.monotonic()
        if now - self._free_checked < _FREE_CHECK_SECONDS:
            return
        try:
            fits = self._disk_makes_room(0)
        except OSError as exc:
            raise SpoolFull(f"cannot use the spool directory: {exc.strerror}") from exc
        if not fits:
            raise SpoolFull("the spool's file system has less free space than spool.min_free; free space on the node")
        self._free_checked = now

    def grant(self, exec_id: str, size: int) -> bool:
        """Whether the files of an exec that runs may grow by so many bytes. Raises OSError."""
        if not self._fits(size):
            self._make_room(size)
        if not (self._fits(size) and self._disk_makes_room(size)):
            log.warning("%s: no more of its output is kept: the spool is full", exec_id)
            return False
        self.count(exec_id, self._granted.get(exec_id, 0) + size)
        return True

    def count(self, exec_id: str, size: int) -> None:
        """It has been granted so many bytes in all, perhaps under an earlier image of this program."""
        self._granted[exec_id] = size

    def settle(self, exec_id: str) -> None:
        """It has ended, or never began: what it was granted is free, and what it keeps is counted as kept."""
        self._granted.pop(exec_id, None)

    def for_ended(self, wanted: int) -> int:
        """How many bytes of ended execs may stay when `wanted` more shall be allowed.

        Where all of them together would not bring the disk up to spool.min_free they may stay: they would go in vain.
        """
        room = self._config.total - wanted - sum(self._granted.values())
        with contextlib.suppress(OSError):
            on_disk = self.kept - self._missing(wanted)
            if on_disk >= 0:
                return min(room, on_disk)
        return room

    def _fits(self, size: int) -> bool:
        return self.kept + sum(self._granted.values()) + size <= self._config.total

    def _disk_makes_room(self, size: int) -> bool:
        """The same for the disk. What has gone counts at once: ZFS frees it seconds later."""
        missing = self._missing(size)
        if missing > 0:
            kept = self.kept
            self._make_room(size)
            missing -= kept - self.kept
        return missing <= 0

    def _missing(self, size: int) -> int:
        """By how many bytes the disk has less room than for `size` more."""
        disk = os.statvfs(self._config.directory)
        return self._config.min_free + size - disk.f_bavail * disk.f_frsize
