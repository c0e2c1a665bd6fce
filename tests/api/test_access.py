"""Who may what: the table of routes in a loop, a matrix by hand, and what a denial tells and records."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.api.models.devices import DeviceRequest, MountRequest
from gateway.api.models.guests import GuestPatch, MigrateRequest, ResizeDisk
from gateway.api.models.input import ResizeRequest, SignalRequest, TicketRequest
from gateway.api.models.kept import BackupRequest, SnapshotRequest, TemplateRequest
from gateway.api.models.tokens import CanRequest, RotateRequest, TokenPatch, TokenRequest
from gateway.api.route import Route
from gateway.api.routes import ROUTES
from gateway.auth.actions import GRANTABLE, Action, with_implied
from gateway.auth.grants import Grant, parse_actions, parse_guests
from gateway.exec.spec import ExecSpec
from gateway.guests.request import GuestRequest
from gateway.guests.wish import CloneRequest
from tests.auth.changes import issue_token

from .conftest import PROTECTED
from .fake_pve import make_upid
from .fakes import Api, assert_problem, make_view, without_ids

GUARDED = [route for route in ROUTES if route.action is not Action.PUBLIC]
EXEC_ID = "ex_" + "0" * 26
TOKEN_ID = "tk_" + "0" * 26
RUN: dict[str, Any] = {"json": {"command": ["true"]}}
BODIES: dict[type[Any] | None, Any] = {
    None: None,
    ExecSpec: {"command": ["true"]},
    SignalRequest: {"signal": "TERM"},
    ResizeRequest: {"rows": 24, "cols": 80},
    TicketRequest: {"path": "/exec/101/terminal"},
    CanRequest: {"action": "exec:run"},
    TokenRequest: {"name": "new", "grants": [{"actions": ["token:admin"], "guests": "101"}], "expires": "1h"},
    TokenPatch: {"name": "other"},
    RotateRequest: {},
    GuestPatch: {"tags": ["new"]},
    ResizeDisk: {"disk": "rootfs", "size": "+1G"},
    MigrateRequest: {"target": "pve1"},
    GuestRequest: {"template": "local:vztmpl/debian-13.tar.zst"},
    CloneRequest: {},
    SnapshotRequest: {"name": "clean"},
    BackupRequest: {"storage": "local"},
    DeviceRequest: {"path": "/dev/zero"},
    MountRequest: {"path": "/data", "size": "1G"},
    TemplateRequest: {"storage": "local", "template": "debian-13.tar.zst"},
}
QUERIES = {
    "deleteBackup": "?volume=local:backup/vzdump-lxc-{vmid}-2026_01_01-00_00_00.tar.zst",
    "lookUpDevice": "?path=/dev/null",
    "readFile": "?path=/etc/hostname",
    "writeFile": "?path=/etc/hostname",
    "deleteFile": "?path=/etc/hostname",
    "takeDevicesBack": "?key=dev0",
}
"""What an operation has to be asked with."""
OF_GUESTS_GONE = frozenset({"listBackups", "deleteBackup"})
"""Backups outlive their guests: within the grant a guest that is not there has them still."""
ABOUT_GUESTS = [r for r in ROUTES if "vmid" in r.parameters and r.operation_id not in OF_GUESTS_GONE]
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol": "pvex.v1",
}


def fill(route: Route, vmid: int = 101) -> str:
    path = route.path + QUERIES.get(route.operation_id, "")
    path = path.replace("{vmid}", str(vmid)).replace("{upid}", make_upid(vmid)).replace("{snapshot}", "clean")
    return path.replace("{id}", EXEC_ID).replace("{token_id}", TOKEN_ID)


@pytest.mark.parametrize("route", GUARDED, ids=lambda route: route.operation_id)
def test_every_guarded_route_needs_a_token(api: Api, route: Route) -> None:
    """Without a token every route that is not public is 401, records it, and hands nothing on."""
    assert_problem(api.request(route.method, fill(route), **RUN), 401, "unauthenticated")
    assert api.supervisor.bodies == [] and api.pve.calls == []
    assert [record["event"] for record in api.audit.records] == ["request:denied"]
    assert api.audit.records[0]["data"] == {"reason": "no_token", "operation": route.operation_id}


@pytest.mark.parametrize("action", sorted(GRANTABLE))
@pytest.mark.parametrize("route", GUARDED, ids=lambda route: route.operation_id)
def test_every_route_needs_its_action(api: Api, route: Route, action: Action) -> None:
    """A token with one action passes exactly the routes that ask for it or for what it implies."""
    response = api.request(route.method, fill(route), api.token(action), json=BODIES[route.body])
    given = with_implied(frozenset({action}))
    if route.action is Action.ANY_TOKEN or route.action in given or route.or_action in given:
        assert response.status_code in (200, 201, 202, 400, 404, 409, 426)
        reasons = [record["data"]["reason"] for record in api.audit.records if record["event"] == "request:denied"]
        if response.status_code == 404:
            assert reasons == ["unknown_token" if "{token_id}" in route.path else "unknown_exec"]
        else:
            assert reasons == []
    else:
        problem = assert_problem(response, 403, "forbidden")
        assert problem["audit_id"] == api.audit.records[0]["audit_id"]


@pytest.mark.parametrize(
    ("actions", "guests", "vmid", "status"),
    [
        ("exec:run", "101-199", 101, 200),
        ("exec:run", "all", 102, 200),
        ("exec:admin", "101", 101, 200),
        ("all", "101", 101, 200),
        ("exec:run", "101", 102, 404),
        ("exec:run", "102-199", 101, 404),
        ("exec:run", "all", PROTECTED, 404),
        ("all", "all", PROTECTED, 404),
        ("exec:run", str(PROTECTED), PROTECTED, 404),
        ("exec:run", "all", 999, 404),
        ("guest:read", "all", 101, 403),
        ("exec:terminal", "101", 101, 403),
    ],
)
def test_matrix_of_running(api: Api, actions: str, guests: str, vmid: int, status: int) -> None:
    """Who may run a command where, written by hand: exactly the allowed cells pass."""
    api.supervisor.guests.add(PROTECTED)
    response = api.request("POST", f"/exec/{vmid}", api.token(actions, guests), **RUN)
    assert response.status_code == status
    assert len(api.supervisor.bodies) == (1 if status == 200 else 0)


@pytest.mark.parametrize("audit_down", [False, True])
def test_unreachable_guest_looks_unknown(api: Api, audit_down: bool) -> None:
    """A guest outside the grant, a protected one and an unknown one: the same answer, one record each (C2)."""
    token = api.token(guests="101-199")
    api.audit.down = audit_down
    answers = []
    for vmid in (102_000, PROTECTED, 198):
        response = api.request("POST", f"/exec/{vmid}", token, **RUN)
        problem = assert_problem(response, 404, "guest_not_found")
        assert ("audit_id" in problem) is not audit_down
        answers.append((without_ids(problem), sorted(response.headers.keys())))
    assert answers[0] == answers[1] == answers[2]
    reasons = [record["data"]["reason"] for record in api.audit.records]
    assert reasons == ([] if audit_down else ["guest_not_granted", "guest_protected", "unknown_guest"])


@pytest.mark.parametrize("route", ABOUT_GUESTS, ids=lambda route: route.operation_id)
def test_out_of_reach_looks_like_none_everywhere(api: Api, route: Route) -> None:
    """C2 at every route about a guest: outside the grant, protected where that hides it, and not there at all: one
    answer but for ids; for the first two nobody is asked, PVE least of all."""
    token = api.token("all", "101,103-199")
    api.supervisor.guests = {101, 102, PROTECTED}
    upgrade = UPGRADE if route.upgrades else {}
    confirm = "?confirm={}" if route.operation_id == "deleteGuest" else ""
    answers = []
    for vmid in (102, 102_000, *(() if route.action.is_read else (PROTECTED,)), 198):
        asked = len(api.pve.calls), len(api.supervisor.bodies)
        path = fill(route, vmid) + confirm.format(vmid)
        response = api.request(route.method, path, token, json=BODIES[route.body], headers=upgrade)
        problem = assert_problem(response, 404, "guest_not_found")
        answers.append((without_ids(problem), sorted(response.headers.keys()), problem["vmid"] == vmid))
        assert vmid == 198 or asked == (len(api.pve.calls), len(api.supervisor.bodies))
    assert all(answer == answers[0] for answer in answers)


def test_denials_survive_a_dead_audit_log(api: Api) -> None:
    """With the audit writer down a denial is still the same denial, never an allowance."""
    api.audit.down = True
    assert_problem(api.request("POST", "/exec/101", **RUN), 401, "unauthenticated")
    assert_problem(api.request("POST", "/exec/101", api.token("guest:read"), **RUN), 403, "forbidden")
    assert api.supervisor.bodies == []


def test_denials_of_strangers_are_rationed(api: Api) -> None:
    """A flood of requests without a token fills neither the log nor the disk, and the gap is told of."""
    for _ in range(200):
        assert_problem(api.request("GET", "/execs"), 401, "unauthenticated")
    assert 20 <= len(api.audit.records) < 40


@pytest.mark.parametrize("vmid", ["99", "0101", "1000000000", "abc", "-101", "101.0", "%2e%2e", "١٠١", "101%00"])
def test_impossible_vmid_is_an_unknown_guest(api: Api, vmid: str) -> None:
    """What can be no vmid is a guest that does not exist; it goes no further."""
    problem = assert_problem(
        api.request("POST", f"/exec/{vmid}", api.token(guests="all"), **RUN), 404, "guest_not_found"
    )
    known = assert_problem(api.request("POST", "/exec/999", api.token(guests="all"), **RUN), 404, "guest_not_found")
    assert problem["detail"] == known["detail"]


def test_an_exec_belongs_to_its_token(api: Api) -> None:
    """Another token sees an exec with exec:admin on its guest only; to all others it does not exist."""
    owner = api.token()
    exec_id = api.request("POST", "/exec/101", owner, **RUN).json["id"]
    unknown = assert_problem(api.request("GET", f"/execs/{EXEC_ID}", owner), 404, "exec_not_found")
    for path in ("", "/stdout", "/stderr", "/stdout?follow=1", "/events"):
        response = api.request("GET", f"/execs/{exec_id}{path}", api.token("all", "102"))
        problem = assert_problem(response, 404, "exec_not_found")
        assert problem["detail"] == unknown["detail"]
    assert api.request("GET", f"/execs/{exec_id}", owner).status_code == 200
    assert api.request("GET", f"/execs/{exec_id}", api.token("exec:admin", "101")).status_code == 200
    assert api.request("GET", "/execs", api.token()).json["execs"] == []
    assert len(api.request("GET", "/execs", api.token("exec:admin")).json["execs"]) == 1


def test_administering_one_guest_is_not_administering_all(api: Api) -> None:
    """exec:admin on guest 101 and exec:run on all does not show other tokens' execs in guest 102."""
    view = make_view(102, ["true"])
    api.supervisor.execs[view["id"]] = (view, "tk_other")
    grants = [
        Grant(parse_actions(["exec:admin"]), parse_guests("101")),
        Grant(parse_actions(["exec:run"]), parse_guests("all")),
    ]
    token = issue_token(api.tokens, api.tokens.prepare("two", grants, lifetime=None))
    assert_problem(api.request("GET", f"/execs/{view['id']}", token), 404, "exec_not_found")


def test_a_route_without_an_action_fails_at_import() -> None:
    """The access of a route cannot be forgotten, misspelt or left as a plain word."""
    one = ROUTES[0]
    fields = {name: getattr(one, name) for name in ("method", "path", "operation_id", "summary", "reply", "handler")}
    with pytest.raises(TypeError):
        Route(**fields)
    with pytest.raises(TypeError):
        Route(**fields, action="exec:run")  # type: ignore[arg-type]
