"""Reads a JSON answer of the PVE API as it comes, so that a guest that writes a lot costs neither memory nor turns.

An agent's output can be 16 MiB a stream, and six times that as JSON. Parsed at once it would hold the interpreter for
a second, and with it every exec of the node. So long texts are decoded piece by piece, into bytes: PVE sends bytes as
the characters U+0000 to U+00FF.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from itertools import chain
from typing import Any

_LONG = 64 << 10
_PIECE = 64 << 10
_WHOLE = 1 << 20
_MAX_STRUCTURE = 4 << 20
_MAX_LONG_TEXTS = 3
"""Times the most of one: an agent's output is two."""
_MARK = "\x00long:"
_MARK_JSON = rb"\u0000long:"
_MARKED = re.compile(_MARK + r"(\d+)")
_TEXT = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_CUT = 12  # bytes: longer than an escape and than a UTF-8 character


class AnswerError(Exception):
    """It is not the JSON that PVE sends, or larger than PVE can make it."""


class LongText(bytes):
    """A text of more than 64 KiB: its characters as bytes, up to a maximum; `cut` counts those beyond it."""

    cut: int = 0


def read_json(pieces: Iterable[bytes], max_text: int) -> Any:
    """The answer, with each long text as LongText of at most `max_text` bytes. Raises AnswerError.

    One of at most 1 MiB is parsed at once: a list of a thousand guests takes milliseconds so, and hundreds by pieces.
    """
    pieces = iter(pieces)
    begun = bytearray()
    for piece in pieces:
        begun += piece
        if len(begun) > _WHOLE:
            break
    else:
        return _parse(bytes(begun), max_text)
    reader = _Reader(max_text)
    for piece in chain((bytes(begun),), pieces):
        for start in range(0, len(piece), _PIECE):
            reader.feed(piece[start : start + _PIECE])
    return reader.finish()


def _parse(answer: bytes, max_text: int) -> Any:
    try:
        return _shorten(json.loads(answer), max_text)
    except (ValueError, RecursionError) as exc:  # UnicodeError is a ValueError
        raise AnswerError("the answer is not JSON, or a long text is not made of bytes") from exc


def _shorten(value: Any, max_text: int) -> Any:
    if isinstance(value, str):
        if len(value) <= _LONG:
            return value
        data = value.encode("latin-1")
        text = LongText(data[:max_text])
        text.cut = max(0, len(data) - max_text)
        return text
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        if isinstance(member, dict | list) or (type(member) is str and len(member) > _LONG):
            value[key] = _shorten(member, max_text)
    return value


class _Reader:
    def __init__(self, max_text: int) -> None:
        self._max_text = max_text
        self._structure = bytearray()
        self._buffer = bytearray()
        self._in_text = False
        self._long: _Long | None = None
        self._found: list[LongText] = []
        self._kept = 0

    def feed(self, piece: bytes) -> None:
        self._buffer += piece
        while self._take_text() if self._in_text else self._take_structure():
            pass
        if len(self._structure) > _MAX_STRUCTURE:
            raise AnswerError("the answer is too large")

    def finish(self) -> Any:
        if self._in_text or self._buffer:
            raise AnswerError("the answer ends in the middle")
        try:
            return self._with_long_texts(json.loads(self._structure))
        except (ValueError, RecursionError) as exc:
            raise AnswerError("the answer is not JSON") from exc

    def _take_structure(self) -> bool:
        quote = self._buffer.find(b'"')
        end = len(self._buffer) if quote < 0 else quote + 1
        self._structure += self._buffer[:end]
        del self._buffer[:end]
        self._in_text = quote >= 0
        return self._in_text

    def _take_text(self) -> bool:
        """Takes a whole short text, or a piece of a long one; False when more must come first."""
        end = _closing_quote(self._buffer)
        if end >= 0:
            text, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
            self._end_text(bytes(text))
            return True
        if len(self._buffer) > _LONG:
            self._long = self._long or _Long(self._max_text)
            cut = _safe_cut(self._buffer)
            self._long.add(bytes(self._buffer[:cut]))
            del self._buffer[:cut]
        return False

    def _end_text(self, text: bytes) -> None:
        self._in_text = False
        if self._long is None and not text.startswith(_MARK_JSON):  # no text of a guest's passes for a mark of ours
            self._structure += text + b'"'
            return
        long, self._long = self._long or _Long(self._max_text), None
        long.add(text)
        self._structure += b'%s%d"' % (_MARK_JSON, len(self._found))
        self._found.append(long.text())
        self._kept += len(self._found[-1])
        if self._kept > _MAX_LONG_TEXTS * self._max_text:
            raise AnswerError("the answer is too large")

    def _with_long_texts(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self._with_long_texts(name): self._with_long_texts(member) for name, member in value.items()}
        if isinstance(value, list):
            return [self._with_long_texts(member) for member in value]
        marked = _MARKED.fullmatch(value) if isinstance(value, str) else None
        return self._found[int(marked[1])] if marked else value


class _Long:
    """A long text on its way."""

    def __init__(self, most: int) -> None:
        self._data = bytearray()
        self._most = most
        self._cut = 0

    def add(self, piece: bytes) -> None:
        try:
            data = json.loads(b'"%s"' % piece, strict=False).encode("latin-1")
        except ValueError as exc:
            raise AnswerError("a text is neither JSON nor made of bytes") from exc
        room = self._most - len(self._data)
        self._data += data[:room]
        self._cut += max(0, len(data) - room)

    def text(self) -> LongText:
        text = LongText(self._data)
        text.cut = self._cut
        return text


def _closing_quote(buffer: bytearray) -> int:
    """Where the first quote stands that no backslash escapes; -1 for none."""
    passed = _TEXT.match(buffer)
    assert passed is not None
    end = passed.end()
    return end if buffer[end : end + 1] == b'"' else -1


def _backslashes_before(buffer: bytearray, at: int) -> int:
    before = buffer[:at]
    return len(before) - len(before.rstrip(b"\\"))


def _safe_cut(buffer: bytearray) -> int:
    """A place near the end that is inside neither an escape nor a UTF-8 character."""
    cut = len(buffer) - _CUT
    while buffer[cut] & 0xC0 == 0x80:
        cut -= 1
    escape = buffer.rfind(b"\\", cut - 6, cut)
    if escape >= 0 and _backslashes_before(buffer, escape) % 2 == 0:
        cut = escape
    return cut
