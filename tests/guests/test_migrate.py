"""Moving guests to another node of the cluster: at rest, by a restart, live; with their volumes, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.exec.api import Answer, Api
from tests.exec.gateways import Gateway
from tests.guests import made
from tests.guests.made import TEMPLATE
from tests.pvesim import pmxcfs
from tests.pvesim.api import storages
from tests.pvesim.api.machines import Machine
from tests.pvesim.api.process import Api as PveProcess

pytestmark = pytest.mark.usefixtures("swept")
FIRST, LAST = 7340, 7349
CONTAINER, MACHINE = 7340, 7345
CD = "local:iso/moved.iso"
Records = Callable[[str], list[dict[str, Any]]]


def container(api: Api, **wish: Any) -> int:
    answer = api.request("POST", "/guests?wait=60", {"template": TEMPLATE, "vmid": CONTAINER, **wish}, timeout=90)
    assert answer.status == 201, answer.body
    return CONTAINER


def machine(api: Api, **wish: Any) -> int:
    body = {"type": "qemu", "vmid": MACHINE, "start": True, **wish}
    answer = api.request("POST", "/guests?wait=60", body, timeout=90)
    assert answer.status == 201, answer.body
    return MACHINE


def migrate(api: Api, vmid: int, target: str = "pve2", **wish: Any) -> Answer:
    return api.request("POST", f"/guests/{vmid}/migrate?wait=60", {"target": target, **wish}, timeout=90)


def view(api: Api, vmid: int) -> dict[str, Any]:
    shown: dict[str, Any] = api.get(f"/guests/{vmid}").json()
    return shown


def test_container_at_rest(api: Api, records: Records) -> None:
    """It is on the other node with all its options, and the record tells where it went and that it did; then back."""
    vmid = container(api, name="moved", tags=["old"], storage="local-lvm")
    before = view(api, vmid)["config"]
    answer = migrate(api, vmid)
    assert (answer.status, answer.json()["exitstatus"]) == (200, "OK"), answer.body
    now = view(api, vmid)
    assert (now["node"], now["config"], now["status"]) == ("pve2", before, "stopped")
    assert not (pmxcfs.ROOT / f"nodes/pve1/lxc/{vmid}.conf").exists()
    trail = records(answer.json()["audit_id"])
    assert [(record["event"], record["node"]) for record in trail] == [
        ("guest:migrate", "pve1"),
        ("guest:outcome", "pve1"),
    ]
    assert trail[0]["data"] == {"target": "pve2"} and trail[1]["data"]["reason"] == "ok"
    answer = migrate(api, vmid, "pve1")
    assert answer.status == 200 and answer.json()["upid"].startswith("UPID:pve2:"), answer.body
    assert view(api, vmid)["node"] == "pve1"


def test_container_to_another_storage(api: Api) -> None:
    """`storage` is where its volumes are there."""
    vmid = container(api, storage="local-lvm", mounts=[{"path": "/data", "size": "1G"}])
    answer = migrate(api, vmid, storage="local")
    assert answer.status == 200, answer.body
    config = view(api, vmid)["config"]
    assert config["rootfs"].startswith(f"local:{vmid}/") and config["mp0"].startswith(f"local:{vmid}/")
    assert {path.parts[4] for path in made.leftovers(vmid)} == {"local"}


def test_container_that_runs(api: Api, records: Records) -> None:
    """It is shut down, moved and started there where that is asked for, and else it is a clear 409."""
    vmid = container(api, start=True)
    for online, code in ((False, "guest_running"), (True, "pve_rejected")):
        answer = migrate(api, vmid, online=online)
        assert (answer.status, answer.code) == (409, code), answer.body
        assert (view(api, vmid)["node"], view(api, vmid)["status"]) == ("pve1", "running")
    assert records(answer.json()["audit_id"])[-1]["data"]["reason"] == "failed"
    answer = migrate(api, vmid, restart=True)
    assert answer.status == 200, answer.body
    assert (view(api, vmid)["node"], view(api, vmid)["status"]) == ("pve2", "running")
    assert records(answer.json()["audit_id"])[-1]["data"]["reason"] == "ok"


def test_machine_live(api: Api, records: Records) -> None:
    """On a storage that both have it goes on running, the same process of it."""
    vmid = machine(api, disks=[{"size": "1G"}], storage="shared")
    pid = Machine(vmid).pidfile.read_text()
    answer = migrate(api, vmid)
    assert (answer.status, answer.code) == (409, "guest_running"), answer.body
    answer = migrate(api, vmid, online=True)
    assert answer.status == 200, answer.body
    assert (view(api, vmid)["node"], view(api, vmid)["status"]) == ("pve2", "running")
    assert Machine(vmid).pidfile.read_text() == pid
    assert records(answer.json()["audit_id"])[-1]["data"]["reason"] == "ok"


def test_local_disks_of_a_machine(api: Api, records: Records) -> None:
    """A disk that only its node has is named, and stays; with `local_disks` it goes along, to `storage` if given."""
    vmid = machine(api, disks=[{"size": "1G"}], storage="local-lvm")
    disk = f"local-lvm:vm-{vmid}-disk-0"
    answer = migrate(api, vmid, online=True)
    assert (answer.status, answer.code, answer.json()["volume"]) == (409, "storage_unsuitable", disk), answer.body
    assert disk in answer.json()["detail"] and "local_disks" in answer.json()["detail"]
    assert (view(api, vmid)["node"], view(api, vmid)["status"]) == ("pve1", "running")
    assert records(answer.json()["audit_id"])[-1]["data"]["reason"] == "failed"
    answer = migrate(api, vmid, online=True, local_disks=True, storage="local")
    assert answer.status == 200, answer.body
    assert view(api, vmid)["node"] == "pve2" and view(api, vmid)["config"]["scsi0"].startswith(f"local:{vmid}/")


def test_cd_of_a_machine(api: Api) -> None:
    """A CD of the node's own is named: it is taken out first."""
    path = storages.parse(CD).path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    try:
        vmid = machine(api, disks=[{"size": "1G"}], storage="shared", cd=CD)
        answer = migrate(api, vmid, online=True)
        assert (answer.status, answer.code, answer.json()["volume"]) == (409, "storage_unsuitable", CD), answer.body
        assert api.request("PATCH", f"/guests/{vmid}", {"options": {"ide2": "none,media=cdrom"}}).status == 200
        assert api.request("POST", f"/guests/{vmid}/stop?wait=30").status == 200
        assert migrate(api, vmid).status == 200
    finally:
        path.unlink()


def test_directory_of_the_node(api: Api) -> None:
    """A mount point that is no volume is named."""
    vmid = container(api)
    path = pmxcfs.ROOT / f"nodes/pve1/lxc/{vmid}.conf"
    pmxcfs.write(path, path.read_text() + "mp0: /srv,mp=/srv\n")
    answer = migrate(api, vmid)
    assert (answer.status, answer.code) == (403, "policy_refused"), answer.body
    assert "/srv" in answer.json()["detail"] and view(api, vmid)["node"] == "pve1"


@pytest.mark.parametrize(
    "line", ["dev0: /dev/null", "mp0: /srv,mp=/srv,shared=1", "lxc.mount.entry: /srv srv none bind"]
)
def test_what_would_be_another_thing(api: Api, gateway: Gateway, line: str) -> None:
    """A device, a directory, a raw option of this node, which its policy allows: on another node the same words are
    another disk, another directory, and no policy of that node's has been asked. They are taken back first."""
    vmid = container(api, storage="shared")
    path = pmxcfs.ROOT / f"nodes/pve1/lxc/{vmid}.conf"
    before = path.read_text()
    pmxcfs.write(path, before + line + "\n")
    begun = len(gateway.records(event="guest:migrate"))
    for restart in (False, True):
        answer = migrate(api, vmid, restart=restart)
        assert (answer.status, answer.code) == (403, "policy_refused"), answer.body
        assert [one["key"] for one in answer.json()["refused"]] == [None] and "pve2" in answer.json()["detail"]
    assert len(gateway.records(event="guest:migrate")) == begun and view(api, vmid)["node"] == "pve1"
    pmxcfs.write(path, before)
    assert migrate(api, vmid).status == 200
    far = pmxcfs.ROOT / f"nodes/pve2/lxc/{vmid}.conf"
    pmxcfs.write(far, far.read_text() + "dev0: /dev/zero\n")
    answer = migrate(api, vmid, "pve1")  # what it would have here, our own policy decides about
    assert [one["key"] for one in answer.json()["refused"]] == ["policy.devices"], answer.body
    pmxcfs.write(far, far.read_text().replace("/dev/zero", "/dev/null"))
    assert migrate(api, vmid, "pve1").status == 200


def test_where_it_cannot_go(api: Api, pve: PveProcess) -> None:
    """The node that it is on, a storage that is none, a node that is away: it stays where it is."""
    vmid = container(api)
    answer = migrate(api, vmid, "pve1")
    assert (answer.status, answer.code) == (409, "pve_rejected"), answer.body
    pve.faults.lose_node("pve2")
    answer = migrate(api, vmid)
    assert (answer.status, answer.code) == (503, "node_unreachable"), answer.body
    pve.faults.clear()
    assert view(api, vmid)["node"] == "pve1"
