"""What is no proper request gets a problem with a stable code, never HTML, never what was sent."""

import json

import pytest

from gateway.errors_all import all_errors
from gateway.web.codes import EDGE_CODES
from gateway.web.refusal import Refusal
from tests.web.conftest import Client, StartServer
from tests.web.served_app import PAGE

CASES = {
    "garbage": (b"secret-canary\r\n\r\n", 400, "malformed_request"),
    "no-host": (b"GET / HTTP/1.1\r\nX-Canary: canary\r\n\r\n", 400, "malformed_request"),
    "two-hosts": (b"GET / HTTP/1.1\r\nHost: canary\r\nHost: canary\r\n\r\n", 400, "malformed_request"),
    "bad-header": (b"GET / HTTP/1.1\r\nHost: x\r\nsecret-canary\r\n\r\n", 400, "malformed_request"),
    "two-lengths": (
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        400, "malformed_request"),
    "length-and-chunked": (
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400, "malformed_request"),
    "length-no-number": (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\nx", 400, "malformed_request"),
    "folded-length": (
        b"POST /echo HTTP/1.1\r\nHost: x\r\nX: y\r\n Content-Length: 4\r\n\r\nGET ", 400, "malformed_request"),
    "long-line": (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", 414, "request_line_too_long"),
    "long-header": (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 17000 + b"\r\n\r\n", 431, "headers_too_large"),
    "many-headers": (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 65 + b"\r\n", 431, "headers_too_large"),
    "100000-headers": (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 100_000 + b"\r\n", 431, "headers_too_large"),
    "endless-head": (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 200_000, 431, "headers_too_large"),
    "version": (b"GET / HTTP/3.0\r\nHost: x\r\n\r\n", 505, "http_version_unsupported"),
    "coding": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: secret\r\n\r\n", 501, "transfer_coding_unsupported"),
    "body-1-gib": (
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\n", 413, "payload_too_large"),
}  # fmt: skip


def test_a_kind_of_problem_has_one_title() -> None:
    """RFC 9457: a problem's title is that of its type, whether the edge answers or the application."""
    own = {(code, status) for status, codes in EDGE_CODES.items() for code in codes}
    both = [error for error in all_errors() if (error.code, error.status) in own]
    assert len({error.code for error in both}) >= 5
    for error in both:
        said = json.loads(Refusal(error.status, error.code, "").encode().partition(b"\r\n\r\n")[2])
        assert said["title"] == error.title, error.code


@pytest.mark.parametrize("tls", [True, False], ids=["https", "http"])
def test_protocol_error_is_a_problem(start_server: StartServer, tls: bool) -> None:
    """Each kind of bad request has its status and code, says nothing of the request, and closes."""
    server = start_server(tls=tls)
    for name, (sent, status, code) in CASES.items():
        client = server.client()
        client.sock.sendall(sent)
        reply = client.read()
        assert (name, reply.status, reply.json()["code"]) == (name, status, code)
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.headers["x-request-id"] == reply.json()["request_id"]
        assert reply.headers["connection"] == "close"
        assert b"canary" not in reply.body and b"<" not in reply.body
        assert client.ended()
    assert "canary" not in server.log.read_text()


def test_refusals_do_not_flood_the_log(start_server: StartServer) -> None:
    """Of 300 bad requests in a moment few have a line, and the others are counted."""
    server = start_server(tls=False)
    for _ in range(300):
        with server.raw() as sock:
            sock.sendall(b"nonsense\r\n\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.1 400")
    assert server.stop() == 0
    lines = [line for line in server.log.read_text().splitlines() if "refused" in line]
    written = [line for line in lines if "malformed_request" in line]
    counted = [int(line.split("refused ")[1].split()[0]) for line in lines if "more requests" in line]
    assert len(written) + sum(counted) == 300
    assert len(written) < 150


def test_plain_http_on_the_tls_port_is_told_so(start_server: StartServer) -> None:
    """http:// to an https port is answered in clear, not with a broken connection."""
    server = start_server()
    client = Client(server.port, tls=False)
    reply = client.request("GET", "/")
    assert (reply.status, reply.json()["code"]) == (400, "tls_required")
    client.close()


def test_http_2_is_not_spoken(start_server: StartServer) -> None:
    """HTTP/2's preface is refused as a request (gunicorn 23 minds its version first, 27 its target)."""
    client = start_server(tls=False).client()
    client.sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    reply = client.read()
    assert reply.status in (400, 505)
    assert reply.headers["content-type"] == "application/problem+json"


def test_chunked_body_over_the_limit_is_413(start_server: StartServer) -> None:
    """A body of unknown length is cut off at the limit, whatever the application does about it."""
    client = start_server(max_body_bytes=1000).client()
    client.sock.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n" + b"x" * 2000)
    reply = client.read()
    assert (reply.status, reply.json()["code"]) == (413, "payload_too_large")


def test_application_that_raises_is_a_problem(start_server: StartServer) -> None:
    """An exception that escapes the application is 500 without its text; the log has it under the id."""
    server = start_server()
    reply = server.client().request("GET", "/boom")
    assert (reply.status, reply.json()["code"]) == (500, "internal_error")
    assert b"canary" not in reply.body
    assert reply.json()["request_id"] in server.log.read_text()


def test_forwarding_headers_are_not_believed(start_server: StartServer) -> None:
    """Also from loopback no header changes scheme, path or script name."""
    client = start_server().client()
    forged = "SCRIPT_NAME: /x\r\nPATH_INFO: /boom\r\nX-Forwarded-Proto: http\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n"
    assert client.request("GET", "/", headers=forged).status == 200


def test_unread_body_keeps_the_connection_in_step(start_server: StartServer) -> None:
    """A body that the application ignores is never taken for the next request."""
    server = start_server()
    client = server.client()
    smuggled = b"GET /boom HTTP/1.1\r\nHost: x\r\n\r\n"
    assert client.request("POST", "/unread", smuggled).status == 401
    assert client.request("GET", "/").status == 200
    reply = client.request("POST", "/unread", smuggled * 4000)
    assert (reply.status, reply.headers["connection"]) == (401, "close")
    assert client.ended()


def test_expect_continue(start_server: StartServer) -> None:
    """A client that waits for 100 Continue gets it at once."""
    client = start_server().client()
    client.sock.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert client.read().status == 100
    client.sock.sendall(b"hello")
    assert client.read().body == b"hello"
    assert client.request("GET", "/").status == 200


def test_a_page_that_may_ask_may_read_why_not(start_server: StartServer) -> None:
    """The edge's own replies tell a named origin's pages what the application's do, as far as the origin was heard by
    then; others, and one that is two, hear only that it matters."""
    server = start_server(tls=False, head_s=2, body_s=2, max_half_open_per_address=64)
    page = f"Host: x\r\norigin:  {PAGE}\r\n".encode()
    long, slow = b"X: " + b"x" * 17000 + b"\r\n", b"Content-Length: 9\r\n\r\nx"
    asked = {
        "malformed": (b"GET / HTTP/1.1\r\n" + page + b"secret-canary\r\n\r\n", 400),
        "head": (b"GET / HTTP/1.1\r\n" + page + long + b"\r\n", 431),
        "endless": (b"GET / HTTP/1.1\r\n" + page + b"X: " + b"x" * 200_000, 431),
        "large": (b"POST /echo HTTP/1.1\r\n" + page + b"Content-Length: 1073741824\r\n\r\n", 413),
        "slow head": (b"GET / HTTP/1.1\r\n" + page + b"X: ", 408),
        "slow body": (b"POST /echo HTTP/1.1\r\n" + page + slow, 408),
        "slow upload": (b"POST /echo HTTP/1.1\r\n" + page + b"Transfer-Encoding: chunked\r\n\r\n1\r\n", 408),
    }
    clients: list[tuple[str, str | None, Client]] = []
    for heard, allowed in ((PAGE, PAGE), ("https://evil.example", None), (f"{PAGE}\r\nOrigin: {PAGE}", None)):
        for name, (sent, _) in asked.items():
            clients.append((name, allowed, server.client()))
            clients[-1][2].sock.sendall(sent.replace(PAGE.encode(), heard.encode()))
    for name, allowed, client in clients:
        reply = client.read()
        assert (name, reply.status) == (name, asked[name][1])
        assert (name, reply.headers.get("access-control-allow-origin")) == (name, allowed)
        assert reply.headers["vary"] == "Origin"
        assert ("Retry-After" in reply.headers.get("access-control-expose-headers", "")) is bool(allowed)


def test_an_origin_is_of_one_request(start_server: StartServer) -> None:
    """What an earlier request on the connection said does not speak for the next."""
    server = start_server(tls=False)
    client = server.client()
    assert client.request("GET", "/", headers=f"Origin: {PAGE}\r\n").status == 200
    client.sock.sendall(b"POST /echo HTTP/1.1\r\nContent-Length: 1073741824\r\n\r\n")
    reply = client.read()
    assert reply.status == 413 and "access-control-allow-origin" not in reply.headers
