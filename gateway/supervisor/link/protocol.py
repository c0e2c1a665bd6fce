"""The frames between web and supervisor: a small JSON header and raw bytes, both bounded.

A connection carries one request at a time: a frame up, a frame down. When the client behind it leaves, the web sends
CLIENT_LEFT and closes; a connection that closes without is a web that died, and what runs goes on.
"""

from __future__ import annotations

import socket
import struct
from array import array
from typing import Any

from gateway import jsonbytes

CLIENT_LEFT = b"\x00"
PREFIX = struct.Struct(">II")
MAX_HEADER = 8 << 20
# The largest request body or pair of outputs the configuration can allow, with room for both streams.
MAX_BLOB = (1 << 30) + (1 << 20)
_FIRST_READ = 4096
_KEPT_BUFFER = 2 << 20
_MAX_RIGHTS = 2


class ProtocolError(Exception):
    """The peer sent what no peer of ours sends; the connection is closed."""


def encode(header: dict[str, Any], *blobs: bytes) -> bytes:
    """One frame; `blobs` travel behind the header and come back in order from `split`."""
    return b"".join(pieces(header, *blobs))


def pieces(header: dict[str, Any], *blobs: bytes) -> list[bytes]:
    """The same in the pieces that it is made of, for sendmsg(2): no large blob is copied."""
    if blobs:
        header = {**header, "blobs": [len(blob) for blob in blobs]}
    text = jsonbytes.encode(header)
    return [PREFIX.pack(len(text), sum(map(len, blobs))) + text, *blobs]


def frame_size(prefix: bytes | bytearray, max_blob: int = MAX_BLOB) -> tuple[int, int]:
    """The lengths of header and blobs that a prefix promises. Raises ProtocolError past the bounds."""
    header, blob = PREFIX.unpack_from(prefix)
    if not 2 <= header <= MAX_HEADER or blob > max_blob:
        raise ProtocolError("frame over the bound")
    return header, blob


def decode_header(text: bytes | bytearray) -> dict[str, Any]:
    """The header's JSON object. Raises ProtocolError for anything else."""
    try:
        header = jsonbytes.decode(text)
    except ValueError as exc:
        raise ProtocolError("header is not JSON") from exc
    if not isinstance(header, dict):
        raise ProtocolError("header is not an object")
    return header


def split(header: dict[str, Any], blob: bytes | memoryview) -> list[bytes]:
    """The blobs of a frame, as its header counts them. Raises ProtocolError when the counts do not fit."""
    sizes = header.get("blobs", [])
    if not isinstance(sizes, list) or not all(type(n) is int and n >= 0 for n in sizes) or sum(sizes) != len(blob):
        raise ProtocolError("blob sizes do not fit the frame")
    parts, start = [], 0
    for size in sizes:
        parts.append(bytes(blob[start : start + size]))
        start += size
    return parts


class FrameReader:
    """Reads one frame after another from a socket; nothing may follow a frame before it has been taken."""

    def __init__(self) -> None:
        self._buffer = bytearray(_FIRST_READ)
        self._have = 0
        self._need = 0

    def read(self, sock: socket.socket, rights: list[int] | None = None) -> tuple[dict[str, Any], list[bytes]] | None:
        """Receives once; the frame, if it is complete. Raises ProtocolError, at the stream's end too, or OSError.

        Descriptors that come along are added to `rights`; without it there is no room for any.
        """
        with memoryview(self._buffer) as view:
            if rights is None:
                received = sock.recv_into(view[self._have :])
            else:
                received = _receive_with_rights(sock, view[self._have :], rights)
        if not received:
            raise ProtocolError("the supervisor closed the connection")
        self._have += received
        if not self._need and self._have >= PREFIX.size:
            self._need = PREFIX.size + sum(frame_size(self._buffer))
            if self._need > len(self._buffer):
                self._buffer += bytes(self._need - len(self._buffer))
        if not self._need or self._have < self._need:
            return None
        if self._have > self._need:
            raise ProtocolError("bytes behind the frame")
        return self._take()

    @property
    def half_read(self) -> int:
        """Bytes of a frame that is not complete."""
        return self._have

    def rest(self) -> None:
        """Gives back the room that large frames took; only between two frames."""
        if not self._have:
            self._buffer = bytearray(_FIRST_READ)

    def _take(self) -> tuple[dict[str, Any], list[bytes]]:
        header_size, _ = frame_size(self._buffer)
        with memoryview(self._buffer) as view:
            header = decode_header(bytes(view[PREFIX.size : PREFIX.size + header_size]))
            blobs = split(header, view[PREFIX.size + header_size : self._need])
        self._have = self._need = 0
        if len(self._buffer) > _KEPT_BUFFER:
            self._buffer = bytearray(_FIRST_READ)
        return header, blobs


def _receive_with_rights(sock: socket.socket, room: memoryview, rights: list[int]) -> int:
    size = socket.CMSG_LEN(_MAX_RIGHTS * array("i").itemsize)
    received, ancillary, _, _ = sock.recvmsg_into([room], size, socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            rights.extend(array("i", data[: len(data) - len(data) % array("i").itemsize]))
    return received
