"""The wire between the writer and its clients: u32 big-endian length, then that many bytes of JSON.

A client sends `{id, record, wait, sent}` or `{id, op}`; the reply carries the same `id` and either `receipt`,
`error: {code, detail, unsure}`, `head` or `status`. Replies may come in another order than the requests. `unsure`: it
is refused, and yet it may be found in the log later; its sender then has to take it back.

`{id, op: "search", query}` is the last thing that a connection asks: the reader process answers it, by one
`{id, found: <record>}` for each record and `{id, page: {next}}` at the end, or by an error, and closes. So is
`{id, op: "verify", after}`, which it answers by `{id, part}`.

`wait: true`: a caller has stood waiting since `sent` (seconds of CLOCK_MONOTONIC); it hears within 1.5 s.
`wait: false`: nobody waits; the reply comes when the record is durable or certainly is not in the log.
A writer that stops ends each connection by a goodbye: what has no answer then may go to the next writer.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from gateway.errors import AuditUnavailable, GatewayError, InternalError, TooManyRequests

MAX_FRAME = 128 << 10
PATIENCE = 1.5
"""Seconds from `sent` after which the writer answers no."""

DEFAULT_TIMEOUT = 1.8
"""Seconds a client waits: longer than `PATIENCE`, and short of the 2 s that a request may take."""

_LENGTH = struct.Struct(">I")


class Code(StrEnum):
    """Why a record is not in the log."""

    UNAVAILABLE = "audit_unavailable"
    QUEUE_FULL = "queue_full"
    INVALID_RECORD = "invalid_record"
    BUSY = "busy"
    """Too many searches or verifications at once: the log is well."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof that a record is durable: its operation and its place in the chain."""

    audit_id: str
    seq: int
    mac: str


class FrameError(ValueError):
    """The peer does not speak this protocol."""


def encode_frame(message: Mapping[str, Any]) -> bytes:
    """Raises FrameError when the message is larger than a frame may be."""
    body = _ENCODER.encode(message).encode("ascii")
    if len(body) > MAX_FRAME:
        raise FrameError(f"{len(body)} bytes are too many for one frame")
    return _LENGTH.pack(len(body)) + body


_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False)


GOODBYE: Final[dict[str, Any]] = {"id": 0, "goodbye": True}
"""The last frame of a writer that stops: what it has not answered on this connection it has not written, nor will."""


class NotRead(ConnectionResetError):
    """The writer has left without the message: the next one may have it."""


class FrameBuffer:
    """Bytes as they arrive, objects as they are whole. Holds at most one frame and one read."""

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The messages that `data` completes. Raises FrameError on what can never become one."""
        self._bytes += data
        messages = []
        start = 0
        while len(self._bytes) - start >= 4:
            (length,) = _LENGTH.unpack_from(self._bytes, start)
            if length > MAX_FRAME:
                raise FrameError("frame too large")
            end = start + 4 + length
            if len(self._bytes) < end:
                break
            messages.append(_decode(bytes(self._bytes[start + 4 : end])))
            start = end
        del self._bytes[:start]
        return messages


def _decode(body: bytes) -> dict[str, Any]:
    try:
        message = json.loads(body.decode())  # bytes would have their encoding guessed
    except (ValueError, RecursionError):
        raise FrameError("not JSON") from None
    if not isinstance(message, dict):
        raise FrameError("not an object")
    return message


def read_receipt(reply: Mapping[str, Any]) -> Receipt:
    """The receipt in a reply. Raises its error: AuditUnavailable, or InternalError for a bad record."""
    if "receipt" in reply:
        return Receipt(**reply["receipt"])
    raise read_error(reply)


def read_error(reply: Mapping[str, Any]) -> GatewayError:
    error = reply.get("error") or {}
    if error.get("code") == Code.INVALID_RECORD:
        return InternalError(f"the audit writer refused a record: {error.get('detail')}")
    if error.get("code") == Code.BUSY:
        return TooManyRequests(str(error.get("detail")), retry_after=1)
    return AuditUnavailable(str(error.get("detail", "the audit writer gave no receipt")))
