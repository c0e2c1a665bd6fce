"""A client of pvex.v1 over TLS: `WebSocket` gives every message as it comes, `Session` waits for what is shown."""

from __future__ import annotations

import http.client
import io
import json
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Message, Ping, TextMessage

from tests.contract import check_message, check_reply
from tests.exec.api import Answer, Api

T = TypeVar("T")
STDIN, STDOUT, STDERR = range(3)
_HEADER = struct.Struct(">BQ")
_PIECE = 256 << 10
# RFC 6455, 1.3
_KEY, _ACCEPTED = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


class NotUpgraded(Exception):
    """The request was answered by HTTP."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status, answer.body)
        self.answer = answer


@dataclass(frozen=True)
class Output:
    """A binary message of the server's."""

    channel: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Closed:
    """The server's close; code 1006 when it cut the connection without one."""

    code: int
    reason: str


Heard = dict[str, Any] | Output | Closed


class WebSocket:
    """Opens `path` as the token of `api`. Raises NotUpgraded. `subprotocols` None leaves the header out."""

    def __init__(
        self,
        api: Api,
        path: str,
        *,
        subprotocols: Iterable[str] | None = ("pvex.v1",),
        headers: dict[str, str] | None = None,
        timeout: float = 30,
    ) -> None:
        self.timeout = timeout
        """Seconds that `receive` waits."""
        self._ws = Connection(ConnectionType.CLIENT)
        self._heard: deque[Heard] = deque()
        self._message: list[Any] = []
        connection = api.connect(timeout)
        connection.connect()
        assert isinstance(connection.sock, ssl.SSLSocket)
        self.sock = connection.sock
        fields = {
            "Host": f"localhost:{api.port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": _KEY,
        }
        if subprotocols is not None:
            fields["Sec-WebSocket-Protocol"] = ", ".join(subprotocols)
        if api.token:
            fields["Authorization"] = f"Bearer {api.token}"
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in (fields | (headers or {})).items())]
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode())
        self._read_head(path)

    def _read_head(self, path: str) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._recv()
        head, _, rest = data.partition(b"\r\n\r\n")
        status, _, fields = head.partition(b"\r\n")
        headers = http.client.parse_headers(io.BytesIO(fields + b"\r\n\r\n"))
        if b" 101 " not in status:
            while len(rest) < int(headers["Content-Length"]):
                rest += self._recv()
            self.close()
            check_reply("GET", path, int(status.split()[1]), headers.items(), rest)
            raise NotUpgraded(Answer(int(status.split()[1]), headers, rest))
        check_reply("GET", path, 101, headers.items(), b"")
        assert (headers["Sec-WebSocket-Accept"], headers["Sec-WebSocket-Protocol"]) == (_ACCEPTED, "pvex.v1")
        self._take(rest)

    def _recv(self) -> bytes:
        data = self.sock.recv(1 << 18)
        assert data, "closed before the reply was complete"
        return data

    # ---- what is heard

    def receive(self) -> Heard:
        """The next message, or the close; raises TimeoutError. Pings are answered."""
        while not self._heard:
            self.sock.settimeout(self.timeout)
            try:
                data = self.sock.recv(1 << 18)
            except TimeoutError:
                raise
            except OSError:
                data = b""
            if data:
                self._take(data)
            else:
                self._heard.append(Closed(1006, ""))
        heard = self._heard.popleft()
        if isinstance(heard, Closed):
            self._heard.append(heard)  # nothing comes behind it
        return heard

    def receive_until(self, kind: str) -> dict[str, Any]:
        """The next message of this type; those before it are dropped."""
        while True:
            heard = self.receive()
            assert not isinstance(heard, Closed), heard
            if isinstance(heard, dict) and heard["type"] == kind:
                return heard

    def _take(self, data: bytes) -> None:
        if self._ws.state is ConnectionState.CLOSED:
            return
        self._ws.receive_data(data)
        for event in self._ws.events():
            if isinstance(event, Ping):
                self.sock.sendall(self._ws.send(event.response()))
            elif isinstance(event, CloseConnection):
                self._heard.append(Closed(int(event.code), event.reason or ""))
                if self._ws.state is ConnectionState.REMOTE_CLOSING:
                    self.sock.sendall(self._ws.send(event.response()))
            elif isinstance(event, Message):
                self._message.append(event.data)
                if event.message_finished:
                    self._heard.append(_join(self._message))
                    self._message = []

    # ---- what is said

    def say(self, kind: str, **members: Any) -> None:
        """Sends a text message of this type."""
        self._send(TextMessage(json.dumps({"type": kind, **members})))

    def say_raw(self, data: str | bytes) -> None:
        """Sends a message as it is."""
        self._send(TextMessage(data) if isinstance(data, str) else BytesMessage(data))

    def send_input(self, offset: int, data: bytes) -> None:
        """Sends input; at most 1 MiB at once."""
        self._send(BytesMessage(_HEADER.pack(STDIN, offset) + data))

    def bye(self) -> None:
        """Says goodbye as a browser does, waits for the answer, and closes."""
        self._send(CloseConnection(1000))
        while not isinstance(self.receive(), Closed):
            pass
        self.close()

    def close(self) -> None:
        """Drops the connection without a word."""
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, event: TextMessage | BytesMessage | CloseConnection) -> None:
        self.sock.settimeout(self.timeout)
        self.sock.sendall(self._ws.send(event))


def _join(pieces: list[Any]) -> Heard:
    if isinstance(pieces[0], str):
        message: dict[str, Any] = json.loads("".join(pieces))
        check_message(message)
        return message
    data = b"".join(pieces)
    channel, offset = _HEADER.unpack_from(data)
    return Output(channel, offset, data[_HEADER.size :])


class Session(WebSocket):
    """Somebody at a terminal: types, and waits for what is shown. Offsets are checked and counted."""

    def __init__(self, api: Api, path: str, **options: Any) -> None:
        super().__init__(api, path, **options)
        self.shown = {STDOUT: bytearray(), STDERR: bytearray()}
        """Output that has not been waited for."""
        self.cursor = 0
        self.sent = 0
        self.acknowledged = -1
        """Input that the server has taken; -1 until it says that there is a right to write."""
        self.messages: list[dict[str, Any]] = []
        """Text messages, `ack` apart."""
        self.closed: Closed | None = None
        self.exec_id = ""
        self._ends: dict[int, int] = {}

    def start(self, command: str | list[str], **spec: Any) -> str:
        """Starts an exec; its id."""
        self.say("start", command=command, **spec)
        return self.started()

    def started(self) -> str:
        """Waits for `started`; the exec's id. Input goes on where the server says."""
        self.exec_id = self.message("started")["exec"]["id"]
        return self.exec_id

    def may_write(self) -> bool:
        """Whether the server grants input, waited for; it goes on where the input ends."""
        self.until(lambda: self.acknowledged >= 0 or self.closed)
        self.sent = max(self.sent, self.acknowledged)
        return self.acknowledged >= 0

    def type(self, data: str | bytes) -> None:
        """Sends input behind what was sent before."""
        encoded = data.encode() if isinstance(data, str) else data
        for start in range(0, len(encoded), _PIECE):
            piece = encoded[start : start + _PIECE]
            self.send_input(self.sent, piece)
            self.sent += len(piece)

    def ack(self) -> None:
        """Says that all that came has been dealt with."""
        self.say("ack", cursor=self.cursor)

    def until(self, what: Callable[[], T], within: float = 30) -> T:
        """Reads until `what` is true, and gives its value; fails after `within` seconds, or at the close."""
        deadline = time.monotonic() + within
        while not (value := what()):
            assert self.closed is None, (self.closed, self.messages, self._tail())
            self.timeout = max(0.001, deadline - time.monotonic())
            try:
                self._note(self.receive())
            except TimeoutError:
                raise AssertionError(f"not within {within} s: {self.messages} {self._tail()!r}") from None
        self.timeout = 30
        return value

    def until_shown(self, text: str | bytes, within: float = 30) -> bytes:
        """Waits until stdout shows `text`; gives, and drops, all up to it."""
        sought = text.encode() if isinstance(text, str) else text
        seen = self.shown[STDOUT]
        self.until(lambda: sought in seen, within)
        end = seen.index(sought) + len(sought)
        shown = bytes(seen[:end])
        del seen[:end]
        return shown

    def message(self, kind: str, within: float = 30) -> dict[str, Any]:
        """The next message of this type, waited for; others stay."""

        def find() -> dict[str, Any] | None:
            return next((message for message in self.messages if message["type"] == kind), None)

        found = self.until(find, within)
        assert found is not None
        self.messages.remove(found)
        return found

    def until_closed(self, within: float = 30) -> tuple[int, str]:
        """Waits for the server's close; its code and reason."""
        closed = self.until(lambda: self.closed, within)
        assert closed is not None
        return closed.code, closed.reason

    def _note(self, heard: Heard) -> None:
        if isinstance(heard, Closed):
            self.closed = heard
        elif isinstance(heard, Output):
            assert heard.offset == self._ends.get(heard.channel, heard.offset), heard
            self._ends[heard.channel] = heard.offset + len(heard.data)
            self.shown[heard.channel] += heard.data
            self.cursor += len(heard.data)
        elif heard["type"] == "ack":
            self.acknowledged = heard["offset"]
        else:
            self.cursor = heard.get("cursor", self.cursor)
            self.messages.append(heard)

    def _tail(self) -> bytes:
        return bytes(self.shown[STDOUT][-2000:])
