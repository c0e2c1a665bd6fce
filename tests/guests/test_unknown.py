"""A making whose begin nobody answered: what is said, recorded and left alone when no task tells of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.audit.unfinished import UnfinishedChanges
from gateway.errors_pve import OutcomeUnknown
from gateway.exec.origin import Origin
from gateway.guests.changes import Changes
from gateway.guests.container import ContainerRequest
from gateway.guests.maker import Maker
from gateway.guests.making import Caller
from gateway.guests.pace import Pace
from gateway.guests.trail import Asker
from gateway.guests.workshop import Workshop
from gateway.pve.client import PveApi
from gateway.pve.failure import PveSilent
from gateway.pve.guests import GuestMap
from gateway.pve.service import Pve
from tests.api.fake_pve import TOKEN_ID, FakePveApi, make_etc
from tests.api.fakes import FakeAudit, FakeSupervisor

ORIGIN = Origin("tk_1", "ci", (), (), "10.0.0.1", "req_1")


@dataclass
class SilentPve(FakePveApi):
    """Never answers a POST; `tasks` are what it tells of afterwards."""

    tasks: list[dict[str, Any]] = field(default_factory=list)

    def call(
        self, method: str, path: tuple[str | int, ...], parameters: Mapping[str, Any], *, timeout: float = 30
    ) -> Any:
        if method == "POST":
            self.calls.append((method, "/".join(map(str, path))))
            raise PveSilent("the PVE API did not answer")
        if path[-1] == "tasks":
            return self.tasks
        return super().call(method, path, parameters, timeout=timeout)


def upid(vmid: int = 200, user: str = TOKEN_ID, kind: str = "vzcreate") -> dict[str, Any]:
    return {"upid": f"UPID:pve1:0000C350:0012D687:6920A1B2:{kind}:{vmid}:{user}:", "status": "OK"}


@pytest.mark.parametrize(
    ("alone", "tasks"),
    [
        (True, []),
        (True, [upid(user="root@pam")]),
        (True, [upid(kind="vzdestroy")]),
        (True, [upid(vmid=201)]),
        (False, [upid()]),
    ],
)
def test_unknown_is_said_and_nothing_is_undone(tmp_path: Path, alone: bool, tasks: list[dict[str, Any]]) -> None:
    """A task of another, of another kind or guest is not taken for ours, and none is where others use our PVE token: no
    guest is destroyed that might be another's."""
    make_etc(tmp_path / "etc", (101,))
    api, audit, pace = SilentPve((101,), tasks=tasks), FakeAudit(), Pace()
    typed: PveApi = api  # type: ignore[assignment]
    pve, guests = Pve(typed), GuestMap(tmp_path / "etc", "pve1")
    changes = Changes(audit, pve.tasks, pve.watcher, UnfinishedChanges(tmp_path / "changes"))
    workshop = Workshop(pve, guests, changes, pace, FakeSupervisor(), "pve1", alone=alone, find_seconds=0.1)
    caller = Caller(
        Asker("tk_1", "ci", "10.0.0.1", "req_1"), ((200, 299),), ORIGIN, lambda vmid: None, lambda vmid: ORIGIN
    )
    wish = ContainerRequest(template="local:vztmpl/debian.tar.zst", vmid=200)
    with pytest.raises(OutcomeUnknown) as caught:
        Maker(workshop).create(caller, wish).wait(5, None)
    assert caught.value.evidence["undone"] is False and caught.value.evidence["request"]["vmid"] == 200
    assert "look at the guest" in caught.value.detail
    assert [record["event"] for record in audit.records] == ["guest:create", "guest:outcome"]
    assert audit.records[-1]["data"]["reason"] == "unknown"
    assert [method for method, _ in api.calls if method != "GET"] == ["POST"]
