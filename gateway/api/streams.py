"""Replies that come while a command runs: its events, and the bytes of one stream."""

from __future__ import annotations

import select
import time
from abc import abstractmethod
from contextlib import AbstractContextManager, ExitStack

from gateway.api.call import Call
from gateway.api.events import EventWriter
from gateway.api.services import Services
from gateway.errors import GatewayError, OutputDropped, Overloaded, SupervisorUnavailable
from gateway.exec.reply import EventBatch, OutputEvent, OutputSlice
from gateway.exec.view import ExecView, State
from gateway.supervisor.link.feed import Answer, Feed
from gateway.web.live import Live, has_room

HEARTBEAT_SECONDS = 4.0
BATCH = 256 << 10
"""Bytes of output in one answer of events: a turn on the thread that all streams share takes a millisecond."""
PIECE = 1 << 20
"""Bytes in one answer of a single stream."""

_WAIT_SECONDS = 30.0
_ANSWER_SECONDS = 10.0

Span = tuple[int, int | None]
"""Offsets of a stream, half-open; None goes on for as long as the command does."""


class FeedReply(Live):
    """A reply made of one feed's answers. The next is asked for while the client takes the last, and waits here, not in
    the supervisor, for one that does not.

    `holds` gives back what is held for the client, the feed too.
    """

    takes_in = True

    def __init__(self, feed: Feed, holds: ExitStack) -> None:
        self.feed = feed
        self._came: Answer | GatewayError | None = None
        """The answer to what was asked last, taken in before the client wanted it."""
        self.ready = b""
        """What is here already."""
        self.over = False
        """Whether nothing follows what is ready."""
        self._holds = holds

    @abstractmethod
    def ask(self) -> None:
        """Asks the feed for what follows."""

    @abstractmethod
    def take(self, answer: Answer) -> bytes:
        """The bytes that an answer becomes; sets `over` with the last."""

    def sources(self) -> tuple[int, ...]:
        return (self.feed.fd,) if self._came is None else ()

    def take_in(self) -> int:
        if self._came is None and self.feed.asked:
            try:
                self._came = self.feed.take()
            except GatewayError as error:
                self._came = error  # told when it is its turn
            if self._came is None:
                return self.feed.half_read
            self.feed.rest()
        return _size(self._came)

    def produce(self) -> bytes | None:
        data, self.ready = self.ready, b""
        if not data and not self.over:
            if self._came is None and not self.feed.asked:
                self.ask()
            answer, self._came = self._came, None
            if answer is None:
                answer = self.feed.take()
            elif isinstance(answer, GatewayError):
                raise answer
            data = b"" if answer is None else self.take(answer)
        if not data and self.over:
            return None
        if not self.over and not self.feed.asked:
            self.ask()
        return data

    def stop(self) -> bool:
        return self.over

    def close(self) -> None:
        self._holds.close()


def _size(came: Answer | GatewayError | None) -> int:
    """Bytes of output in an answer."""
    if isinstance(came, OutputSlice):
        return len(came.data)
    if isinstance(came, EventBatch):
        return sum(len(event.data) for event in came.events if isinstance(event, OutputEvent))
    return 0


class EventStream(FeedReply):
    """An exec's events from one place on.

    One that is `attended` is the stream of the request that began the exec: its client's leaving is told to the
    supervisor, and the exec's `on_disconnect` decides.
    """

    def __init__(
        self,
        feed: Feed,
        writer: EventWriter,
        holds: ExitStack,
        *,
        attended: bool = False,
        until: int | None = None,
        heartbeat_s: float = HEARTBEAT_SECONDS,
    ) -> None:
        """`until` ends the stream at a place that has been reached already, instead of with the exec."""
        super().__init__(feed, holds)
        self._writer = writer
        self._attended = attended
        self._until = until
        self._heartbeat_s = heartbeat_s
        self._cursor = 0
        self._seen = 0
        self._silent_since = time.monotonic()

    @classmethod
    def begin(cls, feed: Feed, writer: EventWriter, holds: ExitStack, view: ExecView) -> EventStream:
        """The stream of an exec that has just been started."""
        stream = cls(feed, writer, holds, attended=True)
        stream.ready = writer.start(view)
        return stream

    @classmethod
    def resume(
        cls, feed: Feed, writer: EventWriter, holds: ExitStack, cursor: int, first: EventBatch, *, follow: bool
    ) -> EventStream:
        """The events behind `cursor`, the `first` of which are here: to the end, or to what there is now."""
        stream = cls(feed, writer, holds, until=None if follow else first.total)
        stream._cursor = stream._seen = cursor
        stream.ready = (b"" if cursor else writer.start(first.view)) + stream.take(first)
        return stream

    def wake_at(self) -> float:
        return self._silent_since + self._heartbeat_s

    def produce(self) -> bytes | None:
        data = super().produce()
        if data == b"" and time.monotonic() >= self.wake_at():
            data = self._writer.heartbeat(self._cursor)
        if data:
            self._silent_since = time.monotonic()
        return data

    def ask(self) -> None:
        self.feed.ask_events(self._cursor, seen=self._seen, limit=BATCH, wait=_WAIT_SECONDS)

    def take(self, answer: Answer) -> bytes:
        assert isinstance(answer, EventBatch)
        data, held = self._writer.output(answer.events, more=not answer.ended)
        self._cursor = answer.cursor - held
        # Of an exec that has ended, what was held back is all that can come: nothing to wait for.
        self._seen = self._cursor if answer.view["state"] == State.ENDED else max(self._seen, answer.cursor)
        if answer.ended:
            data += self._writer.end(answer.total + 1, answer.view)
        self.over = answer.ended or (self._until is not None and answer.cursor >= self._until)
        return data

    def stop(self) -> bool:
        return self.over or self._until is not None

    def gone(self) -> None:
        if self._attended:
            self.feed.leave()


class OutputStream(FeedReply):
    """The bytes of one stream: of the spans given, or from one offset on until the command has ended.

    Bytes that were not kept are never skipped in silence: the reply is cut there.
    """

    def __init__(self, feed: Feed, stream: str, spans: tuple[Span, ...], holds: ExitStack, first: bytes = b"") -> None:
        """`first` is what the spans begin with and is here already."""
        super().__init__(feed, holds)
        self._stream = stream
        self._spans = list(spans)
        self.ready = first
        self._advance(len(first))

    def wake_at(self) -> float:
        return time.monotonic() + _WAIT_SECONDS

    def stop(self) -> bool:
        return self.over or self._spans[-1][1] is not None

    def ask(self) -> None:
        start, end = self._spans[0]
        length = PIECE if end is None else min(PIECE, end - start)
        self.feed.ask_output(self._stream, start, length=length, wait=_WAIT_SECONDS if end is None else 0.0)

    def take(self, answer: Answer) -> bytes:
        assert isinstance(answer, OutputSlice)
        start, end = self._spans[0]
        if not answer.data and (end is not None or start < answer.total):
            raise dropped(answer)
        self._advance(len(answer.data))
        self.over = self.over or (not answer.data and answer.ended)
        return answer.data

    def _advance(self, size: int) -> None:
        start, end = self._spans[0]
        self._spans[0] = start + size, end
        if start + size == end:
            del self._spans[0]
        self.over = not self._spans


def take_stream(services: Services, call: Call) -> AbstractContextManager[None]:
    """Counts one more reply that stays, for as long as the context lasts. Raises TooManyRequests, Overloaded.

    To be asked for before anything is begun.
    """
    if not has_room(call.environ):
        raise Overloaded("this gateway can carry no further stream now; try again", retry_after=1)
    return services.streams.take(call.actor.token_id)


def dropped(state: OutputSlice) -> GatewayError:
    """What is asked for, or its rest, is not kept any more."""
    return OutputDropped(
        "the range holds bytes that were not kept; ask within `kept`, or raise output.limit",
        kept=[list(span) for span in state.kept],
        size=state.total,
    )


def wait_for_answer(feed: Feed) -> Answer:
    """The answer to what the feed was asked, waited for. Raises what it raises, and SupervisorUnavailable."""
    poll = select.poll()
    poll.register(feed.fd, select.POLLIN)
    deadline = time.monotonic() + _ANSWER_SECONDS
    while (answer := feed.take()) is None:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise SupervisorUnavailable("the supervisor does not answer; try again", retry_after=1)
    return answer
