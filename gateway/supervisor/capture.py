"""What is kept of one output stream: every byte counted and hashed, the head and the tail remembered."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from gateway.exec.spec import Keep
from gateway.exec.view import StreamCount
from gateway.supervisor.digest import Sha256

_EMPTY = hashlib.sha256().hexdigest()


class Capture:
    """Keeps at most `limit` bytes of a stream that may be endless; memory stays under twice that."""

    def __init__(self, limit: int, keep: Keep) -> None:
        self.limit = limit
        self.keep = keep
        self.bytes = 0
        self._head_room = {Keep.HEAD: limit, Keep.TAIL: 0, Keep.HEAD_TAIL: (limit + 1) // 2}[keep]
        self._tail_room = limit - self._head_room
        self._head = bytearray()
        self._tail = bytearray()
        self._digest: Sha256 | None = None
        self._digest_lost = False

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the stream."""
        if self._digest is None and not self._digest_lost:
            self._digest = Sha256()
        if self._digest is not None:
            self._digest.update(data)
        self.bytes += len(data)
        if len(self._head) < self._head_room:
            taken = self._head_room - len(self._head)
            self._head += data[:taken]
            data = data[taken:]
        if self._tail_room and data:
            self._tail += data[-self._tail_room :]
            if len(self._tail) > 2 * self._tail_room:
                del self._tail[: -self._tail_room]

    @property
    def over_limit(self) -> bool:
        return self.bytes > self.limit

    def kept(self) -> bytes:
        """Head and tail, joined; `count()` tells where bytes are missing between them."""
        tail = self._tail[-self._tail_room :] if self._tail_room else b""
        return bytes(self._head + tail)

    def count(self) -> StreamCount:
        dropped = max(0, self.bytes - self.limit)
        if self._digest is not None:
            digest: str | None = self._digest.hexdigest()
        else:
            digest = None if self._digest_lost else _EMPTY
        return {
            "bytes": self.bytes,
            "dropped": dropped,
            "dropped_at": len(self._head) if dropped else None,
            "sha256": digest,
        }

    def to_state(self) -> dict[str, Any]:
        """Everything another image of this program needs to go on."""
        return {
            "limit": self.limit,
            "keep": self.keep,
            "bytes": self.bytes,
            "head": base64.b64encode(self._head).decode(),
            "tail": base64.b64encode(self._tail).decode(),
            "digest": self._digest.state() if self._digest else None,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Capture:
        capture = cls(state["limit"], Keep(state["keep"]))
        capture.bytes = state["bytes"]
        capture._head = bytearray(base64.b64decode(state["head"]))
        capture._tail = bytearray(base64.b64decode(state["tail"]))
        if state["digest"] is not None:
            capture._digest = Sha256(state["digest"])
        else:
            capture._digest_lost = capture.bytes > 0
        return capture


def kept_ranges(count: StreamCount) -> list[tuple[int, int]]:
    """The half-open ranges of the stream that were kept, none of them empty."""
    gap = count["dropped_at"]
    if gap is None:
        ranges = [(0, count["bytes"])]
    else:
        ranges = [(0, gap), (gap + count["dropped"], count["bytes"])]
    return [(start, end) for start, end in ranges if start < end]


def place_in_kept(count: StreamCount, offset: int, length: int) -> tuple[int, int]:
    """Where among the kept bytes a stream's `offset` is; how many follow it before a gap, `length` at most."""
    before = 0
    for start, end in kept_ranges(count):
        if start <= offset < end:
            return before + offset - start, min(length, end - offset)
        before += end - start
    return before, 0
