"""GET /execs/{id}/events: what an exec has done, from any place on, and what it goes on to do."""

from __future__ import annotations

from contextlib import ExitStack

from gateway.api.call import Call, Reply
from gateway.api.events import EventFormat, EventWriter
from gateway.api.handlers.exec import STREAM_HEADERS
from gateway.api.headers import choose_media_type, read_last_event_id
from gateway.api.models.events import EventsQuery
from gateway.api.services import Services
from gateway.api.streams import BATCH, EventStream, take_stream, wait_for_answer
from gateway.errors import InternalError, RangeNotSatisfiable
from gateway.exec.reply import EventBatch


def read_events(services: Services, call: Call) -> Reply:
    """The events behind the last one seen. 204 when that was the end: it tells an EventSource to come no more."""
    query: EventsQuery = call.query
    format_ = EventFormat(choose_media_type(call.environ, tuple(EventFormat)))
    cursor = read_last_event_id(call.environ) if query.from_ is None else query.from_
    with ExitStack() as holds:
        holds.enter_context(take_stream(services, call))
        feed = services.supervisor.feed(call.exec_id, call.origin)
        holds.callback(feed.close)
        feed.ask_events(cursor, seen=cursor, limit=BATCH, wait=0.0)
        first = wait_for_answer(feed)
        if not isinstance(first, EventBatch):
            raise InternalError("the supervisor's answer makes no sense")
        if first.ended and cursor == first.total + 1:
            return Reply(b"", status=204, media_type=format_)
        if cursor > first.total:
            raise RangeNotSatisfiable("`from` is past all that has happened so far", size=first.total)
        stream = EventStream.resume(feed, EventWriter(format_), holds.pop_all(), cursor, first, follow=query.follow)
        return Reply(stream, headers=STREAM_HEADERS, media_type=format_)
