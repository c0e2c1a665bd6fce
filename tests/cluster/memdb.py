"""The tree that all nodes share, with pmxcfs's rules (pve-cluster, src/pmxcfs/memdb.c and cfs-plug-memdb.c)."""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass, field

MAX_FILE = 1 << 20
MAX_TOTAL = 128 << 20
LOCK_SECONDS = 120
_LOCKS = "/priv/lock/"


class Refusal(Exception):
    """An errno."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode[number])
        self.number = number


@dataclass
class Entry:
    """A file or a directory; `mtime` is in whole seconds; `writer` the node that changed it last."""

    is_directory: bool
    mtime: int
    writer: int
    data: bytes = b""
    locked_at: float = 0.0


@dataclass
class Memdb:
    """Paths and what is there. Who writes without quorum is refused before this is asked."""

    entries: dict[str, Entry] = field(default_factory=lambda: {"": Entry(True, int(time.time()), 0)})
    ballast: int = 0
    ahead: float = 0.0

    def now(self) -> float:
        return time.time() + self.ahead

    def get(self, path: str) -> Entry:
        entry = self.entries.get(path)
        if entry is None:
            raise Refusal(errno.ENOENT)
        return entry

    def children(self, path: str) -> list[str]:
        return [name for name in self.entries if name != path and name.rpartition("/")[0] == path]

    def make(self, path: str, writer: int, *, directory: bool) -> Entry:
        if path in self.entries:
            raise Refusal(errno.EEXIST)
        self.get(path.rpartition("/")[0])
        now = self.now()
        entry = self.entries[path] = Entry(directory, int(now), writer, locked_at=now)
        return entry

    def write(self, path: str, writer: int, data: bytes, offset: int) -> int:
        entry = self.get(path)
        total = self.ballast + sum(len(other.data) for other in self.entries.values())
        if offset + len(data) > MAX_FILE or total + len(data) > MAX_TOTAL:
            raise Refusal(errno.EFBIG)  # what was written before stays
        old = entry.data.ljust(offset, b"\0")
        self._set(entry, writer, old[:offset] + data + old[offset + len(data) :])
        return len(data)

    def truncate(self, path: str, writer: int, size: int) -> None:
        entry = self.get(path)
        self._set(entry, writer, entry.data[:size].ljust(size, b"\0"))

    def rename(self, old: str, new: str, writer: int) -> None:
        entry = self.get(old)
        if old.startswith(_LOCKS) and entry.is_directory:
            raise Refusal(errno.EACCES)
        self.delete(new) if new in self.entries else self.get(new.rpartition("/")[0])
        del self.entries[old]
        entry.mtime, entry.writer = int(self.now()), writer
        self.entries[new] = entry

    def delete(self, path: str) -> None:
        if self.get(path).is_directory and self.children(path):
            raise Refusal(errno.ENOTEMPTY)
        del self.entries[path]

    def touch(self, path: str, writer: int, mtime: int) -> None:
        """A lock's time is changed by its holder alone; 0 asks for it to be taken away, if it is stale."""
        entry = self.get(path)
        if path.startswith(_LOCKS) and entry.is_directory:
            if mtime == 0 and self.now() - entry.locked_at > LOCK_SECONDS:
                del self.entries[path]
                return
            if mtime < entry.mtime or writer != entry.writer:
                raise Refusal(errno.EACCES)
            entry.locked_at = self.now()
        entry.mtime, entry.writer = mtime, writer

    def _set(self, entry: Entry, writer: int, data: bytes) -> None:
        entry.data, entry.mtime, entry.writer = data, int(self.now()), writer
