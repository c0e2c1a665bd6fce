"""C1: every route x every action x {own guest, other guest, protected guest}: exactly the allowed cells pass."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.api.route import Route
from gateway.api.routes import ROUTES
from gateway.auth.actions import GRANTABLE, Action

from .conftest import PROTECTED
from .fake_pve import make_upid
from .fakes import DAY, Api, make_view
from .test_access import BODIES, QUERIES, UPGRADE

OWN, OTHER = 101, 102
GUESTS = f"{OWN},{PROTECTED}"

# By hand: what each operation asks for. A route that is missing here, or asks for something else, fails.
NEEDS = {
    "runExec": "exec:run",
    "openTerminal": "exec:terminal",
    "listExecs": "exec:run",
    "showExec": "exec:run",
    "killExec": "exec:run",
    "readStdout": "exec:run",
    "readStderr": "exec:run",
    "readEvents": "exec:run",
    "attachExec": "exec:run",
    "putStdin": "exec:run",
    "sendSignal": "exec:run",
    "resizeTerminal": "exec:run",
    "listGuests": "guest:read",
    "showGuest": "guest:read",
    "editGuest": "guest:config",
    "deleteGuest": "guest:destroy",
    "showGuestAddresses": "guest:read",
    "resizeGuestDisk": "guest:config",
    "migrateGuest": "guest:config",
    "makeGuestTemplate": "guest:config",
    "showNextVmid": "guest:create",
    "listNodes": "guest:read",
    "listStorages": "guest:read",
    "listPools": "guest:read",
    "startGuest": "guest:power",
    "stopGuest": "guest:power",
    "shutDownGuest": "guest:power",
    "rebootGuest": "guest:power",
    "suspendGuest": "guest:power",
    "resumeGuest": "guest:power",
    "createGuest": "guest:create",
    "cloneGuest": "guest:create",
    "listSnapshots": "guest:read",
    "takeSnapshot": "guest:config",
    "rollBackSnapshot": "guest:config",
    "deleteSnapshot": "guest:destroy",
    "listBackups": "guest:read",
    "makeBackup": "guest:config",
    "deleteBackup": "guest:destroy",
    "listTemplates": "guest:read",
    "downloadTemplate": "guest:create",
    "listDevices": "device:read",
    "lookUpDevice": "device:read",
    "listGuestDevices": "guest:read",
    "giveDevices": "guest:root-config",
    "takeDevicesBack": "guest:root-config",
    "giveMount": "guest:config",
    "listTasks": "guest:read",
    "showTask": "guest:read",
    "readTaskLog": "guest:read",
    "stopTask": "guest:config",
    "readFile": "file:read",
    "writeFile": "file:write",
    "deleteFile": "file:write",
    "listAuditRecords": "audit:read",
    "verifyAuditLog": "audit:read",
    "makeTicket": None,
    "showOwnToken": None,
    "askOwnToken": None,
    "listTokens": "token:admin",
    "createToken": "token:admin",
    "showToken": "token:admin",
    "editToken": "token:admin",
    "deleteToken": "token:admin",
    "rotateToken": "token:admin",
    "revokeToken": "token:admin",
    "showLiveness": None,
    "showReadiness": None,
    "showMetrics": "metrics:read",
    "showOpenapi": None,
    "showOpenapiYaml": None,
    "showDocs": None,
    "showDocsProgram": None,
    "showDocsStart": None,
    "showDocsStyle": None,
}
# By hand: which actions give more than themselves.
GIVES = {
    "guest:power": {"guest:read"},
    "guest:create": {"guest:read"},
    "guest:config": {"guest:read"},
    "guest:root-config": {"guest:config", "guest:read"},
    "guest:destroy": {"guest:read"},
    "exec:admin": {"exec:run"},
    "file:write": {"file:read"},
}
# By hand: what exec:terminal alone reaches of the token's own, if that was begun as a terminal.
OWN_TERMINALS = {
    "listExecs",
    "showExec",
    "killExec",
    "readStdout",
    "readStderr",
    "readEvents",
    "attachExec",
    "putStdin",
    "sendSignal",
    "resizeTerminal",
}
NOT_FOUND = {"vmid": "guest_not_found", "id": "exec_not_found", "token_id": "token_not_found", "upid": "task_not_found"}
# Why, in the audit log alone: the caller is told one thing for all of it.
REASONS = {
    "vmid": {"guest_not_granted", "guest_protected"},
    "id": {"unknown_exec"},
    "token_id": {"unknown_token"},
    "upid": {"unknown_task"},
}
REACHES_PROTECTED = {"guest:read", "device:read", "audit:read", "metrics:read"}


def test_every_route_is_in_the_matrix() -> None:
    """Nobody adds a route without saying here, too, who may use it."""
    asked = {route.operation_id: route.action for route in ROUTES}
    open_to_all = {Action.PUBLIC, Action.ANY_TOKEN}
    assert {name: None if action in open_to_all else str(action) for name, action in asked.items()} == NEEDS
    second = {route.operation_id: route.or_action for route in ROUTES if route.or_action is not None}
    assert second == dict.fromkeys(OWN_TERMINALS, Action.EXEC_TERMINAL)


@pytest.mark.parametrize("place", [OWN, OTHER, PROTECTED], ids=["own", "other", "protected"])
@pytest.mark.parametrize("action", sorted(GRANTABLE))
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.operation_id)
def test_matrix(api: Api, route: Route, action: Action, place: int) -> None:
    """One cell: the token holds one action on its own guest and on the protected one. Another token is within its
    reach where that one's grants are, as they are written: protection is the configuration's matter."""
    token = api.token(action, GUESTS)
    api.supervisor.guests.add(PROTECTED)
    path = fill_path(api, route, token, place)
    begun_otherwise = action == "exec:terminal" and route.operation_id in OWN_TERMINALS
    upgrade = UPGRADE if place != OWN or begun_otherwise else {}  # of its own it would be a WebSocket, no place here
    response = api.request(route.method, path, token, json=BODIES[route.body], headers=upgrade)
    needed = NEEDS[route.operation_id]
    if needed is None:
        assert response.status_code < 400
    elif begun_otherwise:  # by exec:run
        assert response.status_code == 404 if route.parameters else response.json == {"execs": [], "next": None}
    elif needed not in {action, *GIVES.get(action, ())}:
        assert response.status_code == 403 and response.json["code"] == "forbidden"
    elif (
        not route.parameters
        or place == OWN
        or (place == PROTECTED and "token_id" in route.parameters)
        or (place == PROTECTED and needed in REACHES_PROTECTED)
    ):
        assert response.status_code not in (401, 403, 404), response.data
    else:
        assert response.status_code == 404
        assert response.json["code"] == NOT_FOUND[route.parameters[0]]
    if response.status_code in (403, 404):
        assert api.supervisor.bodies == [] and api.pve.calls == []
        (record,) = api.audit.records
        assert response.json["audit_id"] == record["audit_id"]
        reasons = REASONS[route.parameters[0]] if response.status_code == 404 else {"action_not_granted"}
        assert record["data"]["reason"] in reasons


@pytest.mark.parametrize("place", [OWN, OTHER, PROTECTED], ids=["own", "other", "protected"])
@pytest.mark.parametrize("whose", ["own terminal", "another token's terminal", "own command"])
@pytest.mark.parametrize("name", sorted(OWN_TERMINALS))
def test_own_terminals(api: Api, name: str, whose: str, place: int) -> None:
    """Who may only open terminals comes back to those that the token has begun, where it may open some still: to no
    other token's, and to no command that it has begun otherwise."""
    (route,) = (route for route in ROUTES if route.operation_id == name)
    token = api.token("exec:terminal", GUESTS)
    exec_id = own_exec(api, api.token("exec:terminal", GUESTS) if "another" in whose else token, place)
    if "terminal" in whose:
        api.supervisor.terminals.add(exec_id)
    upgrade = UPGRADE if (whose, place) != ("own terminal", OWN) else {}
    path = route.path.replace("{id}", exec_id)
    response = api.request(route.method, path, token, json=BODIES[route.body], headers=upgrade)
    passes = (whose, place) == ("own terminal", OWN)
    if name == "listExecs":
        assert [one["id"] for one in response.json["execs"]] == ([exec_id] if passes else [])
    elif passes:
        assert response.status_code not in (401, 403, 404), response.data
    else:
        assert response.status_code == 404 and response.json["code"] == "exec_not_found"
        assert response.json["audit_id"] == api.audit.records[0]["audit_id"]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.operation_id)
def test_all_on_all_guests_passes_everywhere_but_protected(api: Api, route: Route) -> None:
    """The widest grant there is stops at protected guests, and at nothing else."""
    token = api.token("all", "all")
    api.supervisor.guests.add(PROTECTED)
    for place in (OWN, OTHER, PROTECTED):
        path = fill_path(api, route, token, place)
        upgrade = UPGRADE if place == PROTECTED else {}
        response = api.request(route.method, path, token, json=BODIES[route.body], headers=upgrade)
        guarded = place == PROTECTED and not route.action.is_read
        stopped = guarded and not {"vmid", "id", "upid"}.isdisjoint(route.parameters)
        assert (response.status_code == 404) is stopped, (place, response.data)


def fill_path(api: Api, route: Route, token: str, place: int) -> str:
    """The route's path about guest `place`: an exec there, or a token that administers tokens for it."""
    path = route.path + QUERIES.get(route.operation_id, "")
    path = path.replace("{vmid}", str(place)).replace("{id}", own_exec(api, token, place))
    path = path.replace("{upid}", make_upid(place)).replace("{snapshot}", "clean")
    if "token_id" in route.parameters:
        path = path.replace(
            "{token_id}", api.token("token:admin", str(place), lifetime=DAY / 2).split(".")[0].removeprefix("pveg_")
        )
    return path


def own_exec(api: Api, token: str, vmid: int) -> str:
    """An ended exec of the token in a guest, as if its grant had reached that guest once."""
    actor: Any = api.tokens.verify(token, "127.0.0.1")
    view = make_view(vmid, ["true"])
    api.supervisor.execs[view["id"]] = (view, actor.token_id)
    return view["id"]
