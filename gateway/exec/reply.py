"""What the supervisor answers to the web: an exec with its output, a slice of a stream, a piece of what happened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from gateway.exec.view import ExecView


@dataclass(frozen=True)
class RunReply:
    """An exec that ended, and the bytes kept of its streams: head and tail joined at `dropped_at`.

    `replayed`: an earlier request with the same Idempotency-Key began it.
    """

    view: ExecView
    stdout: bytes
    stderr: bytes
    replayed: bool = False


@dataclass(frozen=True)
class Started:
    """An exec that runs, or that an earlier request with the same Idempotency-Key began (`replayed`)."""

    view: ExecView
    replayed: bool


@dataclass(frozen=True)
class Redeemed:
    """Whose ticket it was, and the secret that it was made by (auth.actor.Actor)."""

    token_id: str
    secret: tuple[int, str]


@dataclass(frozen=True)
class OutputSlice:
    """Bytes of one stream from the offset that was asked for.

    `data` ends at the asked length, at the end of a kept range or of what there is, whichever comes first.
    `total` counts all bytes of the stream so far; `kept` are the half-open ranges of it that can be read;
    `ended` says that no more will come.
    """

    data: bytes
    total: int
    kept: tuple[tuple[int, int], ...]
    ended: bool


@dataclass(frozen=True)
class OutputEvent:
    """Bytes of one stream (`stdout`, `stderr`) from its `offset` on.

    `cursor` is the place behind them in all output of the exec: the bytes of both streams, counted in the order of
    their coming. It is the event's `seq`: whoever has seen this event goes on from there, and nothing is lost or twice.
    """

    stream: str
    cursor: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class GapEvent:
    """`size` bytes of one stream from `offset` on were not kept. `cursor`: the place behind them."""

    stream: str
    cursor: int
    offset: int
    size: int


@dataclass(frozen=True)
class EventBatch:
    """What happened behind the cursor that was asked for.

    `cursor` is where to go on; `total` is the place behind the newest byte. `view` is the exec as it stands.
    `ended`: it has ended, and nothing follows behind `cursor`.
    """

    events: tuple[OutputEvent | GapEvent, ...]
    cursor: int
    total: int
    view: ExecView
    ended: bool


class Found(NamedTuple):
    """What a guest's files say of a device node, or of a group, as its own root sees them: numbers are the guest's.

    `error` is an errno, 0 where it was found; `mode` holds the file's type, too. Of a group there is its `gid` alone.
    """

    error: int
    mode: int
    uid: int
    gid: int
    major: int
    minor: int
    file_system_major: int = 0
    file_system_minor: int = 0
    inode: int = 0
    """With its file system, which file it is: what is bind-mounted is the same one on the node."""


@dataclass(frozen=True)
class StdinReply:
    """How far the input has been taken: the offset to go on from, and whether its end has been."""

    offset: int
    eof: bool
