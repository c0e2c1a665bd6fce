"""The events of an exec as bytes: NDJSON lines or server-sent events, exact whatever pieces the output comes in.

Nothing is remembered between two batches. Each event holds whole characters in UTF-8, or base64: where another
stream's output, a gap or the end falls inside a character, its bytes are an event of their own, in base64.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import groupby
from typing import Any

from gateway.exec.reply import GapEvent, OutputEvent
from gateway.exec.text import find_cut, read_cutting
from gateway.exec.view import ExecView

MAX_DATA = 32 << 10
"""Bytes of output in one event. Its line stays under 64 KiB, where many a line reader ends (Go's, asyncio's)."""

_FEW = 64
"""Text is text, even if a few control characters, six bytes each in JSON, make it longer than base64."""

_quote = json.JSONEncoder(ensure_ascii=False).encode


class EventFormat(StrEnum):
    """How a client wants events; the value is the media type."""

    NDJSON = "application/x-ndjson"
    SSE = "text/event-stream"


class EventWriter:
    """Writes events in one format."""

    def __init__(self, format_: EventFormat) -> None:
        self._sse = format_ is EventFormat.SSE

    def start(self, view: ExecView) -> bytes:
        """The first event, of seq 0."""
        return self._event(0, b"start", b',"exec":' + _dump(view))

    def output(self, events: Iterable[OutputEvent | GapEvent], *, more: bool) -> tuple[bytes, int]:
        """What happened, and how many bytes at its very end are held back.

        With `more` to come, the 0 to 3 bytes that begin a character are not written: the next batch has to begin
        with them, so it is asked for from as many bytes before this one's end.
        """
        runs = [_join(group) for group in _runs(events)]
        written: list[bytes] = []
        for run in runs[:-1]:
            written += self._run(run, more=False)[0]
        if not runs:
            return b"", 0
        last, held = self._run(runs[-1], more=more)
        return b"".join(written + last), held

    def heartbeat(self, seq: int) -> bytes:
        """A sign of life; `seq` is that of the last event."""
        return b": heartbeat\n\n" if self._sse else self._event(seq, b"heartbeat", b"")

    def end(self, seq: int, view: ExecView) -> bytes:
        """The last event."""
        how = {"reason": view["reason"], "exit_code": view["exit_code"], "signal": view["signal"], "exec": view}
        return self._event(seq, b"end", b"," + _dump(how)[1:-1])

    def _run(self, run: OutputEvent | GapEvent, *, more: bool) -> tuple[list[bytes], int]:
        """One stream's bytes that follow each other, in events of at most MAX_DATA bytes."""
        if isinstance(run, GapEvent):
            where = b',"stream":"%s","offset":%d,"bytes":%d' % (run.stream.encode(), run.offset, run.size)
            return [self._event(run.cursor, b"gap", where)], 0
        begin = run.cursor - len(run.data)
        written, held, position = [], 0, 0
        for piece in _pieces(run.data):
            last = position + len(piece) == len(run.data)
            encoded, held = _encode(piece, more=more and last)
            for start, end, data in encoded:
                where = b',"offset":%d,' % (run.offset + position + start)
                written.append(self._event(begin + position + end, run.stream.encode(), where + data))
            position += len(piece)
        return written, held

    def _event(self, seq: int, kind: bytes, members: bytes) -> bytes:
        if self._sse:
            return b'id: %d\nevent: %s\ndata: {"seq":%d,"type":"%s"%s}\n\n' % (seq, kind, seq, kind, members)
        return b'{"seq":%d,"type":"%s"%s}\n' % (seq, kind, members)


def _runs(events: Iterable[OutputEvent | GapEvent]) -> Iterator[Sequence[OutputEvent | GapEvent]]:
    for (_, gap), group in groupby(events, key=lambda event: (event.stream, isinstance(event, GapEvent))):
        if gap:
            yield from ((event,) for event in group)
        else:
            yield tuple(group)


def _join(run: Sequence[OutputEvent | GapEvent]) -> OutputEvent | GapEvent:
    """One stream's events, none of another's between them, as one: a character may go through their edges."""
    if len(run) == 1:
        return run[0]
    data = b"".join(event.data for event in run if isinstance(event, OutputEvent))
    return OutputEvent(run[0].stream, run[-1].cursor, run[0].offset, data)


def _pieces(data: bytes) -> Iterator[bytes]:
    start = 0
    while len(data) - start > MAX_DATA:
        end = find_cut(data, start + MAX_DATA)
        yield data[start:end]
        start = end
    yield data[start:] if start else data


def _encode(piece: bytes, *, more: bool) -> tuple[list[tuple[int, int, bytes]], int]:
    """(start, end, members) for each event that the piece becomes, and how many bytes are held back."""
    cutting = read_cutting(piece)
    if cutting is None:
        return [(0, len(piece), _base64(piece))], 0
    start, end = cutting.start, cutting.end
    encoded = [(0, start, _base64(piece[:start]))] if start else []
    if start < end:
        text = _quote(cutting.text).encode()
        if len(text) > _FEW + 4 * (end - start) // 3:
            encoded.append((start, end, _base64(piece[start:end])))
        else:
            encoded.append((start, end, b'"data":%s,"encoding":"utf-8"' % text))
    if more:
        return encoded, len(piece) - end
    if end < len(piece):
        encoded.append((end, len(piece), _base64(piece[end:])))
    return encoded, 0


def _base64(data: bytes) -> bytes:
    return b'"data":"%s","encoding":"base64"' % binascii.b2a_base64(data, newline=False)


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
