"""A client's way into its exec: input, in order and within a bound, and signals and sizes that need not wait for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from gateway.api.models.input import Target
from gateway.api.terminal_frames import Resize, Signal, show_ack, show_error
from gateway.errors import (
    ExecEnded,
    GatewayError,
    StdinBlocked,
    StdinClosed,
    StdinOffset,
    SupervisorUnavailable,
)
from gateway.exec.reply import StdinReply
from gateway.supervisor.link.feed import Feed

WINDOW = 1 << 20
"""How much input may wait; with more of it the client is not read."""
_PIECE = 64 << 10
"""What a unix socket's buffer (208 KiB) always takes at once: a Feed is woken by what can be read, not written."""
_MAX_REQUESTS = 64


class InputQueue:
    """What the client has sent and the command has not taken yet: one run of bytes, its place known by offset."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._start = 0
        self._known = False
        """Whether it has been told where the input goes on; before that the client's word is taken for it."""
        self._eof = False

    def __len__(self) -> int:
        return len(self._data)

    def put(self, offset: int, data: bytes) -> None:
        """Adds input that begins at `offset`; what is here already is skipped. Raises StdinOffset, StdinClosed."""
        if not self._known and not self._data:
            self._start = offset
        end = self._start + len(self._data)
        if offset > end:
            raise _gap(end, offset)
        if self._eof:
            raise StdinClosed(f"the input has ended at {end}", offset=end)
        self._data += data[end - offset :]

    def end(self) -> None:
        """No input follows what is here."""
        self._eof = True

    def ended(self) -> None:
        """The input's end has been taken. (A terminal takes it for Ctrl-D and goes on.)"""
        self._eof = False

    def go_on_from(self, offset: int) -> None:
        """The input has been taken up to `offset`. Raises StdinOffset, and drops all, where that leaves a gap."""
        if not self._known and not self._data:
            self._start = offset
        self._known = True
        start, self._start = self._start, max(offset, self._start)
        if start > offset:
            self.drop()
            self._start = offset
            raise _gap(offset, start)
        del self._data[: offset - start]

    def drop(self) -> None:
        """Forgets what has not been taken."""
        self._data.clear()
        self._eof = False

    def next(self) -> tuple[int, bytes, bool] | None:
        """The next piece, its offset, and whether the input ends with it; None when there is nothing to say."""
        if not self._data and not self._eof:
            return None
        return self._start, bytes(self._data[:_PIECE]), self._eof and len(self._data) <= _PIECE


def _gap(expected: int, offset: int) -> GatewayError:
    return StdinOffset(f"the input so far ends at {expected}; go on from there", expected=expected, offset=offset)


class Input:
    """Hands the queue to the command, a piece at a time. Its connection holds the right to write."""

    def __init__(self) -> None:
        self.queue = InputQueue()
        self._feed: Feed | None = None
        self._own = False
        self._claimed = False
        """Whether the right to write is ours."""
        self._ends = False
        """Whether what is being taken is the last of the input."""

    def open(self, feed: Feed, *, own: bool) -> None:
        """Begins: asks for the right to write. `own`: to an exec that the client has just started."""
        self._feed = feed
        self._own = own
        feed.ask_claim()

    @property
    def waiting(self) -> bool:
        """Whether the right to write has been asked for and not been had."""
        return self._feed is not None and not self._claimed

    @property
    def full(self) -> bool:
        """Whether more is here than a client may send before it is acknowledged."""
        return len(self.queue) > WINDOW

    def advance(self) -> Iterator[str]:
        """Goes as far as it can; yields what the client is to be told.

        Raises WriterTaken, ExecEnded or StdinClosed where there is no right to write to be had, and
        SupervisorUnavailable.
        """
        if self._feed is None:
            return
        while True:
            if self._feed.asked:
                try:
                    answer = self._feed.take()
                    if answer is None:
                        return
                    assert isinstance(answer, StdinReply)
                    self._claimed = True
                    yield show_ack(answer.offset)
                    if self._ends:
                        self.queue.ended()
                    self.queue.go_on_from(answer.offset)
                except StdinBlocked:
                    pass  # nothing was taken: ask again
                except (StdinOffset, StdinClosed, ExecEnded) as error:
                    if not self._claimed and not self._own:
                        raise
                    self._claimed = True  # or its own exec was faster: then what it did is told, not that
                    self.queue.drop()
                    if not isinstance(error, ExecEnded):  # that is told by `end`
                        yield show_error(error)
            piece = self.queue.next()
            if piece is None:
                return
            offset, data, self._ends = piece
            self._feed.ask_stdin(data, offset=offset, eof=self._ends)


class Requests:
    """Signals and sizes, one after the other, on a connection of their own: input may be stuck where a signal helps."""

    def __init__(self) -> None:
        self._feed: Feed | None = None
        self._waiting: deque[Resize | Signal] = deque()

    def open(self, feed: Feed) -> None:
        self._feed = feed

    @property
    def full(self) -> bool:
        return len(self._waiting) >= _MAX_REQUESTS

    def put(self, request: Resize | Signal) -> None:
        self._waiting.append(request)

    def advance(self) -> Iterator[str]:
        """Goes as far as it can; yields the refusals. Raises SupervisorUnavailable."""
        while self._feed is not None:
            if self._feed.asked:
                try:
                    if self._feed.take() is None:
                        return
                except SupervisorUnavailable:
                    raise
                except GatewayError as error:
                    yield show_error(error)
            if not self._waiting:
                return
            request = self._waiting.popleft()
            if isinstance(request, Resize):
                self._feed.ask_resize(request.rows, request.cols)
            else:
                self._feed.ask_signal(request.number, tree=request.to is Target.TREE)
