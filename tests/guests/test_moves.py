"""Disks, nodes and templates; addresses that come; and virtual machines, by the same routes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.exec.api import Api
from tests.guests.made import TEMPLATE, sweep
from tests.pvesim import pmxcfs
from tests.pvesim.api import machines
from tests.pvesim.api.machines import Machine
from tests.pvesim.api.process import Api as PveProcess

VMID, AWAY, MACHINE = 7161, 7162, 7171
Records = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def container(api: Api) -> Iterator[int]:
    """A stopped container that PVE's API made, with a disk on a storage."""
    wish = {"vmid": VMID, "template": TEMPLATE, "name": "moved", "disk": "1G", "start": False}
    answer = api.request("POST", "/guests?wait=60", wish, timeout=90)
    assert answer.status == 201, answer.body
    yield VMID
    sweep(VMID, VMID)


@pytest.fixture
def machine(pve: PveProcess) -> Iterator[Machine]:
    """A running virtual machine with a guest agent."""
    made = machines.create(MACHINE)
    yield made
    made.destroy()


def act(api: Api, vmid: int, word: str, body: Any = None, **query: Any) -> Any:
    text = "&".join(f"{name}={value}" for name, value in {"wait": 40, **query}.items())
    return api.request("POST", f"/guests/{vmid}/{word}?{text}", body, timeout=60)


def config_of(api: Api, vmid: int) -> Any:
    return api.get(f"/guests/{vmid}").json()["config"]


def test_resize(api: Api, container: int, records: Records) -> None:
    """To a size, and by one; never smaller; and a disk that is not there is none."""
    answer = act(api, container, "resize", {"disk": "rootfs", "size": "2G"})
    assert answer.status == 200, answer.body
    assert "size=2G" in config_of(api, container)["rootfs"]
    assert records(answer.json()["audit_id"])[0]["data"] == {"disk": "rootfs", "size": "2G"}
    assert act(api, container, "resize", {"disk": "rootfs", "size": "+1G"}).status == 200
    assert "size=3G" in config_of(api, container)["rootfs"]
    answer = act(api, container, "resize", {"disk": "rootfs", "size": "1G"})
    assert (answer.status, answer.code) == (409, "pve_rejected"), answer.body
    answer = act(api, container, "resize", {"disk": "mp7", "size": "1G"})
    assert (answer.status, answer.code) == (404, "volume_not_found"), answer.body
    answer = act(api, container, "resize", {"disk": "rootfs", "size": "9G", "digest": "0" * 40})
    assert (answer.status, answer.code) == (409, "guest_changed"), answer.body
    assert "size=3G" in config_of(api, container)["rootfs"]


def test_template(api: Api, container: int) -> None:
    """For good: it does not start any more, and is a template in the list."""
    answer = act(api, container, "template")
    assert answer.status == 200 and ":vztemplate:" in answer.json()["upid"], answer.body
    assert api.get(f"/guests/{container}").json()["template"] is True
    answer = act(api, container, "start")
    assert (answer.status, answer.code) == (409, "guest_is_template"), answer.body
    answer = act(api, container, "template")
    assert (answer.status, answer.code) == (409, "guest_is_template"), answer.body


def test_addresses_of_one_that_starts(api: Api, container: int) -> None:
    """The wait begins before the guest has an address, and ends when it has one."""
    net = {"options": {"net0": "name=eth0,bridge=vmbr0,ip=dhcp,type=veth"}}
    assert api.request("PATCH", f"/guests/{container}", net).status == 200
    assert act(api, container, "start", wait=0).status == 202
    told = api.get(f"/guests/{container}/addresses?wait=60", timeout=70).json()
    assert told["ready"] is True
    assert {one["family"] for one in told["addresses"]} <= {"inet", "inet6"}


def test_no_quorum(api: Api, container: int, pve: PveProcess) -> None:
    """Looking goes on; every change is 503 with its reason, and nothing is changed."""
    before = api.get(f"/guests/{container}").json()["digest"]
    pve.faults.lose_quorum()
    for method, path, body in (
        ("PATCH", "", {"tags": ["x"]}),
        ("POST", "/resize?wait=10", {"disk": "rootfs", "size": "2G"}),
        ("POST", "/start?wait=10", None),
        ("POST", "/template?wait=10", None),
    ):
        answer = api.request(method, f"/guests/{container}{path}", body)
        assert (answer.status, answer.code) == (503, "no_quorum"), (path, answer.body)
    assert api.get(f"/guests/{container}").json()["digest"] == before


def test_node_that_is_away(api: Api, pve: PveProcess) -> None:
    """A guest's node that PVE cannot reach: 503; the list still has the guest, in no known state."""
    pmxcfs.register(AWAY, node="pve2")
    try:
        pve.faults.lose_node("pve2")
        answer = api.get(f"/guests/{AWAY}")
        assert (answer.status, answer.code, answer.json()["node"]) == (503, "node_unreachable", "pve2"), answer.body
        answer = act(api, AWAY, "start")
        assert (answer.status, answer.code) == (503, "node_unreachable"), answer.body
        listed = [one for one in api.get("/guests").json()["guests"] if one["vmid"] == AWAY]
        assert [(one["status"], one["node"]) for one in listed] == [("unknown", "pve2")]
        assert {one["name"]: one["online"] for one in api.get("/nodes").json()["nodes"]}["pve2"] is False
    finally:
        pmxcfs.unregister(AWAY)


# ---- virtual machines


def test_machine(api: Api, machine: Machine, records: Records) -> None:
    """Shown, changed, stopped, started, suspended and resumed, as a container is."""
    view = api.get(f"/guests/{MACHINE}").json()
    assert (view["type"], view["status"]) == ("qemu", "running")
    answer = api.request("PATCH", f"/guests/{MACHINE}", {"name": "vm", "tags": ["b", "a"], "notes": "x"})
    assert answer.status == 200, answer.body
    assert api.get(f"/guests/{MACHINE}").json()["tags"] == ["a", "b"]
    for word, state in (("suspend", None), ("resume", None), ("stop", "stopped"), ("start", "running")):
        answer = act(api, MACHINE, word)
        assert answer.status == 200, (word, answer.body)
        assert records(answer.json()["audit_id"])[-1]["data"]["reason"] == "ok"
        if state:
            assert api.get(f"/guests/{MACHINE}").json()["status"] == state


@pytest.mark.parametrize(
    "options",
    [
        {"args": "-device x"},
        {"hostpci0": "0000:01:00.0"},
        {"usb0": "host=1-1"},
        {"scsi1": "/dev/sda"},
        {"scsi1": "file=/etc/shadow"},
        {"ide2": "local:iso/../../etc/shadow,media=cdrom"},
        {"scsi1": "local-lvm:vm-101-disk-0"},
        {"hookscript": "local:snippets/x.sh"},
        {"cicustom": "user=local:snippets/x.yml"},
        {"serial0": "/dev/ttyS0"},
        {"parallel0": "/dev/parport0"},
        {"rng0": "source=/dev/hwrng"},
    ],
)
def test_node_policy_of_machines(api: Api, machine: Machine, options: dict[str, str]) -> None:
    """C11: nothing of the node goes to a machine by PATCH."""
    answer = api.request("PATCH", f"/guests/{MACHINE}", {"options": options})
    assert (answer.status, answer.code) == (403, "policy_refused"), answer.body
