"""Ordinary clients: connections are reused, bodies arrive whole, replies leave in one piece."""

import contextlib
import hashlib
import ssl
import threading

import pytest

from tests.web.conftest import StartServer


@pytest.mark.parametrize("tls", [True, False], ids=["https", "http"])
def test_keepalive_and_pipelining(start_server: StartServer, tls: bool) -> None:
    """One connection carries many requests, one after the other or sent ahead, and every kind of reply."""
    client = start_server(tls=tls).client()
    for size in (0, 1, 1000, 65536, 65537, 3_000_000):
        body = bytes(range(256)) * (size // 256 + 1)
        body = body[:size]
        assert client.request("POST", "/echo", body).body == body
    for _ in range(50):
        client.send("GET", "/")
        client.send("POST", "/echo", b"abc")
    for _ in range(50):
        assert client.read().status == 200
        assert client.read().body == b"abc"
    assert client.request("GET", "/stream").body == b"0\n1\n2\n"
    assert client.request("GET", "/").headers["server"] == "pve-exec-gateway"
    assert client.request("GET", "/", headers="Connection: close\r\n").headers["connection"] == "close"
    assert client.ended()


def test_request_split_anywhere(start_server: StartServer) -> None:
    """A request that comes byte by byte is read like one that comes at once, and the next one after it."""
    client = start_server(tls=False).client()
    request = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"
    for byte in request:
        client.sock.sendall(bytes([byte]))
    assert client.read().body == b"abc"
    assert client.read().status == 200


def test_cut_upload_is_never_taken_for_a_whole_one(start_server: StartServer) -> None:
    """A client that leaves in the middle of its body ends the request; the application sees an error."""
    server = start_server()
    client = server.client()
    client.sock.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"x" * 50000)
    client.close()
    assert server.client().request("GET", "/").status == 200


def test_large_reply_to_a_slow_reader_is_whole(start_server: StartServer) -> None:
    """8 MiB arrive byte for byte over TLS while others are served."""
    server = start_server(threads=2)
    client = server.client()
    client.send("GET", "/big")
    other = server.client()
    for _ in range(20):
        assert other.request("GET", "/").status == 200
    assert hashlib.sha256(client.read().body).digest() == hashlib.sha256(b"x" * 8 * 1024 * 1024).digest()


def test_more_clients_than_threads(start_server: StartServer) -> None:
    """20 connections with requests all the time, as many as 4 threads and their queue hold, are all served."""
    server = start_server(threads=4)
    failures: list[str] = []

    def hammer() -> None:
        client = server.client()
        for _ in range(20):
            try:
                assert client.request("GET", "/").status == 200
            except (OSError, AssertionError) as error:
                failures.append(repr(error))
                return

    threads = [threading.Thread(target=hammer) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_overload_is_503_with_retry_after(start_server: StartServer) -> None:
    """Once the queue behind busy threads is full, the answer is a retryable 503, not a hang."""
    server = start_server(threads=1)
    clients = [server.client() for _ in range(6)]
    clients[0].send("GET", "/watch")
    server.report()
    for client in clients[1:5]:
        client.send("GET", "/")
    reply = clients[5].request("GET", "/")
    assert (reply.status, reply.json()["code"], reply.headers["retry-after"]) == (503, "overloaded", "5")
    assert reply.json()["retryable"]


def test_handler_may_take_the_socket_over(start_server: StartServer) -> None:
    """A handler that speaks another protocol on the socket, and raises StopIteration, is left alone."""
    server = start_server()
    client = server.client()
    client.send("GET", "/takeover")
    received = b""
    with contextlib.suppress(ssl.SSLEOFError):
        while data := client.sock.recv(100):
            received += data
    assert received == b"HTTP/1.1 101 Switching Protocols\r\n\r\nmine now"
    assert server.client().request("GET", "/").status == 200


def test_sockets_notice_silence(start_server: StartServer) -> None:
    """Accepted sockets give a silent network up after 30 s and send small replies at once."""
    facts = start_server().client().request("GET", "/options").json()
    assert facts == {"nodelay": 1, "user_timeout": 30_000, "keepalive": 1, "idle": 10}


def test_large_bodies_are_not_kept(start_server: StartServer) -> None:
    """What an application has given away of twelve 15 MiB bodies is not the server's while it goes on, nor later."""
    server = start_server()
    before = server.resident_kib()
    clients = [server.client() for _ in range(12)]
    for client in clients:
        client.send("POST", "/hold", bytes(15 << 20))
        assert server.report() == {"event": "held"}
    assert server.resident_kib() - before < 24 * 1024
    for client in clients:
        client.close()
    assert server.resident_kib() - before < 24 * 1024
