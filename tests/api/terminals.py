"""Both ends of a Terminal for its tests: a client that speaks WebSocket, and a supervisor that says what it is told."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Message, Ping, Pong, TextMessage

from gateway.api.lease import Lease
from gateway.api.terminal import Terminal
from gateway.api.terminal_start import Opening, Session
from gateway.errors import GatewayError
from gateway.exec.origin import Origin
from gateway.exec.permit import Permit
from gateway.supervisor.link.feed import Feed
from gateway.supervisor.link.protocol import PREFIX, decode_header, encode, frame_size, split
from gateway.web.live import Live

from .fakes import make_view

ORIGIN = Origin("tok_a", "a", (Permit(((101, 199),)),), (), "192.0.2.1", "req_1")
HEAD = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
HEADER = struct.Struct(">BQ")


class Clock:
    """Time that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Peer:
    """The supervisor's end of one Feed: takes questions one by one, and answers as the test says."""

    def __init__(self) -> None:
        ours, self.sock = socket.socketpair()
        self.sock.settimeout(20)
        self.feed = Feed(ours, "ex_" + "0" * 26, ORIGIN)

    def question(self) -> dict[str, Any]:
        """The next question; its blob as `data`."""
        prefix = self._read(PREFIX.size)
        header_size, blob_size = frame_size(prefix)
        header = decode_header(self._read(header_size))
        blobs = split(header, self._read(blob_size))
        return header | {"data": blobs[0]} if blobs else header

    def asked(self) -> bool:
        """Whether there is a question that has not been taken."""
        return bool(select.select([self.sock], [], [], 0)[0] and self.sock.recv(1, socket.MSG_PEEK))

    def answer(self, *blobs: bytes, **members: Any) -> None:
        self.sock.sendall(encode({"ok": members}, *blobs))

    def refuse(self, error: GatewayError) -> None:
        self.sock.sendall(encode({"error": error.to_wire()}))

    def told(self) -> bytes:
        """All that has been said behind the last question, to the end of the connection."""
        data = b""
        while piece := self.sock.recv(4096):
            data += piece
        return data

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            assert piece, "the feed was closed"
            data += piece
        return data


class Supervised:
    """An exec as its terminal sees it: three connections."""

    def __init__(self) -> None:
        self.output, self.stdin, self.requests = Peer(), Peer(), Peer()
        self.view = make_view(101, ["sh"], "running")

    def session(self, *, write: bool = True, **options: Any) -> Session:
        feeds = (self.stdin.feed, self.requests.feed) if write else (None, None)
        if not write:
            self.stdin.feed.close()
            self.requests.feed.close()
        return Session(self.view, self.output.feed, *feeds, **options)

    def emit(self, *events: tuple[str, int, bytes | int], ended: bool = False) -> dict[str, Any]:
        """Answers the question for events with these (stream, offset, bytes or size of a gap); gives the question."""
        question = self.output.question()
        entries: list[list[Any]] = []
        blobs: list[bytes] = []
        cursor = question["cursor"]
        for stream, offset, data in events:
            size = data if isinstance(data, int) else len(data)
            cursor += size
            entries.append([stream, cursor, offset, size, None if isinstance(data, int) else len(blobs)])
            blobs += [] if isinstance(data, int) else [data]
        if ended:
            self.view["state"] = "ended"
        self.output.answer(*blobs, events=entries, cursor=cursor, total=cursor, exec=self.view, ended=ended)
        return question

    def grant(self, offset: int = 0) -> None:
        """Answers the claim."""
        assert self.stdin.question()["op"] == "claim"
        self.stdin.answer(offset=offset, eof=False)

    def close(self) -> None:
        for peer in (self.output, self.stdin, self.requests):
            peer.sock.close()
            with contextlib.suppress(OSError):
                peer.feed.close()


class Client:
    """A client, and the pump between it and the Terminal."""

    def __init__(self, terminal: Live, now: Callable[[], float] = time.monotonic) -> None:
        self.terminal = terminal
        self.now = now
        self.ws = Connection(ConnectionType.CLIENT)
        self.head = b""
        self.over = False
        self.closed: tuple[int, str] | None = None
        self.pings = 0
        self.answers_pings = True
        self.heard: list[Any] = []
        """JSON messages, and (channel, offset, payload) of binary ones."""
        self._message: list[Any] = []

    def pump(self) -> list[Any]:
        """Lets the terminal produce until it has nothing more; what came since the last time."""
        while not self.over:
            data = self.terminal.produce()
            self.over = data is None
            if not data:
                break
            self._take(data)
        heard, self.heard = self.heard, []
        return heard

    def wait(self) -> list[Any]:
        """As `pump`, once one of the terminal's sources is readable, or it has something to say without that."""
        terminal = self.terminal._live if isinstance(self.terminal, Lease) else self.terminal
        if terminal.wake_at() > self.now():  # that a lease looks at the token now and then is nothing to say
            assert select.select(self.terminal.sources(), [], [], 20)[0], "nothing came"
        return self.pump()

    def _take(self, data: bytes) -> None:
        if not self.head:
            head, end, data = data.partition(b"\r\n\r\n")
            self.head = head + end
        if self.ws.state is ConnectionState.CLOSED:
            return
        self.ws.receive_data(data)
        for event in self.ws.events():
            if isinstance(event, CloseConnection):
                self.closed = int(event.code), event.reason or ""
                if self.ws.state is ConnectionState.REMOTE_CLOSING:
                    self.raw(self.ws.send(event.response()))
                return
            if isinstance(event, Ping):
                self.pings += 1
                if self.answers_pings:
                    self.raw(self.ws.send(event.response()))
            elif isinstance(event, Message):
                self._message.append(event.data)
                if event.message_finished:
                    self._hear()

    def _hear(self) -> None:
        pieces, self._message = self._message, []
        if isinstance(pieces[0], str):
            self.heard.append(json.loads("".join(pieces)))
        else:
            data = b"".join(pieces)
            channel, offset = HEADER.unpack_from(data)
            self.heard.append((channel, offset, data[HEADER.size :]))

    def raw(self, data: bytes) -> None:
        """Sends bytes as they are."""
        self.terminal.receive(data)

    def text(self, text: str) -> None:
        self.raw(self.ws.send(TextMessage(text)))

    def say(self, kind: str, **members: Any) -> None:
        self.text(json.dumps({"type": kind, **members}))

    def binary(self, data: bytes) -> None:
        self.raw(self.ws.send(BytesMessage(data)))

    def input(self, offset: int, data: bytes) -> None:
        self.binary(HEADER.pack(0, offset) + data)

    def fragment(self, data: bytes, *, last: bool) -> None:
        """Sends a part of a binary message."""
        self.raw(self.ws.send(BytesMessage(data, message_finished=last)))

    def bye(self) -> None:
        self.raw(self.ws.send(CloseConnection(1000)))

    def pong(self) -> None:
        self.raw(self.ws.send(Pong()))


class TimedClient(Client):
    """A client of a session, or of a terminal that waits for `start`, at a time of the test's own."""

    def __init__(
        self,
        session: Session | None = None,
        start: Callable[[bytes], Opening] | None = None,
        idle: float | None = None,
    ) -> None:
        self.clock = Clock()
        self.released = 0
        holds = ExitStack()
        holds.callback(self._note_release)
        terminal = Terminal(HEAD, holds, session=session, start=start, idle=idle, monotonic=self.clock)
        super().__init__(terminal, self.clock)

    def _note_release(self) -> None:
        self.released += 1
