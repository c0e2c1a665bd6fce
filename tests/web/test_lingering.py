"""A client that still sends when it has been answered reads its answer, however much that is; within bounds."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time

import pytest

from gateway.web.connection import Connection, Next
from gateway.web.lingering import BURST_BYTES, LINGER_SECONDS, SILENCE_SECONDS, Lingering
from gateway.web.settings import WebSettings
from tests.web.conftest import Client, StartServer

MIB = 1 << 20
HEAD = "POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n"


def send_all(client: Client, head: str, size: int) -> None:
    """Sends a whole body before it looks at any reply, as most libraries do."""
    client.sock.sendall(head.encode())
    piece = bytes(MIB)
    for _ in range(size // MIB):
        client.sock.sendall(piece)


@pytest.mark.parametrize("tls", [True, False], ids=["https", "http"])
@pytest.mark.parametrize(("size", "status"), [(8 * MIB, 401), (100 * MIB, 413)])
def test_reply_to_an_unread_body_is_read(start_server: StartServer, tls: bool, size: int, status: int) -> None:
    """Refused by the application or by the edge: the client sends all of its body and then reads why."""
    server = start_server(tls=tls)
    for _ in range(5):
        client = server.client()
        send_all(client, HEAD.format(size), size)
        assert client.read().status == status
        assert client.ended()


def test_endless_chunks_are_answered(start_server: StartServer) -> None:
    """A body of unknown length, cut off at the limit in its middle."""
    client = start_server(max_body_bytes=MIB).client()
    head = "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    send_all(client, f"{head}{64 * MIB:x}\r\n", 32 * MIB)
    reply = client.read()
    assert (reply.status, reply.json()["code"]) == (413, "payload_too_large")


def test_others_are_served_meanwhile(start_server: StartServer) -> None:
    """Twenty clients that go on sending hold up nobody."""
    server = start_server(threads=4, max_half_open_per_address=100)
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(contextlib.closing(server.client()))
            send_all(client, HEAD.format(1 << 30), 2 * MIB)
        begin = time.monotonic()
        assert server.client().request("GET", "/").status == 200
        assert time.monotonic() - begin < 5


class Ended:
    """A connection that has been ended at time 0, and its client's socket."""

    def __init__(self) -> None:
        ours, self.client = socket.create_server(("127.0.0.1", 0)), socket.socket()
        with ours:
            self.client.connect(ours.getsockname())
            accepted, address = ours.accept()
        self.connection = Connection(accepted, address, ("127.0.0.1", 1), WebSettings(), 0.0)
        self.connection.end(0.0)

    def close(self) -> None:
        self.connection.sock.close()
        self.client.close()


def test_silence_and_time_end_it() -> None:
    """Five seconds without a byte, or thirty in all."""
    with contextlib.closing(Ended()) as ended:
        lingering = Lingering(0.0)
        for now in (0.0, 4.0, 8.0, 28.0):
            ended.client.sendall(b"x" * 1000)
            assert ended.connection.linger(lingering, now) is Next.READ
            assert ended.connection.deadline == min(now + SILENCE_SECONDS, LINGER_SECONDS)


def test_bytes_of_all_together_end_it() -> None:
    """Once a process has dropped its gibibyte those that still send are closed, until seconds bring more."""
    with contextlib.closing(Ended()) as ended:
        lingering = Lingering(0.0)
        lingering._left = 1500.0
        for expected, now in ((Next.READ, 0.0), (Next.GONE, 0.0), (Next.READ, BURST_BYTES)):
            ended.client.sendall(b"x" * 1000)
            assert ended.connection.linger(lingering, now) is expected


def test_the_clients_own_end_ends_it() -> None:
    """Nothing more can come."""
    with contextlib.closing(Ended()) as ended:
        ended.client.sendall(b"x")
        ended.client.close()
        lingering = Lingering(0.0)
        assert ended.connection.linger(lingering, 0.0) is Next.GONE


def test_a_client_gone_in_the_middle_leaves_nothing(start_server: StartServer) -> None:
    """Its connection is given back, and the next is served."""
    server = start_server()
    for _ in range(10):
        client = server.client()
        with contextlib.suppress(ssl.SSLError, OSError):
            send_all(client, HEAD.format(64 * MIB), 2 * MIB)
        client.close()
    assert server.client().request("GET", "/").status == 200
