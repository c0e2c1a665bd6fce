"""Clients that make OpenSSL work without end keep nobody waiting, and are held off; others notice nothing."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.rates import Rates
from gateway.web.burdens import BURST_MS, HOLD_SECONDS, MAX_HELD, MS_PER_SECOND, Burdens
from gateway.web.tls import make_context, measure_handshake
from gateway.web.watchdog import Watchdog, WatchedSocket
from tests.exec.waiting import until
from tests.web.conftest import Client, Server, StartServer
from tests.web.own_tls import OwnTls

UPDATES = 100_000
"""A second's work for OpenSSL, at either end."""
SOON = 5.0
"""Seconds on a busy machine; a twentieth on an idle one."""
ATTACKER = "127.0.0.2"


def connect(server: Server, timeout: float = 30) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout, source_address=(ATTACKER, 0))


def is_held_off(server: Server) -> bool:
    return f"{ATTACKER} is held off" in server.log.read_text()


class Flood:
    """Key updates, made before, on several connections at once, behind the beginning of a request."""

    def __init__(self, server: Server, begun: bytes, *, connections: int) -> None:
        self.attackers = [OwnTls(connect(server)) for _ in range(connections)]
        self._floods = []
        for attacker in self.attackers:
            if begun:
                attacker.sock.sendall(attacker.encrypt(begun))
            self._floods.append(attacker.make_updates(UPDATES))
        self._threads = [
            threading.Thread(target=self._run, args=pair) for pair in zip(self.attackers, self._floods, strict=True)
        ]

    def _run(self, attacker: OwnTls, flood: bytes) -> None:
        with contextlib.suppress(OSError):  # it is cut
            attacker.sock.sendall(flood)

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            for attacker in self.attackers:
                with contextlib.suppress(OSError):
                    attacker.sock.shutdown(socket.SHUT_RDWR)
            for thread in self._threads:
                thread.join()
            for attacker in self.attackers:
                attacker.close()


def ask(server: Server, _: Client) -> None:
    client = server.client()
    assert client.request("GET", "/").status == 200
    client.close()


def upload(_: Server, client: Client) -> None:
    assert client.request("POST", "/echo", b"x" * 100_000).body == b"x" * 100_000


def echo(_: Server, client: Client) -> None:
    client.sock.sendall(b"x")
    assert client.take(1) == b"x"


UPGRADE = b"GET /live/echo HTTP/1.1\r\nHost: x\r\n\r\n"
UPLOAD = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nx"


@pytest.mark.parametrize(
    ("begun", "work"),
    [(b"", ask), (UPLOAD, upload), (UPGRADE, echo)],
    ids=["poller", "upload", "pump"],
)
def test_key_updates_keep_nobody_waiting(
    start_server: StartServer, begun: bytes, work: Callable[[Server, Client], None]
) -> None:
    """Floods of them, before a request, in a body, in a live reply, hold nobody else up; who sends them is cut, and
    held off for a while."""
    server = start_server(threads=4, handshake_s=60, head_s=60, body_s=60)
    client = server.client()
    if begun == UPGRADE:
        client.send("GET", "/live/echo")
        assert client.read_head().status == 101
    work(server, client)
    flood = Flood(server, begun, connections=4)
    deadline = time.monotonic() + 30
    with flood.under_way():
        while not is_held_off(server):
            begin = time.monotonic()
            assert begin < deadline
            work(server, client)
            assert time.monotonic() - begin < SOON
        with pytest.raises(OSError):
            OwnTls(connect(server)).close()


def test_a_few_key_updates_are_nothing(start_server: StartServer) -> None:
    """Who changes keys ten times before each request is served as everybody."""
    server = start_server()
    with OwnTls(connect(server)) as client:
        for _ in range(50):
            client.sock.sendall(client.make_updates(10) + client.encrypt(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
            assert client.receive().startswith(b"HTTP/1.1 200")


def test_short_floods_add_up(start_server: StartServer) -> None:
    """None of them takes as long as a call may; together they are more than an address may."""
    server = start_server(keepalive_s=60, head_s=60)
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with OwnTls(connect(server)) as client:
        floods = [client.make_updates(1500) + client.encrypt(request) for _ in range(80)]
        with pytest.raises(OSError):
            for flood in floods:
                client.sock.sendall(flood)
                client.receive()


def test_dear_handshakes_add_up(start_server: StartServer) -> None:
    """A client may choose a group that costs us hundredfold, but not again and again: fifty such handshakes take little
    of our processor, be it that their client is soon held off, or that this OpenSSL (3.5) has no such group."""
    server = start_server()
    before = server.processor_seconds()
    for _ in range(50):
        with contextlib.suppress(OSError):  # it is cut, or held off
            OwnTls(connect(server), groups=b"ffdhe8192:ffdhe3072").close()
    spent = server.processor_seconds() - before
    assert 0 < spent < 1.5
    until(lambda: is_held_off(server) or spent < 0.5)
    assert server.client().request("GET", "/").status == 200


def test_an_allowance_and_then_ten_seconds() -> None:
    """An address may take so much at once and a twentieth of a processor; more, and it is held off; others are not."""
    now = [0.0]
    rates = Rates(BURST_MS, monotonic=lambda: now[0])
    ours, others = (Burdens(rates, monotonic=lambda: now[0]) for _ in range(2))
    for _ in range(100):
        assert not ours.charge("a", 0.01)
        now[0] += 10 / MS_PER_SECOND
    assert [ours.charge("a", BURST_MS / 2000) for _ in range(3)] == [False, False, True]
    assert ours.holds("a") and ours.charge("a", 0) and not ours.holds("b")
    assert not others.holds("a") and others.charge("a", 0.1)  # another process, which has seen nothing yet
    assert (ours.take_news(), ours.take_news()) == (["a"], [])
    now[0] += HOLD_SECONDS
    assert not ours.holds("a") and not ours.charge("a", 0.1)


def test_a_trusted_proxy_is_never_held_off() -> None:
    """Its connections are many clients'."""
    burdens = Burdens(Rates(BURST_MS))
    assert not any(burdens.charge("", 10) for _ in range(3))
    burdens.hold("")
    assert not burdens.holds("")


def test_addresses_held_off_are_bounded() -> None:
    """Of more than there is room for the newest are held."""
    burdens = Burdens(Rates(BURST_MS))
    for number in range(MAX_HELD + 10):
        burdens.hold(str(number))
    assert [burdens.holds(str(number)) for number in (0, 9, 10, MAX_HELD + 9)] == [False, False, True, True]
    assert len(burdens.take_news()) == MAX_HELD


def test_only_the_descriptor_of_the_call_is_replaced(certificate: tuple[Path, Path]) -> None:
    """A call that ends in the very moment in which it is cut has lost its descriptor, or keeps it; what is opened under
    that number later is never touched."""
    watchdog = Watchdog(Burdens(Rates(BURST_MS)), look_s=0.0005)
    context = make_context(*certificate)
    chance = random.Random(0)
    outcomes: Counter[bool] = Counter()
    with contextlib.ExitStack() as stack:
        null = os.open("/dev/null", os.O_RDONLY)
        stack.callback(os.close, null)
        later = []
        for _ in range(400):
            ours, theirs = socket.socketpair()
            stack.enter_context(theirs)
            sock = context.wrap_socket(ours, server_side=True, do_handshake_on_connect=False)
            assert isinstance(sock, WatchedSocket)
            sock.watch(watchdog, "", handshake_s=0)
            sock.most = 0.001
            number, before = sock.fileno(), os.fstat(sock.fileno())
            cut = is_cut(watchdog, sock, chance.uniform(0.0, 0.005))
            assert os.path.samestat(os.fstat(number), before) is not cut
            outcomes[cut] += 1
            sock.close()
            later.append(os.dup2(null, number))
            stack.callback(os.close, number)
            if min(outcomes[True], outcomes[False]) >= 20:
                break
        assert min(outcomes[True], outcomes[False]) >= 20
        assert all(os.path.samestat(os.fstat(number), os.fstat(null)) for number in later)


def is_cut(watchdog: Watchdog, sock: WatchedSocket, seconds: float) -> bool:
    """Whether a call that takes so much of the processor's time is cut."""
    call = watchdog.begin(sock)
    busy = time.thread_time() + seconds
    while time.thread_time() < busy:
        time.sleep(0)  # others may go on, as they can while OpenSSL works
    try:
        watchdog.end(call, usual=1)
    except ConnectionAbortedError:
        return True
    return False


def test_a_handshake_is_measured(certificate: tuple[Path, Path]) -> None:
    """What one costs is known from the start: it is some of the processor's time, and not much."""
    assert 0.00001 < measure_handshake(make_context(*certificate)) < 1
