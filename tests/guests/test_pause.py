"""Containers that are paused and resumed: they stand still, and all else that can be done to them goes on working."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gateway.config import load
from gateway.errors import GuestNotFound, NodeNotReady
from gateway.exec.origin import Origin
from gateway.supervisor.link.client import SupervisorClient
from tests.exec.api import Answer, Api
from tests.exec.gateways import Gateway
from tests.exec.inside import begun, new_mark
from tests.exec.waiting import until
from tests.guests.conftest import PROTECTED
from tests.guests.made import TEMPLATE, sweep
from tests.pvesim import config, pmxcfs

VMID, AWAY = 7181, 7182
Records = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def shared(api: Api) -> Iterator[int]:
    """A container that PVE's API made, with a disk that can be snapshotted."""
    wish = {"vmid": VMID, "template": TEMPLATE, "name": "paused", "disk": "1G", "storage": "local-lvm", "start": True}
    answer = api.request("POST", "/guests?wait=60", wish, timeout=90)
    assert answer.status == 201, answer.body
    yield VMID
    sweep(VMID, VMID)


@pytest.fixture
def container(api: Api, shared: int) -> int:
    """The same, running and not paused."""
    state = api.get(f"/guests/{shared}").json()
    if state["status"] != "running":
        assert act(api, "start").status == 200
    if state["paused"]:
        assert act(api, "resume").status == 200
    return shared


def act(api: Api, word: str, body: Any = None, vmid: int = VMID, **query: Any) -> Answer:
    text = "&".join(f"{name}={value}" for name, value in {"wait": 40, **query}.items())
    return api.request("POST", f"/guests/{vmid}/{word}?{text}", body, timeout=60)


def state(api: Api) -> tuple[str, bool]:
    """What PVE says of it, and whether it is paused; the list says the same."""
    one = api.get(f"/guests/{VMID}").json()
    listed = next(guest for guest in api.get("/guests?type=lxc").json()["guests"] if guest["vmid"] == VMID)
    assert one["paused"] == listed["paused"]
    return one["status"], one["paused"]


def frozen(vmid: int = VMID) -> bool:
    return "frozen 1" in Path(f"/sys/fs/cgroup/lxc/{vmid}/ns/cgroup.events").read_text()


def test_paused_and_resumed(api: Api, container: int, records: Records) -> None:
    """It stands still when the answer comes, and is told as paused; asked for again it is so already; and each is on
    record with its outcome."""
    assert state(api) == ("running", False)
    for word, paused in (("suspend", True), ("suspend", True), ("resume", False), ("resume", False)):
        answer = act(api, word)
        assert answer.status == 200, answer.body
        work = answer.json()
        assert (work["state"], work["upid"], work["vmid"]) == ("ended", None, VMID)
        assert frozen() is paused and state(api) == ("running", paused)
        intent, outcome = records(work["audit_id"])
        assert (intent["event"], intent["action"]) == (f"guest:{word}", "guest:power")
        assert (intent["vmid"], intent["actor"]["name"]) == (VMID, "guests")
        assert (outcome["event"], outcome["data"]) == ("guest:outcome", {"reason": "ok"})


def test_execs_pause_with_it(api: Api, container: int) -> None:
    """One that runs stands still and goes on with its guest; a new one is refused at once."""
    mark = new_mark()
    wait = "until [ -e /root/go ]; do sleep 0.01; done; echo went"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(api.run, VMID, wait, labels={"test": mark})
        exec_id = begun(api, mark)
        assert act(api, "suspend").status == 200
        (group,) = Path(f"/sys/fs/cgroup/lxc/{VMID}").glob(f"pveg-*/{exec_id}")
        until(lambda: "frozen 1" in (group / "cgroup.events").read_text(), why="its exec follows")
        assert api.post(VMID, {"command": ["true"]}).code == "guest_frozen"
        assert act(api, "resume").status == 200
        api.run(VMID, ["touch", "/root/go"])
        assert running.result(20)["stdout"] == "went\n"


def test_paused_guest_is_stopped(api: Api, container: int) -> None:
    """At once, as PVE does it: SIGKILL ends frozen processes. A start afterwards finds it not paused."""
    assert act(api, "suspend").status == 200
    answer = act(api, "stop")
    assert answer.status == 200, answer.body
    assert state(api) == ("stopped", False)
    for word in ("suspend", "resume"):
        assert act(api, word).code == "guest_not_running"
    assert act(api, "start").status == 200
    assert state(api) == ("running", False)


def test_paused_guest_is_not_shut_down(api: Api, container: int) -> None:
    """It would not hear of it: refused at once; with `force` it is stopped when its time is over."""
    assert act(api, "suspend").status == 200
    answer = act(api, "shutdown")
    assert (answer.status, answer.code) == (409, "guest_frozen")
    assert act(api, "shutdown", force="true", timeout=1).status == 200
    assert state(api) == ("stopped", False)


def test_paused_guest_is_snapshotted(api: Api, container: int) -> None:
    """PVE takes its snapshot, and thaws what it finds frozen: the guest goes on then, and says so."""
    assert act(api, "suspend").status == 200
    answer = act(api, "snapshots", {"name": "one"})
    assert answer.status == 200, answer.body
    assert state(api) == ("running", False)
    assert act(api, "suspend").status == 200
    assert act(api, "snapshots/one/rollback").status == 200, "a rollback stops it"
    assert state(api) == ("stopped", False)


def test_what_pve_freezes_is_left_alone(api: Api, container: int) -> None:
    """A guest that PVE has locked for a snapshot is neither thawed nor frozen by us."""
    path = config.pve_path(VMID)
    text = path.read_text()
    path.write_text(f"lock: snapshot\n{text}")
    try:
        for word in ("resume", "suspend"):
            answer = act(api, word)
            assert (answer.status, answer.code, answer.json()["lock"]) == (423, "guest_locked", "snapshot")
    finally:
        path.write_text(text)


def test_refusals(api: Api, container: int, as_token: Callable[..., Api]) -> None:
    """Another node's guest by that node's name; to disk; and what the token may not, or is protected."""
    assert act(api, "suspend", to_disk="true").code == "invalid_request"
    assert act(as_token("guest:read"), "suspend").code == "forbidden"
    assert act(as_token("guest:power", "7100"), "suspend").code == "guest_not_found"
    assert act(api, "suspend", vmid=PROTECTED).code == "guest_not_found"
    pmxcfs.register(AWAY, node="pve2")
    try:
        answer = act(api, "suspend", vmid=AWAY)
    finally:
        pmxcfs.unregister(AWAY)
    assert (answer.status, answer.code, answer.json()["node"]) == (409, "guest_unsupported", "pve2")
    assert not frozen()


@pytest.fixture
def supervisor(gateway: Gateway) -> Iterator[SupervisorClient]:
    client = SupervisorClient(load(gateway.services.config).supervisor.socket, None)  # type: ignore[arg-type]
    yield client
    client.close()


def test_the_supervisor_decides_itself(gateway: Gateway, supervisor: SupervisorClient, container: int) -> None:
    """Whatever web let through: no guest beyond the caller's guest:power, none that is protected, none elsewhere."""
    node = load(gateway.services.config).node
    origin = Origin("tk_1", "ci", (), (), "10.0.0.1", "req_1", power_guests=((PROTECTED, VMID),))
    for vmid in (VMID + 1, PROTECTED):
        with pytest.raises(GuestNotFound):
            supervisor.pause(vmid, node, origin, paused=True)
    with pytest.raises(NodeNotReady, match="pve9"):
        supervisor.pause(VMID, "pve9", origin, paused=True)
    assert not frozen()


def test_no_record_no_pause(api: Api, gateway: Gateway, container: int) -> None:
    """While the audit log takes nothing, nothing is frozen: 503, and it recovers."""
    gateway.services.kill("audit", signal.SIGSTOP)
    try:
        answer = act(api, "suspend")
        assert (answer.status, answer.code) == (503, "audit_unavailable")
        assert not frozen()
    finally:
        gateway.services.kill("audit", signal.SIGCONT)
    assert until(lambda: act(api, "suspend").status == 200)
    assert frozen()


def test_a_pause_outlives_the_supervisor(api: Api, gateway: Gateway, container: int) -> None:
    """It is the kernel's: a supervisor that is killed or reloaded changes nothing, and resumes it afterwards."""
    assert act(api, "suspend").status == 200
    gateway.services.reload("supervisor")
    assert state(api) == ("running", True)
    gateway.services.kill("supervisor")
    gateway.services.restart("supervisor")
    assert state(api) == ("running", True)
    assert act(api, "resume").status == 200
    assert api.run(VMID, ["true"])["exit_code"] == 0
