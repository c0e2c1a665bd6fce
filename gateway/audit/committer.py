"""Group commit: one thread takes every queued record, makes them durable with one write and one fdatasync,
and hands out receipts; nobody else ever waits for the disk."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from gateway.audit.anchor import Anchors
from gateway.audit.chain import Head
from gateway.audit.log import AuditLog
from gateway.audit.protocol import PATIENCE, Code, Receipt
from gateway.audit.queue import Entry, Queue, Refusal, State
from gateway.audit.record import Event, Fields, build_aborted, note
from gateway.audit.sinks import Sinks
from gateway.errors import AuditUnavailable
from gateway.histogram import SHORT, Histogram

_RETRY_SECONDS = 1.0
_NEARLY_FULL = 0.8

Answer = tuple[Entry, Receipt | Refusal]


class Committer:
    """`submit`, `expire`, `withdraw` and `take_answers` are for the I/O thread; `run` is the other thread.

    `wake` is called, from the committing thread, when there are answers to take.
    """

    def __init__(self, log: AuditLog, anchors: Anchors, sinks: Sinks, *, wake: Callable[[], object]) -> None:
        self._log = log
        self._anchors = anchors
        self._sinks = sinks
        self._wake = wake
        self._changed = threading.Condition()
        self._queue = Queue()
        self._own: list[Fields] = []
        self._answers: list[Answer] = []
        self._stopping = False
        self._busy_since: float | None = None
        self._failing_since: float | None = None
        self._failure = ""
        self._refused = 0
        self._full_since: float | None = None
        self._full = ""
        self._refused_full = 0
        self._nearly_full = False
        self._records = self._syncs = self._writing = 0
        self._last_sync = 0.0
        self._sync_seconds = Histogram(SHORT)
        self._failures = self._refused_ever = 0

    # -- the I/O thread's side

    def submit(self, entry: Entry) -> Refusal | None:
        """Queue `entry`, or say at once why not."""
        now = time.monotonic()
        with self._changed:
            if entry.wait and now - entry.sent > PATIENCE:
                return Refusal(Code.UNAVAILABLE, "the request is too old: its caller has stopped waiting")
            if entry.wait and (stuck := self._stuck_for(now)):
                self._refused_ever += 1
                return Refusal(Code.UNAVAILABLE, _describe_stuck(stuck))
            if entry.wait and (full := self._log.full):
                self._refused_full += 1
                self._refused_ever += 1
                return Refusal(Code.UNAVAILABLE, full)
            refusal = self._queue.put(entry, now)
            if refusal is None and (entry.wait or len(self._queue) == 1):
                self._changed.notify()
            return refusal

    @property
    def has_waiting(self) -> bool:
        """Whether `expire` must be called soon."""
        return self._queue.has_waiting

    def expire(self) -> list[Answer]:
        """Tell no to everyone who has waited too long."""
        now = time.monotonic()
        with self._changed:
            late = self._queue.find_late(now)
            self._refused_ever += len(late)
            for entry in late:
                self._queue.let_go(entry)
            detail = _describe_stuck(self._stuck_for(now)) if late else ""
        return [(entry, Refusal(Code.UNAVAILABLE, detail, entry.state is State.ANSWERED)) for entry in late]

    def withdraw(self, owner: object) -> None:
        """`owner` is gone: nothing that it announced will be done. What it reported still counts."""
        with self._changed:
            for entry in self._queue.find_announced(owner):
                self._queue.let_go(entry)

    def take_back(self, entry: Entry) -> None:
        """The receipt of `entry` could not be delivered."""
        if entry.announces:
            with self._changed:
                self._own.append(build_aborted(entry.fields, "caller gone"))
                self._changed.notify()

    def take_answers(self) -> list[Answer]:
        with self._changed:
            answers, self._answers = self._answers, []
        return answers

    def stop(self) -> None:
        """Let `run` finish what is queued, and return."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def status(self) -> dict[str, Any]:
        """For health and metrics; never waits for the disk."""
        now = time.monotonic()
        with self._changed:
            stuck = self._stuck_for(now)
            why = _describe_stuck(stuck) if stuck else self._failure or self._log.full
            return {
                "ok": not why,
                "why": why or None,
                "queued": len(self._queue),
                "queued_bytes": self._queue.bytes,
                "writing": self._writing,
                "records": self._records,
                "syncs": self._syncs,
                "last_sync_ms": round(self._last_sync * 1000, 3),
                "sync_seconds": self._sync_seconds.to_wire(),
                "lag": now - self._busy_since if self._busy_since is not None else 0.0,
                "failures": self._failures,
                "refused": self._refused_ever,
                "seq": self._log.head.seq if self._log.head else 0,
                "anchors_sent": self._anchors.sent,
                "anchors_failed": self._anchors.failed,
                "filled": round(self._log.filled, 4),
                "sinks": self._sinks.status(),
            }

    def head(self) -> Head | None:
        return self._log.head

    def _stuck_for(self, now: float) -> float:
        """The lock is held. Seconds that the disk has kept us waiting, if that is too long."""
        busy = now - self._busy_since if self._busy_since is not None else 0.0
        return busy if busy > PATIENCE else 0.0

    # -- the committing thread

    def run(self) -> None:
        """Commit until stopped. The log's first record, `audit:opened`, does not wait for a request."""
        self._commit([], [])
        self._notice_room()
        self._anchor()
        while True:
            with self._changed:
                while not self._is_due(time.monotonic()):
                    if not self._changed.wait(self._next_chore(time.monotonic())) and not self._queue:
                        break
                if self._stopping and not self._queue and not self._own:
                    break
                own, batch = self._take_batch()
            own += self._sinks.take_losses()
            if own or batch or self._failing_since is not None or self._full_since is not None:
                self._commit(own, batch)
                if self._stopping and self._failing_since is not None:
                    break
                self._notice_room()
            self._anchor()

    def close(self) -> None:
        """After `run` has returned and its answers were delivered: take back those that reached nobody, and anchor."""
        self._commit_own()
        self._sinks.finish()
        self._own += self._sinks.take_losses(force=True)
        self._commit_own()
        self._anchor(force=True)
        self._log.close()

    def _commit_own(self) -> None:
        if self._own and self._failing_since is None:
            own, self._own = self._own, []
            self._commit(own, [])

    def _is_due(self, now: float) -> bool:
        """The lock is held. Whether there is something to write at once."""
        if self._stopping or self._queue.has_waiting or (self._own and self._failing_since is None):
            return True
        left = self._queue.seconds_left(now)
        return left is not None and left <= 0

    def _take_batch(self) -> tuple[list[Fields], list[Entry]]:
        own, self._own = self._own, []
        batch = self._queue.take_batch()
        self._writing = len(batch)
        return own, batch

    def _commit(self, own: list[Fields], batch: list[Entry]) -> None:
        records = [*own, *(entry.fields for entry in batch)]
        if self._failing_since is not None:
            records.insert(0, self._note_recovered(self._failing_since))
        began = self._busy_since = time.monotonic()
        try:
            heads = self._log.append(records)
        except AuditUnavailable as exc:
            self._failed(own, batch, exc.detail, unsure=exc.evidence["unsure"])
            return
        except Exception:
            traceback.print_exc()
            self._failed(own, batch, "the audit writer has a defect; its log tells which", unsure=True)
            return
        ended = time.monotonic()
        heads = heads[len(heads) - len(batch) :]
        with self._changed:
            self._busy_since = self._failing_since = None
            self._writing = 0
            self._failure, self._refused = "", 0
            self._records += len(records)
            self._syncs += 1
            self._last_sync = ended - began
            self._sync_seconds.observe(self._last_sync)
            for entry, head in zip(batch, heads, strict=True):
                if self._queue.settle(entry):
                    self._answers.append((entry, Receipt(entry.fields["audit_id"], head.seq, head.mac)))
                elif entry.announces:
                    self._own.append(build_aborted(entry.fields, "its caller was told no, or had gone"))
        self._wake()

    def _failed(self, own: list[Fields], batch: list[Entry], detail: str, *, unsure: bool) -> None:
        refusal = Refusal(Code.UNAVAILABLE, detail, unsure)
        with self._changed:
            self._busy_since = None
            self._writing = 0
            if self._failing_since is None:
                self._failing_since = time.monotonic()
            self._failure = detail
            self._failures += 1
            self._own = [*own, *self._own]
            for entry in batch:
                self._refused += 1
                self._refused_ever += 1
                if self._queue.settle(entry):
                    self._answers.append((entry, refusal))
        self._wake()

    def _note_recovered(self, since: float) -> Fields:
        seconds = round(time.monotonic() - since, 3)
        return note(Event.AUDIT_RECOVERED, why=self._failure, seconds=seconds, refused=self._refused)

    def _next_chore(self, now: float) -> float | None:
        """Seconds until a lingering record is due, a failed log is tried again, or the head is due for an anchor."""
        left = self._queue.seconds_left(now)
        if left is not None:
            return max(0.001, left)
        if self._failing_since is not None or self._full_since is not None:
            return _RETRY_SECONDS
        chores = (self._anchors.seconds_left(self._log.head), self._sinks.seconds_left())
        return min((left for left in chores if left is not None), default=None)

    def _notice_room(self) -> None:
        """Begin and end the time in which the log is full, and warn before it is."""
        full, filled = self._log.full, self._log.filled
        with self._changed:
            if full and self._full_since is None:
                self._full_since, self._full = time.monotonic(), full
                print(f"audit writer: {full}; nothing is done any more", file=sys.stderr, flush=True)
            elif not full and self._full_since is not None:
                seconds = round(time.monotonic() - self._full_since, 3)
                gone = note(Event.AUDIT_RECOVERED, why=self._full, seconds=seconds, refused=self._refused_full)
                self._own.append(gone)
                self._full_since, self._refused_full = None, 0
            if filled >= _NEARLY_FULL and not self._nearly_full and not full:
                print(f"audit writer: the log has taken {filled:.0%} of audit.max_bytes", file=sys.stderr, flush=True)
            self._nearly_full = filled >= _NEARLY_FULL

    def _anchor(self, *, force: bool = False) -> None:
        log = self._log
        self._anchors.update(log.head, log.path.name, log.files_begun, force=force)


def _describe_stuck(seconds: float) -> str:
    if not seconds:
        return "the disk did not take the record in time"
    return f"the disk has not answered for {seconds:.1f} s"
