"""The log file: appends whole batches durably, or leaves no trace of them, and carries the chain over
rotations, restarts, crashes and whatever else happens to its file."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway import ulid
from gateway.audit.chain import GENESIS, Chain, Head
from gateway.audit.clock import LogClock, latest_before
from gateway.audit.files import LOG_NAME, TORN_PREFIX, list_log_files, read_begin
from gateway.audit.keys import AuditKeys
from gateway.audit.record import MAX_BYTES, VERSION, Event, Fields, bound_record, note
from gateway.audit.retention import Limits, Retention
from gateway.audit.tail import Tail, read_tail
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
        self._sync = sync
        self._fd = -1
        self._inode = 0
        self._end = 0
        self._unsure = b""
        self._reason = "started"
        self._notes: list[Fields] = []
        self._doomed: list[Path] = []
        self._immortal: set[Path] = set()

    @property
    def full(self) -> str:
        """Why nothing may be announced any more (Retention); empty while it may. What reports is still taken."""
        return self._retention.full

    @property
    def filled(self) -> float:
        """The part of the log's room that is used."""
        return self._retention.filled(self._end)

    def append(self, records: Sequence[Fields]) -> list[Head]:
        """Write `records` after the log's own notes, wait for the disk, and return each record's head.

        Raises AuditUnavailable when not all of them are durable; then none of them is in the log.
        """
        try:
            self._make_ready()
            return self._write(records)
        except OSError as exc:
            self._give_up()
            raise AuditUnavailable(f"cannot write the audit log: {exc.strerror or exc}") from exc

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

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
        payload = self._unsure = b"".join(lines)
        written = 0
        while written < len(payload):
            written += os.write(self._fd, memoryview(payload)[written:])
        self._sync(self._fd)
        if self._check_deleted().st_size < self._end + len(payload):
            self._reason = "truncated"
            raise FileNotFoundError(0, "the file was truncated")
        heads = heads[len(self._notes) :]
        self.head, self._end, self._unsure, self._notes = head, self._end + len(payload), b"", []
        self._delete_doomed()
        self._publish(lines)
        return heads

    def _seal(self, record: Fields, before: Head) -> tuple[Head, bytes]:
        record = {**record, "v": VERSION, "ts": self._clock.stamp()}
        sealed = self._chain.seal(record, before)
        if len(sealed[1]) > MAX_BYTES:
            sealed = self._chain.seal(bound_record(record, self._redactor), before)
        return sealed

    def _give_up(self) -> None:
        """Take back what a failed batch may have left; what cannot be cut now is cut by `_open`."""
        if self._fd >= 0 and self._unsure:
            with contextlib.suppress(OSError):
                begin = min(self._end, max(0, os.fstat(self._fd).st_size - len(self._unsure)))
                if begin == self._end or os.pread(self._fd, len(self._unsure), begin) == self._unsure:
                    os.ftruncate(self._fd, begin)
        self.close()

    # -- the file that is there

    def _make_ready(self) -> None:
        if self._fd >= 0:
            self._check_open_file()
        if self._fd < 0:
            self._open()
        if self._end >= self._rotate_bytes:
            self._rotate()
        self._prune()

    def _check_open_file(self) -> None:
        """See whether somebody deleted, renamed, cut or lengthened the file since the last batch.

        A file taken from us with its records fails the batch at hand, so that somebody notices; a renamed
        one (logrotate) does not.
        """
        ours = self._check_deleted()
        if ours.st_size < self._end:
            self._reason = "truncated"
            raise FileNotFoundError(0, "the file was truncated")
        try:
            renamed = os.stat(self.path, follow_symlinks=False).st_ino != ours.st_ino
        except FileNotFoundError:
            renamed = True
        if renamed or ours.st_size > self._end:
            self._reason = "renamed" if renamed else "foreign_bytes"
            self.close()

    def _check_deleted(self) -> os.stat_result:
        ours = os.fstat(self._fd)
        if ours.st_nlink == 0:
            self._reason = "deleted"
            raise FileNotFoundError(0, "the file was deleted")
        return ours

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = os.open(self.path, flags, 0o600)
        info = os.fstat(self._fd)
        if not stat.S_ISREG(info.st_mode):
            raise FileExistsError(0, f"{self.path} is not a regular file")
        if info.st_mode & 0o077:
            os.fchmod(self._fd, 0o600)
        self._lock()
        self._sync_directory()
        known = info.st_ino == self._inode
        if known and self._unsure:
            self._cut_back()
        tail = read_tail(self._fd, self._chain)
        self._unsure = b""
        if known and tail.size == self._end and tail.head == (self.head if self._end else None):
            return
        jumped = [] if self.head else self._take_up(tail)
        self._notes.append(self._note_opened(tail))
        if tail.lines_end < tail.size:
            self._notes.append(self._move_fragment_aside(tail))
        self._notes += jumped
        self._inode, self._end, self._reason = info.st_ino, tail.lines_end, "damaged"
        self.files_begun += 1
        self._retention.forget()

    def _lock(self) -> None:
        """The directory's lock goes with a deleted directory; this one does not."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise BlockingIOError(exc.errno, "another writer has its file") from exc

    def _cut_back(self) -> None:
        """Remove what the failed batch left, and only that."""
        behind = os.pread(self._fd, len(self._unsure) + 1, self._end)
        if behind and self._unsure.startswith(behind):
            os.ftruncate(self._fd, self._end)
            self._sync(self._fd)

    def _take_up(self, tail: Tail) -> list[Fields]:
        """Find at start where the chain goes on, and at which time it was left. What is to be noted of that."""
        path = self.path if tail.head else self._find_furthest(tail)
        if path is None:
            return []
        with path.open("rb") as file:
            last = read_tail(file.fileno(), self._chain)
            before = latest_before(sealed.record for sealed in read_begin(file, self._chain))
            file.seek(0)
            jumped = self._clock.take_up(file, last.ts, before)
        self.head = last.head
        return jumped

    def _find_furthest(self, tail: Tail) -> Path | None:
        """The closed file that the chain goes on behind; None for a new log."""
        closed = {path: found for path in self._other_files() if (found := self._read_closed(path))}
        heads = {path: found.head.seq for path, found in closed.items() if found.head}
        if heads:
            return max(heads, key=lambda path: heads[path])
        if tail.lines_end or any(found.lines_end for found in closed.values()):
            raise PermissionError(
                0,
                f"no record in {self.path.parent} was made with this key; restore the key, or move the old files away",
            )
        return None

    def _read_closed(self, path: Path) -> Tail | None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        try:
            return read_tail(fd, self._chain)
        finally:
            os.close(fd)

    def _other_files(self) -> list[Path]:
        return [path for path in list_log_files(self.path.parent) if path != self.path]

    def _move_fragment_aside(self, tail: Tail) -> Fields:
        """A crash can leave half a line. It was never acknowledged, but it is not thrown away."""
        fragment = os.pread(self._fd, tail.size - tail.lines_end, tail.lines_end)
        aside = self.path.with_name(ulid.new(TORN_PREFIX))
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if os.write(fd, fragment) < len(fragment):
                raise OSError(0, "cannot save a torn record")
            os.fsync(fd)
        finally:
            os.close(fd)
        self._sync_directory()
        os.ftruncate(self._fd, tail.lines_end)
        digest = hashlib.sha256(fragment).hexdigest()
        return note(Event.AUDIT_TORN, saved=aside.name, bytes=len(fragment), sha256=digest)

    def _note_opened(self, tail: Tail) -> Fields:
        reason = "created" if self.head is None else self._reason
        foreign = tail.lines_end - tail.head_end
        latest = self._clock.latest or None
        return note(Event.AUDIT_OPENED, reason=reason, new_file=tail.size == 0, foreign_bytes=foreign, latest=latest)

    # -- rotation

    def _rotate(self) -> None:
        assert self.head is not None
        closed = self.path.with_name(f"{LOG_NAME}.{self.head.seq:012d}")
        if closed.exists():
            closed = closed.with_name(ulid.new(f"{closed.name}."))
        self.path.rename(closed)
        self.close()
        self._reason = "rotated"
        self._notes.append(note(Event.AUDIT_ROTATED, closed=closed.name))
        self._open()

    def _prune(self) -> None:
        """Choose the closed files that must make room; they go once the record that says so is durable."""
        was_full = self.full
        for path, tail in self._retention.choose(self._end):
            if path not in self._doomed and tail.head:
                last = {"last_seq": tail.head.seq, "last_mac": tail.head.mac, "last_ts": tail.ts}
                self._notes.append(note(Event.AUDIT_PRUNED, file=path.name, bytes=tail.size, **last))
                self._doomed.append(path)
        if self.full and not was_full:
            self._notes.append(note(Event.AUDIT_FULL, why=self.full))

    def _delete_doomed(self) -> None:
        """What cannot be deleted is tried again with the next batch: it is no reason to refuse what is durable."""
        doomed, self._doomed = self._doomed, []
        for path in doomed:
            try:
                path.unlink(missing_ok=True)
            except OSError as exc:
                self._doomed.append(path)
                if path not in self._immortal:
                    print(f"audit writer: cannot delete {path}: {exc.strerror}", file=sys.stderr, flush=True)
                self._immortal.add(path)

    def _sync_directory(self) -> None:
        fd = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def lock_directory(directory: Path) -> int:
    """A descriptor that keeps every other writer out of `directory` (made 0700 if missing) while it is open.

    Raises AuditUnavailable when another writer has it.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(fd)
        raise AuditUnavailable(f"another audit writer owns {directory}") from exc
    return fd
