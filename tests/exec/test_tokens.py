"""Tokens at a whole gateway: made and ended by API and command while commands run, and seen at once."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.waiting import BUSY, until
from tests.exec.websocket import Session

ACTIONS = "exec:run,guest:read,token:admin"
NEW: dict[str, Any] = {
    "name": "child",
    "grants": [{"actions": ["exec:run"], "guests": "101-110"}],
    "expires": "1h",
}


As = Callable[[str], Api]


@pytest.fixture
def hold(gateway: Gateway) -> Iterator[As]:
    """The API as a token, for as long as the test."""
    opened: list[Api] = []

    def open_api(token: str) -> Api:
        opened.append(gateway.api(token))
        return opened[-1]

    yield open_api
    for api in opened:
        api.close()


@pytest.fixture
def admin(gateway: Gateway, hold: As) -> Api:
    """One who may run commands in all guests and administer tokens."""
    return hold(gateway.token("admin", actions=ACTIONS))


def create(admin: Api, **more: Any) -> dict[str, Any]:
    answer = admin.request("POST", "/tokens", {**NEW, **more})
    assert answer.status == 201, answer.body
    view: dict[str, Any] = answer.json()
    return view


def seconds_until_refused(api: Api) -> float:
    """How long the gateway takes the token yet."""
    begun = time.monotonic()
    while api.get("/execs").status == 200:
        assert time.monotonic() - begun < 15
    return time.monotonic() - begun


def test_a_made_token_runs_commands_within_its_grant(admin: Api, hold: As) -> None:
    """What was given works in its guests and nowhere else, from the next request on."""
    child = hold(create(admin)["token"])
    assert child.run(101, ["/bin/true"])["exit_code"] == 0
    assert child.post(201, {"command": ["/bin/true"]}).status == 404
    assert child.get("/tokens").status == 403


def test_revocation_holds_at_once(gateway: Gateway, admin: Api, hold: As) -> None:
    """By API or by command: within a second on this node, also for a connection that is kept open."""
    for way in ("api", "command"):
        made = create(admin)
        child = hold(made["token"])
        assert child.get("/execs").status == 200
        if way == "api":
            assert admin.request("POST", f"/tokens/{made['id']}/revoke").status == 200
        else:
            gateway.services.command("token", "revoke", made["id"])
        assert seconds_until_refused(child) < 1 + BUSY
        assert child.get("/execs").code == "unauthenticated"


def test_a_tokens_own_limit_of_execs(admin: Api, hold: As) -> None:
    """One more than the token may run is 429 and names the limit; an edit that raises it holds for the next."""
    made = create(admin, limits={"max_running": 1})
    child = hold(made["token"])
    body = {"command": ["sleep", "30"], "queue_timeout": 0}
    first = child.post(101, body, headers={"Prefer": "respond-async"})
    assert first.status == 202
    refused = child.post(101, {**body, "command": ["true"]})
    assert refused.status == 429 and refused.json()["limited_by"] == "token.max_running"
    other = hold(create(admin, limits={"max_running": 1})["token"])
    assert other.post(101, {**body, "command": ["true"]}).status == 200
    assert admin.request("PATCH", f"/tokens/{made['id']}", {"limits": {"max_running": 2}}).status == 200
    assert child.post(101, {**body, "command": ["true"]}).status == 200
    assert child.request("DELETE", f"/execs/{first.json()['id']}?wait=10").status == 200


def test_rotation_under_load(gateway: Gateway, admin: Api, hold: As) -> None:
    """Secret and keys are rotated while the token is used: with overlap not one request is refused."""
    made = create(admin)
    old = hold(made["token"])
    with asking_on(gateway.api(made["token"])) as statuses:
        new = hold(admin.request("POST", f"/tokens/{made['id']}/rotate", {"overlap": "10m"}).json()["token"])
        for _ in range(2):
            gateway.services.command("keys", "rotate")
            assert [api.get("/execs").status for api in (old, new, admin)] == [200, 200, 200]
    assert set(statuses) == {200} and len(statuses) > 20
    admin.request("POST", f"/tokens/{made['id']}/rotate", {})
    assert [api.get("/execs").status for api in (old, new, admin)] == [401, 401, 200]


@contextmanager
def asking_on(api: Api) -> Iterator[list[int]]:
    """The statuses of requests that another client makes all the time."""
    statuses: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            statuses.append(api.get("/execs").status)
        api.close()

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield statuses
    finally:
        stop.set()
        asking.join()


def test_what_is_under_way_ends_with_its_token(gateway: Gateway, admin: Api, hold: As) -> None:
    """A stream of a running command is cut within a second of the revocation, and its command ends as if the client had
    left; one that runs detached goes on."""
    made = create(admin)
    child = hold(made["token"])
    body = {"command": "echo on; exec sleep 60", "kill_grace": 1}
    detached = child.post(101, body, headers={"Prefer": "respond-async"}).json()["id"]
    connection = child.connect(timeout=30)
    try:
        head = {
            "Authorization": f"Bearer {child.token}",
            "Accept": "application/x-ndjson",
            "Content-Type": "application/json",
        }
        connection.request("POST", "/exec/101", json.dumps(body), head)
        reply = connection.getresponse()
        assert reply.status == 200
        first = json.loads(reply.readline())
        gateway.services.command("token", "revoke", made["id"])
        begun = time.monotonic()
        with pytest.raises((http.client.HTTPException, OSError)):
            while reply.readline():
                pass
            raise http.client.IncompleteRead(b"")
        assert time.monotonic() - begun < 1 + BUSY
    finally:
        connection.close()
    words = f"of {made['id']}: its live reply is cut"
    until(lambda: words in gateway.services.log("web").read_text(), why="the log names the token")
    seer = hold(gateway.token("seer", actions="exec:admin"))
    ended = seer.get(f"/execs/{first['exec']['id']}?wait=10").json()
    assert (ended["state"], ended["reason"]) == ("ended", "client_gone")
    assert seer.get(f"/execs/{detached}").json()["state"] == "running"
    assert seer.request("DELETE", f"/execs/{detached}?wait=10").status == 200


def test_a_terminal_ends_with_its_secret(gateway: Gateway, admin: Api, hold: As) -> None:
    """Whoever typed by a secret that was replaced without overlap types no more: 4401 within a second or two, the shell
    ends as if the client had left; who typed by the new one goes on."""
    grants = [{"actions": ["exec:run", "exec:terminal"], "guests": "101"}]
    administrator = hold(gateway.token("terminals", actions=f"{ACTIONS},exec:terminal,exec:admin"))
    made = create(administrator, grants=grants)
    with Session(hold(made["token"]), "/exec/101/terminal") as old:
        exec_id = old.start(["/bin/sh"], tty={"rows": 24, "cols": 80}, env={"PS1": "ready> "}, kill_grace=1)
        old.until_shown("ready> ")
        rotated = administrator.request("POST", f"/tokens/{made['id']}/rotate", {}).json()
        with Session(hold(rotated["token"]), "/exec/101/terminal") as new:
            new.start(["/bin/sh"], tty={"rows": 24, "cols": 80}, env={"PS1": "ready> "}, kill_grace=1)
            assert old.until_closed(within=2 + BUSY) == (4401, "unauthenticated")
            new.until_shown("ready> ")
            new.type("echo st''ill\n")
            new.until_shown("still")
            new.type("exit\n")
            assert new.until_closed()[0] == 1000
    ended = administrator.get(f"/execs/{exec_id}?wait=10").json()
    assert (ended["state"], ended["reason"]) == ("ended", "client_gone")


def test_last_use_is_told_and_no_secret_is_kept(gateway: Gateway, admin: Api, hold: As) -> None:
    """The command shows that the web has seen the token; no file of the gateway holds it."""
    made = create(admin)
    child = hold(made["token"])
    assert admin.get(f"/tokens/{made['id']}").json()["last_used"] is None
    assert child.get("/tokens/self").status == 200
    shown = json.loads(gateway.services.command("token", "show", made["id"]))
    assert shown["last_used"] is not None
    secret = made["token"].rpartition(".")[2].encode()
    files = [path for path in Path(gateway.directory).rglob("*") if path.is_file()]
    assert files and not [path for path in files if secret in path.read_bytes()]
    named = [record for record in gateway.records() if made["id"] in json.dumps(record)]
    assert {record["event"] for record in named} >= {"token:create"}
