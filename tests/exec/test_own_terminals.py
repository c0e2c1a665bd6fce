"""Who may only open terminals: such a token sees, feeds, resizes, ends and comes back to its own, and nothing more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.inside import ended, new_mark
from tests.exec.waiting import until
from tests.exec.websocket import STDOUT, NotUpgraded, Session

PROMPT = "READY> "
_BYTES = {"Content-Type": "application/octet-stream"}
SHELL: dict[str, Any] = {
    "command": ["/bin/sh"],
    "tty": {"rows": 24, "cols": 80},
    "env": {"PS1": PROMPT},
    "on_disconnect": "continue",
    "kill_grace": 0.2,
}
TERMINAL = {"actions": ["exec:terminal"], "guests": "101"}
RUN = {"actions": ["exec:run"], "guests": "101"}
Grant = Callable[..., None]


@pytest.fixture(scope="module")
def token(gateway: Gateway) -> Iterator[tuple[Api, Grant]]:
    """The API as a token, and what gives it other grants."""
    administrator = gateway.api(gateway.token("administrator", actions="token:admin,exec:run,exec:terminal"))
    made = administrator.request("POST", "/tokens", {"name": "typist", "grants": [TERMINAL], "expires": "1h"}).json()
    api = gateway.api(made["token"])

    def grant(*grants: dict[str, Any]) -> None:
        answer = administrator.request("PATCH", f"/tokens/{made['id']}", {"grants": list(grants)})
        assert answer.status == 200, answer.body
        actions = {action for one in grants for action in one["actions"]}
        until(lambda: {one["action"] for one in api.get("/tokens/self").json()["reach"]} == actions)

    yield api, grant
    administrator.close()
    api.close()


@pytest.fixture
def typist(token: tuple[Api, Grant]) -> Api:
    """The API as a token with exec:terminal in guest 101 alone."""
    api, grant = token
    grant(TERMINAL)
    return api


def open_shell(api: Api) -> tuple[Session, str]:
    """A shell at its first prompt, and its id."""
    session = Session(api, "/exec/101/terminal")
    exec_id = session.start(SHELL["command"], **{name: SHELL[name] for name in SHELL if name != "command"})
    session.until_shown(PROMPT)
    return session, exec_id


def attach(api: Api, exec_id: str, cursor: int = 0) -> Session:
    """Its writer, once the supervisor knows that the last one has gone."""
    return when_it_may_write(lambda: Session(api, f"/execs/{exec_id}/attach?write=1&from={cursor}"))


def when_it_may_write(begin: Callable[[], Session]) -> Session:
    """A session that has the right to write; those that `begin` gave before are closed."""

    def try_it() -> Session | None:
        session = begin()
        if session.may_write():
            return session
        session.close()
        return None

    session = until(try_it, why="the next writer is let in")
    assert session is not None
    return session


def test_it_comes_back(typist: Api, gateway: Gateway) -> None:
    """After a cut, and after a reload of the supervisor, it goes on where it was, by every route of its exec."""
    session, exec_id = open_shell(typist)
    cursor = session.cursor
    session.close()
    gateway.services.reload("supervisor")
    again = attach(typist, exec_id, cursor)
    assert typist.request("POST", f"/execs/{exec_id}/resize", {"rows": 11, "cols": 22}).status == 200
    again.type("stty size\n")
    again.until_shown("11 22")
    assert [one["id"] for one in typist.get("/execs?state=running").json()["execs"]] == [exec_id]
    assert typist.request("POST", f"/execs/{exec_id}/signal", {"signal": "WINCH"}).status == 200
    again.close()
    assert typist.request("DELETE", f"/execs/{exec_id}?wait=30").json()["reason"] == "cancelled"
    assert typist.get(f"/execs/{exec_id}").json()["state"] == "ended"
    assert b"11 22" in typist.get(f"/execs/{exec_id}/stdout").body
    (record,) = _intents(gateway, exec_id)
    assert record["action"] == "exec:terminal"


def test_a_start_that_was_not_answered(typist: Api, gateway: Gateway) -> None:
    """The same start with the same key, sent again after a cut: one shell, found again after a reload and when it has
    ended; with another command it is refused."""
    mark = new_mark()
    spec = {**SHELL, "idempotency_key": f"key-{mark}", "labels": {"test": mark}}
    for _ in range(3):  # cut before anything was heard
        session = Session(typist, "/exec/101/terminal")
        session.say("start", **spec)
        session.close()
    gateway.services.reload("supervisor")
    again = begin_again(typist, spec)
    again.until_shown(PROMPT)
    again.type("echo on''ce\n")
    again.until_shown("once")
    with Session(typist, "/exec/101/terminal") as other:
        other.say("start", **{**spec, "command": ["/bin/cat"]})
        assert other.until_closed() == (4409, "idempotency_conflict")
    again.type("exit 6\n")
    assert again.message("end")["exit_code"] == 6
    with Session(typist, "/exec/101/terminal") as late:
        late.say("start", **spec)
        assert late.message("started")["replayed"]
        assert late.message("end")["exec"]["id"] == again.exec_id
        assert b"once" in late.shown[STDOUT]
    again.close()
    assert len(typist.get(f"/execs?label=test={mark}").json()["execs"]) == 1


def begin_again(api: Api, spec: dict[str, Any]) -> Session:
    """The session of `spec`, which has been started before, once those that were cut hold its input no more."""

    def begin() -> Session:
        session = Session(api, "/exec/101/terminal")
        session.start(**spec)
        return session

    return when_it_may_write(begin)


def test_what_it_has_begun_otherwise_is_gone(token: tuple[Api, Grant]) -> None:
    """With exec:run it reached all of its own. Without it, what it began by that is not there: listed, shown, fed or
    attached to; its terminals are."""
    api, grant = token
    grant(RUN, TERMINAL)
    headers = {"Prefer": "respond-async"}
    other = api.post(101, {**SHELL, "command": ["/bin/cat"]}, headers=headers).json()["id"]
    session, exec_id = open_shell(api)
    session.close()
    attach(api, exec_id).close()
    assert {one["id"] for one in api.get("/execs?state=running").json()["execs"]} == {other, exec_id}
    grant(TERMINAL)
    assert [one["id"] for one in api.get("/execs?state=running").json()["execs"]] == [exec_id]
    for method, path, body in (
        ("GET", "", None),
        ("GET", "/stdout", None),
        ("GET", "/events", None),
        ("PUT", "/stdin", None),
        ("POST", "/signal", {"signal": "TERM"}),
        ("POST", "/resize", {"rows": 1, "cols": 1}),
        ("DELETE", "", None),
    ):
        assert api.request(method, f"/execs/{other}{path}", body).code == "exec_not_found", (method, path)
    with pytest.raises(NotUpgraded) as refused:
        Session(api, f"/execs/{other}/attach?write=1")
    assert refused.value.answer.code == "exec_not_found"
    attach(api, exec_id).close()
    grant(RUN)
    for one in (exec_id, other):
        assert api.request("DELETE", f"/execs/{one}?wait=30").json()["state"] == "ended"


def test_limited_since_it_types_no_more(token: tuple[Api, Grant]) -> None:
    """A token that has been limited to commands sees its shell of before, and cannot type into it; one that has no
    limits again can."""
    api, grant = token
    grant(TERMINAL)
    session, exec_id = open_shell(api)
    session.close()
    grant({**TERMINAL, "commands": [["/bin/cat"]]})
    assert api.get(f"/execs/{exec_id}").json()["state"] == "running"
    assert api.request("PUT", f"/execs/{exec_id}/stdin", raw=b"id\n", headers=_BYTES).code == "command_not_granted"
    with pytest.raises(NotUpgraded) as refused:
        Session(api, f"/execs/{exec_id}/attach?write=1")
    assert refused.value.answer.code == "command_not_granted"
    grant(TERMINAL)
    again = attach(api, exec_id)
    again.type("exit 5\n")
    assert again.message("end")["exit_code"] == 5
    again.close()
    assert ended(api, exec_id)["exit_code"] == 5


def _intents(gateway: Gateway, exec_id: str) -> list[dict[str, Any]]:
    reader = gateway.api(gateway.token("reader", actions="audit:read", guests="all"))
    records: list[dict[str, Any]] = reader.get(f"/audit?exec_id={exec_id}&event=exec:intent").json()["records"]
    reader.close()
    return records
