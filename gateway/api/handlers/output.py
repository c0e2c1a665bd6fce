"""GET /execs/{id}/stdout and stderr: the bytes themselves, whole or in part, while they come or after."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from gateway.api.call import Call, Reply
from gateway.api.handlers.exec import STREAM_HEADERS
from gateway.api.models.execs import OutputQuery
from gateway.api.ranges import Span, read_range
from gateway.api.services import Services, Stream
from gateway.api.streams import PIECE, OutputStream, dropped, take_stream
from gateway.errors import RangeNotSatisfiable
from gateway.exec.reply import OutputSlice

_MEDIA_TYPE = "application/octet-stream"


def read_stdout(services: Services, call: Call) -> Reply:
    """The bytes kept of stdout."""
    return _read(services, call, "stdout")


def read_stderr(services: Services, call: Call) -> Reply:
    """The bytes kept of stderr."""
    return _read(services, call, "stderr")


def _read(services: Services, call: Call, stream: Stream) -> Reply:
    query: OutputQuery = call.query
    state = services.supervisor.output(call.exec_id, stream, call.origin, 0, 0)
    headers = {"Accept-Ranges": "bytes", "X-Output-Bytes": str(state.total)}
    headers["X-Output-Complete"] = "true" if state.ended else "false"
    gaps = _gaps(state)
    if gaps:
        headers["X-Output-Dropped"] = ",".join(f"{start}-{end - 1}" for start, end in gaps)
    if query.follow:
        return _follow(services, call, stream, state, headers)
    asked = _asked(query.offset, call.environ.get("HTTP_RANGE"), state.total)
    if asked is None:
        spans, status = state.kept, 200
    else:
        _check_kept(asked, state)
        spans, status = (asked,), 200 if query.offset is not None else 206
        if status == 206:
            size = str(state.total) if state.ended else "*"
            headers["Content-Range"] = f"bytes {asked[0]}-{asked[1] - 1}/{size}"
    headers["Content-Length"] = str(sum(end - start for start, end in spans))
    return _send(services, call, stream, spans, Reply(b"", status=status, headers=headers, media_type=_MEDIA_TYPE))


def _send(services: Services, call: Call, stream: Stream, spans: tuple[Span, ...], reply: Reply) -> Reply:
    """`reply` with the bytes of `spans`: at once where they are few, else as a stream."""
    spans = tuple(span for span in spans if span[0] < span[1])
    if not spans:
        return reply
    start, end = spans[0]
    # The first piece now: what a running command has meanwhile pushed out of the kept bytes is a clear 416.
    first = services.supervisor.output(call.exec_id, stream, call.origin, start, min(PIECE, end - start))
    if not first.data:
        raise dropped(first)
    if spans == ((start, start + len(first.data)),):
        return replace(reply, body=first.data)
    with ExitStack() as holds:
        holds.enter_context(take_stream(services, call))
        feed = services.supervisor.feed(call.exec_id, call.origin)
        holds.callback(feed.close)
        return replace(reply, body=OutputStream(feed, stream, spans, holds.pop_all(), first.data))


def _follow(services: Services, call: Call, stream: Stream, state: OutputSlice, headers: dict[str, str]) -> Reply:
    """What comes from the offset on until the command has ended, its length unknown; a Range is ignored."""
    start = call.query.offset or 0
    if start > state.total:
        raise RangeNotSatisfiable("the offset is past the end of the output so far", size=state.total)
    _check_kept((start, state.total), state)
    with ExitStack() as holds:
        holds.enter_context(take_stream(services, call))
        feed = services.supervisor.feed(call.exec_id, call.origin)
        holds.callback(feed.close)
        body = OutputStream(feed, stream, ((start, None),), holds.pop_all())
        return Reply(body, headers={**headers, **STREAM_HEADERS}, media_type=_MEDIA_TYPE)


def _check_kept(asked: Span, state: OutputSlice) -> None:
    """Raises OutputDropped when one of the bytes asked for is not there."""
    if any(asked[0] < end and start < asked[1] for start, end in _gaps(state)):
        raise dropped(state)


def _asked(offset: int | None, header: str | None, total: int) -> Span | None:
    """The half-open range asked for, cut at the end; None for everything. `offset` wins over a Range."""
    if offset is not None:
        if offset > total:
            raise RangeNotSatisfiable("the offset is past the end of the output so far", size=total)
        return offset, total
    return read_range(header, total)


def _gaps(state: OutputSlice) -> list[Span]:
    gaps, position = [], 0
    for start, end in (*state.kept, (state.total, state.total)):
        if position < start:
            gaps.append((position, start))
        position = end
    return gaps
