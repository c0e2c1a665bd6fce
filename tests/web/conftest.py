"""A real server process on loopback, certificates from the openssl CLI, and a small raw HTTP client."""

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.opened import noted

SERVED_APP = Path(__file__).with_name("served_app.py")
ROOT = Path(__file__).parents[2]


class ServerClosed(ConnectionError):
    """The server closed the connection where more was to come."""


@dataclass
class Reply:
    """One HTTP reply, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """A raw keep-alive connection, over TLS or not; `sock` is one that there is."""

    def __init__(self, port: int, *, tls: bool, timeout: float = 30, sock: socket.socket | None = None) -> None:
        self.sock: socket.socket = noted(sock or socket.create_connection(("127.0.0.1", port), timeout))
        if tls and sock is None:
            self.sock = noted(unverified_context().wrap_socket(self.sock, suppress_ragged_eofs=False))
        self._buffer = b""

    def request(self, method: str, path: str, body: bytes = b"", headers: str = "") -> Reply:
        self.send(method, path, body, headers)
        return self.read()

    def send(self, method: str, path: str, body: bytes = b"", headers: str = "") -> None:
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        self.sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{length}{headers}\r\n".encode() + body)

    def read(self) -> Reply:
        reply = self.read_head()
        if reply.headers.get("transfer-encoding") == "chunked":
            while chunk := self.read_chunk():
                reply.body += chunk
        else:
            reply.body = self.take(int(reply.headers.get("content-length", 0)))
        return reply

    def read_head(self) -> Reply:
        """A reply without its body, which `read_chunk` and `take` read."""
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        return Reply(int(status.split()[1]), headers, b"")

    def read_chunk(self) -> bytes:
        """The next chunk of a body; empty at its end."""
        size = int(self._line(), 16)
        chunk = self.take(size + 2)
        assert chunk.endswith(b"\r\n")
        return chunk[:-2]

    def ended(self) -> bool:
        """Whether the server closes without a further byte."""
        with contextlib.suppress(ssl.SSLEOFError):
            return self.ended_properly()
        return True

    def ended_properly(self) -> bool:
        """The same; raises SSLEOFError where TLS shows that it was no proper end."""
        return not self._buffer and self.sock.recv(1) == b""

    def close(self) -> None:
        self.sock.close()

    def _more(self) -> None:
        data = b""
        with contextlib.suppress(ssl.SSLEOFError):
            data = self.sock.recv(65536)
        if not data:
            raise ServerClosed("the server closed the connection")
        self._buffer += data

    def take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._more()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line


@dataclass
class Server:
    """A running server: its process, its port, and what its application reports."""

    process: subprocess.Popen[bytes]
    port: int
    tls: bool
    reports: socket.socket
    log: Path
    broken: Path
    clients: list[Client] = field(default_factory=list)

    def client(self, timeout: float = 30) -> Client:
        client = Client(self.port, tls=self.tls, timeout=timeout)
        self.clients.append(client)
        return client

    def raw(self) -> socket.socket:
        return noted(socket.create_connection(("127.0.0.1", self.port), 30))

    def worker(self) -> int:
        """The process id of a worker that answers."""
        pid: int = self.client().request("GET", "/").json()["pid"]
        return pid

    def resident_kib(self) -> int:
        """A worker's memory that no other process shares."""
        lines = Path(f"/proc/{self.worker()}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))

    def processor_seconds(self) -> float:
        """What a worker has taken so far."""
        fields = Path(f"/proc/{self.worker()}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def report(self) -> dict[str, Any]:
        """What the application tells next."""
        facts: dict[str, Any] = json.loads(self.reports.recv(4096))
        return facts

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


StartServer = Callable[..., Server]


@pytest.fixture
def start_server(tmp_path: Path, certificate: tuple[Path, Path]) -> Iterator[StartServer]:
    """Start servers; every one is stopped, and its sockets closed, after the test."""
    with contextlib.ExitStack() as stack:

        def start(**settings: Any) -> Server:
            directory = tmp_path / f"server{len(list(tmp_path.iterdir()))}"
            directory.mkdir()
            return stack.enter_context(run_server(directory, certificate, **settings))

        yield start


@contextlib.contextmanager
def run_server(
    directory: Path,
    certificate: tuple[Path, Path],
    *,
    tls: bool = True,
    env: dict[str, str] | None = None,
    host: str = "127.0.0.1",
    **settings: Any,
) -> Iterator[Server]:
    """A server with these settings, its files in `directory`, until the end of the block."""
    listener = socket.create_server((host, 0), backlog=1024)
    base = directory / "report"
    reports = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    reports.bind(str(base))
    reports.settimeout(30)
    if tls:
        settings = {"tls_cert": str(certificate[0]), "tls_key": str(certificate[1])} | settings
    options = {"listen": ["127.0.0.1", 0], "report": str(base), "inherit": listener.fileno()} | settings
    log = directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(SERVED_APP), json.dumps(options)],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | (env or {}),
            pass_fds=[listener.fileno()],
            stdout=output,
            stderr=output,
        )
    port = listener.getsockname()[1]
    listener.close()
    server = Server(process, port, tls, reports, log, Path(f"{base}.broken"))
    try:
        yield server
    finally:
        for client in server.clients:
            client.close()
        reports.close()
        if process.poll() is None:
            process.send_signal(signal.SIGINT)  # gunicorn's quick way out
            process.wait(20)


def unverified_context() -> ssl.SSLContext:
    """A client context that takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the system's authorities: 20 ms
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def make_certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate with this common name, and its key."""
    cert, key = directory / f"{name}.pem", directory / f"{name}.key"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    command = ["openssl", "req", "-x509", *kind, "-subj", f"/CN={name}", "-out", str(cert), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One certificate for all tests that do not care which."""
    return make_certificate(tmp_path_factory.mktemp("tls"), "localhost")
