"""The frames between web and supervisor: a small JSON header and raw bytes, both bounded.

A connection carries one request at a time: a frame up, a frame down. A `run` whose connection closes
before its reply has lost its client.
"""

from __future__ import annotations

import json
import struct
from typing import Any

PREFIX = struct.Struct(">II")
MAX_HEADER = 8 << 20
# The largest request body or pair of outputs the configuration can allow, with room for both streams.
MAX_BLOB = (1 << 30) + (1 << 20)


class ProtocolError(Exception):
    """The peer sent what no peer of ours sends; the connection is closed."""


def encode(header: dict[str, Any], *blobs: bytes) -> bytes:
    """One frame; `blobs` travel behind the header and come back in order from `split`."""
    if blobs:
        header = {**header, "blobs": [len(blob) for blob in blobs]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return b"".join((PREFIX.pack(len(text), sum(map(len, blobs))), text, *blobs))


def frame_size(prefix: bytes | bytearray, max_blob: int = MAX_BLOB) -> tuple[int, int]:
    """The lengths of header and blobs that a prefix promises. Raises ProtocolError past the bounds."""
    header, blob = PREFIX.unpack_from(prefix)
    if not 2 <= header <= MAX_HEADER or blob > max_blob:
        raise ProtocolError("frame over the bound")
    return header, blob


def decode_header(text: bytes | bytearray) -> dict[str, Any]:
    """The header's JSON object. Raises ProtocolError for anything else."""
    try:
        header = json.loads(text.decode())  # bytes would have their encoding guessed
    except (ValueError, RecursionError) as exc:
        raise ProtocolError("header is not JSON") from exc
    if not isinstance(header, dict):
        raise ProtocolError("header is not an object")
    return header


def split(header: dict[str, Any], blob: bytes) -> list[bytes]:
    """The blobs of a frame, as its header counts them. Raises ProtocolError when the counts do not fit."""
    sizes = header.get("blobs", [])
    if not isinstance(sizes, list) or not all(type(n) is int and n >= 0 for n in sizes) or sum(sizes) != len(blob):
        raise ProtocolError("blob sizes do not fit the frame")
    parts, start = [], 0
    for size in sizes:
        parts.append(blob[start : start + size])
        start += size
    return parts
