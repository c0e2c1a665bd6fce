"""Clients that stall cost others nothing, and lose their connection in the end."""

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.web.connection import MAX_READS, Connection, Next, Phase
from gateway.web.crowd import Crowd
from gateway.web.settings import WebSettings
from gateway.web.tls import make_context
from tests.web.conftest import Client, Server, StartServer, unverified_context

ATTACKERS = 200
SOON = 5.0
"""Seconds on a busy machine for what takes less than one on an idle one: half of what a head or handshake may take."""


def silent(server: Server) -> socket.socket:
    return server.raw()


def half_handshake(server: Server) -> socket.socket:
    sock = server.raw()
    sock.sendall(bytes.fromhex("16030100c8010000c40303"))  # the beginning of a ClientHello
    return sock


def after_handshake(data: bytes) -> Callable[[Server], socket.socket]:
    def attack(server: Server) -> socket.socket:
        sock = unverified_context().wrap_socket(server.raw())
        sock.sendall(data)
        return sock

    return attack


ATTACKS = {
    "silent": silent,
    "half-handshake": half_handshake,
    "slow-head": after_handshake(b"GET / HTTP/1.1\r\nHost: x\r\n"),
    "slow-body": after_handshake(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx"),
    "slow-upload": after_handshake(b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"),
    "slow-upload-unauthorized": after_handshake(
        b"POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\nx"
    ),
}


@pytest.mark.parametrize("cap", [16, 1000], ids=["capped", "uncapped"])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_good_client_is_served_soon(
    start_server: StartServer, attack: Callable[[Server], socket.socket], cap: int
) -> None:
    """200 stalled connections from the same address, on 4 threads, hold up neither new nor open connections."""
    server = start_server(threads=4, max_half_open=1000, max_half_open_per_address=cap)
    open_client = server.client()
    open_client.request("GET", "/")
    with contextlib.ExitStack() as stack:
        attackers = [stack.enter_context(attack(server)) for _ in range(ATTACKERS)]
        with trickle(attackers):
            for _ in range(10):
                begin = time.monotonic()
                assert open_client.request("GET", "/").status == 200
                new_client = server.client()
                assert new_client.request("POST", "/echo", b"x" * 1000).status == 200
                new_client.close()
                assert time.monotonic() - begin < SOON


@contextlib.contextmanager
def trickle(socks: list[socket.socket]) -> Iterator[None]:
    """Send a byte on each connection now and then, in a thread of its own."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.1):
            for sock in socks:
                with contextlib.suppress(OSError):
                    sock.sendall(b"x")

    thread = threading.Thread(target=run)
    thread.start()
    yield
    stop.set()
    thread.join()


def test_silent_connection_is_closed_at_its_deadline(start_server: StartServer) -> None:
    """A connection that says nothing, before or after the TLS handshake, is closed without a word."""
    server = start_server(handshake_s=1, head_s=1)
    with server.raw() as sock:
        assert sock.recv(1) == b""
    client = server.client()
    begin = time.monotonic()
    assert client.ended()
    assert time.monotonic() - begin < 1 + SOON


@pytest.mark.parametrize(
    "begun", [b"GET / HTTP/1.1\r\nHost:", b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx",
              b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\nx",
              b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nx"],
    ids=["head", "body", "long-body", "chunked-body"],
)  # fmt: skip
def test_unfinished_request_is_answered_408_at_its_deadline(start_server: StartServer, begun: bytes) -> None:
    """A request that never ends is refused with 408 and a code, and its connection closed."""
    client = start_server(head_s=1, body_s=1).client()
    client.sock.sendall(begun)
    reply = client.read()
    assert (reply.status, reply.json()["code"]) == (408, "request_timeout")
    assert client.ended()


def test_second_request_of_a_connection_has_its_deadline(start_server: StartServer) -> None:
    """Behind an answered request, too, a head that never ends is a 408; silence alone may last as keep-alive does."""
    client = start_server(head_s=2, keepalive_s=600).client()
    assert client.request("GET", "/").status == 200
    client.sock.sendall(b"GET / HTTP/1.1\r\nHost:")
    assert client.read().status == 408
    assert client.ended()


def test_slow_but_steady_head_is_cut_off(start_server: StartServer) -> None:
    """The deadline is for the whole head: a byte now and then does not extend it."""
    client = start_server(head_s=1).client()
    begin = time.monotonic()
    client.sock.sendall(b"GET / HTTP/1.1\r\nX: ")
    with trickle([client.sock]):
        assert client.read().status == 408
    assert time.monotonic() - begin < 1 + SOON


def test_idle_connection_is_closed_after_keepalive(start_server: StartServer) -> None:
    """Between requests a connection rests for keepalive_s, longer than a head may take."""
    client = start_server(keepalive_s=2, head_s=1).client()
    begin = time.monotonic()
    client.request("GET", "/")
    assert client.ended()
    assert 2 <= time.monotonic() - begin < 2 + SOON


def test_half_open_connections_per_address_are_capped(start_server: StartServer) -> None:
    """Of 40 connections without a request 16 are left a moment later; those with a request do not count."""
    server = start_server(head_s=30, handshake_s=30)
    busy = []
    for _ in range(20):
        busy.append(server.client())
        busy[-1].request("GET", "/")  # at once: twenty without one would themselves be over the limit
    socks = [server.raw() for _ in range(40)]
    closed = wait_closed(socks, 24, 15)
    assert closed == set(socks[:24])  # the oldest
    assert wait_closed(socks[24:], 1, 2) == set()
    assert all(client.request("GET", "/").status == 200 for client in busy)
    for sock in socks:
        sock.close()


def test_burst_of_an_address_has_a_second() -> None:
    """Who opens many connections at once may use them: those over its limit are too many when they are a second old,
    the oldest first."""
    limits = WebSettings(max_half_open_per_address=2)
    crowd = Crowd(limits, files=10_000)
    with contextlib.ExitStack() as stack:
        held = []
        for number in range(5):
            ours, _ = (stack.enter_context(sock) for sock in socket.socketpair())
            client = ("192.0.2.1" if number < 4 else "192.0.2.2", number)
            held.append(Connection(ours, client, ("192.0.2.3", 2), limits, now=10 + number / 10))
            crowd.hold(held[-1])
        assert crowd.crowding(10.9) == []
        assert crowd.crowding(11.05) == held[:1]
        assert crowd.crowding(20) == held[:2]


def test_who_takes_no_replies_goes_in_the_end() -> None:
    """A connection whose client takes nothing of a reply for 30 s is closed, however long keep-alive may last."""
    limits = WebSettings(keepalive_s=600)
    crowd = Crowd(limits, files=10_000)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = Connection(ours, ("192.0.2.1", 1), ("192.0.2.2", 2), limits, now=100)
        connection.wait_until_read(100)
        crowd.hold(connection)
        assert crowd.expired(129) == []
        assert crowd.expired(130) == [connection]


def test_half_open_connections_are_capped_in_all(start_server: StartServer) -> None:
    """One more than max_half_open closes the oldest at once, and no other: the newest eight stay."""
    server = start_server(max_half_open=8, head_s=30, handshake_s=30)
    server.client().request("GET", "/")
    socks = [server.raw() for _ in range(20)]
    assert wait_closed(socks, 12, SOON) == set(socks[:12])
    assert wait_closed(socks[12:], 1, 1) == set()
    for sock in socks:
        sock.close()


def wait_closed(socks: list[socket.socket], count: int, seconds: float) -> set[socket.socket]:
    """Those of the connections that the server closes, once there are `count` or the time is over."""
    poll = select.poll()
    by_fd = {sock.fileno(): sock for sock in socks}
    for fd in by_fd:
        poll.register(fd, select.POLLRDHUP)
    closed: set[socket.socket] = set()
    end = time.monotonic() + seconds
    while len(closed) < count and time.monotonic() < end:
        for fd, _ in poll.poll(max(0, end - time.monotonic()) * 1000):
            closed.add(by_fd[fd])
            poll.unregister(fd)
    return closed


def test_client_that_takes_no_replies_holds_no_thread(start_server: StartServer) -> None:
    """Pipelined requests whose replies nobody reads stop being answered; others go on."""
    server = start_server(threads=2, tls=False)
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            sock = stack.enter_context(server.raw())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                while True:
                    sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
        begin = time.monotonic()
        assert server.client().request("GET", "/").status == 200
        assert time.monotonic() - begin < SOON


@pytest.mark.parametrize("tls", [True, False], ids=["https", "http"])
def test_client_that_takes_no_large_reply_holds_no_thread(start_server: StartServer, tls: bool) -> None:
    """Three times as many large replies unread as there are threads: others go on, and who reads in the end has all."""
    server = start_server(threads=4, tls=tls)
    with contextlib.ExitStack() as stack:
        unread = [stack.enter_context(unread_reply(server, "/big")) for _ in range(12)]
        other = server.client()
        for _ in range(10):
            begin = time.monotonic()
            assert other.request("GET", "/").status == 200
            assert time.monotonic() - begin < SOON
        if not tls:
            unread[-1].shutdown(socket.SHUT_WR)  # it has said all
        client = Client(server.port, tls=tls, sock=unread[-1])
        reply = client.read()
        assert (reply.status, reply.body) == (200, b"x" * (8 << 20))
        assert not tls or client.request("GET", "/").status == 200


def unread_reply(server: Server, path: str) -> socket.socket:
    """A connection over which a request has gone, as through a network of small packets, and nothing has been read."""
    sock = socket.socket()
    sock.settimeout(30)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)  # loopback's own would let the kernel take megabytes
    sock.connect(("127.0.0.1", server.port))
    if server.tls:
        sock = unverified_context().wrap_socket(sock)
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return sock


def test_a_head_in_tiny_records_has_its_turns(certificate: tuple[Path, Path]) -> None:
    """A thousand TLS records of one byte each, all here at once, are read some at a time, and others' heads between."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    ours.setblocking(False)
    secured = make_context(*certificate).wrap_socket(ours, server_side=True, do_handshake_on_connect=False)
    with secured, theirs:
        connection = Connection(secured, ("192.0.2.1", 1), ("192.0.2.2", 2), WebSettings(), 0)
        came, left = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = unverified_context().wrap_bio(came, left)
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        theirs.sendall(left.read())
        assert connection.advance(0) is Next.READ
        came.write(theirs.recv(1 << 16))
        client.do_handshake()
        for byte in b"GET / HTTP/1.1\r\nX: " + b"x" * 1000 + b"\r\n\r\n":
            client.write(bytes([byte]))
        theirs.sendall(left.read())
        turns, seen = 0, 0
        while connection.advance(0) is Next.READ:
            assert 0 < len(connection.buffer) - seen <= MAX_READS
            turns, seen = turns + 1, len(connection.buffer)
        assert turns >= 1000 // MAX_READS and connection.phase is Phase.BODY


@pytest.mark.parametrize("name", ["Origin", "Content-Length", "Transfer-Encoding", "Expect"])
@pytest.mark.parametrize("before", [True, False], ids=["before-colon", "after"])
def test_a_head_of_blanks_is_read_at_once(name: str, before: bool) -> None:
    """Sixty thousand of them around a colon, and then what does not belong there, are no work for whom reads heads."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = Connection(ours, ("192.0.2.1", 1), ("192.0.2.2", 2), WebSettings(), 0)
        blanks = " " * 60_000
        line = f"{name}{blanks}\x01:" if before else f"{name}:{blanks}\x01"
        connection.buffer += f"GET / HTTP/1.1\r\n{line}\r\n\r\n".encode()
        began = time.thread_time()
        connection.frame(0)
        assert connection.origin == ""
        assert time.thread_time() - began < 1


@pytest.mark.parametrize("size", [1, 8192], ids=["one-by-one", "many-at-once"])
def test_empty_lines_without_end_are_no_request(start_server: StartServer, size: int) -> None:
    """A few before a request are skipped (RFC 9112, 2.2), of any number of requests; a flood of them is refused, so
    that nobody keeps the one thread that reads heads busy with nothing."""
    server = start_server(tls=False)
    client = server.client()
    for _ in range(20):
        client.sock.sendall(b"\r\n" * 3)
        assert client.request("GET", "/").status == 200
    client.sock.settimeout(SOON)
    with contextlib.suppress(OSError):  # it is closed meanwhile
        for _ in range(100):
            client.sock.sendall(b"\r\n" * size)
            time.sleep(0)
    assert client.read().status == 400


def test_keepalive_connections_make_room(start_server: StartServer) -> None:
    """More resting connections than the worker holds cost the longest at rest their place, not new clients."""
    server = start_server(tls=False)
    clients = []
    for _ in range(1100):
        clients.append(server.client())
        assert clients[-1].request("GET", "/").status == 200
    assert clients[0].ended()
    assert clients[-1].request("GET", "/").status == 200


def test_renegotiation_and_plain_garbage_do_not_hang(start_server: StartServer) -> None:
    """Bytes that are no TLS close the connection at once."""
    with start_server().raw() as sock:
        sock.sendall(b"\x00" * 100)
        begin = time.monotonic()
        with contextlib.suppress(ConnectionResetError, ssl.SSLError):
            while sock.recv(100):
                pass
        assert time.monotonic() - begin < 5
