"""The log: appends whole batches durably, or leaves no trace of them, and carries the chain over rotations, restarts,
crashes and whatever else happens to its file (`logfile`)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway import ulid
from gateway.audit.chain import GENESIS, Chain, Head
from gateway.audit.clock import LogClock, latest_before
from gateway.audit.files import LOG_NAME, is_packed, list_log_files, open_file, read_begin
from gateway.audit.keys import AuditKeys
from gateway.audit.logfile import LogFile
from gateway.audit.record import MAX_BYTES, VERSION, Event, Fields, bound_record, note
from gateway.audit.retention import Limits, Retention
from gateway.audit.tail import Tail, read_packed_tail, read_tail
from gateway.errors import AuditUnavailable


class AuditLog:
    """Owned by one thread. Opens its file with the first `append`, and again whenever it must.

    After a write or fdatasync has failed, the batch counts as not written: the file is cut back to the last
    durable record, closed, and checked when it is opened again. `publish` is given the lines of every batch once
    they are durable, and must not wait. `sync` is os.fdatasync but in tests.
    """

    def __init__(
        self,
        directory: Path,
        keys: AuditKeys,
        *,
        limits: Limits,
        publish: Callable[[Sequence[bytes]], object] = len,
        sync: Callable[[int], None] = os.fdatasync,
    ) -> None:
        self.path = directory / LOG_NAME
        self.head: Head | None = None
        """The last durable record; None until the first `append` has found or begun the chain."""
        self.files_begun = 0
        """Grows whenever a file is begun or taken up again."""
        self._chain = Chain(keys.chain)
        self._redactor = keys.redactor
        self._clock = LogClock()
        self._rotate_bytes = limits.rotate_bytes
        self._retention = Retention(directory, limits, self._read_closed)
        self._publish = publish
        self._file = LogFile(self.path, self._chain, sync)
        self._notes: list[Fields] = []
        self._doomed: list[Path] = []
        self._immortal: Path | None = None

    @property
    def full(self) -> str:
        """Why nothing may be announced any more (Retention); empty while it may. What reports is still taken."""
        return self._retention.full

    @property
    def filled(self) -> float:
        """The part of the log's room that is used."""
        return self._retention.filled(self._file.end)

    def append(self, records: Sequence[Fields]) -> list[Head]:
        """Write `records` after the log's own notes, wait for the disk, and return each record's head.

        Raises AuditUnavailable when not all of them are durable; then none of them is in the log, or, with `unsure` in
        its evidence, none will be as soon as the disk lets go of them.
        """
        try:
            self._make_ready()
            return self._write(records)
        except OSError as exc:
            unsure = not self._file.give_up()
            raise AuditUnavailable(f"cannot write the audit log: {exc.strerror or exc}", unsure=unsure) from exc

    def close(self) -> None:
        self._file.close()

    def _write(self, records: Sequence[Fields]) -> list[Head]:
        head = self.head or GENESIS
        heads: list[Head] = []
        lines: list[bytes] = []
        self._notes += self._clock.notice_jump()
        for record in [*self._notes, *records]:
            head, line = self._seal(record, head)
            heads.append(head)
            lines.append(line)
        if not lines:
            return []
        self._file.append(b"".join(lines))
        heads = heads[len(self._notes) :]
        self.head, self._notes = head, []
        self._delete_doomed()
        self._publish(lines)
        return heads

    def _seal(self, record: Fields, before: Head) -> tuple[Head, bytes]:
        record = {**record, "v": VERSION, "ts": self._clock.stamp()}
        sealed = self._chain.seal(record, before)
        if len(sealed[1]) > MAX_BYTES:
            sealed = self._chain.seal(bound_record(record, self._redactor), before)
        return sealed

    # -- the file that is there

    def _make_ready(self) -> None:
        if self._file.is_open:
            self._file.check()
        if not self._file.is_open:
            self._open()
        if self._file.end >= self._rotate_bytes:
            self._rotate()
        self._prune()

    def _open(self) -> None:
        tail = self._file.open(self.head)
        if tail is None:
            return
        jumped = [] if self.head else self._take_up(tail)
        self._notes.append(self._note_opened(tail))
        if tail.lines_end < tail.size:
            self._notes.append(self._file.move_fragment_aside(tail))
        self._notes += jumped
        self._file.take_up(tail)
        self.files_begun += 1
        self._retention.forget()

    def _take_up(self, tail: Tail) -> list[Fields]:
        """Find at start where the chain goes on, and at which time it was left. What is to be noted of that."""
        path, last = (self.path, tail) if tail.head else self._find_furthest(tail)
        if last.head is None:
            return []
        with open_file(path) as file:
            before = latest_before(sealed.record for sealed in read_begin(file, self._chain))
            file.seek(0)
            jumped = self._clock.take_up(file, last.ts, before)
        self.head = last.head
        return jumped

    def _find_furthest(self, tail: Tail) -> tuple[Path, Tail]:
        """The closed file that the chain goes on behind, and its end; `tail` for a new log."""
        closed = {path: found for path in self._other_files() if (found := self._read_closed(path))}
        heads = {path: found.head.seq for path, found in closed.items() if found.head}
        if heads:
            furthest = max(heads, key=lambda path: heads[path])
            return furthest, closed[furthest]
        if tail.lines_end or any(found.lines_end for found in closed.values()):
            raise PermissionError(
                0,
                f"no record in {self.path.parent} was made with this key; restore the key, or move the old files away",
            )
        return self.path, tail

    def _read_closed(self, path: Path) -> Tail | None:
        try:
            with open_file(path) as file:
                return read_packed_tail(file, self._chain) if is_packed(file) else read_tail(file.fileno(), self._chain)
        except FileNotFoundError:
            return None

    def _other_files(self) -> list[Path]:
        return [path for path in list_log_files(self.path.parent) if path != self.path]

    def _note_opened(self, tail: Tail) -> Fields:
        reason = "created" if self.head is None else self._file.reason
        foreign = tail.lines_end - tail.head_end
        latest = self._clock.latest or None
        return note(Event.AUDIT_OPENED, reason=reason, new_file=tail.size == 0, foreign_bytes=foreign, latest=latest)

    # -- rotation

    def _rotate(self) -> None:
        assert self.head is not None
        closed = self.path.with_name(f"{LOG_NAME}.{self.head.seq:012d}")
        if closed.exists():
            closed = closed.with_name(ulid.new(f"{closed.name}."))
        self._file.rename(closed)
        self._notes.append(note(Event.AUDIT_ROTATED, closed=closed.name))
        self._open()

    def _prune(self) -> None:
        """Choose the closed files that must make room; they go once the record that says so is durable."""
        was_full = self.full
        for path, tail in self._retention.choose(self._file.end):
            if path not in self._doomed and tail.head:
                last = {"last_seq": tail.head.seq, "last_mac": tail.head.mac, "last_ts": tail.ts}
                self._notes.append(note(Event.AUDIT_PRUNED, file=path.name, bytes=tail.size, **last))
                self._doomed.append(path)
        if self.full and not was_full:
            self._notes.append(note(Event.AUDIT_FULL, why=self.full))

    def _delete_doomed(self) -> None:
        """What cannot be deleted is tried again with the next batch: it is no reason to refuse what is durable. Until
        then nothing newer goes, or there would be a gap."""
        while self._doomed:
            path = self._doomed[0]
            try:
                path.unlink(missing_ok=True)
            except OSError as exc:
                if path != self._immortal:
                    print(f"audit writer: cannot delete {path}: {exc.strerror}", file=sys.stderr, flush=True)
                self._immortal = path
                break
            del self._doomed[0]
