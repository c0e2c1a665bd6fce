"""An exec's output on its way to a client: asked for as fast as the client takes it, within the window it gave."""

from __future__ import annotations

from gateway.errors import FieldError, InvalidRequest, RangeNotSatisfiable
from gateway.exec.reply import EventBatch
from gateway.supervisor.link.feed import Feed

PIECE = 256 << 10
"""Bytes asked for at once: a turn on the thread that all streams share stays short."""
_WAIT_SECONDS = 30.0


class Output:
    """Follows one exec from a place on. `window`: bytes that may be on their way to the client; None leaves it to TCP.

    The next piece is asked for while the client takes the last one.
    """

    def __init__(self, feed: Feed, cursor: int, window: int | None) -> None:
        self._feed = feed
        self._cursor = self._acked = cursor
        self._window = window
        self.ended = False

    def ask(self) -> None:
        """Asks for the next piece, if the window has room for it and nothing is asked already."""
        room = PIECE if self._window is None else min(PIECE, self._window - (self._cursor - self._acked))
        if room > 0 and not self.ended and not self._feed.asked:
            self._feed.ask_events(self._cursor, seen=self._cursor, limit=room, wait=_WAIT_SECONDS)

    def take(self) -> EventBatch | None:
        """What has come; None when nothing has. Raises RangeNotSatisfiable, and what the supervisor answers."""
        if not self._feed.asked or (batch := self._feed.take()) is None:
            return None
        assert isinstance(batch, EventBatch)
        # `seq` of an exec's end is one more than all its output: nothing but the end is behind that.
        if self._cursor > batch.total + batch.ended:
            raise RangeNotSatisfiable("`from` is past all that has happened so far", size=batch.total)
        self._cursor = batch.cursor
        self.ended = batch.ended
        self.ask()
        return batch

    def ack(self, cursor: int) -> None:
        """The client has dealt with all before `cursor`. Raises InvalidRequest for a place that it was not sent."""
        if cursor > self._cursor:
            field = FieldError("cursor", "not_sent", f"output has been sent up to {self._cursor}")
            raise InvalidRequest("some fields cannot be taken; see `errors`", errors=[field.to_json()])
        self._acked = max(self._acked, cursor)
