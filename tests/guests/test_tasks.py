"""PVE's tasks under a grant: seen, waited for, followed, stopped; names that are made up reach nothing."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateway.auth.grants import Grant
from gateway.guests.tasks import VisibleTasks
from gateway.pve.ids import parse_upid
from gateway.pve.tasks import Task
from tests.auth.changes import root
from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.pvesim import guests
from tests.pvesim.api.process import Api as PveProcess
from tests.pvesim.guests import Guest

VMID, OTHER = 7141, 7142
Records = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def guest(node: None) -> Iterator[Guest]:
    """Guest 7141, which these tests start and stop as they like."""
    made = guests.create(VMID, start=False)
    yield made
    made.destroy()


@pytest.fixture(autouse=True)
def stopped(guest: Guest) -> None:
    """Each test begins with it stopped."""
    if guest.state() != "STOPPED":
        guest.stop(kill=True)


def start(api: Api, **query: Any) -> Any:
    text = "&".join(f"{name}={value}" for name, value in query.items())
    answer = api.request("POST", f"/guests/{VMID}/start?{text}")
    assert answer.status in (200, 202), answer.body
    return answer.json()


def test_list(api: Api, as_token: Callable[..., Api]) -> None:
    """Those about guests within the grant, the newest first, page by page."""
    upid = start(api, wait=20)["upid"]
    page = api.get(f"/tasks?vmid={VMID}").json()
    assert page["tasks"][0]["upid"] == upid and page["tasks"][0]["ok"] is True
    assert all(7100 <= task["vmid"] <= 7199 for task in api.get("/tasks?limit=500").json()["tasks"])
    one = api.get(f"/tasks?vmid={VMID}&limit=1").json()
    assert len(one["tasks"]) == 1
    if one["next"] is not None:
        assert upid not in [task["upid"] for task in api.get(f"/tasks?vmid={VMID}&after={one['next']}").json()["tasks"]]
    narrow = as_token("guest:read", str(OTHER))
    assert narrow.get("/tasks").json() == {"tasks": [], "next": None}
    assert narrow.get("/tasks?node=attacker").code == "node_not_found"


def test_unseen_tasks_are_alike(api: Api, as_token: Callable[..., Api]) -> None:
    """Another guest's, one about no guest, one of no node, one that never was, one that cannot be: the same body."""
    upid = start(api, wait=20)["upid"]
    narrow = as_token("all", str(OTHER))
    parts = upid.split(":")
    names = [
        upid,
        ":".join([*parts[:6], "", *parts[7:]]),
        ":".join(["UPID", "attacker", *parts[2:6], str(OTHER), *parts[7:]]),
        ":".join([*parts[:6], str(OTHER), *parts[7:]]),
        "UPID:what",
    ]
    bodies = []
    for name in names:
        for method, path in (("GET", ""), ("GET", "/log"), ("DELETE", "")):
            answer = narrow.request(method, f"/tasks/{name}{path}")
            assert (answer.status, answer.code) == (404, "task_not_found"), (name, answer.body)
            bodies.append({**answer.json(), "upid": "", "request_id": "", "audit_id": ""})
    assert all(body == bodies[0] for body in bodies)


def test_made_up_name_stops_nothing(api: Api, as_token: Callable[..., Api], pve: PveProcess, guest: Guest) -> None:
    """PVE ends the process that a name holds: one's own vmid beside another's process is the name of no task."""
    pve.faults.add("stall", "vzstart", seconds=3, times=1)
    upid = start(api)["upid"]
    parts = upid.split(":")
    forged = ":".join([*parts[:6], str(OTHER), *parts[7:]])
    answer = as_token("all", str(OTHER)).request("DELETE", f"/tasks/{forged}")
    assert (answer.status, answer.code) == (404, "task_not_found")
    assert api.get(f"/tasks/{upid}?wait=20").json()["ok"] is True
    assert guest.state() == "RUNNING"


def test_stop(api: Api, pve: PveProcess, guest: Guest, gateway: Gateway, records: Records) -> None:
    """It ends, unfinished, and both what was stopped and who stopped it are on record; again is 409."""
    pve.faults.add("stall", "vzstart", seconds=30, times=1)
    work = start(api)
    answer = api.request("DELETE", f"/tasks/{work['upid']}?wait=20")
    task = answer.json()
    assert answer.status == 200 and task["state"] == "ended" and task["ok"] is False
    assert records(work["audit_id"])[-1]["data"]["reason"] == "failed"
    stops = gateway.records(event="guest:task-stop")
    assert stops[-1]["data"] == {"upid": work["upid"]} and stops[-1]["vmid"] == VMID
    answer = api.request("DELETE", f"/tasks/{work['upid']}")
    assert (answer.status, answer.code) == (409, "task_ended")
    assert guest.state() == "STOPPED"


def test_stop_needs_its_grant(api: Api, as_token: Callable[..., Api], pve: PveProcess) -> None:
    """Who may read the guest may see its tasks, and end none."""
    reader = as_token("guest:power", str(VMID))  # which takes its time on a busy machine
    pve.faults.add("stall", "vzstart", seconds=5, times=1)
    upid = start(api)["upid"]
    assert reader.get(f"/tasks/{upid}").json()["state"] == "running"
    assert reader.request("DELETE", f"/tasks/{upid}").status == 403
    assert api.get(f"/tasks/{upid}?wait=20").json()["ok"] is True


def test_failed_task_is_shown(api: Api, pve: PveProcess) -> None:
    """That a task failed is told in it: the question about it succeeds."""
    pve.faults.add("task", "vzstart", text="no luck", times=1)
    upid = start(api)["upid"]
    answer = api.get(f"/tasks/{upid}?wait=20")
    assert answer.status == 200 and answer.json()["ok"] is False and "no luck" in answer.json()["exitstatus"]


def test_log_is_followed(api: Api, pve: PveProcess) -> None:
    """From line to line, to the task's end, nothing twice and nothing left out."""
    pve.faults.add("stall", "vzstart", seconds=1, times=1)
    upid = start(api)["upid"]
    lines: list[int] = []
    after: int | None = 0
    while after is not None:
        log = api.get(f"/tasks/{upid}/log?after={after}&limit=1&wait=5").json()
        lines += [line["number"] for line in log["lines"]]
        after = log["next"]
    assert lines == list(range(1, len(lines) + 1)) and lines
    whole = api.get(f"/tasks/{upid}/log").json()
    assert len(whole["lines"]) == len(lines) and whole["next"] is None


def test_wait_ends_soon_after_its_task(api: Api, pve: PveProcess) -> None:
    """Thirty who wait for one task are told at the same time."""
    pve.faults.add("stall", "vzstart", seconds=1.5, times=1)
    upid = start(api)["upid"]
    told: list[Any] = []
    threads = [
        threading.Thread(target=lambda: told.append((api.get(f"/tasks/{upid}?wait=30").json(), time.monotonic())))
        for _ in range(30)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert len(told) == 30 and all(task["ok"] for task, _ in told)
    moments = [moment for _, moment in told]
    assert max(moments) - min(moments) < 5


def test_revoked_token_waits_no_longer(gateway: Gateway, api: Api, pve: PveProcess) -> None:
    """A wait ends with the right to it; what was begun goes on, and is recorded."""
    pve.faults.add("stall", "vzstart", seconds=9, times=1)
    token = gateway.token("short", actions="guest:power", guests=str(VMID))
    client = gateway.api(token)
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(client.request("POST", f"/guests/{VMID}/start?wait=30")))
    thread.start()
    until(lambda: api.get(f"/tasks?vmid={VMID}").json()["tasks"][0]["state"] == "running")
    root(gateway.tokens()).revoke(token.split(".")[0].removeprefix("pveg_"))
    thread.join(6)  # before its task ends
    assert not thread.is_alive() and answers[0].status == 401
    client.close()
    upid = api.get(f"/tasks?vmid={VMID}").json()["tasks"][0]["upid"]
    assert api.get(f"/tasks/{upid}?wait=20").json()["ok"] is True
    outcome = until(lambda: [r for r in gateway.records(event="guest:outcome") if r["data"].get("upid") == upid])
    assert outcome[0]["data"]["reason"] == "ok"


def test_a_guest_that_leaves_the_grant_is_told_of_no_more(gateway: Gateway, api: Api, pve: PveProcess) -> None:
    """Who waits for a task, or for its log, sees nothing of it when it has lost the guest meanwhile."""
    pve.faults.add("stall", "vzstart", seconds=4, times=1)
    upid = start(api)["upid"]
    token = gateway.token("loser", actions="guest:power", guests=str(VMID))
    client = gateway.api(token)
    paths = (f"/tasks/{upid}?wait=20", f"/tasks/{upid}/log?after=9999&wait=20")
    assert client.get(f"/tasks/{upid}").json()["state"] == "running"
    waiting = [client.connect() for _ in paths]
    for connection, path in zip(waiting, paths, strict=True):
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
    assert client.get("/tokens/self").status == 200  # asked behind them
    elsewhere = (Grant.from_json({"actions": ["guest:power"], "guests": str(OTHER)}),)
    root(gateway.tokens()).edit(token.split(".")[0].removeprefix("pveg_"), {"grants": elsewhere}, None)
    answers = [connection.getresponse() for connection in waiting]
    told = [(answer.status, json.loads(answer.read())["code"]) for answer in answers]
    for connection in waiting:
        connection.close()
    client.close()
    assert told == [(404, "task_not_found")] * 2
    assert api.get(f"/tasks/{upid}?wait=20").json()["ok"] is True


def test_client_that_leaves(gateway: Gateway, api: Api, pve: PveProcess) -> None:
    """Its change goes on, and the end of it is recorded."""
    pve.faults.add("stall", "vzstart", seconds=1.5, times=1)
    before = len(gateway.records(event="guest:start"))
    connection = api.connect()
    connection.request("POST", f"/guests/{VMID}/start?wait=30", headers={"Authorization": f"Bearer {api.token}"})
    intents = until(lambda: gateway.records(event="guest:start")[before:])
    connection.close()
    audit_id = intents[0]["audit_id"]
    outcome = until(lambda: gateway.records(event="guest:outcome", audit_id=audit_id))
    assert outcome[0]["data"]["reason"] == "ok"


def test_many_at_once(api: Api, guest: Guest) -> None:
    """Of those who start one guest at the same time one does it at least, and all others are told why not."""
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda: answers.append(api.request("POST", f"/guests/{VMID}/start?wait=30")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    told = {(answer.status, answer.code) for answer in answers}
    assert (200, None) in told and told <= {(200, None), (409, "guest_running"), (423, "guest_locked")}, told
    assert guest.state() == "RUNNING"


def test_web_that_dies(gateway: Gateway, api: Api, pve: PveProcess, records: Records) -> None:
    """The next web process finds what was under way and records its end."""
    pve.faults.add("stall", "vzstart", seconds=3, times=1)
    work = start(api)
    gateway.services.kill("web")
    gateway.services.restart("web")
    trail = records(work["audit_id"])
    assert [record["event"] for record in trail] == ["guest:start", "guest:outcome"]
    assert trail[1]["data"]["reason"] == "ok" and trail[1]["data"]["upid"] == work["upid"]


def test_the_tasks_of_a_guest_out_of_reach_are_not_looked_at() -> None:
    """C2: how many there are, or how long a look takes, would tell that there is such a guest."""
    unseen: Any = None  # nothing of PVE is asked
    tasks = VisibleTasks(unseen, unseen, unseen, unseen, ((7100, 7199),))
    assert tasks.page("pve1", vmid=7200, since=None, errors=False, after=None, limit=50) == ([], None)


class ManyTasks:
    """Stands for pve.tasks.Tasks: a long list of tasks, of which few are about a guest that may be seen."""

    def __init__(self, vmids: list[int]) -> None:
        names = (f"UPID:pve1:{n:08X}:0012D687:6920A1B2:vzstart:{vmid}:root@pam:" for n, vmid in enumerate(vmids))
        self.tasks = [Task(upid=parse_upid(name), exitstatus="OK", ended_at=1) for name in names]

    def begin(self) -> None:
        """Another one is the newest now."""
        name = f"UPID:pve1:{len(self.tasks):08X}:0012D687:6920A1B3:vzstop:7101:root@pam:"
        self.tasks.insert(0, Task(upid=parse_upid(name), exitstatus=None, ended_at=None))

    def recent(self, node: str, *, start: int, limit: int, **_: Any) -> list[Task]:
        return self.tasks[start : start + limit]


@pytest.mark.parametrize("hidden", [0, 1, 700, 2600])
def test_pages_tell_nothing_of_what_is_not_seen(hidden: int) -> None:
    """However many tasks of others stand between one's own: the same pages by the same names, and each task once, also
    when one begins between two pages."""
    mine, others = 7101, [7300] * hidden
    listed: Any = ManyTasks([*others, mine, *others, mine, mine, *others, mine, *others])
    unasked: Any = None
    visible = VisibleTasks(listed, unasked, unasked, unasked, ((7100, 7199),))
    own = [task for task in listed.tasks if task.upid.vmid == mine]
    after: str | None = None
    told: list[Task] = []
    for expected in (own[:3], own[3:]):
        page, after = visible.page("pve1", vmid=None, since=None, errors=False, after=after, limit=3)
        assert page == expected
        assert after == (str(page[-1].upid) if expected == own[:3] else None)
        told += page
        listed.begin()
    assert told == own
    assert visible.page("pve1", vmid=None, since=None, errors=False, after="UPID:gone", limit=3) == ([], None)
