"""What is kept of one output stream: every byte counted and hashed, the head and the newest remembered."""

from __future__ import annotations

import base64
import hashlib
import logging
import os
from collections.abc import Callable
from typing import Any, Protocol

from gateway.exec.view import StreamCount
from gateway.supervisor.output.digest import Sha256
from gateway.supervisor.output.layout import BEHIND, Layout, readable

log = logging.getLogger(__name__)

_EMPTY = hashlib.sha256().hexdigest()
_GROWTH = 4 << 20


class Room(Protocol):
    """Holds bytes by their position."""

    def write(self, position: int, data: bytes | memoryview) -> bool:
        """Keeps `data`; False when there is no room for it, now or later."""

    def read(self, position: int, length: int) -> bytes: ...

    @property
    def fd(self) -> int | None:
        """The file that it is, if it is one."""

    def to_state(self) -> dict[str, Any]:
        """What another image of this program needs to go on, the file apart."""

    def close(self) -> None: ...


class MemoryRoom:
    """Bytes of a run that answers all at once."""

    fd = None

    def __init__(self, data: bytes = b"") -> None:
        self._data = bytearray(data)

    def write(self, position: int, data: bytes | memoryview) -> bool:
        if position > len(self._data):
            self._data += bytes(position - len(self._data))
        self._data[position : position + len(data)] = data
        return True

    def read(self, position: int, length: int) -> bytes:
        return bytes(self._data[position : position + length])

    def to_state(self) -> dict[str, Any]:
        return {"memory": base64.b64encode(self._data).decode()}

    def close(self) -> None:
        self._data = bytearray()


class FileRoom:
    """Bytes in a file of the spool. It grows in steps, each granted by `grant`, which counts for the whole node."""

    def __init__(self, fd: int, grant: Callable[[int], bool], granted: int = 0) -> None:
        self.fd: int | None = fd
        self._grant = grant
        self._granted = granted

    def write(self, position: int, data: bytes | memoryview) -> bool:
        end = position + len(data)
        if end > self._granted:
            growth = max(_GROWTH, end - self._granted)
            try:
                granted = self._grant(growth)
            except OSError as exc:
                log.error("cannot look at the spool: %s", exc.strerror)
                return False
            if not granted:
                return False
            self._granted += growth
        try:
            view = memoryview(data)
            while view:
                written = os.pwrite(self._open, view, position)
                position += written
                view = view[written:]
        except OSError as exc:
            log.error("cannot write to the spool: %s", exc.strerror)
            return False
        return True

    def read(self, position: int, length: int) -> bytes:
        return os.pread(self._open, length, position)

    def to_state(self) -> dict[str, Any]:
        return {"granted": self._granted}

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    @property
    def _open(self) -> int:
        assert self.fd is not None
        return self.fd


class Capture:
    """Takes a stream that may be endless; keeps what its layout says."""

    def __init__(self, limit: int, layout: Layout, room: Room) -> None:
        self.limit = limit
        self.layout = layout
        self.bytes = 0
        self._room = room
        self._full = False
        self._digest: Sha256 | None = None
        self._digest_lost = False

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the stream."""
        if self._digest is None and not self._digest_lost:
            self._digest = Sha256()
        if self._digest is not None:
            self._digest.update(data)
        if not self._full:
            self._keep(data)
        self.bytes += len(data)

    def lose(self, size: int) -> None:
        """Counts bytes that the stream had next and that nobody has seen; then there is no hash of it."""
        if not self._full:
            self._freeze()
        self._digest, self._digest_lost = None, True
        self.bytes += size

    def _keep(self, data: bytes) -> None:
        offset, view = self.bytes, memoryview(data)
        if not self.layout.ring:
            view = view[: max(0, self.layout.head - offset)]
        elif len(view) > self.layout.size:  # what is behind the head and overwritten at once need not be written
            self._write(offset, view[: max(0, self.layout.head - offset)])
            if self._full:
                return
            skipped = len(view) - self.layout.ring
            offset, view = offset + skipped, view[skipped:]
        self._write(offset, view)

    def _write(self, offset: int, view: memoryview) -> None:
        for position, size in self.layout.pieces(offset, len(view)):
            offset += size
            if not self._room.write(position, view[:size]):
                self._freeze(tried=offset)
                return
            view = view[size:]

    def _freeze(self, tried: int = 0) -> None:
        """There is no more room: what stands stays (of a ring being overwritten, nothing), the rest is dropped.

        `tried`: up to which offset it was tried to write.
        """
        overwriting = max(self.bytes, tried) > self.layout.size or self.bytes == self.layout.size
        self.layout = Layout(self.layout.head if overwriting else self.bytes, 0)
        self._full = True

    @property
    def total(self) -> int:
        """How many bytes have come."""
        return self.bytes

    @property
    def over_limit(self) -> bool:
        return self.bytes > self.limit

    def room_before(self, unread: int) -> int:
        """How many bytes can come without overwriting any from offset `unread` on, nor the BEHIND before it."""
        if self._full:
            return 1 << 62
        return max(unread - BEHIND, self.layout.head) + self.layout.ring - self.bytes

    def read(self, offset: int, length: int) -> bytes:
        """Kept bytes from a stream's `offset`, `length` at most and not past a gap; none inside one."""
        length = readable(self.layout, self.bytes, offset, length)
        return b"".join(self._room.read(position, size) for position, size in self.layout.pieces(offset, length))

    def kept(self) -> bytes:
        """All that is kept, joined; `count()` tells where bytes are missing between."""
        return b"".join(self.read(start, end - start) for start, end in self.layout.kept(self.bytes))

    def stored(self) -> bytes:
        """All that is kept, each byte where the layout has it."""
        return self._room.read(0, min(self.bytes, self.layout.size))

    def count(self) -> StreamCount:
        dropped = self.layout.dropped(self.bytes)
        if self._digest is not None:
            digest: str | None = self._digest.hexdigest()
        else:
            digest = None if self._digest_lost else _EMPTY
        return {
            "bytes": self.bytes,
            "dropped": dropped,
            "dropped_at": self.layout.head if dropped else None,
            "sha256": digest,
        }

    @property
    def fd(self) -> int | None:
        """The file that its bytes are in, if they are in one."""
        return self._room.fd

    def close(self) -> None:
        self._room.close()

    def to_state(self) -> dict[str, Any]:
        """Everything another image of this program needs to go on, its file apart."""
        return {
            "limit": self.limit,
            "layout": [self.layout.head, self.layout.ring],
            "bytes": self.bytes,
            "full": self._full,
            "room": self._room.to_state(),
            "digest": self._digest.state() if self._digest else None,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], fd: int | None, grant: Callable[[int], bool]) -> Capture:
        room: Room
        if fd is None:
            room = MemoryRoom(base64.b64decode(state["room"]["memory"]))
        else:
            room = FileRoom(fd, grant, state["room"]["granted"])
        capture = cls(state["limit"], Layout(*state["layout"]), room)
        capture.bytes = state["bytes"]
        capture._full = state["full"]
        if state["digest"] is not None:
            capture._digest = Sha256(state["digest"])
        else:
            capture._digest_lost = capture.bytes > 0
        return capture
