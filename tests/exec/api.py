"""A small client of the API: HTTPS, kept connections, safe in many threads, answers as they came and as described."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.contract import check_reply
from tests.opened import noted
from tests.pvesim.services import make_client_context


@dataclass(frozen=True)
class Answer:
    """One reply, its body unparsed."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The machine word of a problem; None where the reply is none."""
        return self.json().get("code") if self.status >= 400 else None


class Api:
    """Requests as one token. `timeout`: seconds that a reply may take unless the call says otherwise."""

    def __init__(self, port: int, ca: Path, token: str | None, timeout: float = 30, *, host: str = "127.0.0.1") -> None:
        self.port = port
        self.host = host
        self.token = token
        self._timeout = timeout
        self._context = make_client_context(ca)
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPSConnection] = []

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        raw: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """One request, on a kept connection where one is free; sent once, whatever happens."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} if data is not None else {}
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        connection = self._connection(timeout or self._timeout)
        try:
            connection.request(method, path, data, sent | (headers or {}))
            reply = connection.getresponse()
            answer = Answer(reply.status, reply.headers, reply.read())
            check_reply(method, path, answer.status, answer.headers.items(), answer.body)
        except BaseException:
            connection.close()
            raise
        with self._lock:
            self._idle.append(connection)
        return answer

    def get(self, path: str, **options: Any) -> Answer:
        return self.request("GET", path, **options)

    def post(self, vmid: int, body: object, **options: Any) -> Answer:
        """POST /exec/{vmid}, whatever comes of it."""
        return self.request("POST", f"/exec/{vmid}", body, **options)

    def run(self, vmid: int, command: str | list[str], **spec: Any) -> dict[str, Any]:
        """Runs a command to its end; its result. Fails when the gateway refuses."""
        answer = self.post(vmid, {"command": command, **spec}, timeout=40)
        assert answer.status == 200, (answer.status, answer.body[:2000])
        result: dict[str, Any] = answer.json()
        return result

    def begin(self, vmid: int, body: object) -> ssl.SSLSocket:
        """Sends a POST /exec on a connection of its own and does not wait: the caller reads, or closes it."""
        data = json.dumps(body).encode()
        head = (
            f"POST /exec/{vmid} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        plain = socket.create_connection((self.host, self.port), timeout=30)
        secured = noted(self._context.wrap_socket(plain, server_hostname="localhost"))
        secured.sendall(head.encode() + data)
        return secured

    def connect(self, timeout: float | None = None) -> http.client.HTTPSConnection:
        """A new connection, for who reads a reply as it comes."""
        return _Lent(self.host, self.port, context=self._context, timeout=timeout or self._timeout)

    def close(self) -> None:
        """Closes the kept connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _connection(self, timeout: float) -> http.client.HTTPSConnection:
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if connection.sock is not None and not _has_ended(connection.sock):
                    connection.sock.settimeout(timeout)
                    return connection
                connection.close()
        return http.client.HTTPSConnection(self.host, self.port, context=self._context, timeout=timeout)


class _Lent(http.client.HTTPSConnection):
    """A connection that is the test's own."""

    def connect(self) -> None:
        super().connect()
        noted(self.sock)


def _has_ended(sock: socket.socket) -> bool:
    """Whether the server has closed a kept connection meanwhile."""
    plain = socket.socket(fileno=sock.fileno())
    try:
        return plain.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        plain.detach()
