"""Nothing secret stands where it may not: canaries go to every place of every route, and are looked for everywhere."""

from __future__ import annotations

import contextlib
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from gateway.api.routes import ROUTES
from tests.api.test_access import QUERIES
from tests.canaries.acting import MACHINE, MADE, NOBODY, Acts
from tests.canaries.acts import ACTS, NOTHING_SECRET
from tests.canaries.commands import secret_spec
from tests.canaries.sinks import Onlooker, leaks_on_disk
from tests.canaries.strays import Stray, Strays
from tests.canaries.words import Canaries, Sink
from tests.exec.api import Answer, Api
from tests.exec.gateways import Gateway
from tests.pvesim.api.process import Api as PveProcess
from tests.pvesim.services import make_client_context

_BY_REPLY = frozenset({"id", "token_id", "upid"})
_LOOKED_AT = frozenset({"exec:run", "file:read", "guest:read"})
"""Actions whose strays go to guests that there are; the others change things, and go to nobody."""
_BEARER = b"Authorization: Bearer {}\r\n"
_NO_REQUESTS = {
    "plain HTTP": b"GET /execs HTTP/1.1\r\nHost: x\r\n" + _BEARER + b"\r\n",
    "no request line": b"{}\r\n" + _BEARER + b"\r\n",
    "a field without a name": b"GET / HTTP/1.1\r\nHost: x\r\n" + _BEARER + b"{}\r\n\r\n",
    "a field with a space": b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer {}\r\n\r\n",
    "a long field": b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + b"{}" * 1100 + b"\r\n\r\n",
    "a long line": b"GET /?token=" + b"{}" * 600 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "many fields": b"GET / HTTP/1.1\r\n" + _BEARER * 70 + b"\r\n",
    "a large body": b"POST /exec/101 HTTP/1.1\r\nHost: x\r\n" + _BEARER + b"Content-Length: 99999999\r\n\r\n{}",
    "no chunk": b"POST /exec/101 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{}\r\n",
    "two lengths": b"POST /exec/101 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
}


class Sender:
    """Sends everything, once, and keeps what its replies showed and should not have."""

    def __init__(self, gateway: Gateway, pve: PveProcess, canaries: Canaries, token: str) -> None:
        self._gateway = gateway
        self._canaries = canaries
        self._pve = pve
        self._token = token
        self.leaks: set[str] = set()
        self.sent: set[str] = set()
        self._api = gateway.api(token)
        self.acts = Acts(self._api, self._connect, canaries, pve, self.hear)

    def act(self) -> None:
        """Every act."""
        for act in dict.fromkeys(ACTS.values()):
            act(self.acts)

    def stray(self) -> None:
        """Every stray request of every route."""
        upid = self._api.get(f"/tasks?vmid={MADE}&limit=1").json()["tasks"][0]["upid"]
        names = {
            "vmid": str(NOBODY), "id": self.acts.exec_ids[0], "token_id": self.acts.token_ids[0], "snapshot": "nosuch",
            "upid": quote(upid, safe=""),
        }  # fmt: skip
        elsewhere = Strays(self._canaries, self._token, names, QUERIES)
        here = Strays(self._canaries, self._token, {**names, "vmid": "101"}, QUERIES)
        for route in ROUTES:
            for stray in (here if route.action in _LOOKED_AT else elsewhere).of(route):
                self._send(route.operation_id, stray)

    def garble(self) -> None:
        """What is no request, or plain HTTP where TLS is spoken: the edge answers that by itself."""
        where = ("127.0.0.1", self._gateway.services.port)
        context = make_client_context(self._gateway.services.ca)
        for kind, sent in _NO_REQUESTS.items():
            raw = sent.replace(b"{}", self._canaries.put("the edge", kind).encode())
            with socket.create_connection(where, timeout=30) as plain, contextlib.ExitStack() as opened:
                sock = plain
                if kind != "plain HTTP":
                    sock = opened.enter_context(context.wrap_socket(plain, server_hostname="localhost"))
                told = b""
                with contextlib.suppress(OSError):  # it may be cut before all is sent
                    sock.sendall(raw)
                    while more := sock.recv(65536):
                        told += more
            assert not told or told.startswith(b"HTTP/1.1 4"), (kind, told)
            self.leaks |= {*self._canaries.leaks(Sink.PROBLEM, told, kind)}

    def ask_of_a_broken_pve(self) -> None:
        """Questions, and a change, that PVE refuses, cuts off, or answers by nonsense."""
        for kind, status in (
            ("status", 401),
            ("status", 403),
            ("status", 500),
            ("status", 596),
            ("garbage", 0),
            ("drop", 0),
        ):
            self._pve.faults.add(kind, ".*", status=status)
            for operation, method, path in (
                ("showGuest", "GET", f"/guests/{MADE}"), ("stopGuest", "POST", f"/guests/{NOBODY}/stop"),
                ("runExec", "POST", f"/exec/{MACHINE}"),
            ):  # fmt: skip
                body = secret_spec(self.acts, MACHINE) if operation == "runExec" else None
                self.acts.ask(operation, method, path, body)
            self._pve.faults.clear()

    def _send(self, operation: str, stray: Stray) -> None:
        answer = self._api.request(stray.method, stray.path, raw=stray.body, headers=stray.headers)
        self.hear(operation, answer)
        self.sent.add(operation)

    def hear(self, operation: str, answer: Answer) -> None:
        where = f"{operation} {answer.status}"
        sink = Sink.PROBLEM if answer.status >= 400 else Sink.REPLY
        self.leaks |= {*self._canaries.leaks(sink, answer.body, where)}
        self.leaks |= {*self._canaries.leaks(Sink.HEADER, str(answer.headers).encode(), where)}

    def _connect(self, token: str | None) -> Api:
        return Api(self._gateway.services.port, self._gateway.services.ca, token)

    def close(self) -> None:
        self._api.close()


@pytest.fixture(scope="module")
def sender(gateway: Gateway, pve: PveProcess, canaries: Canaries, token: str) -> Iterator[Sender]:
    """All has been sent, and there was somebody on the node who looked at the processes meanwhile."""
    with contextlib.closing(Sender(gateway, pve, canaries, token)) as made:
        with Onlooker(canaries) as onlooker:
            made.act()
            made.stray()
            made.garble()
            made.ask_of_a_broken_pve()
        assert len(onlooker.seen) > 3, onlooker.seen
        made.leaks |= onlooker.leaks
        yield made


def test_every_route_has_its_canaries(sender: Sender, canaries: Canaries) -> None:
    """A new route gets strays by itself; one that is handed a body has to be told of in ACTS, or in NOTHING_SECRET."""
    taking = {r.operation_id for r in ROUTES if r.body is not None or r.upload or r.upgrades}
    assert taking - ACTS.keys() == NOTHING_SECRET
    assert {route.operation_id for route in ROUTES} == sender.sent
    for name in ACTS:
        assert any(not carrier.startswith(("body ", "path ", "query ")) for carrier in canaries.carriers(name)), name


def test_nobody_shows_a_canary(sender: Sender) -> None:
    """Neither a reply, its head nor a problem, nor a process's arguments or environment."""
    assert not sender.leaks, "\n".join(sorted(sender.leaks))


def test_nothing_on_the_disk_shows_one(sender: Sender, gateway: Gateway, canaries: Canaries) -> None:
    """Logs, the audit log, the spool, and every other file."""
    leaks = set(leaks_on_disk(gateway, canaries))
    assert not leaks, "\n".join(sorted(leaks))


def test_metrics_and_commands_show_none(sender: Sender, gateway: Gateway, canaries: Canaries, tmp_path: Path) -> None:
    """Neither what Prometheus reads, nor what an administrator has printed or sends to others."""
    services = gateway.services
    metrics = sender.acts.api.get("/metrics")
    assert metrics.status == 200
    leaks = {*canaries.leaks(Sink.METRICS, metrics.body, "metrics")}
    bundle = tmp_path / "bundle.tar.gz"
    for command in (["config", "show"], ["token", "list", "--json"], ["keys", "list"], ["support-bundle", str(bundle)]):
        leaks |= {*canaries.leaks(Sink.PRINTED, services.command(*command).encode(), command[0])}
    with tarfile.open(bundle) as tar:
        for member in tar.getmembers():
            file = tar.extractfile(member)
            if file is not None:
                leaks |= {*canaries.leaks(Sink.BUNDLE, file.read(), member.name)}
    assert not leaks, "\n".join(sorted(leaks))
