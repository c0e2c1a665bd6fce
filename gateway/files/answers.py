"""The launcher's side of the wire, for who speaks it in a launcher's place: requests are read, answers framed."""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gateway.files.wire import FRAME_MAX, HEADER, MAX_PATH, Failure, Status, WireError, data_header

_REQUEST = struct.Struct("<IIIIQQ")
_ANSWER = struct.Struct("<IIIIQQQQ")
_ERROR = struct.Struct("<II")
_ENTRY = struct.Struct("<QqHB")
_MAX_BODY = _REQUEST.size + 2 * (MAX_PATH + 1)

END = HEADER.pack(ord("Z"), 0)
NOTHING = Status(0, 0, 0, 0, 0, 0, 0, b"", 0)
"""What stands where nothing does."""


@dataclass(frozen=True)
class Request:
    """What is asked for; files.h says what each member means with which kind."""

    kind: str
    flags: int
    mode: int
    uid: int
    gid: int
    offset: int
    length: int
    path: bytes


def take(inbox: bytearray) -> tuple[int, Request | bytes] | None:
    """The first frame, and how many bytes of `inbox` it is, which stay there; None until it is whole.

    Raises WireError.
    """
    if len(inbox) < HEADER.size:
        return None
    kind, length = HEADER.unpack_from(inbox)
    if not 0x40 < kind < 0x5B or length > (FRAME_MAX if kind == ord("D") else _MAX_BODY):
        raise WireError("a frame that the web does not send")
    end = HEADER.size + length
    if len(inbox) < end:
        return None
    body = bytes(inbox[HEADER.size : end])
    return end, body if kind == ord("D") else _read(chr(kind), body)


def _read(kind: str, body: bytes) -> Request:
    path, nul, rest = body[_REQUEST.size :].partition(b"\0")
    if len(body) < _REQUEST.size or not nul or rest:
        raise WireError("half a request")
    flags, mode, uid, gid, offset, length = _REQUEST.unpack_from(body)
    return Request(kind, flags, mode, uid, gid, offset, length, path)


def frame_status(status: Status) -> bytes:
    """An answer with what stands there."""
    numbers = (status.size, status.inode, status.device, status.mtime)
    body = _ANSWER.pack(status.st_mode, status.uid, status.gid, status.links, *numbers) + status.target
    return HEADER.pack(ord("A"), len(body)) + body


def frame_failure(failure: Failure) -> bytes:
    return HEADER.pack(ord("E"), _ERROR.size) + _ERROR.pack(failure.errno, failure.step)


def frame_content(data: bytes) -> bytes:
    """A piece of content of any length, as so many frames."""
    pieces = (data[start : start + FRAME_MAX] for start in range(0, len(data), FRAME_MAX))
    return b"".join(data_header(len(piece)) + piece for piece in pieces)


def frame_names(names: Iterable[bytes]) -> bytes:
    """The names in a directory, as its content."""
    return frame_content(b"".join(_entries(names)))


def _entries(names: Iterable[bytes]) -> Iterator[bytes]:
    for name in names:
        yield _ENTRY.pack(0, 0, _ENTRY.size + len(name) + 1, stat.S_IFREG >> 12) + name + b"\0"
