"""How much of the log is kept: nothing is deleted for its age alone, and nothing young to make room."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from gateway.audit.files import CLOSED_NAME, LOG_NAME, TORN_PREFIX, list_log_files
from gateway.audit.tail import Tail

_LOOK_AGAIN = 5.0


class WhenFull(StrEnum):
    """What happens when the log has reached its size and its oldest file is younger than it must be kept."""

    REFUSE = "refuse"
    PRUNE = "prune"


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_bytes`: all files together; past that the oldest closed ones go, if they are older than `keep_days`.

    Else `when_full` decides: REFUSE takes no announcement any more, so that nobody who may act can push out the
    record of it; PRUNE deletes them early.
    """

    rotate_bytes: int
    max_bytes: int
    keep_days: float
    when_full: WhenFull


class Retention:
    """Owned by the log's thread. The age of a file is that of its last record."""

    def __init__(self, directory: Path, limits: Limits, read_tail: Callable[[Path], Tail | None]) -> None:
        self.full = ""
        """Why nothing more may be announced; empty while it may."""
        self._directory = directory
        self._limits = limits
        self._read_tail = read_tail
        self._closed_bytes: int | None = None
        self._looked = 0.0

    def forget(self) -> None:
        """Files have come or gone: measure them anew."""
        self._closed_bytes = None

    def choose(self, open_bytes: int) -> list[tuple[Path, Tail]]:
        """The closed files that must go now, while the open one has `open_bytes`. Sets `full`. Raises OSError."""
        now = time.monotonic()
        if self.full and now - self._looked > _LOOK_AGAIN:
            self._closed_bytes = None  # the administrator may have made room
        if self._closed_bytes is None:
            self._looked = now
            self._closed_bytes = self._measure()
        excess = self._closed_bytes + open_bytes - self._limits.max_bytes
        if excess < 0:
            self.full = ""
            return []
        if self.full and self._looked != now:
            return []
        self._looked = now
        return self._make_room(excess)

    def filled(self, open_bytes: int) -> float:
        """The part of `max_bytes` that is used; past 1 there is a reserve for what must be recorded all the same."""
        return ((self._closed_bytes or 0) + open_bytes) / self._limits.max_bytes

    def _make_room(self, excess: int) -> list[tuple[Path, Tail]]:
        doomed: list[tuple[Path, Tail]] = []
        self.full = ""
        for path in sorted(path for path in self._directory.iterdir() if CLOSED_NAME.fullmatch(path.name)):
            if excess < 0:
                break
            tail = self._read_tail(path)
            if tail is None or tail.head is None:
                continue
            if self._limits.when_full is WhenFull.REFUSE and not self._is_old(tail.ts):
                break
            doomed.append((path, tail))
            excess -= tail.size
            assert self._closed_bytes is not None
            self._closed_bytes -= tail.size
        if excess >= 0 and self._limits.when_full is WhenFull.REFUSE:
            self.full = (
                f"the audit log is full: it has {self._limits.max_bytes} bytes (audit.max_bytes), and nothing in it is"
                f" older than {self._limits.keep_days:g} days (audit.keep_days); move files away, or raise the limit"
            )
        return doomed

    def _is_old(self, ts: str) -> bool:
        """A moment that cannot be read, or lies ahead of a clock that was set back, is not old."""
        try:
            age = datetime.now(UTC) - datetime.fromisoformat(ts)
        except (ValueError, TypeError):
            return False
        return age > timedelta(days=self._limits.keep_days)

    def _measure(self) -> int:
        names = [path for path in list_log_files(self._directory) if path.name != LOG_NAME]
        total = 0
        for path in [*names, *self._directory.glob(f"{TORN_PREFIX}*")]:
            try:
                total += path.lstat().st_size
            except FileNotFoundError:
                continue
        return total
