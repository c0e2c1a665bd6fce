"""Mount points and features given to containers that run: there, and the right ones, or taken back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.api.handlers.mounts import compare_directory
from gateway.errors import InvalidRequest
from tests.exec.api import Answer, Api
from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.guests import made
from tests.guests.conftest import PRIVILEGES, SECRET, TOKEN_ID
from tests.pvesim import config
from tests.pvesim.api import access
from tests.pvesim.api.process import Api as PveProcess
from tests.pvesim.guests import Guest

FIRST, LAST = 7590, 7596


@pytest.fixture(scope="module")
def shared(node: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of the node that guests may have."""
    path = tmp_path_factory.mktemp("shared")
    for place in (path, *path.parents):
        place.chmod(place.stat().st_mode | 0o755)
    (path / "greeting").write_text("from the node\n")
    return path


@pytest.fixture(scope="module")
def gateway(make_gateway: Callable[..., Gateway], pve: PveProcess, shared: Path) -> Gateway:
    token = shared.parent / f"pve-{os.getpid()}.token"
    access.store_token(token, TOKEN_ID, SECRET, privileges=PRIVILEGES)
    return make_gateway(
        pve={"api": pve.url, "token_file": str(token), "pvesh": str(pve.pvesh)},
        policy={"bind_sources": [str(shared)], "features": ["nesting", "fuse"]},
    )


@pytest.fixture(scope="module")
def api(gateway: Gateway) -> Iterator[Api]:
    opened = gateway.api(gateway.token("mounts", actions="all", guests=f"{FIRST}-{LAST}"))
    yield opened
    opened.close()
    made.sweep(FIRST, LAST)


def mount(api: Api, vmid: int, **asked: Any) -> Answer:
    return api.request("POST", f"/guests/{vmid}/mounts", asked, timeout=60)


@pytest.mark.parametrize("unprivileged", [False, True], ids=["privileged", "unprivileged"])
def test_directory_of_the_node(
    api: Api, gateway: Gateway, make_guest: Callable[..., Guest], shared: Path, unprivileged: bool
) -> None:
    """While it runs: the same directory is there at once, as read-only as asked; again, nothing is changed."""
    make_guest(FIRST, unprivileged=unprivileged)
    answer = mount(api, FIRST, path="/srv/shared", source=str(shared), read_only=True)
    assert answer.status == 200, answer.body.decode()
    told = answer.json()
    assert (told["keys"], told["seen"], told["restart_needed"]) == (["mp0"], True, False)
    assert api.run(FIRST, ["cat", "/srv/shared/greeting"])["stdout"] == "from the node\n"
    assert api.run(FIRST, ["touch", "/srv/shared/x"])["exit_code"] != 0
    again = mount(api, FIRST, path="/srv/shared", source=str(shared), read_only=True).json()
    assert (again["keys"], again["audit_id"]) == (["mp0"], None)
    assert mount(api, FIRST, path="/srv/shared", source=str(shared)).code == "already_given"
    until(lambda: len(gateway.records(audit_id=told["audit_id"])) == 2, why="its outcome is recorded")
    events = [record["event"] for record in gateway.records(audit_id=told["audit_id"])]
    assert events == ["guest:root-config", "guest:outcome"]


def test_new_volume(api: Api, gateway: Gateway, make_guest: Callable[..., Guest]) -> None:
    """That is no business of root@pam: a token that may change guests gets it, and no directory of the node."""
    make_guest(FIRST + 1)
    plain = gateway.api(gateway.token("plain", actions="guest:config", guests=f"{FIRST}-{LAST}"))
    answer = mount(plain, FIRST + 1, path="/data", size="1G")
    assert answer.status == 200, answer.body.decode()
    assert (answer.json()["keys"], answer.json()["seen"]) == (["mp0"], True)
    assert f"mp0: local:{FIRST + 1}/" in config.pve_path(FIRST + 1).read_text()
    refused = mount(plain, FIRST + 1, path="/x", source=str(gateway.directory))
    assert refused.code == "policy_refused"
    plain.close()


def test_refusals(api: Api, gateway: Gateway, make_guest: Callable[..., Guest], shared: Path) -> None:
    """Node policy, then the grant; and what is no mount point."""
    make_guest(FIRST + 2)
    before = config.pve_path(FIRST + 2).read_text()
    for source in ("/etc", "/", f"{shared}/../..", "/dev/sda"):
        assert mount(api, FIRST + 2, path="/x", source=source).code in ("policy_refused", "invalid_request")
    assert mount(api, FIRST + 2, path="/x").code == "invalid_request"
    plain = gateway.api(gateway.token("plain", actions="guest:config", guests=f"{FIRST}-{LAST}"))
    answer = mount(plain, FIRST + 2, path="/x", source=str(shared))
    assert (answer.status, answer.json()["action"]) == (403, "guest:root-config")
    plain.close()
    assert config.pve_path(FIRST + 2).read_text() == before


def test_a_directory_that_is_gone_when_its_turn_comes(tmp_path: Path) -> None:
    """What node policy has let pass may have vanished since: that is the request's fault, and told so."""
    for source in (tmp_path / "none", tmp_path / "n" / ("n" * 300)):
        with pytest.raises(InvalidRequest) as refused:
            compare_directory(str(source))
        assert refused.value.evidence["errors"][0]["path"] == "source"


def test_a_link_in_the_place(api: Api, make_guest: Callable[..., Guest], shared: Path) -> None:
    """A guest whose root has put a link there does not show the directory: told, and taken back."""
    make_guest(FIRST + 3)
    assert api.run(FIRST + 3, ["ln", "-s", "/tmp", "/srv-link"])["exit_code"] == 0
    answer = mount(api, FIRST + 3, path="/srv-link", source=str(shared))
    assert (answer.status, answer.code) == (502, "not_in_guest"), answer.body.decode()
    shown = api.get(f"/guests/{FIRST + 3}").json()
    assert shown["pending"] == {"mp0": None}


def test_features(api: Api, pve: PveProcess, make_guest: Callable[..., Guest]) -> None:
    """By their names: what only root@pam may set goes that way; a guest that runs has them from its next start on."""
    make_guest(FIRST + 4, unprivileged=True)
    answer = api.request("PATCH", f"/guests/{FIRST + 4}", {"features": ["nesting", "fuse"]}, timeout=60)
    assert answer.status == 200, answer.body.decode()
    assert (answer.json()["pending"], answer.json()["restart_needed"]) == ({"features": "fuse=1,nesting=1"}, True)
    refused = api.request("PATCH", f"/guests/{FIRST + 4}", {"features": ["keyctl"]}, timeout=60)
    assert (refused.code, refused.json()["refused"][0]["key"]) == ("policy_refused", "policy.features")
    restarted = api.request("PATCH", f"/guests/{FIRST + 4}", {"features": ["fuse"], "restart": True}, timeout=60)
    assert restarted.status == 200, restarted.body.decode()
    assert (restarted.json()["config"]["features"], restarted.json()["restart_needed"]) == ("fuse=1", False)
    pve.faults.add("task", "vzreboot", text="it does not come up", times=1)
    failed = api.request("PATCH", f"/guests/{FIRST + 4}", {"features": ["nesting"], "restart": True}, timeout=60)
    assert (failed.status, failed.code, failed.json()["undone"]) == (502, "task_failed", True), failed.body.decode()
    shown = api.get(f"/guests/{FIRST + 4}").json()
    assert (shown["config"]["features"], shown["pending"], shown["status"]) == ("fuse=1", {}, "running")
    gone = api.request("PATCH", f"/guests/{FIRST + 4}", {"features": []}, timeout=60).json()
    assert (gone["pending"], gone["restart_needed"]) == ({"features": None}, True)


@pytest.mark.parametrize(
    "path", ["/srv/a\u00a0b", "/srv" + ("/" + "\u00e9" * 100) * 2], ids=["unprintable", "406 bytes"]
)
def test_a_place_with_an_odd_name(api: Api, make_guest: Callable[..., Guest], shared: Path, path: str) -> None:
    """What PVE takes as a mount point's path can be looked at in the guest, too."""
    make_guest(FIRST)
    answer = mount(api, FIRST, path=path, source=str(shared))
    assert (answer.status, answer.json().get("seen")) == (200, True), answer.body
