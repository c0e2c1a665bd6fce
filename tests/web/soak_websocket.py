"""A soak of connections that carry bytes both ways at full speed under TLS, as WebSockets do.

    python -m tests.web.soak_websocket --seconds 60 --mebibytes 2048

Each connection sends without pause and reads what comes back, from one thread and so with one OpenSSL object in both
directions at once; all that returns must be what was sent. Meanwhile others upgrade and break off in every bad way:
what OpenSSL remembers of them (`gateway.web.tls.forget_errors`) must not be taken for an error of these.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import select
import socket
import ssl
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.web.conftest import Client, Server, make_certificate, run_server

CONNECTIONS = 2
PIECE = 64 * 1024
STALL_SECONDS = 5.0
DISTURBANCE_SECONDS = 0.05


@dataclass
class Result:
    """What one connection did."""

    sent: int = 0
    received: int = 0
    longest_pause: float = 0.0
    same: bool = False


@dataclass
class Duplex:
    """One connection, driven without blocking."""

    client: Client
    goal: int
    result: Result = field(default_factory=Result)

    def __post_init__(self) -> None:
        self.client.sock.sendall(b"GET /live/echo HTTP/1.1\r\nHost: x\r\n\r\n")
        assert self.client.read_head().status == 101
        self.sock = self.client.sock
        self.sock.settimeout(0)
        self._block = os.urandom(PIECE * 16)
        self._rest = memoryview(b"")
        self._hashes = hashlib.sha256(), hashlib.sha256()
        self._progress = time.monotonic()

    def send(self, *, last: bool) -> None:
        """Send what fits; after `last` only what is begun."""
        result = self.result
        try:
            while True:
                if not self._rest:
                    if last or result.sent >= self.goal:
                        return
                    offset = result.sent * 7 % (len(self._block) - PIECE)
                    self._rest = memoryview(self._block)[offset : offset + PIECE]
                    self._hashes[0].update(self._rest)
                    result.sent += PIECE
                self._rest = self._rest[self.sock.send(self._rest) :]
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return

    def receive(self) -> None:
        """Take what is here."""
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            for _ in range(64):
                data = self.sock.recv(PIECE)
                assert data, "the server closed the connection"
                now = time.monotonic()
                self.result.longest_pause = max(self.result.longest_pause, now - self._progress)
                self._progress = now
                self._hashes[1].update(data)
                self.result.received += len(data)

    def is_through(self, *, last: bool) -> bool:
        result = self.result
        return result.received == result.sent and (last or result.sent >= self.goal)

    def check(self, now: float) -> None:
        assert now - self._progress < STALL_SECONDS, f"nothing came for {STALL_SECONDS} s: {self.result}"

    def finish(self) -> Result:
        self.result.same = self._hashes[0].digest() == self._hashes[1].digest()
        self.client.close()
        return self.result


def soak(server: Server, *, seconds: float, goal: int) -> list[Result]:
    """Run until the time is over or `goal` bytes have gone each way on each connection. Raises AssertionError."""
    flows = {flow.sock.fileno(): flow for flow in (Duplex(server.client(), goal) for _ in range(CONNECTIONS))}
    epoll = select.epoll()
    for fd in flows:
        epoll.register(fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
    server.reports.setblocking(False)
    end = time.monotonic() + seconds
    disturb_at = 0.0
    kinds = 0
    while True:
        now = time.monotonic()
        last = now >= end
        for flow in flows.values():
            flow.send(last=last)
            flow.receive()
            flow.check(now)
        if all(flow.is_through(last=last) for flow in flows.values()):
            return [flow.finish() for flow in flows.values()]
        if now >= disturb_at:
            disturb(server, kinds)
            kinds += 1
            disturb_at = now + DISTURBANCE_SECONDS
        epoll.poll(0.001)
        with contextlib.suppress(BlockingIOError):
            while server.report():
                continue


def disturb(server: Server, kind: int) -> None:
    """Begin a live reply and break off: a reset, garbage instead of TLS, half a record, or a plain close."""
    client = server.client()
    client.send("GET", "/live/echo" if kind % 2 else "/live/endless")
    client.read_head()
    if kind % 8 < 2:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    elif kind % 8 < 4:
        socket.socket.send(client.sock, b"\x17\x03\x03\x00\x20" + bytes(32))
    elif kind % 8 < 6:
        socket.socket.send(client.sock, b"\x17\x03\x03\x40\x00half")
    client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--mebibytes", type=int, default=2048, help="each way, each connection, at most")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        certificate = make_certificate(Path(directory), "localhost")
        with run_server(Path(directory), certificate) as server:
            begin = time.monotonic()
            results = soak(server, seconds=arguments.seconds, goal=arguments.mebibytes << 20)
            took = time.monotonic() - begin
    python = ".".join(map(str, sys.version_info[:3]))
    same = all(result.same for result in results)
    if arguments.json:
        received = sum(result.received for result in results) / (1 << 20)
        pause = max(result.longest_pause for result in results) * 1000
        print(json.dumps({"MiB each way": received, "MiB/s": received / took, "longest pause ms": pause}))
        sys.exit(not same)
    for result in results:
        mebibytes = result.received / (1 << 20)
        print(
            f"Python {python}: {mebibytes:.0f} MiB each way, {mebibytes / took:.0f} MiB/s, longest pause "
            f"{result.longest_pause * 1000:.0f} ms, {'equal' if result.same else 'DIFFERENT'}"
        )
    sys.exit(not same)


if __name__ == "__main__":
    main()
