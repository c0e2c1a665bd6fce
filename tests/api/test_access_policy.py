"""C11: a route that makes or changes guests cannot be without node policy, which is asked before its handler."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from gateway.api.call import Call, Reply
from gateway.api.denials import DenialLog
from gateway.api.documents import Documents
from gateway.api.door import Door
from gateway.api.pipeline import Pipeline
from gateway.api.route import CHANGES_GUESTS, Route
from gateway.api.services import Services
from gateway.api.shares import start_shares, stream_shares
from gateway.app import make_figures
from gateway.audit.unfinished import UnfinishedChanges
from gateway.auth.actions import Action
from gateway.auth.grants import Grant, parse_guests
from gateway.auth.tokens import TokenStore
from gateway.config import Config
from gateway.devices.sysfs import Sysfs
from gateway.devices.tree import DeviceTree
from gateway.guests.changes import Changes
from gateway.guests.maker import Maker
from gateway.guests.pace import Pace
from gateway.guests.workshop import Workshop
from gateway.policy.change import GuestChange, describe_options
from gateway.policy.node import NodePolicy
from gateway.pve.freezer import Freezer
from gateway.pve.guests import GuestMap
from gateway.pve.pools import PoolFile
from gateway.pve.service import connect
from tests.auth.changes import issue_token

from .fakes import DAY, FakeAudit, FakeSupervisor

OPTIONS: dict[str, Any] = {}


def change(services: Services, call: Call) -> GuestChange:
    """As a handler of guests will describe what it is about to send to PVE."""
    return describe_options(call.vmid, OPTIONS, whole=True)


def route(action: Action, handler: Any) -> Route:
    return Route(
        method="POST", path="/guests/{vmid}", operation_id="changeGuest", summary="", action=action, reply=dict,
        change=change, handler=handler,
    )  # fmt: skip


@pytest.mark.parametrize("action", sorted(CHANGES_GUESTS))
def test_such_a_route_needs_its_description(action: Action) -> None:
    """Without `change` it fails at import; and nothing else may have one, as if policy were asked by chance."""
    fields: dict[str, Any] = {"method": "POST", "path": "/x", "operation_id": "x", "summary": "", "reply": dict}
    with pytest.raises(TypeError, match="node policy"):
        Route(**fields, action=action, handler=lambda services, call: Reply({}))
    with pytest.raises(TypeError, match="node policy"):
        Route(**fields, action=Action.GUEST_POWER, change=change, handler=lambda services, call: Reply({}))


@pytest.mark.parametrize("action", sorted(CHANGES_GUESTS))
@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"unprivileged": 1}, None),
        ({"unprivileged": 1, "mp0": "/etc,mp=/x"}, "policy.bind_sources"),
        ({"unprivileged": 1, "mp0": "local:8,mp=/x", "dev0": "/dev/sda"}, "policy.devices"),
        ({"unprivileged": 1, "features": "nesting=1"}, "policy.features"),
        ({}, "policy.privileged"),
        ({"unprivileged": 1, "hookscript": "local:snippets/x.sh"}, "policy.hookscripts"),
        ({"unprivileged": 1, "lxc.mount.entry": "/ x none bind"}, "policy.raw_keys"),
        ({"unprivileged": 1, "ostemplate": "/etc/shadow"}, "policy.template_paths"),
    ],
)
def test_policy_stands_before_every_grant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: Action, options: dict[str, Any], key: str | None
) -> None:
    """The token with all actions on all guests is refused what the configuration does not name; the handler never
    learns of it, and the audit log says what was refused."""
    monkeypatch.setitem(globals(), "OPTIONS", options)
    store = TokenStore(tmp_path / "tokens", tmp_path / "keys" / "token.keys")
    store.create()
    token = issue_token(store, store.prepare("all", [Grant(frozenset({action}), parse_guests("all"))], lifetime=DAY))
    config, audit = Config(node="pve1"), FakeAudit()
    pve, guests, pace = connect(config.pve), GuestMap(config.pve.etc, config.node), Pace()
    changes = Changes(audit, pve.tasks, pve.watcher, UnfinishedChanges(tmp_path / "changes"))
    services = Services(
        config=config, supervisor=FakeSupervisor(), audit=audit, tokens=store, policy=NodePolicy(config.policy),
        pve=pve, guests=guests, changes=changes, pace=pace, pools=PoolFile(tmp_path),
        freezer=Freezer(config.lxc.cgroup, config.node),
        maker=Maker(Workshop(pve, guests, changes, pace, FakeSupervisor(), "pve1", alone=True)),
        devices=DeviceTree(config.devices.dev), sysfs=Sysfs(config.devices.sys),
        documents=Documents({}), streams=stream_shares(4), starts=start_shares(), figures=make_figures(),
    )  # fmt: skip
    reached: list[Call] = []

    def handler(services: Services, call: Call) -> Reply:
        reached.append(call)
        return Reply({})

    environ = {"REQUEST_METHOD": "POST", "HTTP_AUTHORIZATION": f"Bearer {token}", "wsgi.input": io.BytesIO()}
    pipeline = Pipeline(services, DenialLog(audit, "pve1", lambda: 0.0), Door(config.web))
    response = pipeline.take(route(action, handler), environ, {"vmid": "101"})
    if key is None:
        assert response.status_code == 200 and len(reached) == 1 and audit.records == []
        return
    assert response.status_code == 403 and not reached
    problem: Any = response.get_json(force=True)
    assert problem["code"] == "policy_refused"
    assert [item["key"] for item in problem["refused"]] == [key]
    (record,) = audit.records
    assert record["data"]["reason"] == "policy_refused" and record["data"]["refused"] == problem["refused"]
