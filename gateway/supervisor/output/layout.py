"""Where the kept bytes of a stream stand: its head, and behind it a ring of the newest bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gateway.exec.spec import Keep

WINDOW = 16 << 20
"""What a spooled stream keeps of its newest bytes at least, whatever its limit: its followers read there."""
BEHIND = 8 << 20
"""Of these, what is kept behind a follower: bytes on their way to a client that is cut off are sent again."""


@dataclass(frozen=True)
class Layout:
    """The first `head` bytes of a stream are kept for good, of those behind them the last `ring`.

    A byte's position in the file (or in memory) is its offset in the stream as long as nothing was overwritten.
    """

    head: int
    ring: int

    @classmethod
    def in_memory(cls, limit: int, keep: Keep) -> Layout:
        """Keeps `limit` bytes, as `keep` says."""
        head = {Keep.HEAD: limit, Keep.TAIL: 0, Keep.HEAD_TAIL: (limit + 1) // 2}[keep]
        return cls(head, limit - head)

    @classmethod
    def spooled(cls, limit: int, keep: Keep) -> Layout:
        """The same with room for followers behind the head."""
        layout = cls.in_memory(limit, keep)
        return cls(layout.head, max(layout.ring, WINDOW))

    @property
    def size(self) -> int:
        return self.head + self.ring

    def kept(self, total: int) -> list[tuple[int, int]]:
        """The half-open ranges kept of a stream of `total` bytes, none of them empty."""
        if total <= self.size:
            ranges = [(0, total)]
        else:
            ranges = [(0, self.head), (total - self.ring, total)]
        return [(start, end) for start, end in ranges if start < end]

    def dropped(self, total: int) -> int:
        """How many of `total` bytes are not kept: those from offset `head` on."""
        return max(0, total - self.size)

    def pieces(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """(position, length) of the bytes from `offset` on, where each of them stands or will stand."""
        while length > 0:
            if offset < self.head:
                position, room = offset, self.head - offset
            else:
                behind = (offset - self.head) % self.ring
                position, room = self.head + behind, self.ring - behind
            size = min(room, length)
            yield position, size
            offset += size
            length -= size


def readable(layout: Layout, total: int, offset: int, length: int) -> int:
    """How many kept bytes follow `offset` before a gap or the end, `length` at most."""
    for start, end in layout.kept(total):
        if start <= offset < end:
            return min(length, end - offset)
    return 0
