"""C7 and C8 on the whole gateway: clients that stall, overfill, inject and wander cost others nothing, and no log shows
what they sent."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from gateway.api.route import Route
from gateway.api.routes import ROUTES
from gateway.auth.actions import GRANTABLE
from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.waiting import BUSY, until
from tests.opened import noted
from tests.web.conftest import unverified_context

THREADS = 16
CLIENTS = 60
CANARY = "canary5ecret"
PAGE = "https://panel.example.org"
MIB = 1 << 20


@pytest.fixture(scope="module")
def other(make_gateway: Callable[..., Gateway]) -> Gateway:
    """A gateway with few threads, whose logs nobody else writes to."""
    return make_gateway(web={"threads": THREADS, "allowed_origins": [PAGE]})


@pytest.fixture
def api(other: Gateway) -> Iterator[Api]:
    opened = other.api()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def mighty(other: Gateway) -> Iterator[Api]:
    """The API as a token that may do everything, so that no grant stands before what is tried."""
    opened = other.api(other.token("mighty", actions=",".join(sorted(GRANTABLE))))
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def clean(other: Gateway) -> Iterator[None]:
    """C8: after each test no log shows the canary, or a line that is not one of a log's own."""
    yield
    for name in ("web", "supervisor", "audit"):
        text = other.log(name)
        assert CANARY not in text and "Traceback" not in text
        assert not [line for line in text.splitlines() if line and not _LINE.match(line)]
    assert CANARY not in other.audit_log.read_text()


_LINE = re.compile(r"(\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+0000\] \[\d+\] )?\[?(INFO|WARNING|ERROR)\]? ")


def connect(gateway: Gateway) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", gateway.services.port), timeout=30)
    return noted(unverified_context().wrap_socket(plain))


def worker(gateway: Gateway) -> Path:
    """The web's worker in /proc."""
    master = gateway.services.pid("web")
    return Path("/proc", Path(f"/proc/{master}/task/{master}/children").read_text().split()[0])


def memory(gateway: Gateway) -> int:
    """Its resident KiB."""
    return int(re.findall(r"VmRSS:\s+(\d+)", (worker(gateway) / "status").read_text())[0])


def descriptors(gateway: Gateway) -> int:
    return len(list((worker(gateway) / "fd").iterdir()))


def reply_to(gateway: Gateway, sent: bytes) -> tuple[int, bytes]:
    """The status of the reply, and all of it; 0 where the connection ends without one."""
    with connect(gateway) as sock:
        with contextlib.suppress(OSError):
            sock.sendall(sent)
        data = b""
        with contextlib.suppress(OSError):
            while b"\r\n\r\n" not in data and (more := sock.recv(65536)):
                data += more
        return (int(data.split()[1]) if data else 0), data


def test_clients_that_break_off_leave_nothing(other: Gateway, api: Api) -> None:
    """Resets in the middle of a handshake, a head, a body, a stream and a terminal: their descriptors come back."""
    mighty = other.token("breaking", actions="exec:run,exec:terminal")
    good = f"Host: x\r\nAuthorization: Bearer {mighty}\r\n"
    upgrade = (
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: pvex.v1\r\n\r\n"
    )
    body = '{"command": ["yes"], "timeout": 60}'
    heads = [
        f"GET /execs HTTP/1.1\r\n{good}\r\n" * 20,
        f"POST /exec/101 HTTP/1.1\r\n{good}Content-Length: 500000\r\n\r\n{{",
        f"POST /exec/101 HTTP/1.1\r\n{good}Accept: application/x-ndjson\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}",
        f"GET /exec/101/terminal HTTP/1.1\r\n{good}{upgrade}\x81\x05",
    ]
    assert api.run(101, ["true"])["exit_code"] == 0
    before = descriptors(other)
    for _ in range(10):
        for head in heads:
            sock = connect(other)
            sock.sendall(head.encode("latin-1"))
            with contextlib.suppress(OSError):
                sock.recv(1000)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        half_handshake(other, "").close()
    until(lambda: descriptors(other) <= before + 8, within=20, why="descriptors come back")
    until(lambda: not api.get("/execs?state=running").json()["execs"], within=20, why="what they ran ends")


# ---- slow ones


def silent(gateway: Gateway, token: str) -> socket.socket:
    return noted(socket.create_connection(("127.0.0.1", gateway.services.port), timeout=15))


def half_handshake(gateway: Gateway, token: str) -> socket.socket:
    sock = silent(gateway, token)
    sock.sendall(bytes.fromhex("16030100c8010000c40303"))
    return sock


def sending(head: str, *, authorized: bool = False) -> Callable[[Gateway, str], socket.socket]:
    def attack(gateway: Gateway, token: str) -> socket.socket:
        sock = connect(gateway)
        field = f"Authorization: Bearer {token}\r\n" if authorized else ""
        sock.sendall(head.replace("{}", f"Host: x\r\nContent-Type: application/json\r\n{field}").encode())
        return sock

    return attack


SLOW = {
    "silent": silent,
    "half-handshake": half_handshake,
    "head": sending("GET / HTTP/1.1\r\nHost: x\r\nX: "),
    "body": sending("POST /exec/101 HTTP/1.1\r\n{}Content-Length: 5000\r\n\r\n{"),
    "long-body": sending("POST /exec/101 HTTP/1.1\r\n{}Content-Length: 500000\r\n\r\n{", authorized=True),
    "chunked-body": sending("POST /exec/101 HTTP/1.1\r\n{}Transfer-Encoding: chunked\r\n\r\n5\r\n", authorized=True),
    "input": sending(
        f"PUT /execs/ex_{'0' * 26}/stdin HTTP/1.1\r\n{{}}Transfer-Encoding: chunked\r\n\r\n5\r\n", authorized=True
    ),
}


@pytest.mark.parametrize("attack", SLOW.values(), ids=SLOW)
def test_slow_clients_delay_nobody(other: Gateway, api: Api, attack: Callable[[Gateway, str], socket.socket]) -> None:
    """Sixty of them, a byte now and then, on sixteen threads: another token's command takes less than a second."""
    token = other.token("slow")
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(attack(other, token)) for _ in range(CLIENTS)]
        stop = threading.Event()
        trickling = threading.Thread(target=trickle, args=(socks, stop))
        trickling.start()
        try:
            for _ in range(5):
                begin = time.monotonic()
                assert api.run(101, ["true"])["exit_code"] == 0
                api.close()
                assert api.get("/tokens/self").status == 200
                assert time.monotonic() - begin < 1 + BUSY
        finally:
            stop.set()
            trickling.join()


def trickle(socks: list[socket.socket], stop: threading.Event) -> None:
    while not stop.wait(0.2):
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.sendall(b"x")


def test_long_body_of_one_token_leaves_threads_to_others(other: Gateway, api: Api) -> None:
    """While one token's uploads take what they may, another's long body is read."""
    token = other.token("uploads")
    with contextlib.ExitStack() as stack:
        for _ in range(CLIENTS):
            stack.enter_context(SLOW["chunked-body"](other, token))
        body = {"command": ["wc", "-c"], "stdin": "x" * 300_000}
        begin = time.monotonic()
        answer = api.post(101, body)
        assert (answer.status, time.monotonic() - begin < 3 + BUSY) == (200, True), (answer.status, answer.body)


# ---- large ones


def test_a_gibibyte_is_refused_unread(other: Gateway, api: Api) -> None:
    """Told or not, by anybody: 413 or 401, long before it has come, and nothing of it stays in memory."""
    before = memory(other)
    json_field = "Content-Type: application/json\r\n"
    good = f"Authorization: Bearer {api.token}\r\n"
    gib = f"Content-Length: {1 << 30}\r\n"
    begin = time.monotonic()
    for head, expected in (
        (f"POST /exec/101 HTTP/1.1\r\nHost: x\r\n{json_field}{gib}{good}\r\n", {413}),
        (f"PUT /execs/ex_{'0' * 26}/stdin HTTP/1.1\r\nHost: x\r\n{gib}\r\n", {401}),
        (f"PUT /execs/ex_{'0' * 26}/stdin HTTP/1.1\r\nHost: x\r\n{gib}{good}\r\n", {404}),
        (f"POST /exec/101 HTTP/1.1\r\nHost: x\r\n{json_field}Transfer-Encoding: chunked\r\n{good}\r\n", {413}),
    ):
        chunk = b"%x\r\n%b\r\n" % (MIB, b" " * MIB)
        status, sent = 0, 0
        with connect(other) as sock:
            sock.sendall(head.encode())
            with contextlib.suppress(OSError):
                while sent < 64 and status == 0:
                    sock.sendall(chunk)
                    sent += 1
                    sock.settimeout(0.001)
                    with contextlib.suppress(TimeoutError, ssl.SSLWantReadError):
                        status = int(sock.recv(1000).split()[1])
                    sock.settimeout(15)
        assert sent < 40, head
        assert status in expected | {0}, (head, status)  # 0: it was cut off before it read the answer
    assert time.monotonic() - begin < 60
    assert memory(other) - before < 64 << 10


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"X-A: b\r\n" * 100_000, 431),
        (b"X-A: " + b"b" * MIB + b"\r\n", 431),
        (b"X-" + b"a" * 70_000 + b": b\r\n", 431),
        (b"Authorization: Bearer " + CANARY.encode() + b"\r\n" * 1 + b"X-A: b\r\n" * 70, 431),
    ],
    ids=["100000", "1-mib", "long-name", "70"],
)
def test_headers_without_end(other: Gateway, sent: bytes, status: int) -> None:
    """431, and nothing of them in memory or logs."""
    before = memory(other)
    for _ in range(5):
        assert reply_to(other, b"GET /execs HTTP/1.1\r\nHost: x\r\n" + sent + b"\r\n")[0] in (status, 0)
    assert memory(other) - before < 16 << 10


@pytest.mark.parametrize(("page", "told"), [(PAGE, True), ("https://evil.example", False)])
def test_a_page_reads_what_the_edge_refuses(other: Gateway, page: str, told: bool) -> None:
    """Of an origin that the configuration names."""
    head = b"GET /execs HTTP/1.1\r\nHost: x\r\nOrigin: " + page.encode() + b"\r\n" + b"X-A: b\r\n" * 70 + b"\r\n"
    status, headers = reply_to(other, head)
    assert status == 431
    assert (b"Access-Control-Allow-Origin: " + page.encode() in headers) is told


# ---- injection


@pytest.mark.parametrize(
    "field",
    [
        b"X-A: b\nX-Injected: 1",
        b"X-A: b\rX-Injected: 1",
        b"X-A: b\0X-Injected: 1",
        b"X-A : b",
        b"X A: b",
        b"X-A: b\r\n X-Injected: 1",
        b": b",
        b"\xff: b",
    ],
)
def test_header_that_is_two(other: Gateway, field: bytes) -> None:
    """What one reader takes for one header field and another for two is refused."""
    status, reply = reply_to(other, b"GET /health/live HTTP/1.1\r\nHost: x\r\n" + field + b"\r\n\r\n")
    assert status == 400 and b"Injected" not in reply


INJECTED = [
    f"%0d%0aX-Injected:%20{CANARY}",
    f"%0aERROR%20gateway:%20{CANARY}",
    f"%1b[31m{CANARY}",
    f"%e2%80%a8{CANARY}",
    f"%00{CANARY}",
]


@pytest.mark.parametrize("text", INJECTED)
def test_nothing_is_injected(other: Gateway, api: Api, text: str) -> None:
    """Into no header of a reply, and no line of a log: not by path, query, header or token."""
    good = f"Host: x\r\nAuthorization: Bearer {api.token}\r\n"
    for head in (
        f"GET /{text} HTTP/1.1\r\n{good}",
        f"GET /exec/{text} HTTP/1.1\r\n{good}",
        f"GET /execs/{text} HTTP/1.1\r\n{good}",
        f"GET /execs/{text}/stdout HTTP/1.1\r\n{good}",
        f"GET /execs?label=a={text}&after={text}&{text}=1 HTTP/1.1\r\n{good}",
        f"GET /execs?ticket={text} HTTP/1.1\r\nHost: x\r\n",
        f"GET /execs HTTP/1.1\r\nHost: {text}\r\nAuthorization: Bearer {text}\r\n",
        f"GET /execs HTTP/1.1\r\n{good}Accept: {text}\r\nPrefer: {text}\r\nRange: {text}\r\nOrigin: {text}\r\n",
        f"GET /execs HTTP/1.1\r\n{good}X-Request-Id: {text}\r\nX-Forwarded-For: {text}\r\nForwarded: for={text}\r\n",
        f"POST /exec/101 HTTP/1.1\r\n{good}Idempotency-Key: {text}\r\nContent-Type: {text}\r\nContent-Length: 2\r\n",
    ):
        status, reply = reply_to(other, f"{head}\r\n{{}}".encode())
        assert 200 <= status < 500, (head, status)
        headers = reply.partition(b"\r\n\r\n")[0]
        assert b"X-Injected" not in headers and CANARY.encode() not in headers, headers


# ---- wandering


ESCAPES = [
    "..", "../..", "%2e%2e", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..%2f..%2f..%2fetc%2fpasswd", "%252e%252e%252f", "..;/",
    "....//", "%c0%ae%c0%ae%c0%af", "..\\..\\etc", "%5c%5c", "101/../102", "101%2f..%2f102", "101/.", "101%00", "%00",
    "101%20", "%20101", "+101", "-101", "0101", "1e2", "0x65", "101.0", quote("\u0661\u0660\u0661"), "1" * 40, "*", "~",
    "$(id)", "ex_%2e%2e%2f", "ex_" + "0" * 25 + "%2f", "ex_" + "0" * 25, "ex_" + "0" * 27, "a" * 4000, "%ff", "%", "",
]  # fmt: skip


@pytest.mark.parametrize("route", [r for r in ROUTES if r.parameters], ids=lambda route: route.operation_id)
def test_path_leads_nowhere_else(other: Gateway, mighty: Api, route: Route) -> None:
    """In place of every path parameter: not found, like a guest or exec that is none, and never a fault of ours."""
    method = route.method
    begun = len(other.records(event="exec:intent"))
    for escape in ESCAPES:
        at = re.sub(r"\{[a-z_]+\}", lambda _: escape, route.path)  # noqa: B023 - called at once
        answer = mighty.request(method, at, {"command": ["true"]} if method == "POST" else None)
        assert answer.status in (400, 404, 405), (method, at, answer.status, answer.body)
        assert b"root:" not in answer.body
    assert len(other.records(event="exec:intent")) == begun
