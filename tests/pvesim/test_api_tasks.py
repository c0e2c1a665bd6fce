"""Tasks really run: what their status, log and lists say, who may see and end them, and how they fail."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.exec.waiting import until
from tests.pvesim.api import upid
from tests.pvesim.api.client import Pve
from tests.pvesim.api.process import Api
from tests.pvesim.conftest import LXC, TEMPLATE, MakeContainer
from tests.pvesim.test_node import inside_a_node

pytestmark = inside_a_node
TASKS = "/nodes/pve1/tasks"
BENT = "UPID:pve1:00000001:00000001:00000001:vzstart:7000:root@pam:"


def test_accepted_and_failed_later(pve: Pve) -> None:
    """A start of what does not exist is 200 with a UPID; the failure stands in the task's exitstatus alone."""
    task = pve.finish(pve.do("POST", f"{LXC}/7098/status/start"))
    words = "Configuration file 'nodes/pve1/lxc/7098.conf' does not exist"
    assert task.exitstatus == words
    assert task.log == [f"TASK ERROR: {words}"]
    found = upid.decode(task.upid)
    assert found is not None
    assert (found.node, found.type, found.id, found.user) == ("pve1", "vzstart", "7098", "suite@pve!all")


def test_status_of_a_running_task(sound: Api, pve: Pve) -> None:
    """It is a process of its own, `running` without an exitstatus, and then `stopped` with one."""
    sound.faults.add("stall", "vzstart", seconds=60, times=1)
    running = pve.do("POST", f"{LXC}/7098/status/start")
    told = pve.do("GET", f"{TASKS}/{running}/status")
    assert told["status"] == "running" and "exitstatus" not in told
    assert (told["user"], told["tokenid"]) == ("suite@pve", "all")
    assert os.getsid(told["pid"]) == told["pid"]
    assert running in [task["upid"] for task in pve.do("GET", TASKS, source="active")]
    assert running not in [task["upid"] for task in pve.do("GET", TASKS)]
    entry = next(task for task in pve.do("GET", "/cluster/tasks") if task["upid"] == running)
    assert "endtime" not in entry and "status" not in entry
    assert pve.do("GET", f"{TASKS}/{running}/log") == [{"n": 1, "t": "no content"}]
    pve.do("DELETE", f"{TASKS}/{running}")
    assert pve.finish(running).exitstatus == "received interrupt"


def test_killed_task_has_no_status(sound: Api, pve: Pve) -> None:
    """One that could not say how it ended: `unexpected status`."""
    sound.faults.add("stall", "vzstart", seconds=60, times=1)
    running = pve.do("POST", f"{LXC}/7098/status/start")
    os.kill(pve.do("GET", f"{TASKS}/{running}/status")["pid"], signal.SIGKILL)
    until(lambda: pve.do("GET", f"{TASKS}/{running}/status")["status"] == "stopped")
    assert pve.do("GET", f"{TASKS}/{running}/status")["exitstatus"] == "unexpected status"


def test_stopping_a_create_leaves_nothing(sound: Api, pve: Pve) -> None:
    """A create that is ended half way takes its configuration and its volume with it."""
    sound.faults.add("stall", "unpack", seconds=60, times=1)
    running = pve.do("POST", LXC, vmid=7091, ostemplate=TEMPLATE, storage="local-lvm")
    assert pve.do("GET", f"{LXC}/7091/config")["lock"] == "create"
    until(lambda: pve.do("GET", "/nodes/pve1/storage/local-lvm/content", vmid=7091))
    pve.do("DELETE", f"{TASKS}/{running}")
    assert pve.finish(running).exitstatus == "received interrupt"
    assert pve.ask("GET", f"{LXC}/7091/config").status == 500
    assert pve.do("GET", "/nodes/pve1/storage/local-lvm/content", vmid=7091) == []


def test_killed_create_leaves_a_locked_stub(sound: Api, pve: Pve, container: MakeContainer) -> None:
    """Nobody cleans up after a worker that was killed: a configuration with the lock `create` and nothing else."""
    sound.faults.add("stall", "vzcreate", seconds=60, times=1)
    running = pve.do("POST", LXC, vmid=7091, ostemplate=TEMPLATE, storage="local-lvm")
    os.kill(pve.do("GET", f"{TASKS}/{running}/status")["pid"], signal.SIGKILL)
    pve.finish(running)
    assert pve.do("GET", f"{LXC}/7091/config")["lock"] == "create"
    assert pve.ask("DELETE", f"{LXC}/7091").reason == "CT is locked (create)"


def test_who_sees_a_task(pve: Pve, as_token: Callable[..., Pve]) -> None:
    """Its own token, and who may audit the node; a stranger sees neither status nor log, and cannot end it."""
    task = pve.finish(pve.do("POST", f"{LXC}/7098/status/start"))
    stranger = as_token("VM.Audit")
    for method, path in (("GET", "/status"), ("GET", "/log")):
        assert stranger.ask(method, f"{TASKS}/{task.upid}{path}").reason == (
            "Permission check failed (/nodes/pve1, Sys.Audit)"
        )
    assert stranger.ask("DELETE", f"{TASKS}/{task.upid}").reason == "Permission check failed (/nodes/pve1, Sys.Modify)"
    assert task.upid not in [one["upid"] for one in stranger.do("GET", TASKS)]
    assert task.upid in [one["upid"] for one in as_token("Sys.Audit").do("GET", TASKS)]


@pytest.mark.parametrize(
    ("text", "words"),
    [("nonsense", "unable to parse worker upid"), (BENT[:-1], "unable to parse worker upid"), (BENT, "no such task")],
)
def test_bent_ids(pve: Pve, text: str, words: str) -> None:
    """400 that names the parameter."""
    assert pve.ask("GET", f"{TASKS}/{text}/status").errors == {"upid": words}


def test_lists_filter(pve: Pve, container: MakeContainer) -> None:
    """By guest, kind, status and user; newest first, 50 unless told; `total` counts what fits."""
    vmid = container()
    assert pve.fail("POST", f"{LXC}/{vmid}/snapshot", snapname="current1", description="x") == "OK"
    pve.fail("POST", f"{LXC}/{vmid}/snapshot", snapname="current1")
    reply = pve.ask("GET", TASKS, vmid=vmid)
    assert [task["type"] for task in reply.data[:3]] == ["vzsnapshot", "vzsnapshot", "vzcreate"]
    assert reply.body["total"] >= len(reply.data) >= 3
    assert pve.do("GET", TASKS, vmid=vmid, errors=1)[0]["status"] == "snapshot name 'current1' already used"
    assert len(pve.do("GET", TASKS, vmid=vmid, typefilter="vzsnapshot", statusfilter="ok", limit=1)) == 1
    assert pve.do("GET", TASKS, vmid=vmid, userfilter="nobody") == []


def test_log_in_pieces(pve: Pve, container: MakeContainer) -> None:
    """`start` and `limit`, with the line's number and the total of lines."""
    vmid = container()
    task = pve.do("GET", TASKS, vmid=vmid)[0]["upid"]
    whole = pve.ask("GET", f"{TASKS}/{task}/log", limit=0)
    assert whole.data[-1]["t"] == "TASK OK" and whole.body["total"] == len(whole.data)
    assert pve.do("GET", f"{TASKS}/{task}/log", start=1, limit=1) == whole.data[1:2]


def test_what_a_method_prints_stops_no_task(pve: Pve, container: MakeContainer) -> None:
    """A method that warns on its standard output, which nobody reads: the next task begins all the same."""
    path = f"{LXC}/{container()}"
    pve.do("PUT", f"{path}/config", delete="nameserver")
    pve.run("POST", f"{path}/status/start")
