"""Starting, stopping and the like: answered with outcomes, recorded, and refused as what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.pvesim import config, guests
from tests.pvesim.api import ha
from tests.pvesim.api.process import Api as PveProcess
from tests.pvesim.guests import Guest

VMID, OTHER, GONE = 7101, 7111, 7199
Records = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def shared_guest(node: None) -> Iterator[Guest]:
    made = guests.create(VMID)
    yield made
    made.destroy()


@pytest.fixture
def guest(shared_guest: Guest) -> Guest:
    """Guest 7101, running."""
    if shared_guest.state() != "RUNNING":
        shared_guest.start()
    return shared_guest


@pytest.fixture
def stopped(shared_guest: Guest) -> Guest:
    """Guest 7101, stopped."""
    if shared_guest.state() == "RUNNING":
        shared_guest.stop()
    return shared_guest


def power(api: Api, word: str, vmid: int = VMID, **query: Any) -> Any:
    text = "&".join(f"{name}={value}" for name, value in query.items())
    return api.request("POST", f"/guests/{vmid}/{word}?{text}")


def test_start_and_stop(api: Api, stopped: Guest, records: Records) -> None:
    """200 when the task has done it; intent and outcome are recorded under the answer's id."""
    answer = power(api, "start", wait=20)
    assert answer.status == 200, answer.body
    work = answer.json()
    assert work["state"] == "ended" and work["exitstatus"] == "OK" and not work["requested"]
    assert stopped.state() == "RUNNING"
    trail = records(work["audit_id"])
    assert [record["event"] for record in trail] == ["guest:start", "guest:outcome"]
    assert trail[0]["vmid"] == trail[1]["vmid"] == VMID and trail[0]["action"] == "guest:power"
    assert trail[1]["data"] == {"reason": "ok", "upid": work["upid"]}
    answer = power(api, "stop", wait=20)
    assert answer.status == 200 and stopped.state() == "STOPPED"


def test_without_wait(api: Api, stopped: Guest, records: Records) -> None:
    """202 at once, with the task and where to look; the outcome is recorded though nobody waits."""
    answer = power(api, "start")
    work = answer.json()
    assert answer.status == 202 and work["state"] == "running"
    assert answer.headers["Location"] == f"/tasks/{work['upid']}"
    assert records(work["audit_id"])[-1]["data"]["reason"] == "ok"
    task = api.get(f"/tasks/{work['upid']}?wait=10").json()
    assert (task["state"], task["ok"], task["vmid"], task["type"]) == ("ended", True, VMID, "vzstart")
    assert stopped.state() == "RUNNING"


def test_wait_that_runs_out(api: Api, stopped: Guest, pve: PveProcess, records: Records) -> None:
    """202, too; the task goes on and its end is recorded."""
    pve.faults.add("stall", "vzstart", seconds=3, times=1)
    answer = power(api, "start", wait=0.3)
    assert answer.status == 202
    assert records(answer.json()["audit_id"])[-1]["data"]["reason"] == "ok"


def test_task_that_fails(api: Api, stopped: Guest, pve: PveProcess, records: Records) -> None:
    """PVE's 200 with a task that fails is a failure: its words, its log, its name, and a record of that."""
    pve.faults.add("task", "vzstart", text="startup for container '7101' failed", times=1)
    answer = power(api, "start", wait=20)
    problem = answer.json()
    assert (answer.status, answer.code) == (502, "task_failed")
    assert "startup for container" in problem["detail"] and problem["upid"].startswith("UPID:") and problem["log"]
    found = until(lambda: [r for r in records(problem["audit_id"]) if r["event"] == "guest:outcome"])
    assert found[0]["data"]["reason"] == "failed" and "startup for" in found[0]["data"]["words"]


def test_locked_guest(api: Api, gateway: Gateway, stopped: Guest) -> None:
    """A start of a locked guest is 200 with a task that fails in PVE; here it is 423, which may be tried again."""
    path = config.pve_path(VMID)
    text = path.read_text()
    path.write_text(f"lock: backup\n{text}")
    try:
        answer = power(api, "start", wait=20)
        assert (answer.status, answer.code, answer.json()["lock"]) == (423, "guest_locked", "backup")
        assert answer.json()["retryable"]
    finally:
        path.write_text(text)


def test_running_and_stopped(api: Api, guest: Guest) -> None:
    """409 with a code for each, nothing done."""
    assert (power(api, "start").status, power(api, "start").code) == (409, "guest_running")
    assert power(api, "stop", wait=20).status == 200
    for word in ("stop", "shutdown", "reboot", "suspend"):
        answer = power(api, word, wait=20)
        assert (answer.status, answer.code) == (409, "guest_not_running"), (word, answer.body)


def test_refused_change_is_taken_back(api: Api, gateway: Gateway, guest: Guest, records: Records) -> None:
    """What PVE does not take on at all is recorded as not done."""
    answer = power(api, "start")
    assert [record["event"] for record in records(answer.json()["audit_id"])] == ["guest:start", "guest:aborted"]


def test_shutdown_and_reboot(api: Api, guest: Guest) -> None:
    """A guest that shuts down in time; and one that is rebooted runs with another init."""
    before = guest.init_pid()
    assert power(api, "reboot", timeout=5, wait=30).status == 200
    assert guest.state() == "RUNNING" and guest.init_pid() != before
    assert power(api, "shutdown", timeout=5, force="true", wait=30).status == 200
    assert guest.state() == "STOPPED"


def test_ha_managed(api: Api, stopped: Guest, records: Records) -> None:
    """The task only asks the HA manager: the answer and the record say so, and no more."""
    ha.manage("lxc", VMID, "stopped")
    try:
        answer = power(api, "start", wait=20)
        assert answer.status == 200 and answer.json()["requested"] is True
        assert records(answer.json()["audit_id"])[-1]["data"]["reason"] == "requested"
        until(lambda: stopped.state() == "RUNNING")
    finally:
        ha.manage("lxc", VMID, None)


def test_unknown_guests_are_alike(api: Api, as_token: Callable[..., Api]) -> None:
    """One that does not exist, is out of the grant, or protected: one body, and PVE is not asked."""
    bodies = []
    for client, vmid in ((api, GONE), (as_token("all", "7102"), VMID), (api, 7150), (api, 99)):
        answer = power(client, "start", vmid)
        assert (answer.status, answer.code) == (404, "guest_not_found")
        bodies.append({**answer.json(), "vmid": 0, "request_id": "", "audit_id": ""})
    assert all(body == bodies[0] for body in bodies)


def test_no_quorum(api: Api, stopped: Guest, pve: PveProcess) -> None:
    """503 that says why; nothing is done."""
    pve.faults.lose_quorum()
    answer = power(api, "start", wait=5)
    assert (answer.status, answer.code) == (503, "no_quorum")
    assert stopped.state() == "STOPPED"


@pytest.mark.parametrize(
    ("kind", "options", "status", "code"),
    [
        ("status", {"status": 500, "text": "no idea"}, 502, "pve_failed"),
        ("status", {"status": 595, "text": "No route to host"}, 503, "node_unreachable"),
        ("status", {"status": 599, "text": "Too many redirections"}, 504, "outcome_unknown"),
        ("garbage", {}, 504, "outcome_unknown"),
        ("drop", {}, 504, "outcome_unknown"),
    ],
)
def test_pve_that_fails(
    api: Api, stopped: Guest, pve: PveProcess, records: Records, kind: str, options: Any, status: int, code: str
) -> None:
    """Each failure of PVE has its answer; where nobody can know what was done, answer and record say that."""
    pve.faults.add(kind, ".*/status/start", method="POST", times=1, **options)
    answer = power(api, "start", wait=5)
    assert (answer.status, answer.code) == (status, code), answer.body
    end = records(answer.json()["audit_id"])[-1]
    assert end["event"] == ("guest:outcome" if status == 504 else "guest:aborted")
    if status == 504:
        assert end["data"]["reason"] == "unknown"


def test_bad_values(api: Api, guest: Guest) -> None:
    """422 that names the parameter; PVE is not asked."""
    for query in ("wait=-1", "wait=301", "wait=x", "timeout=0", "timeout=7201", "force=perhaps", "what=1"):
        answer = api.request("POST", f"/guests/{VMID}/shutdown?{query}")
        assert (answer.status, answer.code) == (422, "invalid_request")
        assert answer.json()["errors"][0]["path"] == query.split("=")[0]
    assert guest.state() == "RUNNING"


def test_pve_that_is_away(make_gateway: Callable[..., Gateway], stopped: Guest) -> None:
    """Nobody listens where PVE's API should be: 503 that may be tried again, nothing done, and on record as that."""
    alone = make_gateway(pve={"api": "https://127.0.0.1:1/api2/json"})
    api = alone.api(alone.token("guests", actions="all", guests="7100-7199"))
    for method, path in (
        ("GET", "/guests"),
        ("GET", f"/guests/{VMID}"),
        ("GET", "/tasks"),
        ("GET", "/nodes"),
        ("GET", "/nextid"),
        ("POST", f"/guests/{VMID}/start?wait=5"),
        ("DELETE", f"/guests/{VMID}?confirm={VMID}"),
    ):
        answer = api.request(method, path)
        assert (answer.status, answer.code) == (503, "pve_unavailable"), (path, answer.body)
        assert answer.json()["retryable"] and "Retry-After" in answer.headers
    until(lambda: len(alone.records(event="guest:aborted")) == 2)
    events = [record["event"] for record in alone.records() if record["event"].startswith("guest:")]
    assert sorted(events) == ["guest:aborted", "guest:aborted", "guest:delete", "guest:start"]
    assert api.get(f"/guests/{GONE}").code == "guest_not_found"  # which PVE is not asked for
    api.close()
