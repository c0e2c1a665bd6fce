"""No record, no change: without the audit log nothing that changes guests asks PVE or root@pam for anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.api.device_routes import DEVICE_ROUTES
from gateway.api.guest_routes import GUEST_ROUTES
from gateway.api.making_routes import MAKING_ROUTES
from gateway.api.route import Route
from gateway.auth.actions import Action
from gateway.errors import AuditUnavailable

from .fakes import Api, assert_problem
from .test_access import BODIES, fill

BY_SUPERVISOR = frozenset({"suspendGuest", "resumeGuest"})
"""Containers are paused by the supervisor, which records that itself (tests/guests/test_pause.py)."""
CHANGES = [
    route
    for route in (*GUEST_ROUTES, *MAKING_ROUTES, *DEVICE_ROUTES)
    if route.event is not None and route.operation_id not in BY_SUPERVISOR
]
CONFIRMED = {"deleteGuest": "?confirm=101"}


def ask(api: Api, route: Route) -> Any:
    """Asks for the change, of a node where it can be made."""
    config = {"rootfs": "local:101/vm-101-disk-0.raw,size=1G", "unprivileged": 1, "dev0": "/dev/null"}
    api.pve.says = {"/101/config": config}
    if route.operation_id == "stopTask":
        api.pve.says["/status"] = {"status": "running"}
    path = fill(route) + CONFIRMED.get(route.operation_id, "")
    return api.request(route.method, path, api.token("all", "101-199"), json=BODIES[route.body])


@pytest.mark.parametrize("route", CHANGES, ids=lambda route: route.operation_id)
def test_nothing_is_changed_without_a_record(api: Api, route: Route) -> None:
    """503, and PVE has been asked questions at most."""
    api.audit.down = True
    if route.action is Action.GUEST_ROOT_CONFIG:  # the supervisor's own record
        api.supervisor.fails = AuditUnavailable("it is away")
    assert_problem(ask(api, route), 503, "audit_unavailable")
    assert {method for method, _ in api.pve.calls} <= {"GET"} and api.supervisor.root_changes == []


@pytest.mark.parametrize("route", CHANGES, ids=lambda route: route.operation_id)
def test_the_same_is_done_with_one(api: Api, route: Route) -> None:
    """What the test above holds back would have been done: it is the record that is missing, nothing else."""
    response = ask(api, route)
    assert response.status_code in (200, 201, 202), response.json
    assert {method for method, _ in api.pve.calls} - {"GET"} or api.supervisor.root_changes


@pytest.mark.parametrize("route", [r for r in GUEST_ROUTES if r.operation_id in BY_SUPERVISOR], ids=lambda r: r.path)
def test_a_machine_is_not_paused_without_a_record(api: Api, tmp_path: Path, route: Route) -> None:
    """Machines are paused by PVE, so by the web: 503, and PVE is asked for nothing; with a record it is."""
    known = json.loads((tmp_path / "etc/.vmlist").read_text())
    known["ids"]["101"]["type"] = "qemu"
    (tmp_path / "etc/.vmlist").write_text(json.dumps(known))
    api.audit.down = True
    assert_problem(ask(api, route), 503, "audit_unavailable")
    assert {method for method, _ in api.pve.calls} <= {"GET"}
    api.audit.down = False
    assert ask(api, route).status_code in (200, 202)
    assert (
        "POST",
        fill(route).replace("/guests", "/nodes/pve1/qemu").replace("/101/", "/101/status/"),
    ) in api.pve.calls
