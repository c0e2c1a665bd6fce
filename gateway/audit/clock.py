"""The log's sense of time: records carry the wall clock, whose jumps are recorded too, and the latest moment yet.

Order in the log is `seq`, never time. Readers that look for a time stop by `latest`, which no jump can mislead.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

from gateway.audit.record import Event, Fields, note, now

_TOLERATED = 5.0
"""Seconds between two batches that are slewing, not a jump."""

_TS = b'"ts":"'
_TS_BYTES = len("2026-01-01T00:00:00.000000Z")
_MOMENT = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


class LogClock:
    """Stamps records. `latest` is the latest moment that any record of the chain carries; empty before the first."""

    def __init__(self) -> None:
        self.latest = ""
        self._offset = _offset()

    def stamp(self) -> str:
        moment = now()
        self.latest = max(self.latest, moment)
        return moment

    def take_up(self, lines: Iterable[bytes], last: str, before: str) -> list[Fields]:
        """The chain goes on behind `lines`, the last written at `last`, none before them later than `before`.

        What is to be noted of that.
        """
        self.latest = max(self.latest, latest_moment(lines), last, before)
        moment = now()
        if last > moment:
            return [note(Event.AUDIT_CLOCK, before=last, after=moment, seconds=None)]
        return []

    def notice_jump(self) -> list[Fields]:
        """A note if the wall clock was set since the last call. Suspended time is no jump (CLOCK_BOOTTIME)."""
        before, self._offset = self._offset, _offset()
        jump = self._offset - before
        if abs(jump) <= _TOLERATED:
            return []
        return [note(Event.AUDIT_CLOCK, before=None, after=now(), seconds=round(jump, 3))]


def moment_of(line: bytes) -> str:
    """When the record in `line` was written, unverified; empty if it does not say.

    `ts` stands behind `data` in a canonical line, and behind it is no text of a caller: the last one is the right one.
    """
    at = line.rfind(_TS)
    moment = line[at + len(_TS) :][:_TS_BYTES]
    return moment.decode("ascii") if at >= 0 and _MOMENT.fullmatch(moment) else ""


def latest_moment(lines: Iterable[bytes]) -> str:
    """The latest moment in `lines`; of forged ones too, for it serves only to look no less far than needed."""
    return max(map(moment_of, lines), default="")


def latest_before(begin: Iterable[Fields]) -> str:
    """The latest moment in all files before the one that begins with these records; empty where it does not say."""
    for record in begin:
        if record["event"] == Event.AUDIT_OPENED:
            return str(record["data"].get("latest") or "")
    return ""


def _offset() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
