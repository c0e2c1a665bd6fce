"""What the supervisor answers to the web: an exec with its output, or a slice of one output stream."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.exec.view import ExecView


@dataclass(frozen=True)
class RunReply:
    """An exec that ended, and the bytes kept of its streams: head and tail joined at `dropped_at`."""

    view: ExecView
    stdout: bytes
    stderr: bytes


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
