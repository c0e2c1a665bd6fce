"""The life of one exec as the spool tells it: accepted, told to go, ended; and its output as far as it was kept."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from gateway.exec.ending import Ending
from gateway.exec.order import Order
from gateway.supervisor.output.layout import Layout, readable
from gateway.supervisor.spool.journal import Line


@dataclass
class Life:
    """What is known of an exec. With a `pid` and no `ending`, it may or may not have run.

    `left`: it has ended, and processes that it left behind may live on. `output`: what was kept of a stream, where
    that stands here and not in a file.
    """

    order: Order
    pid: int | None = None
    start: int = 0
    ending: Ending | None = None
    ended_at: float = 0.0
    size: int = 0
    left: bool = False
    layouts: dict[str, Layout] = field(default_factory=dict)
    interleaving: dict[str, Any] | None = None
    output: dict[str, bytes] = field(default_factory=dict)


def read_life(lines: Iterable[Line]) -> Life | None:
    """A life of its lines, in whatever order; None without a readable first one."""
    by_kind = {kind: line for line in lines for kind in ("accepted", "go", "ended", "lost", "gone") if kind in line}
    try:
        life = Life(Order.from_wire(by_kind["accepted"]["accepted"]))
        if (go := by_kind.get("go")) is not None:
            life.pid, life.start = int(go["go"]), int(go["start"])
        if (ended := by_kind.get("ended")) is not None:
            life.ending = Ending.from_wire(ended["ended"])
            life.ended_at, life.size, life.left = ended["at"], ended["bytes"], ended["left"]
            life.layouts = {name: Layout(*sizes) for name, sizes in ended["layout"].items()}
            life.interleaving = ended.get("interleaving")
            life.output = {name: b64decode(data) for name, data in ended["output"].items()}
        elif (lost := by_kind.get("lost")) is not None:
            life.ended_at = lost["lost"]
        life.left = life.left and "gone" not in by_kind
    except (ValueError, KeyError, TypeError):
        return None
    return life


@dataclass(frozen=True)
class StoredStream:
    """One stream of an exec that has ended. `pread` gives (length, position) of what was kept."""

    pread: Callable[[int, int], bytes]
    total: int
    layout: Layout

    def read(self, offset: int, length: int) -> bytes:
        """Kept bytes from the stream's `offset`, `length` at most and not past a gap."""
        length = readable(self.layout, self.total, offset, length)
        return b"".join(self.pread(size, position) for position, size in self.layout.pieces(offset, length))


def from_bytes(data: bytes) -> Callable[[int, int], bytes]:
    """A `pread` of these bytes."""
    return lambda length, position: data[position : position + length]
