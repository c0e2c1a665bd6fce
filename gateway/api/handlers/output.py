"""GET /execs/{id}/stdout and stderr: the bytes themselves, whole or in part, while they come or after."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

from gateway.api.call import Call, Reply
from gateway.api.models.execs import OutputQuery
from gateway.api.services import Services, Stream
from gateway.errors import OutputDropped, RangeNotSatisfiable
from gateway.exec.origin import Origin
from gateway.exec.reply import OutputSlice

CHUNK = 1 << 20
_MEDIA_TYPE = "application/octet-stream"
# RFC 9110, 14.1.2: one range; several, or another unit, may be ignored, and are.
_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))")

Span = tuple[int, int]


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
    asked = _asked(query.offset, call.environ.get("HTTP_RANGE"), state.total)
    if asked is None:
        spans, status = state.kept, 200
    else:
        if any(asked[0] < end and start < asked[1] for start, end in gaps):
            raise OutputDropped(
                "the range holds bytes that were not kept; ask within `kept`, or raise output.limit",
                kept=[list(span) for span in state.kept],
                size=state.total,
            )
        spans, status = (asked,), 200 if query.offset is not None else 206
        if status == 206:
            size = str(state.total) if state.ended else "*"
            headers["Content-Range"] = f"bytes {asked[0]}-{asked[1] - 1}/{size}"
    headers["Content-Length"] = str(sum(end - start for start, end in spans))
    pieces = _chunks(services, call.exec_id, stream, call.origin, spans)
    # The first piece now: what a running command has meanwhile pushed out of the kept bytes is a clear 416.
    body = chain([next(pieces, b"")], pieces)
    return Reply(body, status=status, headers=headers, media_type=_MEDIA_TYPE)


def _asked(offset: int | None, header: str | None, total: int) -> Span | None:
    """The half-open range asked for, cut at the end; None for everything. `offset` wins over a Range."""
    if offset is not None:
        if offset > total:
            raise RangeNotSatisfiable("the offset is past the end of the output so far", size=total)
        return offset, total
    match = _RANGE.fullmatch(header.strip()) if header else None
    if not match:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        start, end = max(0, total - int(suffix)), total
    else:
        start, end = int(first), total if last is None else min(int(last) + 1, total)
        if last is not None and int(last) < start:
            return None  # RFC 9110, 14.1.1: such a range is invalid, and an invalid one is ignored
    if start >= end:
        raise RangeNotSatisfiable("the range begins past the end of the output so far", size=total)
    return start, end


def _gaps(state: OutputSlice) -> list[Span]:
    gaps, position = [], 0
    for start, end in (*state.kept, (state.total, state.total)):
        if position < start:
            gaps.append((position, start))
        position = end
    return gaps


def _chunks(
    services: Services, exec_id: str, stream: Stream, origin: Origin, spans: tuple[Span, ...]
) -> Iterator[bytes]:
    for start, end in spans:
        position = start
        while position < end:
            piece = services.supervisor.output(exec_id, stream, origin, position, min(CHUNK, end - position))
            if not piece.data:
                raise OutputDropped("the output was removed while it was read", size=piece.total)
            yield piece.data
            position += len(piece.data)
