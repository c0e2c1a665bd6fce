"""One accepted WebSocket without any input or output of its own: messages in, messages out, ping, pong and close.

wsproto takes frames apart and builds them (RFC 6455); this joins fragments within a bound, answers pings, finds out
that a client is silent, and sees to it that both sides say goodbye.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Message, Ping, TextMessage

MAX_PAYLOAD = 1 << 20
"""Bytes of one message, the 9 of a binary one's header not counted."""
PING_SECONDS = 20.0
"""How long nothing may move before the client is asked for a sign of life, and how long until it is asked again."""
MISSED_PINGS = 2
"""How many of these may go unanswered; at the time of the next one it is gone."""
CLOSE_SECONDS = 2.0
"""How long the client may take to answer our goodbye."""
_MAX_UNSENT = 64 << 10
_TURN_EVENTS = 256
"""Frames looked at between two `take`s, 30 us each: tiny ones without end must not hold up the thread for others."""
_HEADER_BYTES = 9


@dataclass(frozen=True)
class Text:
    data: bytes
    """UTF-8."""


@dataclass(frozen=True)
class Binary:
    data: bytes


class Violation(Exception):
    """The client broke the protocol of WebSocket: `code` and `reason` are what it is told."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class WebSocket:
    """The server's side. `head` is the reply that accepts it, sent before anything else."""

    def __init__(self, head: bytes, monotonic: Callable[[], float]) -> None:
        self._ws = Connection(ConnectionType.SERVER)
        self._monotonic = monotonic
        self._out = [head]
        self._unsent = len(head)
        self._message = bytearray()
        self._events_left = _TURN_EVENTS
        self.behind = False
        """Whether frames may be here that are looked at only after the next `take`."""
        self._deaf = False
        """Whether the client's bytes cannot be understood any more."""
        self._moved_at = monotonic()
        self._pings = 0
        self._close_by = 0.0
        self.left = False
        """Whether the client has said goodbye, or is silent."""

    @property
    def closing(self) -> bool:
        """Whether we have said goodbye."""
        return self._close_by > 0

    @property
    def over(self) -> bool:
        """Whether nothing is left to say or to wait for."""
        return not self._out and (self.left or (self.closing and self._monotonic() >= self._close_by))

    @property
    def crowded(self) -> bool:
        """Whether so much waits to be sent that no more should be read that would be answered."""
        return self._unsent > _MAX_UNSENT

    def receive(self, data: bytes) -> None:
        """Takes bytes of the client; `next_message` tells what they say."""
        self.note_life()
        if not self._deaf and self._ws.state in (ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING):
            self._ws.receive_data(data)

    def next_message(self) -> Text | Binary | None:
        """The next whole message; None when none is here, or none for now. Raises Violation."""
        while not self._deaf and not self.left:
            self.behind = self._events_left == 0
            if self.behind or (event := next(self._ws.events(), None)) is None:
                return None
            self._events_left -= 1
            if isinstance(event, CloseConnection):
                self._hear_goodbye(event)
            elif isinstance(event, Ping) and not self.closing:
                self._push(self._ws.send(event.response()))
                if self.crowded:
                    return None
            elif isinstance(event, Message) and not self.closing:
                message = self._join(event)
                if message is not None:
                    return message
        return None

    def _hear_goodbye(self, event: CloseConnection) -> None:
        if self._ws.state is ConnectionState.OPEN:  # wsproto's word for a client that broke the protocol
            self._deaf = True
            if not self.closing:
                raise Violation(int(event.code), "protocol_error")
        if self._ws.state is ConnectionState.REMOTE_CLOSING:
            self._push(self._ws.send(CloseConnection(code=event.code)))
        self.left = True

    def _join(self, event: Message[str] | Message[bytes | bytearray]) -> Text | Binary | None:
        piece, limit = event.data, MAX_PAYLOAD
        if isinstance(piece, str):
            piece = piece.encode()
        else:
            limit += _HEADER_BYTES
        if len(self._message) + len(piece) > limit:
            self._deaf = True
            raise Violation(1009, "message_too_big")
        self._message += piece
        if not event.message_finished:
            return None
        data, self._message = bytes(self._message), bytearray()
        return Text(data) if isinstance(event.data, str) else Binary(data)

    def send_text(self, text: str) -> None:
        """Sends a message, unless goodbye has been said."""
        self._send(TextMessage(text))

    def send_binary(self, data: bytes) -> None:
        """Sends a message, unless goodbye has been said."""
        self._send(BytesMessage(data))

    def _send(self, message: TextMessage | BytesMessage) -> None:
        if not self.closing and not self.left:
            self.note_life()
            self._push(self._ws.send(message))

    def close(self, code: int, reason: str) -> None:
        """Says goodbye; nothing can be sent behind it."""
        if self.closing or self.left:
            return
        self._push(self._ws.send(CloseConnection(code=code, reason=reason)))
        self._close_by = self._monotonic() + CLOSE_SECONDS
        self._message.clear()

    def take(self) -> bytes:
        """What is to be sent now."""
        self._events_left = _TURN_EVENTS
        data, self._out, self._unsent = b"".join(self._out), [], 0
        return data

    def keep_alive(self) -> None:
        """Asks for a sign of life where nothing has moved for long; `left` when there was none."""
        now = self._monotonic()
        if self.closing or self.left or now < self.ping_at:
            return
        if self._pings >= MISSED_PINGS:
            self._out.clear()
            self.left = True
            return
        self._push(self._ws.send(Ping()))
        self._pings += 1

    def note_life(self) -> None:
        """Something has moved, or the client could not be heard: count the silence from now on."""
        self._moved_at = self._monotonic()
        self._pings = 0

    @property
    def wake_at(self) -> float:
        """The monotonic time by which `take`, `keep_alive` or `over` have news."""
        if self._out or self.left:
            return 0.0
        return self._close_by if self.closing else self.ping_at

    @property
    def ping_at(self) -> float:
        return self._moved_at + (self._pings + 1) * PING_SECONDS

    def _push(self, data: bytes) -> None:
        self._out.append(data)
        self._unsent += len(data)
