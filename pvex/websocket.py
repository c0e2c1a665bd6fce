"""WebSocket: one connection of the subprotocol `pvex.v1`, driven by whoever selects on it; only opening it blocks.

Why not simple-websocket, which is built on the same wsproto: it reads in a thread of its own while another writes, on
one TLS connection, which OpenSSL does not allow; and it stores without bound what nobody has taken yet.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import ProtocolError

from pvex.errors import ClientError, Cut, Problem, Unreachable

if TYPE_CHECKING:
    from pvex.profile import Profile

PROTOCOL = "pvex.v1"
SILENCE_SECONDS = 45.0
"""The gateway pings when nothing has moved for 20 seconds: one from which nothing comes for so long is gone."""
_OPEN_SECONDS = 10.0
_READ = 64 << 10
_RECORD = 16 << 10
_HEADER = struct.Struct(">BQ")


@dataclass(frozen=True)
class Output:
    """Bytes of a stream: 1 stdout, 2 stderr."""

    channel: int
    offset: int
    data: bytes


class WebSocket:
    """An open connection. Every method may raise Cut; the refusals are Problems."""

    def __init__(self, profile: Profile, path: str) -> None:
        """Raises Problem, Unreachable, Cut."""
        self._url = profile.url
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._out = bytearray()
        self._parts: list[Any] = []
        self._heard_at = time.monotonic()
        self._accepted = False
        self._rejected: RejectConnection | None = None
        self._body = b""
        self._error: dict[str, Any] = {}
        self._sock = _connect(profile)
        try:
            self._shake_hands(profile, path)
        except BaseException:
            self._sock.close()
            raise

    def _shake_hands(self, profile: Profile, path: str) -> None:
        headers = [(b"Authorization", f"Bearer {profile.token}".encode())]
        host = urlsplit(profile.url).netloc
        request = Request(host=host, target=path, subprotocols=[PROTOCOL], extra_headers=headers)
        try:
            self._sock.sendall(self._ws.send(request))
            while not self._accepted:
                if not (data := self._sock.recv(_READ)):
                    raise self._cut()
                self._ws.receive_data(data)
                for event in self._ws.events():
                    self._note_handshake(event)
                    if self._accepted:
                        break  # what follows is for `receive`
        except (OSError, ProtocolError) as exc:
            raise self._cut() from exc
        self._sock.setblocking(False)

    def _note_handshake(self, event: Event) -> None:
        if isinstance(event, AcceptConnection):
            self._accepted = True
        elif isinstance(event, RejectConnection):
            self._rejected = event
        elif isinstance(event, RejectData):
            self._body += event.data
        if self._rejected is not None and (not self._rejected.has_body or getattr(event, "body_finished", False)):
            raise Problem(self._rejected.status_code, _parse(self._body))

    # ---- for select

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def waits_to_write(self) -> bool:
        """Whether there is something that could not be sent yet."""
        return bool(self._out)

    @property
    def silent_until(self) -> float:
        """When, by time.monotonic, a connection that has said nothing meanwhile is gone."""
        return self._heard_at + SILENCE_SECONDS

    # ---- both directions

    def say(self, kind: str, **members: Any) -> None:
        """Sends a text message of this type."""
        self._send(TextMessage(json.dumps({"type": kind, **members})))

    def send_input(self, offset: int, data: bytes) -> None:
        """Sends input, which begins at `offset` of all of it."""
        self._send(BytesMessage(_HEADER.pack(0, offset) + data))

    def flush(self) -> None:
        """Sends what can be sent now."""
        try:
            while self._out:
                sent = self._sock.send(self._out[:_RECORD])
                del self._out[:sent]
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError, BlockingIOError):
            return
        except OSError as exc:
            raise self._cut() from exc

    def receive(self) -> Iterator[dict[str, Any] | Output]:
        """The messages that are here now."""
        yield from self._take()
        while True:
            try:
                data = self._sock.recv(_READ)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
                if time.monotonic() > self.silent_until:
                    raise self._cut() from None
                return
            except OSError as exc:
                raise self._cut() from exc
            if not data:
                raise self._cut()
            self._heard_at = time.monotonic()
            try:
                self._ws.receive_data(data)
                yield from self._take()
            except ProtocolError as exc:
                raise self._cut() from exc

    def close(self) -> None:
        """Drops it."""
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, event: Event) -> None:
        self._out += self._ws.send(event)
        self.flush()

    def _take(self) -> Iterator[dict[str, Any] | Output]:
        for event in self._ws.events():
            if isinstance(event, Ping):
                self._send(event.response())
            elif isinstance(event, CloseConnection):
                raise self._closed(int(event.code))
            elif isinstance(event, TextMessage | BytesMessage):
                self._parts.append(event.data)
                if event.message_finished:
                    message = _join(self._parts)
                    self._parts = []
                    if isinstance(message, dict) and message["type"] == "error":
                        self._error = message
                    else:
                        yield message

    def _closed(self, code: int) -> ClientError:
        """What a close code says: 4000 and an HTTP status is a refusal, all else may be tried again."""
        if 4400 <= code < 4600:
            return Problem(code - 4000, self._error)
        return self._cut()

    def _cut(self) -> Cut:
        return Cut(f"the connection to {self._url} was cut")


def _connect(profile: Profile) -> socket.socket:
    from pvex.api import make_context

    parts = urlsplit(profile.url)
    host = parts.hostname or ""
    try:
        plain = socket.create_connection((host, parts.port or 443), timeout=_OPEN_SECONDS)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as exc:
        raise Unreachable(f"cannot reach {profile.url}: is the gateway running? ({exc.strerror or exc})") from exc
    if parts.scheme == "http":
        return plain
    try:
        return make_context(profile).wrap_socket(plain, server_hostname=host)
    except OSError as exc:
        plain.close()
        raise Cut(f"the connection to {profile.url} was cut ({exc.strerror or exc})") from exc


def _parse(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _join(parts: list[Any]) -> dict[str, Any] | Output:
    if isinstance(parts[0], str):
        message: dict[str, Any] = json.loads("".join(parts))
        return message
    data = b"".join(parts)
    channel, offset = _HEADER.unpack_from(data)
    return Output(channel, offset, data[_HEADER.size :])
