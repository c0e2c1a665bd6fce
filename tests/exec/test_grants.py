"""C2 and C6 in real guests: what `commands` grants, pools and protected guests let through, on every way."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateway.config import load
from tests.exec.api import Answer, Api
from tests.exec.gateways import Gateway
from tests.exec.inside import ended, living, new_mark
from tests.exec.waiting import BUSY, until
from tests.exec.websocket import NotUpgraded, Session, WebSocket
from tests.pvesim import pmxcfs
from tests.pvesim.guests import Guest

USER_CFG = pmxcfs.ROOT / "user.cfg"
ECHO = ["/bin/echo", "*"]
CAT = ["/bin/cat"]
WAYS: list[dict[str, str]] = [{}, {"Accept": "application/x-ndjson"}, {"Prefer": "respond-async"}]


@pytest.fixture
def limited(gateway: Gateway) -> Iterator[Api]:
    """A token that may run echo with one argument and a cat that is fed, as root, in guests 101 to 299. Each test has
    its own: of one token's denials only so many are recorded."""
    opened = gateway.api(
        gateway.token_for({"actions": ["exec:run", "exec:terminal"], "guests": "101-299", "commands": [ECHO, CAT]})
    )
    yield opened
    opened.close()


def denied(gateway: Gateway, answer: Answer) -> dict[str, Any]:
    """The record of a denial, by the audit id that the caller was told."""
    (record,) = gateway.records(audit_id=answer.json()["audit_id"])
    assert record["event"] == "request:denied"
    data: dict[str, Any] = record["data"]
    return data


@pytest.mark.parametrize("headers", WAYS)
def test_a_granted_command_runs(limited: Api, vmid: int, headers: dict[str, str]) -> None:
    """In every kind of guest, and the wildcard's text comes out as it went in."""
    text = "a b  $(id) `id` ; * é"
    answer = limited.post(vmid, {"command": ["/bin/echo", text]}, headers=headers)
    assert answer.status in (200, 202), answer.body
    if not headers:
        assert answer.json()["stdout"] == f"{text}\n"


@pytest.mark.parametrize("headers", WAYS)
@pytest.mark.parametrize(
    "body",
    [
        {"command": "echo MARK"},
        {"command": "MARK", "shell": ["/bin/echo"]},
        {"command": ["echo", "MARK"]},
        {"command": ["/bin/sh", "-c", "/bin/echo MARK"]},
        {"command": ["/usr/bin/env", "/bin/echo", "MARK"]},
        {"command": ["/bin/nice", "/bin/echo", "MARK"]},
        {"command": ["/bin/../bin/echo", "MARK"]},
        {"command": ["//bin/echo", "MARK"]},
        {"command": ["/bin/echo\n", "MARK"]},
        {"command": ["/bin/echo", "MARK", "more"]},
        {"command": ["/bin/echo", "MARK\nmore"]},
        {"command": ["/bin/echo", "-MARK"]},
        {"command": ["/bin/echo", "MARK"], "env": {"LD_PRELOAD": "/tmp/x.so"}},
        {"command": ["/bin/echo", "MARK"], "env": {"PATH": "/tmp"}},
        {"command": ["/bin/echo", "MARK"], "user": "root"},
        {"command": ["/bin/echo", "MARK"], "user": "0"},
        {"command": ["/bin/echo", "MARK"], "cwd": "/tmp"},
    ],
)
def test_no_other_command_does(gateway: Gateway, limited: Api, body: dict[str, Any], headers: dict[str, str]) -> None:
    """C6: 403 before anything: no exec, no intent, no process; the audit log has the field and the program."""
    mark = new_mark()
    body = {**json.loads(json.dumps(body).replace("MARK", mark)), "labels": {"test": mark}}
    answer = limited.post(101, body, headers=headers)
    assert (answer.status, answer.code) == (403, "command_not_granted"), answer.body
    assert limited.get(f"/execs?label=test={mark}").json()["execs"] == []
    assert not living(mark)
    data = denied(gateway, answer)
    assert data["reason"] == "command_not_granted" and data["field"] == answer.json()["field"]
    assert mark not in json.dumps({**data, "program": ""})


def test_terminals_pass_the_same_check(gateway: Gateway, limited: Api) -> None:
    """What a WebSocket's first message asks for is checked as a POST is, and its denial is recorded."""
    before = len(gateway.records(event="request:denied"))
    for start in ({"command": ["/bin/sh"]}, {"command": "sh"}, {"command": ["/bin/sh"], "tty": {}}):
        with WebSocket(limited, "/exec/101/terminal") as socket:
            socket.say("start", **start)
            error = socket.receive_until("error")
            assert error["code"] == "command_not_granted"
    records = gateway.records(event="request:denied")[before:]
    assert [(record["data"]["reason"], record["data"]["operation"]) for record in records] == [
        ("command_not_granted", "openTerminal")
    ] * 3
    with Session(limited, "/exec/101/terminal") as session:
        session.say("start", command=["/bin/cat"], tty={"rows": 24, "cols": 80})
        session.receive_until("started")


def test_only_the_same_terms_feed_a_running_command(gateway: Gateway) -> None:
    """A token that is limited after it began a shell can type into it no more, by PUT or attached; it may still see
    it and end it."""
    token = gateway.token_for({"actions": ["exec:run"], "guests": "101"})
    api = gateway.api(token)
    body = {"command": ["/bin/sh"], "stdin_open": True}
    shell = api.post(101, body, headers={"Prefer": "respond-async"}).json()["id"]
    assert api.request("PUT", f"/execs/{shell}/stdin", raw=b"echo one\n").status == 200
    _regrant(gateway, token, {"actions": ["exec:run"], "guests": "101", "commands": [ECHO, CAT]})
    answer = api.request("PUT", f"/execs/{shell}/stdin", raw=b"echo two\n")
    assert (answer.status, answer.json()["field"]) == (403, "stdin")
    assert denied(gateway, answer)["reason"] == "command_not_granted"
    with pytest.raises(NotUpgraded) as refused:
        WebSocket(api, f"/execs/{shell}/attach?write=1").close()
    assert denied(gateway, refused.value.answer)["operation"] == "attachExec"
    WebSocket(api, f"/execs/{shell}/attach").close()
    fed = api.post(101, {"command": ["/bin/cat"], "stdin_open": True}, headers={"Prefer": "respond-async"}).json()["id"]
    assert api.request("PUT", f"/execs/{fed}/stdin?eof=true", raw=b"fed\n").status == 200
    assert ended(api, fed)["exit_code"] == 0
    assert api.request("DELETE", f"/execs/{shell}?wait=10").json()["reason"] == "cancelled"
    assert api.get(f"/execs/{shell}/stdout").body == b"one\n"
    api.close()


def _regrant(gateway: Gateway, token: str, *grants: dict[str, Any]) -> None:
    """Gives the token other grants, as an edit of its record does."""
    store = gateway.tokens()
    actor: Any = store.verify(token, "127.0.0.1")
    path = load(gateway.services.config).tokens.directory / f"{actor.token_id}.json"
    record = {**json.loads(path.read_text()), "grants": list(grants)}
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(json.dumps(record))
    new.rename(path)


def test_users_and_cwd_of_the_grant(gateway: Gateway) -> None:
    """A grant of a user and a directory runs there as that user, and not otherwise."""
    grant = {"actions": ["exec:run"], "guests": "101", "commands": [["/bin/sh", "-c", "id -u; pwd"]]}
    api = gateway.api(gateway.token_for({**grant, "users": ["1:1"], "cwd": ["/tmp"]}))
    command = {"command": ["/bin/sh", "-c", "id -u; pwd"]}
    assert api.post(101, {**command, "user": "1:1", "cwd": "/tmp"}).json()["stdout"] == "1\n/tmp\n"
    for other in ({}, {"user": "1:1"}, {"cwd": "/tmp"}, {"user": "0", "cwd": "/tmp"}, {"user": "1:1", "cwd": "/"}):
        assert api.post(101, {**command, **other}).code == "command_not_granted", other
    api.close()


def test_pools_are_read_from_pve(gateway: Gateway) -> None:
    """A guest enters and leaves a token's reach with its pool, by the next request; an unknown pool reaches nobody."""
    before = USER_CFG.read_text() if USER_CFG.exists() else ""
    api = gateway.api(gateway.token_for({"actions": ["exec:run"], "pools": ["grants-test"]}))
    try:
        assert api.post(101, {"command": ["true"]}).code == "guest_not_found"
        pmxcfs.write(USER_CFG, f"{before}\npool:grants-test::101,104::\n")
        assert [api.post(vmid, {"command": ["true"]}).status for vmid in (101, 104, 102)] == [200, 200, 404]
        assert api.get("/tokens/self").json()["reach"] == [{"action": "exec:run", "guests": "101,104"}]
        mine = api.run(101, ["true"])["id"]
        pmxcfs.write(USER_CFG, f"{before}\npool:grants-test::104::\n")
        assert [api.post(vmid, {"command": ["true"]}).status for vmid in (101, 104)] == [404, 200]
        assert api.get(f"/execs/{mine}").code == "exec_not_found", "its execs leave with the guest"
        assert [view["vmid"] for view in api.get("/execs").json()["execs"]] == [104, 104]
    finally:
        pmxcfs.write(USER_CFG, before)
    assert api.post(104, {"command": ["true"]}).code == "guest_not_found"
    api.close()


@pytest.fixture(scope="module")
def guarded(make_gateway: Callable[..., Gateway]) -> Gateway:
    """A gateway on which guest 104 is protected."""
    return make_gateway(guests={"protected": [104]})


def test_unreachable_guests_look_like_none(guarded: Gateway) -> None:
    """C2: outside the grant, protected, and not there at all: the same status, headers and body but for ids."""
    api = guarded.api(guarded.token_for({"actions": ["all"], "guests": "103-199"}))
    problems = []
    for vmid in (101, 102, 104, 150, 900):
        seen = []
        for body in ({"command": ["true"]}, {"command": "true", "timeout": 5}):
            answer = api.post(vmid, body)
            seen.append((answer.status, sorted(answer.headers.keys()), _without_ids(answer)))
        with pytest.raises(NotUpgraded) as refused:
            WebSocket(api, f"/exec/{vmid}/terminal").close()
        answer = refused.value.answer
        seen.append((answer.status, sorted(answer.headers.keys()), _without_ids(answer)))
        assert api.get(f"/execs?vmid={vmid}").json()["execs"] == []
        problems.append(seen)
    assert all(seen == problems[0] for seen in problems)
    reasons = [record["data"]["reason"] for record in guarded.records(event="request:denied")]
    assert reasons == [
        *["guest_not_granted"] * 6, *["guest_protected"] * 3, *["unknown_guest"] * 3, *["guest_not_granted"] * 3
    ]  # fmt: skip
    api.close()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/exec/{}", {"command": ["true"]}),
        ("GET", "/guests/{}/files?path=/etc/passwd", None),
        ("POST", "/guests/{}/stop", None),
    ],
)
def test_unreachable_guests_take_the_same_time(guarded: Gateway, method: str, path: str, body: object) -> None:
    """C2: the class of timing: the medians of a guest outside the grant, a protected one and none are alike."""
    grant = {"actions": ["exec:run", "file:read", "guest:power"], "guests": "103-199"}
    api = guarded.api(guarded.token_for(grant))
    times: dict[int, list[float]] = {101: [], 104: [], 150: [], 900: []}
    for _ in range(60):
        for vmid, spent in times.items():
            began = time.perf_counter()
            assert api.request(method, path.format(vmid), body).status == 404
            spent.append(time.perf_counter() - began)
    medians = {vmid: sorted(spent)[len(spent) // 2] for vmid, spent in times.items()}
    assert max(medians.values()) < 3 * min(medians.values()), medians
    api.close()


def test_a_key_does_not_show_an_old_guests_output(make_guest: Callable[..., Guest], api: Api) -> None:
    """C2: replayed in a new guest under the old vmid a key shows nothing of the old one, and runs nothing."""
    guest = make_guest(905)
    key = {"Idempotency-Key": new_mark()}
    body = {"command": ["echo", "old secret"]}
    assert api.post(905, body, headers=key).json()["stdout"] == "old secret\n"
    guest.destroy()
    new = make_guest(905)
    for headers in WAYS:
        answer = api.post(905, body, headers={**key, **headers})
        assert (answer.status, answer.code) == (409, "idempotency_conflict")
        assert b"old secret" not in answer.body
    assert new.rootfs.exists() and api.run(905, ["true"])["exit_code"] == 0


def test_the_pct_driver_passes_the_same_check(make_gateway: Callable[..., Gateway]) -> None:
    """C6 with Proxmox's own tool in between."""
    gateway = make_gateway(exec={"driver": "pct"})
    api = gateway.api(gateway.token_for({"actions": ["exec:run"], "guests": "101", "commands": [ECHO]}))
    assert api.post(101, {"command": ["/bin/echo", "x"]}).json()["stdout"] == "x\n"
    for command in (["/bin/sh", "-c", "echo x"], "echo x", ["echo", "x"], ["/bin/echo", "x", "y"]):
        assert api.post(101, {"command": command}).code == "command_not_granted"
    api.close()


def _without_ids(answer: Answer) -> dict[str, Any]:
    return {name: value for name, value in answer.json().items() if name not in ("request_id", "audit_id", "vmid")}


def test_a_revoked_token_types_no_more(gateway: Gateway) -> None:
    """C3: an open terminal of a token that is revoked takes nothing more after two seconds, and its shell is ended."""
    token = gateway.token_for({"actions": ["exec:run", "exec:terminal"], "guests": "101"})
    api, mark = gateway.api(token), new_mark()
    session = Session(api, "/exec/101/terminal")
    session.say("start", command=["/bin/sh", "-c", f"cat; : {mark}"], tty={"rows": 24, "cols": 80})
    session.receive_until("started")
    until(lambda: living(mark), why="the shell runs")
    store = gateway.tokens()
    actor: Any = store.verify(token, "127.0.0.1")
    path = load(gateway.services.config).tokens.directory / f"{actor.token_id}.json"
    path.unlink()
    revoked = time.monotonic()
    with contextlib.suppress(OSError):
        while time.monotonic() < revoked + 15:
            session.send_input(0, b"typed\n")
            if not living(mark):
                break
            time.sleep(0.05)
    assert time.monotonic() - revoked < 2 + BUSY, "nothing was cut"
    until(lambda: not living(mark), why="the shell ends as if its client had left")
    session.close()
    api.close()
