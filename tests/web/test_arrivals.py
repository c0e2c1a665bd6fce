"""How many connections an address may begin: handshakes and broken requests are rated, and others do not notice."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from typing import Any

import pytest

from gateway.rates import Rates
from gateway.web.arrivals import Arrival, Arrivals
from gateway.web.burdens import Burdens
from gateway.web.connection import counted_address
from gateway.web.settings import WebSettings
from tests.web.conftest import Server, StartServer, unverified_context

FLOODERS = 4
RATE = 20
SOON = 4.0
"""Seconds, on a busy machine; it is less than one on an idle one."""


def shake(server: Server, context: ssl.SSLContext, timeout: float = 10) -> ssl.SSLSocket:
    """A connection of 127.0.0.2 whose handshake is done."""
    plain = socket.create_connection(("127.0.0.1", server.port), timeout, source_address=("127.0.0.2", 0))
    return context.wrap_socket(plain)


@contextlib.contextmanager
def flood(knock: Callable[[], Any]) -> Iterator[Callable[[], int]]:
    """Calls `knock` from several threads, again and again; gives how often it has come to its end."""
    stop, done = threading.Event(), [0] * FLOODERS

    def run(number: int) -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                knock()
                done[number] += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(FLOODERS)]
    for thread in threads:
        thread.start()
    try:
        yield lambda: sum(done)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def watch_good_client(server: Server, until: Callable[[], bool]) -> None:
    """New connections of another address, fewer than its rate, are each served soon, for ten seconds at most.

    One of them may take longer: a busy machine may stop for as long.
    """
    end, slow = time.monotonic() + 10, 0
    while not until() and (begin := time.monotonic()) < end:
        client = server.client()
        assert client.request("GET", "/").status == 200
        client.close()
        slow += time.monotonic() - begin >= SOON
        threading.Event().wait(0.1)
    assert slow <= 1


@pytest.mark.parametrize("workers", [1, 2])
def test_handshakes_of_an_address_are_rated(start_server: StartServer, workers: int) -> None:
    """One address does not get more of them than its rate, over all workers; another is served all the while."""
    server = start_server(connections_per_address=RATE, workers=workers)
    server.client().request("GET", "/")
    context = unverified_context()

    def knock() -> None:
        shake(server, context).close()

    began = time.monotonic()
    with flood(knock) as count:
        watch_good_client(server, until=lambda: count() > 50)
        handshakes, seconds = count(), time.monotonic() - began
    assert handshakes <= RATE * (2 + seconds) + FLOODERS


def test_requests_that_are_none_are_rated(start_server: StartServer) -> None:
    """What cannot be understood ends its connection, so that no more of them are looked at than connections begin."""
    server = start_server(connections_per_address=RATE, tls=False)

    def knock() -> None:
        with socket.create_connection(("127.0.0.1", server.port), 10, source_address=("127.0.0.2", 0)) as sock:
            sock.sendall(b"nonsense\r\n\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.1 400")

    began = time.monotonic()
    with flood(knock) as count:
        watch_good_client(server, until=lambda: count() > 50)
        refused, seconds = count(), time.monotonic() - began
    assert refused <= RATE * (2 + seconds) + FLOODERS


def test_who_waits_is_served_in_turn(start_server: StartServer) -> None:
    """Over its rate a client is slower, and nothing else: each of its requests is answered."""
    server = start_server(connections_per_address=10)
    began = time.monotonic()
    for _ in range(25):
        client = server.client()
        assert client.request("GET", "/").status == 200
        client.close()
    assert time.monotonic() - began > 0.4


def test_a_flood_of_silent_connections_leaves_room(start_server: StartServer) -> None:
    """Hundreds over the rate: as many as may wait do, the rest are closed and counted, and others come in."""
    server = start_server(connections_per_address=1, max_half_open=20)
    context = unverified_context()
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            source = ("127.0.0.2", 0)
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 30, source_address=source))
        begin = time.monotonic()
        assert server.client().request("GET", "/").status == 200
        assert time.monotonic() - begin < SOON
        with contextlib.suppress(OSError):
            shake(server, context, timeout=1).close()
    assert server.stop() == 0
    assert "connections of addresses that open too many a second" in server.log.read_text()


def test_a_worker_that_stops_serves_those_that_wait(start_server: StartServer) -> None:
    """Whom the kernel has let in gets its answer, whatever its rate."""
    server = start_server(connections_per_address=1, tls=False)
    clients = [server.client() for _ in range(8)]
    assert clients[0].request("GET", "/").status == 200
    for client in clients[1:]:
        client.send("GET", "/")
    assert server.stop() == 0
    assert [client.read().status for client in clients[1:]] == [200] * 7


def test_a_trusted_proxy_is_not_rated() -> None:
    """Its connections are many clients'."""
    arrivals = Arrivals(Rates(monotonic=lambda: 0.0), 1.0, burdens=Burdens(Rates()), room=1, patience_s=10)
    with socket.socket() as sock:
        assert all(arrivals.admit(Arrival(sock, ("192.0.2.1", 1), 3, "", 0.0)) for _ in range(50))
        assert sock.fileno() >= 0
    assert len(arrivals) == 0


@pytest.mark.parametrize(
    ("address", "whose"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2"),
        ("fe80::1%eth0", "fe80::2%eth1"),
    ],
)
def test_ipv6_counts_by_its_64(address: str, whose: str) -> None:
    """An IPv6 address counts with the /64 that its holder has of them all, an IPv4 one is itself, mapped or not."""
    trusted = WebSettings(trusted_proxies=(ip_network("192.0.2.128/25"), ip_network("2001:db8:5::/48")))
    assert counted_address(address, trusted) == counted_address(whose, trusted) != ""
    for other in ("192.0.2.2", "2001:db8:0:2::1"):
        assert counted_address(other, trusted) not in ("", counted_address(address, trusted))
    for proxy in ("192.0.2.200", "::ffff:192.0.2.200", "2001:db8:5::1"):
        assert counted_address(proxy, trusted) == ""


def test_each_address_has_its_own_turn() -> None:
    """One that waits keeps no other from its turn; who has waited for too long is closed."""
    now = [0.0]
    arrivals = Arrivals(Rates(monotonic=lambda: now[0]), 1.0, burdens=Burdens(Rates()), room=10, patience_s=3)
    with contextlib.ExitStack() as stack:

        def arrive(key: str) -> bool:
            sock = stack.enter_context(socket.socket())
            return arrivals.admit(Arrival(sock, (key, 1), 3, key, now[0]))

        assert [arrive("a") for _ in range(7)] == [True, True] + [False] * 5
        assert [arrive("b") for _ in range(3)] == [True, True, False]
        assert list(arrivals.due(now[0])) == []
        now[0] = 1.0
        assert [arrival.key for arrival in arrivals.due(now[0])] == ["a", "b"]
        assert len(arrivals) == 4
        now[0] = 3.0
        assert list(arrivals.due(now[0])) == []
        assert (len(arrivals), arrivals.count_closed(), arrivals.count_closed()) == (0, 4, 0)
