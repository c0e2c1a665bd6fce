"""The cluster and what goes wrong with it: free vmids, HA, lost quorum, nodes that are away, and injected faults."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
import time
from collections.abc import Callable

import pytest

from tests.exec.waiting import until
from tests.pvesim import pmxcfs
from tests.pvesim.api import ha
from tests.pvesim.api.client import Pve
from tests.pvesim.api.process import Api
from tests.pvesim.conftest import LXC, TEMPLATE, MakeContainer
from tests.pvesim.services import make_client_context
from tests.pvesim.test_node import inside_a_node

pytestmark = inside_a_node


def test_nextid(pve: Pve) -> None:
    """A text, the same one each time: it reserves nothing. A taken one is a 400."""
    free = pve.do("GET", "/cluster/nextid")
    assert isinstance(free, str) and free == pve.do("GET", "/cluster/nextid")
    assert pve.do("GET", "/cluster/nextid", vmid=7097) == "7097"
    assert pve.ask("GET", "/cluster/nextid", vmid=101).errors == {"vmid": "VM 101 already exists"}


def test_resources(pve: Pve, root: Pve, container: MakeContainer) -> None:
    """Guests with node, pool, tags and state; each kind by `type`; flags are numbers."""
    vmid = container(tags="red;blue")
    root.do("POST", "/pools", poolid="sim-b")
    try:
        root.do("PUT", "/pools/sim-b", vms=vmid)
        found = {entry["id"]: entry for entry in pve.do("GET", "/cluster/resources")}
        mine = found[f"lxc/{vmid}"]
        assert (mine["node"], mine["pool"], mine["tags"], mine["status"], mine["template"]) == (
            "pve1", "sim-b", "blue;red", "stopped", 0)  # fmt: skip
        assert {"node/pve1", "node/pve2", "storage/pve1/local", "storage/pve2/local-lvm", "/pool/sim-b"} <= found.keys()
        assert {entry["type"] for entry in pve.do("GET", "/cluster/resources", type="vm")} <= {"lxc", "qemu"}
        assert {entry["type"] for entry in pve.do("GET", "/cluster/resources", type="storage")} == {"storage"}
        assert pve.ask("GET", "/cluster/resources", type="x").status == 400
        assert [one["id"] for one in root.do("GET", "/pools/sim-b")["members"]] == [f"lxc/{vmid}"]
    finally:
        root.do("PUT", "/pools/sim-b", vms=vmid, delete=1)
        root.do("DELETE", "/pools/sim-b")


def test_ha_is_only_asked(pve: Pve, container: MakeContainer) -> None:
    """A managed guest's start and stop are requests: their tasks are over before anything has changed."""
    path = f"{LXC}/{container()}"
    vmid = int(path.rpartition("/")[2])
    ha.manage("lxc", vmid, "stopped")
    for verb, state in (("start", "running"), ("stop", "stopped")):
        task = pve.run("POST", f"{path}/status/{verb}")
        assert task.upid.split(":")[5] == f"ha{verb}"
        told = pve.do("GET", f"{path}/status/current")
        assert told["status"] != state and told["ha"]["managed"] == 1
        until(lambda state=state: pve.do("GET", f"{path}/status/current")["status"] == state)  # type: ignore[misc]
    assert pve.ask("DELETE", path).reason == (
        f"unable to remove CT {vmid} - used in HA resources and purge parameter not set."
    )
    pve.run("DELETE", path, purge=1)
    assert ha.state_of("lxc", vmid) is None


def test_ha_does_not_act_on_an_old_wish(pve: Pve, container: MakeContainer) -> None:
    """A start that is taken back before the manager gets to it never happens; the later wish counts."""
    vmid = container()
    path = f"{LXC}/{vmid}/status"
    ha.manage("lxc", vmid, "stopped")
    begun = int(time.time())
    pve.run("POST", f"{path}/start")
    ha.manage("lxc", vmid, "stopped")
    other = container()  # takes longer than the manager
    ha.manage("lxc", other, "stopped")
    pve.run("POST", f"{LXC}/{other}/status/start")
    until(lambda: pve.do("GET", f"{LXC}/{other}/status/current")["status"] == "running")
    assert pve.do("GET", "/nodes/pve1/tasks", vmid=vmid, typefilter="vzstart", since=begun) == []


def test_without_quorum(sound: Api, pve: Pve, container: MakeContainer) -> None:
    """Reading goes on; whatever writes to /etc/pve is a 500, and nothing has changed."""
    vmid = container()
    path = f"{LXC}/{vmid}"
    sound.faults.lose_quorum()
    before = (pmxcfs.ROOT / ".vmlist").read_text()
    quorum = "cluster not ready - no quorum?"
    assert pve.ask("POST", f"{path}/status/start").reason == quorum
    assert pve.ask("POST", LXC, vmid=7095, ostemplate=TEMPLATE).reason == quorum
    assert pve.ask("PUT", f"{path}/config", cores=2).status == 500
    assert pve.fail("POST", f"{path}/snapshot", snapname="one").endswith("Permission denied")
    assert "cores" not in pve.do("GET", f"{path}/config")
    assert pve.do("GET", "/cluster/status")[0]["quorate"] == 0
    assert (pmxcfs.ROOT / ".vmlist").read_text() == before


def test_pmxcfs_is_down(sound: Api, pve: Pve) -> None:
    """Every call is a 500, slowly, reading too, and pvesh says why."""
    sound.faults.lose_pmxcfs()
    begun = time.monotonic()
    reply = pve.ask("GET", "/version")
    assert (reply.status, time.monotonic() - begun >= 0.2) == (500, True)
    assert reply.reason.startswith("RPCEnvironment init request failed")
    done = subprocess.run([sound.pvesh, "get", "/version"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (111, "") and "Connection refused" in done.stderr


@pytest.mark.parametrize(("status", "words"), [(595, "No route to host"), (596, "Connection timed out")])
def test_node_that_is_away(sound: Api, pve: Pve, container: MakeContainer, status: int, words: str) -> None:
    """The proxy's own status without a JSON; the node is offline and its guests are `unknown`."""
    vmid = container()
    pve.run("POST", f"{LXC}/{vmid}/migrate", target="pve2")
    sound.faults.lose_node("pve2", status)
    reply = pve.ask("GET", f"/nodes/pve2/lxc/{vmid}/status/current")
    assert (reply.status, reply.reason, reply.raw) == (status, words, b"")
    nodes = {entry["node"]: entry["status"] for entry in pve.do("GET", "/nodes")}
    assert nodes == {"pve1": "online", "pve2": "offline"}
    listed = {entry["vmid"]: entry["status"] for entry in pve.do("GET", "/cluster/resources", type="vm")}
    assert listed[vmid] == "unknown"


def test_requests_go_wrong_on_demand(sound: Api, pve: Pve) -> None:
    """Slow, another status, no JSON, no answer: so often as was asked for, on that path alone."""
    add: Callable[..., None] = sound.faults.add
    add("slow", "/version", seconds=0.4, times=1)
    begun = time.monotonic()
    assert pve.ask("GET", "/version").status == 200 and time.monotonic() - begun >= 0.4
    add("status", "/vers.*", status=599, text="Too many redirections", times=2)
    assert [pve.ask("GET", "/version").status for _ in range(3)] == [599, 599, 200]
    add("garbage", "/version", times=1)
    assert (pve.ask("GET", "/version").body, pve.ask("GET", "/nodes").status) == ({}, 200)
    add("drop", "/version", method="POST|GET", times=1)
    with pytest.raises((http.client.RemoteDisconnected, ssl.SSLError)):
        pve.ask("GET", "/version")
    assert pve.ask("GET", "/version").status == 200


def test_late_request_is_carried_out(sound: Api, pve: Pve, container: MakeContainer) -> None:
    """A client that gives up too early is told nothing, and what it asked for happens after that."""
    path = f"{LXC}/{container()}/config"
    sound.faults.add("late", path, method="PUT", seconds=1, times=1)
    hasty = Pve(sound.port, headers=pve.headers, timeout=0.5)
    with pytest.raises(TimeoutError):
        hasty.ask("PUT", path, cores=3)
    assert "cores" not in pve.do("GET", path)
    until(lambda: pve.do("GET", path).get("cores") == 3)


def test_faults_by_their_own_url(sound: Api, pve: Pve) -> None:
    """What has no Python sets them by PUT /sim/faults, with the same JSON, and clears them with {}."""
    rule = {
        "kind": "status",
        "path": "/version",
        "method": "GET",
        "status": 503,
        "text": "no",
        "seconds": 0,
        "times": None,
    }
    context = make_client_context(pmxcfs.ROOT / "pve-root-ca.pem")

    def put(wanted: object) -> int:
        link = http.client.HTTPSConnection("127.0.0.1", sound.port, context=context, timeout=20)
        link.request("PUT", "/sim/faults", json.dumps(wanted))
        status = link.getresponse().status
        link.close()
        return status

    assert put({"rules": [rule]}) == 200
    assert pve.ask("GET", "/version").status == 503
    put({})
    assert pve.ask("GET", "/version").status == 200


def test_templates_are_downloaded(sound: Api, pve: Pve) -> None:
    """What can be had, had by a task, and then a container is made of it; not on a full storage."""
    name = "debian-12-standard_12.12-1_amd64.tar.zst"
    assert name in [entry["template"] for entry in pve.do("GET", "/nodes/pve1/aplinfo")]
    assert pve.ask("POST", "/nodes/pve1/aplinfo", storage="shared", template="x").errors == {
        "template": "no such template"
    }
    sound.faults.fill("shared")
    assert pve.fail("POST", "/nodes/pve1/aplinfo", storage="shared", template=name).endswith("No space left on device")
    sound.faults.clear()
    pve.run("POST", "/nodes/pve1/aplinfo", storage="shared", template=name)
    content = pve.do("GET", "/nodes/pve1/storage/shared/content", content="vztmpl")
    assert [entry["volid"] for entry in content] == [f"shared:vztmpl/{name}"]
    pve.finish(pve.do("DELETE", f"/nodes/pve1/storage/shared/content/shared:vztmpl/{name}"))
    assert pve.do("GET", "/nodes/pve1/storage/shared/content", content="vztmpl") == []


def test_storages(pve: Pve) -> None:
    """By what they hold; sizes are numbers of bytes."""
    assert [one["storage"] for one in pve.do("GET", "/nodes/pve1/storage", content="vztmpl")] == ["local", "shared"]
    thin = pve.do("GET", "/nodes/pve1/storage", storage="local-lvm")[0]
    assert thin["type"] == "lvmthin" and thin["total"] == thin["used"] + thin["avail"]
    assert pve.ask("GET", "/nodes/pve1/storage/none/content").reason == "storage 'none' does not exist"
