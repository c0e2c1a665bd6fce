"""Flow: one client's live reply: what waits to be written to its socket, and what comes from it; nothing here waits."""

import select
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Sequence
from enum import Enum, auto

from gateway.errors import ClientGone
from gateway.web import tcp
from gateway.web.connection import MAX_READ_SECONDS, Connection
from gateway.web.framing import JOINED_BYTES, Bare, Framing
from gateway.web.live import Live
from gateway.web.remainder import TAKE_BYTES_PER_SECOND, TAKE_SECONDS, Remainder
from gateway.web.tls import forget_errors

TURN_BYTES = 256 * 1024
"""What one turn writes, and reads, at most: 0.2 ms of encryption, so that a client at full speed delays no other."""
STALL_SECONDS = 300.0
"""How long a client may take no byte of what it is sent."""

_READ_BYTES = 64 * 1024
WANTS = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_RESET = struct.pack("ii", 1, 0)


class Turn(Enum):
    """How a turn ended."""

    AGAIN = auto()
    """There is more to do at once."""
    BLOCKED = auto()
    """The client's socket takes no more now."""
    IDLE = auto()
    """The Live has nothing now."""
    COMPLETE = auto()
    """All is sent, and the client has taken nearly all of it."""


class Flow:
    """Made by the thread that answered the request; then it is the pump's alone."""

    __slots__ = (
        "_acknowledged", "_done", "_framing", "_head", "_input", "_left", "_pending", "_readable", "_stalled_since",
        "_stirred", "_taken_in", "began", "bodies", "connection", "cutting", "fd", "held", "keep", "live", "moved_at",
        "number", "queued", "remains", "sock", "sources", "taken", "timer", "wake",
    )  # fmt: skip

    def __init__(
        self,
        connection: Connection,
        live: Live,
        framing: Framing,
        head: bytes,
        *,
        keep: bool,
        unsent: Sequence[memoryview] = (),
    ) -> None:
        """`head` goes out before the body; `keep`: another request may follow on the connection. `unsent`: what a
        Remainder is of; under TLS it begins where the write that blocked began."""
        self.connection = connection
        self.sock = connection.sock
        self.fd = connection.fd
        self.live = live
        self.keep = keep and not live.upgrades
        # The pump's notes:
        self.number = 0
        self.queued = False
        self.held = sum(map(len, unsent))
        """Bytes that wait here for the client."""
        self.moved_at = 0.0
        """When it last took any of them, or had none to take."""
        self.cutting: bool | None = None
        """Once the worker ends: whether it is cut when it is `flushed`, for it would not end by itself."""
        self.remains = isinstance(live, Remainder)
        self.bodies = tuple(memoryview(part.obj) for part in unsent)
        """What a Remainder keeps in memory until its end."""
        self.began = time.monotonic()
        self.taken = 0
        """Bytes that its socket has taken since."""
        self.sources: tuple[int, ...] = ()
        self.wake = self.timer = float("inf")

        self._framing = framing
        self._head = head
        self._pending: deque[memoryview] = deque(unsent)
        self._done = False
        self._readable = live.upgrades  # under TLS there may be bytes that epoll knows nothing of
        self._input = b""
        if live.upgrades:  # what the client sent right behind its request
            self._input = bytes(connection.buffer)
            connection.buffer.clear()
        self._left = False
        self._stirred = False
        self._taken_in = 0
        self._acknowledged = -1
        self._stalled_since = 0.0

    def notice(self, events: int) -> None:
        """Take what epoll, edge-triggered, says of the client's socket. Raises ClientGone."""
        if events & (select.EPOLLHUP | select.EPOLLERR):
            raise ClientGone
        if events & select.EPOLLRDHUP:
            self._left = not self.remains  # who has said all may well wait for all of the reply
        if events & select.EPOLLIN:
            self._readable = self.live.upgrades

    def stir(self) -> None:
        """Take it that one of the Live's sources is readable."""
        self._stirred = self.watches_blocked

    @property
    def watches_blocked(self) -> bool:
        """Whether the Live's sources matter while the client takes nothing."""
        return self.live.upgrades or self.live.takes_in

    def advance(self) -> Turn:
        """Do what one turn may. Raises ClientGone, and whatever the Live raises."""
        if self._stirred and self._pending:
            if self.live.upgrades:
                self.live.receive(b"")
            else:
                self._take_in()
        self._stirred = False
        if self._has_input():
            self._receive()
        if self._left and not self._has_input() and (self._pending or not self._done):
            raise ClientGone
        turn = self._write()
        return Turn.AGAIN if self._has_input() else turn

    @property
    def flushed(self) -> bool:
        """Whether the kernel has all that was produced, and the head."""
        return not self._head and not self._pending

    def check(self, now: float) -> None:
        """Judge, every few seconds, by what the client has taken. Raises ClientGone."""
        try:
            progress = tcp.read_progress(self.sock)
        except OSError as error:
            raise ClientGone from error
        waits = bool(self._pending) or self._done
        if not waits or progress.acknowledged != self._acknowledged:
            self._acknowledged = progress.acknowledged
            self._stalled_since = now
        if progress.lost or now - self._stalled_since >= STALL_SECONDS:
            raise ClientGone
        if self.remains and now - self.began >= TAKE_SECONDS + self.taken / TAKE_BYTES_PER_SECOND:
            raise ClientGone

    def cut(self) -> None:
        """Close the socket so that the client cannot take what it has for all."""
        if isinstance(self._framing, Bare) and not isinstance(self.sock, ssl.SSLSocket):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.sock.close()  # under TLS without its close_notify

    def _has_input(self) -> bool:
        return bool(self._readable or self._input) and not self._done and self.live.wants_input()

    def _take_in(self) -> None:
        before, self._taken_in = self._taken_in, self.live.take_in()
        self.held += self._taken_in - before

    def _receive(self) -> None:
        room = TURN_BYTES
        enough = time.monotonic() + MAX_READ_SECONDS
        while room > 0 and self._has_input():
            data = self._input or self._read()
            self._input = b""
            room -= len(data)
            if data:
                self.live.receive(data)
            if time.monotonic() >= enough:
                break  # what is left is `_readable` still

    def _read(self) -> bytes:
        try:
            data = self.sock.recv(_READ_BYTES)
        except WANTS:
            self._readable = False
            return b""
        except OSError as error:
            forget_errors()
            raise ClientGone from error
        if not data:
            raise ClientGone
        return data

    def _write(self) -> Turn:
        if not self._pending and not self._done:
            self._fill()
        if self._pending:
            part = self._pending[0]
            try:
                # After a TLS write that blocked, OpenSSL wants the same bytes again: this is the same slice.
                sent = self.sock.send(part[:TURN_BYTES])
                self.held -= sent
                self.taken += sent
                self.moved_at = time.monotonic()
            except WANTS:
                return Turn.BLOCKED
            except OSError as error:
                forget_errors()
                raise ClientGone from error
            if sent < len(part):
                self._pending[0] = part[sent:]
            else:
                self._pending.popleft()
            if self._pending or not self._done:
                return Turn.AGAIN
        if not self._done:
            return Turn.IDLE
        # Then what is still to be said on this connection, if only TLS's close_notify, finds room.
        return Turn.COMPLETE if self.connection.writable() else Turn.BLOCKED

    def _fill(self) -> None:
        piece = self.live.produce()
        if piece is None:
            parts = self._framing.finish()
        else:
            parts = self._framing.wrap(piece) if piece else []
        self._done = piece is None or self._framing.full
        if self._head:
            if parts and len(parts[0]) <= JOINED_BYTES:
                parts[0] = self._head + parts[0]
            else:
                parts.insert(0, self._head)
            self._head = b""
        self._pending.extend(map(memoryview, parts))
        self.held, self._taken_in = sum(map(len, parts)), 0
        self.moved_at = time.monotonic()
