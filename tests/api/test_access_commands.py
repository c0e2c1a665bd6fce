"""C6 over HTTP: `commands` grants hold on every way to a command, and /tokens/self/can says what they hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.auth.grants import Grant
from tests.auth.changes import issue_token

from .conftest import PROTECTED
from .fakes import DAY, Api, assert_problem

RESTART = ["/usr/bin/systemctl", "restart", "*"]
GRANTED = {"command": ["/usr/bin/systemctl", "restart", "nginx"]}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"command": "/usr/bin/systemctl restart nginx"}, "command"),
    ({"command": ["/usr/bin/env", "/usr/bin/systemctl", "restart", "nginx"]}, "command"),
    ({"command": ["/usr/bin/systemctl", "restart", "nginx", "x"]}, "command"),
    ({**GRANTED, "env": {"LD_PRELOAD": "/tmp/x.so"}}, "env"),
    ({**GRANTED, "user": "root"}, "user"),
    ({**GRANTED, "cwd": "/tmp"}, "cwd"),
]


def limited(api: Api, **members: Any) -> str:
    """A token that may restart units in guests 101 to 199, and nothing else there."""
    data = {"actions": ["exec:run"], "guests": "101-199", "commands": [RESTART], **members}
    record = api.tokens.prepare("limited", [Grant.from_json(data)], lifetime=DAY)
    return issue_token(api.tokens, record)


@pytest.mark.parametrize("headers", [{}, {"Accept": "application/x-ndjson"}, {"Prefer": "respond-async"}])
def test_granted_commands_run(api: Api, headers: dict[str, str]) -> None:
    """What the grant names runs, whole, streamed and detached."""
    response = api.request("POST", "/exec/101", limited(api), json=GRANTED, headers=headers)
    assert response.status_code in (200, 202)
    assert len(api.supervisor.bodies) == 1


@pytest.mark.parametrize("headers", [{}, {"Accept": "text/event-stream"}, {"Prefer": "respond-async"}])
@pytest.mark.parametrize(("body", "field"), REFUSED)
def test_nothing_else_does(api: Api, body: dict[str, Any], field: str, headers: dict[str, str]) -> None:
    """403 with the field, nothing run, and a record with reason, field and program, but no argument and no value."""
    response = api.request("POST", "/exec/101", limited(api), json=body, headers=headers)
    problem = assert_problem(response, 403, "command_not_granted")
    assert problem["field"] == field
    assert api.supervisor.bodies == []
    (record,) = api.audit.records
    assert record["data"]["reason"] == "command_not_granted" and record["data"]["field"] == field
    assert problem["audit_id"] == record["audit_id"] and record["vmid"] == 101
    assert "nginx" not in json.dumps(record["data"]) or isinstance(body["command"], str) is False
    assert "/tmp/x.so" not in json.dumps(record)


@pytest.mark.parametrize("redact", [[0], [0, 1], [1]])
def test_a_denial_keeps_what_is_marked_secret(api: Api, redact: list[int]) -> None:
    """A program that `redact` names stands neither in the record nor in the answer, any other does."""
    body = {"command": ["/opt/hidden/name", "value"], "redact": redact}
    response = api.request("POST", "/exec/101", limited(api), json=body)
    assert_problem(response, 403, "command_not_granted")
    (record,) = api.audit.records
    assert (record["data"].get("program") is None) is (0 in redact)
    for text in (json.dumps(dict(record)), response.get_data(as_text=True)):
        assert ("hidden" in text) <= (0 not in redact) and "value" not in text


def test_a_command_that_is_not_granted_says_nothing_of_other_guests(api: Api) -> None:
    """Outside the grant the answer is the guest's 404, whatever the command (C2)."""
    for body, _ in REFUSED:
        assert_problem(api.request("POST", "/exec/1000", limited(api), json=body), 404, "guest_not_found")


def test_self_shows_the_terms(api: Api) -> None:
    """A token can see what it is limited to."""
    token = limited(api, users=["root"], env=["LANG"])
    (reach,) = api.request("GET", "/tokens/self", token).json["reach"]
    terms = {"commands": [RESTART], "users": ["root"], "cwd": [], "env": ["LANG"]}
    assert reach == {"action": "exec:run", "guests": "101-149,151-199", "terms": terms}


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ({"action": "exec:run"}, (True, None, None)),
        ({"action": "exec:run", "vmid": 101}, (True, None, None)),
        ({"action": "exec:run", "vmid": 101, "exec": GRANTED}, (True, None, None)),
        ({"action": "exec:run", "vmid": 101, "exec": {"command": "id"}}, (False, "command_not_granted", "command")),
        ({"action": "exec:run", "vmid": 1000, "exec": {"command": "id"}}, (False, "guest_not_granted", None)),
        ({"action": "exec:run", "vmid": PROTECTED}, (False, "guest_not_granted", None)),
        ({"action": "exec:terminal", "vmid": 101}, (False, "action_not_granted", None)),
        ({"action": "token:admin"}, (False, "action_not_granted", None)),
    ],
)
def test_can(api: Api, asked: dict[str, Any], answer: tuple[bool, str | None, str | None]) -> None:
    """A what-if is answered, does nothing, and tells a protected guest from no other out of reach."""
    response = api.request("POST", "/tokens/self/can", limited(api), json=asked)
    assert response.status_code == 200
    assert response.json == dict(zip(("allowed", "reason", "field"), answer, strict=True))
    assert api.supervisor.bodies == [] and api.audit.records == []


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"action": "public"},
        {"action": "any-token"},
        {"action": "exec:*"},
        {"action": "exec:run", "vmid": 99},
        {"action": "exec:run", "exec": GRANTED},
        {"action": "guest:power", "vmid": 101, "exec": GRANTED},
        {"action": "exec:run", "vmid": 101, "exec": {"command": []}},
        {"action": "exec:run", "more": 1},
    ],
)
def test_can_takes_only_what_can_be_asked(api: Api, asked: dict[str, Any]) -> None:
    """What no request could be is a 422, not an answer."""
    assert_problem(api.request("POST", "/tokens/self/can", limited(api), json=asked), 422, "invalid_request")


words = st.sampled_from(["/usr/bin/systemctl", "restart", "nginx", "-x", "a/b", "..", "", "/bin/sh", "x\ny"])
specs = st.fixed_dictionaries(
    {"command": st.one_of(st.lists(words, min_size=1, max_size=4), words.filter(bool))},
    optional={
        "env": st.dictionaries(st.sampled_from(["LANG", "PATH"]), st.just("x"), max_size=2),
        "user": st.sampled_from(["root", "www-data"]),
        "cwd": st.sampled_from(["/", "/srv"]),
    },
)
grants = st.fixed_dictionaries(
    {"actions": st.just(["exec:run"]), "guests": st.sampled_from(["101", "102", "101-199", "all"])},
    optional={
        "commands": st.lists(st.sampled_from([RESTART, ["/usr/bin/systemctl", "..."], ["/bin/sh"]]), min_size=1),
        "users": st.just(["www-data"]),
    },
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(grants, min_size=1, max_size=2), specs, st.sampled_from([101, 102, PROTECTED]))
def test_can_is_what_happens(api: Api, members: list[dict[str, Any]], spec: dict[str, Any], vmid: int) -> None:
    """For any grants, command and guest the what-if says exactly what a request then gets."""
    record = api.tokens.prepare("any", [Grant.from_json(one) for one in members], lifetime=DAY)
    token = issue_token(api.tokens, record)
    api.supervisor.guests.add(PROTECTED)
    asked = api.request("POST", "/tokens/self/can", token, json={"action": "exec:run", "vmid": vmid, "exec": spec}).json
    response = api.request("POST", f"/exec/{vmid}", token, json=spec)
    expected = {None: 200, "guest_not_granted": 404, "command_not_granted": 403}[asked["reason"]]
    assert response.status_code == expected
    assert asked["allowed"] is (expected == 200)
    if expected == 403:
        assert response.json["field"] == asked["field"]


def test_another_tokens_key_replays_nothing(api: Api) -> None:
    """An Idempotency-Key is the token's own: with another token it is a request like any, and is checked like any."""
    key = {"Idempotency-Key": "deploy-1"}
    first = api.request("POST", "/exec/101", api.token(), json={"command": ["id"]}, headers=key)
    assert first.status_code == 200
    response = api.request("POST", "/exec/101", limited(api), json={"command": ["id"]}, headers=key)
    assert_problem(response, 403, "command_not_granted")
    again = api.request("POST", "/exec/101", api.token(), json={"command": ["id"]}, headers=key)
    assert again.json["id"] != first.json["id"] and "Idempotency-Replayed" not in again.headers


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "//exec/101", {}, 404),
        ("POST", "/exec//101", {}, 404),
        ("POST", "/exec/101/", {}, 404),
        ("POST", "/./exec/101", {}, 404),
        ("POST", "/x/../exec/101", {}, 404),
        ("POST", "/EXEC/101", {}, 404),
        ("POST", "/exec/101%2f", {}, 404),
        ("POST", "/exec/101;x", {}, 404),
        ("PUT", "/exec/101", {}, 405),
        ("PATCH", "/exec/101", {}, 405),
        ("GET", "/exec/101", {}, 405),
        ("HEAD", "/exec/101", {}, 405),
        ("TRACE", "/exec/101", {}, 405),
        ("GET", "/exec/101", {"X-HTTP-Method-Override": "POST"}, 405),
        ("GET", "/exec/101", {"X-HTTP-Method": "POST"}, 405),
        ("GET", "/exec/101?_method=POST", {}, 405),
        ("OPTIONS", "/exec/101", {}, 204),
    ],
)
def test_no_other_spelling_reaches_a_route(
    api: Api, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    """Slashes, dots, case, other methods and their overrides: another path, or a method that is not there."""
    response = api.request(method, path, api.token("all", "all"), json={"command": ["id"]}, headers=headers)
    assert response.status_code == status
    assert api.supervisor.bodies == [] and "Location" not in response.headers


def test_head_is_checked_as_get_is(api: Api) -> None:
    """HEAD of what GET would refuse is refused, and recorded."""
    exec_id = api.request("POST", "/exec/101", api.token(), json=GRANTED).json["id"]
    assert api.request("HEAD", f"/execs/{exec_id}/stdout").status_code == 401
    assert api.request("HEAD", f"/execs/{exec_id}/stdout", api.token("guest:read")).status_code == 403
    assert api.request("HEAD", f"/execs/{exec_id}/stdout", api.token()).status_code == 404
    assert len(api.audit.records) == 3
