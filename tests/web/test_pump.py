"""Live replies: framed right, ended right, whatever the client does meanwhile."""

import contextlib
import socket
import ssl
import threading
import time

import pytest

from tests.web.conftest import Client, Server, ServerClosed, StartServer
from tests.web.soak_websocket import soak

BOTH = pytest.mark.parametrize("tls", [True, False], ids=["https", "http"])


def read_events(server: Server, count: int) -> list[str]:
    """What the Lives tell next, and that it was told on the pump's thread."""
    told = [server.report() for _ in range(count)]
    assert {facts.get("thread", "pump") for facts in told} == {"pump"}
    return [facts["event"] for facts in told]


@BOTH
def test_chunked_until_complete_then_the_next_request(start_server: StartServer, tls: bool) -> None:
    """Every size of piece arrives whole, and the connection then takes further requests, also ones sent ahead."""
    server = start_server(tls=tls)
    client = server.client()
    for size, count in ((1, 3), (1000, 1), (16384, 5), (1 << 20, 3), (1, 0)):
        client.send("GET", f"/live/pieces?size={size}&count={count}")
        client.send("GET", "/")
        reply = client.read()
        assert reply.headers["transfer-encoding"] == "chunked" and reply.headers["connection"] == "keep-alive"
        assert reply.body == (bytes(range(256)) * (size // 256) + bytes(size % 256)) * count
        assert client.read().status == 200
        assert read_events(server, 1) == ["closed"]


@BOTH
def test_piece_comes_when_it_is_there(start_server: StartServer, tls: bool) -> None:
    """Head and pieces are sent at once, each as a chunk of its own; requests sent ahead wait and are no leaving."""
    server = start_server(tls=tls)
    client, other = server.client(), server.client()
    client.send("GET", "/live/spoken/one")
    assert client.read_head().status == 200
    client.send("GET", "/")
    for word in (b"a", b"hello", b"x" * 5000):
        other.request("POST", "/live/spoken/one", word)
        assert client.read_chunk() == word
    other.request("POST", "/live/spoken/one", b"end")
    assert client.read_chunk() == b""
    assert client.read().status == 200
    assert read_events(server, 1) == ["closed"]


def test_live_is_woken_at_its_time(start_server: StartServer) -> None:
    """Without any source readable `produce` is called when `wake_at` says, and not all the time between."""
    server = start_server()
    client = server.client()
    begin = time.monotonic()
    client.send("GET", "/live/spoken/beat")
    client.read_head()
    cpu = server.processor_seconds()
    for _ in range(20):
        assert client.read_chunk() == b"beat"
    assert 1 <= time.monotonic() - begin < 10
    assert server.processor_seconds() - cpu < 0.3


@BOTH
def test_known_length_is_sent_without_chunks(start_server: StartServer, tls: bool) -> None:
    """With a Content-Length the body is bare, large or small, and the connection goes on."""
    server = start_server(tls=tls)
    client = server.client()
    for size, count in ((3, 1), (1 << 20, 5)):
        reply = client.request("GET", f"/live/pieces?size={size}&count={count}&length={size * count}")
        assert "transfer-encoding" not in reply.headers
        assert len(reply.body) == size * count
        assert client.request("GET", "/").status == 200
        assert read_events(server, 1) == ["closed"]


@pytest.mark.parametrize("length", [2500, 1500], ids=["short", "long"])
def test_other_length_than_promised_is_cut(start_server: StartServer, length: int) -> None:
    """A Live with less, or more, bytes than its Content-Length never looks complete; the client counts as not gone."""
    server = start_server()
    client = server.client()
    client.send("GET", f"/live/pieces?size=1000&count=2&length={length}")
    client.read_head()
    with pytest.raises(ServerClosed):
        client.take(length)
    assert read_events(server, 1) == ["closed"]
    assert "its Content-Length of" in server.log.read_text()


@BOTH
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_http_1_0_ends_with_the_connection(start_server: StartServer, tls: bool, cut: bool) -> None:
    """HTTP/1.0 gets no chunks; the end is a proper close, and a cut is a reset or an unexpected EOF."""
    server = start_server(tls=tls)
    client = server.client()
    path = "/live/faulty?where=produce" if cut else "/live/pieces?size=100000&count=3"
    client.sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    received = b""
    with pytest.raises((ConnectionResetError, ssl.SSLEOFError)) if cut else contextlib.nullcontext():
        while data := client.sock.recv(65536):
            received += data
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert cut or len(body) == 300_000
    assert read_events(server, 1) == ["closed"]


def test_head_has_no_body(start_server: StartServer) -> None:
    """HEAD closes the Live unasked and goes on."""
    server = start_server()
    client = server.client()
    client.sock.sendall(b"HEAD /live/pieces?size=1&count=1&length=1 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert client.read_head().headers["content-length"] == "1"
    assert client.request("GET", "/").status == 200
    assert server.report()["event"] == "closed"


@BOTH
@pytest.mark.parametrize("where", ["produce", "sources", "wake_at", "close"])
def test_fault_of_a_live_cuts_it_alone(start_server: StartServer, tls: bool, where: str) -> None:
    """An exception is logged, its reply has no end, and all others go on."""
    server = start_server(tls=tls)
    client, other = server.client(), server.client()
    other.send("GET", "/live/spoken/other")
    other.read_head()
    client.send("GET", f"/live/faulty?where={where}")
    client.read_head()
    assert client.read_chunk() == b"first"
    with pytest.raises(ServerClosed):
        client.read_chunk()
    assert read_events(server, 1) == ["closed"]
    server.client().request("POST", "/live/spoken/other", b"on")
    assert other.read_chunk() == b"on"
    assert f"RuntimeError: fault in {where}" in server.log.read_text()


@BOTH
@pytest.mark.parametrize("way", ["close", "reset", "half-close"])
def test_client_that_leaves_is_told_at_once(start_server: StartServer, tls: bool, way: str) -> None:
    """Each way of leaving an idle reply: gone once, then closed once."""
    server = start_server(tls=tls)
    client = server.client()
    client.send("GET", "/live/spoken/x")
    client.read_head()
    begin = time.monotonic()
    leave(client, way)
    gone = server.report()
    assert gone["event"] == "gone" and gone["at"] - begin < 1  # 5 ms on an idle machine
    assert read_events(server, 1) == ["closed"]
    assert server.client().request("GET", "/").status == 200
    assert_silence(server)


def leave(client: Client, way: str) -> None:
    if way == "half-close":
        socket.socket.shutdown(client.sock, socket.SHUT_WR)
        return
    if way == "reset":
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()


def assert_silence(server: Server) -> None:
    server.reports.setblocking(False)
    with pytest.raises(BlockingIOError):
        server.report()
    server.reports.settimeout(15)


@BOTH
def test_client_that_leaves_in_full_flow(start_server: StartServer, tls: bool) -> None:
    """Leaving with megabytes on their way, unread, is seen as well."""
    server = start_server(tls=tls)
    client = server.client()
    client.send("GET", "/live/endless")
    client.read_head()
    client.take(5_000_000)
    client.close()
    assert read_events(server, 2) == ["gone", "closed"]


@BOTH
def test_slow_reader_costs_one_piece(start_server: StartServer, tls: bool) -> None:
    """A client that does not read is given no more than the socket holds and one piece; others are served."""
    server = start_server(tls=tls, threads=2)
    before = server.resident_kib()
    slow = [server.client() for _ in range(10)]
    for client in slow:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.send("GET", "/live/endless")
        assert client.read_head().status == 200
    other = server.client()
    for _ in range(50):
        assert other.request("GET", "/").status == 200
    assert processor_rests(server)
    assert server.resident_kib() - before < 20 * 1024
    for client in slow:
        client.close()
    told = [server.report() for _ in range(20)]
    produced = [facts["produced"] for facts in told if facts["event"] == "closed"]
    assert len(produced) == 10 and max(produced) <= 10 << 20


def processor_rests(server: Server) -> bool:
    """Whether a second costs the process no time to speak of: whoever is blocked does not spin."""
    begin = server.processor_seconds()
    threading.Event().wait(1)
    return server.processor_seconds() - begin <= 0.12


def test_full_speed_delays_nobody(start_server: StartServer) -> None:
    """Beside a download at full speed, a piece of another reply and a new connection's request come in time."""
    server = start_server()
    fast, quiet, other = server.client(), server.client(), server.client()
    quiet.send("GET", "/live/spoken/quiet")
    quiet.read_head()
    fast.send("GET", "/live/endless")
    fast.read_head()
    stop = threading.Event()

    def drain() -> None:
        while not stop.is_set():
            fast.sock.recv(1 << 20)

    thread = threading.Thread(target=drain)
    thread.start()
    try:
        delays = []
        for _ in range(50):
            begin = time.monotonic()
            other.request("POST", "/live/spoken/quiet", b"word")
            assert quiet.read_chunk() == b"word"
            delays.append(time.monotonic() - begin)
        begin = time.monotonic()
        assert server.client().request("GET", "/").status == 200
        assert time.monotonic() - begin < 5
        assert sorted(delays)[25] < 0.5
    finally:
        stop.set()
        thread.join()


def test_200_replies_at_once_on_four_threads(start_server: StartServer) -> None:
    """Live replies hold no threads: each gets its own word, in any order."""
    server = start_server(threads=4)
    clients = []
    for n in range(200):
        clients.append(server.client())
        clients[-1].send("GET", f"/live/spoken/{n}")
        clients[-1].read_head()
    other = server.client()
    for n in reversed(range(200)):
        other.request("POST", f"/live/spoken/{n}", b"%d" % n)
    for n, client in enumerate(clients):
        assert client.read_chunk() == b"%d" % n
    for client in clients:
        client.close()
    assert sorted(read_events(server, 400)) == ["closed"] * 200 + ["gone"] * 200


def test_room_ends_at_the_limit(start_server: StartServer) -> None:
    """The application is told when there are as many live replies as `max_streams`, and when there is room again."""
    server = start_server(max_streams=2)
    first, second, other = server.client(), server.client(), server.client()
    for n, client in enumerate((first, second)):
        assert other.request("GET", "/live/room").json() == {"room": True}
        client.send("GET", f"/live/spoken/{n}")
        client.read_head()
    assert other.request("GET", "/live/room").json() == {"room": False}
    first.close()
    assert read_events(server, 2) == ["gone", "closed"]
    other.request("POST", "/live/spoken/1", b"word")  # a round later the first one is forgotten
    second.read_chunk()
    assert other.request("GET", "/live/room").json() == {"room": True}


@BOTH
def test_upgrade_carries_both_ways(start_server: StartServer, tls: bool) -> None:
    """A Live that upgrades writes all and gets all, from the bytes right behind the request to a proper close."""
    server = start_server(tls=tls)
    client = server.client()
    client.sock.sendall(b"GET /live/echo HTTP/1.1\r\nHost: x\r\n\r\nearly")
    head = client.read_head()
    assert (head.status, head.headers["upgrade"]) == (101, "echo")
    assert client.take(5) == b"early"
    for size in (1, 100, 16384, 100_000, 900_000):
        client.sock.sendall(b"x" * size)
        assert client.take(size) == b"x" * size
    client.sock.sendall(b"bye")
    assert client.take(3) == b"bye"
    assert client.ended_properly()
    assert read_events(server, 1) == ["closed"]


@BOTH
def test_upgrade_stops_reading_when_the_live_has_enough(start_server: StartServer, tls: bool) -> None:
    """A client that sends without reading is stopped by TCP, its leaving is seen, and nothing spins meanwhile."""
    server = start_server(tls=tls)
    client = server.client()
    client.send("GET", "/live/echo")
    assert client.read_head().status == 101
    client.sock.settimeout(1)
    with pytest.raises(TimeoutError):
        for _ in range(1000):
            client.sock.sendall(b"x" * 100_000)
    assert processor_rests(server)
    client.close()
    assert read_events(server, 2) == ["gone", "closed"]


def test_client_of_an_upgrade_that_leaves(start_server: StartServer) -> None:
    """TLS's own goodbye is a leaving, too, before any FIN."""
    server = start_server()
    client = server.client()
    client.send("GET", "/live/echo")
    client.read_head()
    assert isinstance(client.sock, ssl.SSLSocket)
    client.sock.settimeout(0)
    with contextlib.suppress(ssl.SSLError):  # it waits for the server's goodbye, which does not come
        client.sock.unwrap()
    assert read_events(server, 2) == ["gone", "closed"]


def test_both_ways_at_full_speed(start_server: StartServer) -> None:
    """Five seconds of the soak: what comes back is what was sent, without a pause, beside clients that break off."""
    results = soak(start_server(), seconds=5, goal=1 << 30)
    assert all(result.same and result.received > 10 << 20 for result in results)
