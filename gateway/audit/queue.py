"""What waits for the log: entries between the I/O thread, which may give up on them, and the committing thread."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from gateway.audit.protocol import PATIENCE, Code
from gateway.audit.record import ANNOUNCEMENTS, Fields

MAX_QUEUED = 4096
MAX_QUEUED_BYTES = 4 << 20
LINGER = 0.05
"""Seconds that a record for which nobody waits may stay in the queue: the next caller's disk write takes it along."""

_MAX_BATCH_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no receipt. `unsure`: the record may turn out durable all the same, if this writer dies now."""

    code: Code
    detail: str
    unsure: bool = False


class State(Enum):
    """Where an entry is. What was WITHDRAWN while queued never reaches the log; what was told no while it was
    being written is taken back if it turns out durable."""

    QUEUED = auto()
    WRITING = auto()
    ANSWERED = auto()
    WITHDRAWN = auto()


@dataclass(slots=True, eq=False)
class Entry:
    """One record on its way into the log. `owner` and `id` are for whoever sends the answer."""

    fields: Fields
    size: int
    wait: bool
    sent: float
    owner: Any = None
    id: Any = None
    queued: float = 0.0
    state: State = field(default=State.QUEUED)

    @property
    def announces(self) -> bool:
        return self.fields["event"] in ANNOUNCEMENTS


class Queue:
    """Bounded in entries and bytes. Whoever calls holds the lock that both threads share."""

    def __init__(self) -> None:
        self.bytes = 0
        self._entries: deque[Entry] = deque()
        self._waiting: set[Entry] = set()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def has_waiting(self) -> bool:
        """Whether any caller stands waiting, for what is queued or being written."""
        return bool(self._waiting)

    def put(self, entry: Entry, now: float) -> Refusal | None:
        """The last of the queue, or why not."""
        if len(self._entries) >= MAX_QUEUED or self.bytes + entry.size > MAX_QUEUED_BYTES:
            return Refusal(Code.QUEUE_FULL, "the audit writer's queue is full; try again")
        entry.queued = now
        self._entries.append(entry)
        self.bytes += entry.size
        if entry.wait:
            self._waiting.add(entry)
        return None

    def let_go(self, entry: Entry) -> None:
        """The caller of `entry` gets no receipt."""
        self._waiting.discard(entry)
        if entry.state is State.QUEUED:
            entry.state = State.WITHDRAWN
            self._entries.remove(entry)
            self.bytes -= entry.size
        else:
            entry.state = State.ANSWERED

    def find_late(self, now: float) -> list[Entry]:
        """Those whose callers have waited too long."""
        return [entry for entry in self._waiting if now - entry.sent > PATIENCE]

    def find_announced(self, owner: object) -> list[Entry]:
        """What `owner` waits for leave to do."""
        return [entry for entry in self._waiting if entry.owner is owner and entry.announces]

    def seconds_left(self, now: float) -> float | None:
        """That the first may linger still; None where there is none."""
        return self._entries[0].queued + LINGER - now if self._entries else None

    def take_batch(self) -> list[Entry]:
        """The first ones, to be written now."""
        batch: list[Entry] = []
        size = 0
        while self._entries and size < _MAX_BATCH_BYTES:
            entry = self._entries.popleft()
            entry.state = State.WRITING
            size += entry.size
            batch.append(entry)
        self.bytes -= size
        return batch

    def settle(self, entry: Entry) -> bool:
        """`entry` is written, or never will be. Whether its caller is still to be told."""
        self._waiting.discard(entry)
        return entry.state is State.WRITING
