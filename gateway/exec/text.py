"""Output as text: UTF-8 where the kept bytes are UTF-8, base64 where not; never cut inside a character."""

from __future__ import annotations

import base64
import codecs
from dataclasses import dataclass

from gateway.exec.view import StreamCount

_LONGEST_REST = 3  # A UTF-8 character has at most four bytes, so at most three follow or precede a cut.


@dataclass(frozen=True)
class Text:
    """One stream for the JSON result: `encoding` says how to read `text`, `count` fits what `text` holds."""

    text: str
    encoding: str
    count: StreamCount


@dataclass(frozen=True)
class Cutting:
    """A piece cut anywhere out of a text: between `start` and `end` stand the whole characters of `text`.

    The 0 to 3 bytes before `start` end a character that began before the piece; those from `end` on begin one.
    """

    start: int
    text: str
    end: int


def decode_output(kept: bytes, count: StreamCount) -> Text:
    """The kept bytes of a stream as text, where `count["dropped_at"]` is the cut between head and tail.

    A character that the cut went through is dropped as a whole (0 to 3 bytes on each side) and counted.
    Bytes that are not UTF-8 for any other reason come back whole, in base64.
    """
    cut = count["dropped_at"]
    try:
        if cut is None:
            return Text(kept.decode("utf-8"), "utf-8", count)
        head, read = codecs.utf_8_decode(kept[:cut], "strict", False)
        start = cut + _count_continuations(kept[cut : cut + _LONGEST_REST])
        tail = kept[start:].decode("utf-8")
    except UnicodeDecodeError:
        return Text(base64.b64encode(kept).decode("ascii"), "base64", count)
    trimmed = (cut - read) + (start - cut)
    adjusted: StreamCount = {**count, "dropped": count["dropped"] + trimmed, "dropped_at": read}
    return Text(head + tail, "utf-8", adjusted)


def read_cutting(piece: bytes) -> Cutting | None:
    """The whole characters in a piece that was cut out of a stream at any byte; None when it is not UTF-8."""
    start = _count_continuations(piece[:_LONGEST_REST])
    try:
        text, read = codecs.utf_8_decode(piece[start:] if start else piece, "strict", False)
    except UnicodeDecodeError:
        return None
    return Cutting(start, text, start + read)


def find_cut(data: bytes, at: int) -> int:
    """The last place up to `at` where `data` can be cut between two characters, if it is UTF-8; else near `at`."""
    rest = data[max(0, at - _LONGEST_REST) : at + 1]
    for back, byte in enumerate(reversed(rest)):
        if byte & 0xC0 != 0x80:
            return at - back
    return at


def _count_continuations(data: bytes) -> int:
    return next((index for index, byte in enumerate(data) if byte & 0xC0 != 0x80), len(data))
