"""Behind nginx and Caddy as docs/operating.md configures them, a gateway does all that it does alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from http.client import HTTPSConnection
from typing import Any

import pytest

from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.streams import NDJSON, SSE, Reply
from tests.exec.waiting import until
from tests.exec.websocket import Session
from tests.files.paths import url
from tests.packaging.proxies import CADDY, NGINX, Kind, find, running
from tests.pvesim.services import make_client_context

GUEST = 101
PIECE = bytes(range(256)) * 4096
UPLOAD = 100
"""Pieces, of 1 MiB each."""


@pytest.fixture(scope="module")
def gateway(make_gateway: Callable[..., Gateway]) -> Gateway:
    return make_gateway(web={"trusted_proxies": ["127.0.0.1/32"]})


@pytest.fixture(scope="module", params=[NGINX, CADDY], ids=lambda kind: kind.program)
def proxy(request: pytest.FixtureRequest, gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Its port."""
    kind: Kind = request.param
    program = find(kind.program)
    if program is None:
        pytest.skip(f"no {kind.program}: make .test/{kind.program}")
    with running(kind, program, gateway, tmp_path_factory.mktemp(kind.program)) as port:
        yield port


@pytest.fixture(scope="module")
def api(proxy: int, gateway: Gateway) -> Iterator[Api]:
    """The API through the proxy."""
    token = gateway.token("behind", actions="exec:run,exec:terminal,file:read,file:write")
    opened = Api(proxy, gateway.services.ca, token)
    yield opened
    opened.close()


def begin(api: Api, script: str, **spec: Any) -> str:
    """A detached exec that takes input; its id."""
    answer = api.post(GUEST, {"command": script, "stdin_open": True, **spec}, headers={"Prefer": "respond-async"})
    assert answer.status == 202, answer.body
    exec_id: str = answer.json()["id"]
    return exec_id


def go_on(api: Api, exec_id: str) -> None:
    """Gives it the line that it waits for."""
    answer = api.request("PUT", f"/execs/{exec_id}/stdin?offset=0", raw=b"go on\n", headers={"Content-Type": BYTES})
    assert answer.status in (200, 204), answer.body


BYTES = "application/octet-stream"


@pytest.mark.parametrize("accept", [NDJSON, SSE])
def test_an_event_comes_when_it_happens(api: Api, accept: str) -> None:
    """The first output is read before the command has its input, and the end when that has come; nothing is collected
    on the way."""
    exec_id = begin(api, "echo first; read line; echo second")
    with Reply(api, "GET", f"/execs/{exec_id}/events", headers={"Accept": accept}) as reply:
        assert reply.next_event("stdout")["data"] == "first\n"
        go_on(api, exec_id)
        assert reply.next_event("stdout")["data"] == "second\n"
        assert reply.next_event("end")["exec"]["exit_code"] == 0


def test_a_terminal(api: Api) -> None:
    """A WebSocket, both ways, to the exit code."""
    with Session(api, f"/exec/{GUEST}/terminal") as terminal:
        terminal.start(["sh"], tty={"rows": 30, "cols": 100})
        assert terminal.may_write()
        terminal.type("stty size; exit 7\n")
        terminal.until_shown("30 100")
        assert terminal.message("end")["exec"]["exit_code"] == 7


def test_an_upload_of_a_hundred_megabytes(api: Api) -> None:
    """Written into the guest as it was sent, and no limit of the proxy's stands before the gateway's."""
    path = url(GUEST, "/root/behind-a-proxy")
    digest = hashlib.sha256()
    connection = api.connect(60)
    connection.putrequest("PUT", path)
    for name, value in (
        ("Authorization", f"Bearer {api.token}"),
        ("Content-Type", BYTES),
        ("Content-Length", str(UPLOAD * len(PIECE))),
    ):
        connection.putheader(name, value)
    connection.endheaders()
    for _ in range(UPLOAD):
        connection.send(PIECE)
        digest.update(PIECE)
    reply = connection.getresponse()
    told = json.loads(reply.read())
    connection.close()
    assert (reply.status, told["sha256"]) == (201, digest.hexdigest()), told
    assert api.request("DELETE", path).status == 204


def test_a_question_that_waits(api: Api) -> None:
    """`?wait=` is answered when the command has ended, and no sooner."""
    exec_id = begin(api, "read line; exit 3")
    connection = api.connect()
    connection.request("GET", f"/execs/{exec_id}?wait=30", headers={"Authorization": f"Bearer {api.token}"})
    assert connection.sock is not None
    connection.sock.settimeout(0.3)
    with pytest.raises(TimeoutError):
        connection.sock.recv(1)
    connection.sock.settimeout(30)
    go_on(api, exec_id)
    reply = connection.getresponse()
    view = json.loads(reply.read())
    connection.close()
    assert (view["state"], view["exit_code"]) == ("ended", 3)


def test_a_client_that_leaves(api: Api) -> None:
    """The proxy tells by leaving, too: a silent command ends as without it."""
    label = f"leaves-{api.port}"
    connection = api.begin(GUEST, {"command": ["sleep", "600"], "labels": {"job": label}})
    exec_id = until(lambda: api.get(f"/execs?label=job={label}").json()["execs"])[0]["id"]
    connection.close()
    ended = api.get(f"/execs/{exec_id}?wait=20").json()
    assert ended.get("reason") == "client_gone", ended


def test_who_asks_is_the_client(api: Api, gateway: Gateway) -> None:
    """The audit log names the client's own address: not the proxy's, and not what the client says of itself."""
    context = make_client_context(gateway.services.ca)
    connection = HTTPSConnection("127.0.0.1", api.port, context=context, source_address=("127.0.0.9", 0))
    headers = {
        "Authorization": f"Bearer {api.token}",
        "X-Forwarded-For": "192.0.2.99",
        "Content-Type": "application/json",
    }
    connection.request("POST", f"/exec/{GUEST}", json.dumps({"command": ["true"]}), headers)
    told = json.loads(connection.getresponse().read())
    connection.close()
    records = until(lambda: gateway.records(exec_id=told["id"], event="exec:intent"))
    assert [record["remote"] for record in records] == ["127.0.0.9"]
