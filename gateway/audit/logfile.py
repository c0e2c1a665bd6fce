"""The file being written: opened, locked, appended to, cut back after a failed write, watched for what others do."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from gateway import ulid
from gateway.audit.chain import Chain, Head
from gateway.audit.files import TORN_PREFIX
from gateway.audit.record import Event, Fields, note
from gateway.audit.tail import Tail, read_tail
from gateway.errors import AuditUnavailable


class LogFile:
    """Owned by one thread. Where its methods raise OSError, `reason` is what to say of the file begun next.

    `end` is the byte behind the last durable record: what stands there after a failed `append` is cut by `give_up`, or,
    where the disk does not let it, by the next `open`. `sync` is os.fdatasync but in tests.
    """

    def __init__(self, path: Path, chain: Chain, sync: Callable[[int], None]) -> None:
        self.path = path
        self.end = 0
        self.reason = "started"
        """Why the next file is begun, or the old one taken up again."""
        self._chain = chain
        self._sync = sync
        self._fd = -1
        self._inode = 0
        self._unsure = b""

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    def open(self, head: Head | None) -> Tail | None:
        """The end of the file, which is made if it is missing; None if it is still the one whose last record is `head`.

        The caller says of a Tail what it has to say, and then calls `take_up`.
        """
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
        if known and tail.size == self.end and tail.head == (head if self.end else None):
            return None
        return tail

    def take_up(self, tail: Tail) -> None:
        """Records go on behind the lines that are there."""
        self._inode, self.end, self.reason = os.fstat(self._fd).st_ino, tail.lines_end, "damaged"

    def move_fragment_aside(self, tail: Tail) -> Fields:
        """A crash can leave half a line. It was never acknowledged, but it is not thrown away. What is to be noted."""
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

    def append(self, payload: bytes) -> None:
        """Returns when `payload` is durable behind `end`."""
        self._unsure = payload
        written = 0
        while written < len(payload):
            written += os.write(self._fd, memoryview(payload)[written:])
        self._sync(self._fd)
        if self._check_deleted().st_size < self.end + len(payload):
            self.reason = "truncated"
            raise FileNotFoundError(0, "the file was truncated")
        self.end, self._unsure = self.end + len(payload), b""

    def check(self) -> None:
        """See whether somebody deleted, renamed, cut or lengthened the file since the last batch.

        A file taken from us with its records fails the batch at hand, so that somebody notices; a renamed
        one (logrotate) does not: it is closed.
        """
        ours = self._check_deleted()
        if ours.st_size < self.end:
            self.reason = "truncated"
            raise FileNotFoundError(0, "the file was truncated")
        try:
            renamed = os.stat(self.path, follow_symlinks=False).st_ino != ours.st_ino
        except FileNotFoundError:
            renamed = True
        if renamed or ours.st_size > self.end:
            self.reason = "renamed" if renamed else "foreign_bytes"
            self.close()

    def give_up(self) -> bool:
        """Take back what a failed `append` may have left. Whether nothing of it is; else it is cut by `open`."""
        clean = self._fd < 0 or not self._unsure
        if not clean:
            with contextlib.suppress(OSError):
                size = os.fstat(self._fd).st_size
                begin = min(self.end, max(0, size - len(self._unsure)))
                if size >= self.end and self._unsure.startswith(os.pread(self._fd, len(self._unsure) + 1, self.end)):
                    begin = self.end  # a part of it, or nothing
                if begin == self.end or os.pread(self._fd, len(self._unsure), begin) == self._unsure:
                    os.ftruncate(self._fd, begin)
                    clean = True
        self.close()
        return clean

    def rename(self, closed: Path) -> None:
        """Rotate: the next `open` begins a new file."""
        self.path.rename(closed)
        self.close()
        self.reason = "rotated"

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _check_deleted(self) -> os.stat_result:
        ours = os.fstat(self._fd)
        if ours.st_nlink == 0:
            self.reason = "deleted"
            raise FileNotFoundError(0, "the file was deleted")
        return ours

    def _lock(self) -> None:
        """The directory's lock goes with a deleted directory; this one does not."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise BlockingIOError(exc.errno, "another writer has its file") from exc

    def _cut_back(self) -> None:
        """Remove what the failed batch left, and only that."""
        behind = os.pread(self._fd, len(self._unsure) + 1, self.end)
        if behind and self._unsure.startswith(behind):
            os.ftruncate(self._fd, self.end)
            self._sync(self._fd)

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
