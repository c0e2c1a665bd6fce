"""A PUT's body is taken as it comes, at any length and any pace; all others stay bounded."""

import hashlib
import os
import socket
import time

import pytest

from tests.web.conftest import StartServer

BOTH = pytest.mark.parametrize("tls", [True, False], ids=["https", "http"])
CHUNKED = b"PUT /stream HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@BOTH
@pytest.mark.parametrize("chunk", [0, 1000, 16384, 700_000], ids=lambda size: f"chunks-of-{size}")
def test_long_body_arrives_whole(start_server: StartServer, tls: bool, chunk: int) -> None:
    """20 MiB, over max_body, with a length or in chunks of any size, are what was sent."""
    client = start_server(tls=tls).client()
    body = os.urandom(20 << 20)
    if chunk:
        parts = (body[n : n + chunk] for n in range(0, len(body), chunk))
        client.sock.sendall(CHUNKED + b"".join(b"%X\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n")
        reply = client.read()
    else:
        reply = client.request("PUT", "/stream", body)
    assert reply.json() == {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    if not chunk:
        assert client.request("GET", "/").status == 200


@BOTH
@pytest.mark.parametrize("size", [None, 1_000_000], ids=["chunked", "counted"])
def test_typed_words_arrive_one_by_one(start_server: StartServer, tls: bool, size: int | None) -> None:
    """Each piece is given on before the next one is sent, also when body_s has long been over."""
    server = start_server(tls=tls, body_s=0.5)
    client = server.client()
    if size is None:
        client.sock.sendall(CHUNKED)
    else:
        client.sock.sendall(b"PUT /stream HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
    begin = time.monotonic()
    sent = b""
    while time.monotonic() - begin < 1:
        word = b"%d " % len(sent)
        if not size:
            client.sock.sendall(b"%x\r\n" % len(word))
        client.sock.sendall(word if size else word + b"\r\n")
        assert server.report() == {"event": "took", "piece": word.decode()}
        sent += word
    rest = bytes(size - len(sent)) if size else b""
    client.sock.sendall(rest or b"0\r\n\r\n")
    assert client.read().json()["sha256"] == hashlib.sha256(sent + rest).hexdigest()


def test_silence_ends_a_body_at_last(start_server: StartServer) -> None:
    """A body that stands still for longer than a connection may rest is a 408; what came was taken."""
    server = start_server(keepalive_s=1)
    client = server.client()
    begin = time.monotonic()
    client.sock.sendall(CHUNKED + b"3\r\nabc\r\n")
    assert server.report()["event"] == "took"
    assert server.report() == {"event": "broke", "size": 3, "kind": "_BodyFailed"}
    assert 1 <= time.monotonic() - begin < 8
    assert client.read().json()["code"] == "request_timeout"


@pytest.mark.parametrize(
    ("tail", "size"), [(b"5\r\nab", 5), (b"zz\r\n", 3), (b"5\r\nabcdeXY", 8)], ids=["cut", "no-size", "no-end"]
)
def test_broken_body_is_never_a_whole_one(start_server: StartServer, tail: bytes, size: int) -> None:
    """All that came before the break is taken, then the application gets an exception."""
    server = start_server()
    client = server.client()
    client.sock.sendall(CHUNKED + b"3\r\nabc\r\n")
    server.report()
    client.sock.sendall(tail)
    socket.socket.shutdown(client.sock, socket.SHUT_WR)
    while (told := server.report())["event"] == "took":
        continue
    assert (told["event"], told["size"]) == ("broke", size)
    assert server.client().request("GET", "/").status == 200


def test_refused_stream_closes_the_connection(start_server: StartServer) -> None:
    """An application that reads nothing answers at once, and what is sent on is not taken for a request."""
    client = start_server().client()
    client.sock.sendall(b"PUT /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\nGET /boom HTTP/1.1")
    reply = client.read()
    assert (reply.status, reply.headers["connection"]) == (401, "close")
    assert client.ended()
