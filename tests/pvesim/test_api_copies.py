"""Clones, templates, snapshots, backups and moves of containers: the files are really there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.exec.waiting import until
from tests.pvesim import pmxcfs
from tests.pvesim.api import volumes
from tests.pvesim.api.client import Pve
from tests.pvesim.api.process import Api
from tests.pvesim.conftest import LXC, MakeContainer
from tests.pvesim.test_api_containers import assert_gone, inside
from tests.pvesim.test_node import inside_a_node

pytestmark = inside_a_node
LINKED = "Linked clone feature for '{}' is not available"


def file_of(vmid: int) -> Path:
    """A file in a container's root, as the node sees it."""
    return volumes.tree(f"local-lvm:vm-{vmid}-disk-0") / "root/mark"


@pytest.mark.parametrize("linked", [True, False])
def test_clone_of_a_template(pve: Pve, container: MakeContainer, linked: bool) -> None:
    """A template's clone is linked unless `full`; it has its name, another MAC and the same files, and it starts."""
    vmid = container(net0="name=eth0,bridge=vmbr0,ip=dhcp")
    file_of(vmid).write_text("here")
    assert pve.do("POST", f"{LXC}/{vmid}/template") is None, "null, though a task does it"
    until(lambda: pve.do("GET", f"{LXC}/{vmid}/config").get("template") == 1)
    assert pve.do("GET", f"{LXC}/{vmid}/config")["rootfs"].startswith(f"local-lvm:base-{vmid}-disk-0,")
    assert pve.fail("POST", f"{LXC}/{vmid}/status/start") == "you can't start a CT if it's a template"
    task = pve.run("POST", f"{LXC}/{vmid}/clone", newid=7050, hostname="copy", **({} if linked else {"full": 1}))
    assert any("linked clone" in line for line in task.log) is linked
    old, new = (pve.do("GET", f"{LXC}/{one}/config") for one in (vmid, 7050))
    assert new["hostname"] == "copy" and "template" not in new and "lock" not in new
    assert new["net0"] != old["net0"]
    pve.run("POST", f"{LXC}/7050/status/start")
    assert inside(7050, "sh", "-c", "cat /root/mark; hostname") == "herecopy\n"
    pve.run("POST", f"{LXC}/7050/status/stop")
    refused = pve.finish(pve.do("DELETE", f"{LXC}/{vmid}")).exitstatus
    assert (refused == f"base volume 'base-{vmid}-disk-0' is still in use by linked clones") is linked


def test_clones_of_one_source_exclude_each_other(sound: Api, pve: Pve, container: MakeContainer) -> None:
    """While one goes on the source is locked with `disk`: the second is a 500 at once, and takes nothing."""
    vmid = container()
    sound.faults.add("stall", "copy", seconds=60, times=1)
    first = pve.do("POST", f"{LXC}/{vmid}/clone", newid=7051)
    assert pve.do("GET", f"{LXC}/{vmid}/config")["lock"] == "disk"
    assert pve.do("GET", f"{LXC}/7051/config")["lock"] == "create"
    reply = pve.ask("POST", f"{LXC}/{vmid}/clone", newid=7052)
    assert (reply.status, reply.reason) == (500, "CT is locked (disk)")
    pve.do("DELETE", f"/nodes/pve1/tasks/{first}")
    assert pve.finish(first).exitstatus == "received interrupt"
    assert "lock" not in pve.do("GET", f"{LXC}/{vmid}/config")
    for newid in (7051, 7052):
        assert_gone(pve, newid)


def test_clones_that_cannot_be(pve: Pve, container: MakeContainer) -> None:
    """Linked of what is no base, full of what runs, onto a taken vmid, from a snapshot there is not."""
    vmid = container()
    plain = container(storage="local")
    path = f"{LXC}/{vmid}/clone"
    assert pve.ask("POST", path, newid=7053, full=0).reason == LINKED.format(f"local-lvm:vm-{vmid}-disk-0")
    assert pve.ask("POST", path, newid=101).reason == "CT 101 already exists on node 'pve1'"
    assert pve.ask("POST", path, newid=7053, snapname="none").reason == "snapshot 'none' does not exist"
    assert pve.ask("POST", path, newid=7053, storage="local", full=0).reason == (
        "parameter 'storage' not allowed for linked clones"
    )
    pve.do("POST", f"{LXC}/{plain}/template")
    until(lambda: pve.do("GET", f"{LXC}/{plain}/config").get("template") == 1)
    reply = pve.ask("POST", f"{LXC}/{plain}/clone", newid=7053)
    assert reply.reason == LINKED.format(f"local:{plain}/base-{plain}-disk-0.raw")
    pve.run("POST", f"{LXC}/{vmid}/status/start")
    assert pve.ask("POST", path, newid=7053).reason == (
        "Full clone of a running container is only possible from a snapshot"
    )
    assert_gone(pve, 7053)
    assert "lock" not in pve.do("GET", f"{LXC}/{vmid}/config")


def test_snapshots(pve: Pve, container: MakeContainer) -> None:
    """Taken, listed with `current` last, rolled back to with a running container killed, removed."""
    vmid = container(start=1)
    path = f"{LXC}/{vmid}/snapshot"
    until(lambda: pve.do("GET", f"{LXC}/{vmid}/status/current")["status"] == "running")
    inside(vmid, "sh", "-c", "echo one >/root/mark")
    pve.run("POST", path, snapname="one", description="first")
    inside(vmid, "sh", "-c", "echo two >/root/mark")
    pve.do("PUT", f"{LXC}/{vmid}/config", cores=2)
    pve.run("POST", path, snapname="two")
    listed = pve.do("GET", path)
    assert [(entry["name"], entry.get("parent")) for entry in listed] == [
        ("one", None), ("two", "one"), ("current", "two")]  # fmt: skip
    assert listed[0]["description"] == "first\n" and listed[-1]["running"] == 1
    pve.run("POST", f"{path}/one/rollback")
    assert pve.do("GET", f"{LXC}/{vmid}/status/current")["status"] == "stopped"
    assert file_of(vmid).read_text() == "one\n" and "cores" not in pve.do("GET", f"{LXC}/{vmid}/config")
    pve.run("DELETE", f"{path}/one")
    assert [entry.get("parent") for entry in pve.do("GET", path)] == [None, None]
    pve.run("POST", f"{LXC}/{vmid}/clone", newid=7054, snapname="two", full=0)
    assert file_of(7054).read_text() == "two\n"


def test_bind_mount_prevents_snapshots(pve: Pve, root: Pve, container: MakeContainer) -> None:
    """A directory of the node cannot be in a snapshot, so there is none at all; a backup leaves it out."""
    vmid = container(start=1)
    until(lambda: pve.do("GET", f"{LXC}/{vmid}/status/current")["status"] == "running")
    root.do("PUT", f"{LXC}/{vmid}/config", mp0="/srv,mp=/srv")
    assert pve.do("GET", f"{LXC}/{vmid}/feature", feature="snapshot") == {"hasFeature": 0}
    assert pve.fail("POST", f"{LXC}/{vmid}/snapshot", snapname="one") == "snapshot feature is not available"
    assert pve.ask("POST", f"{LXC}/{vmid}/clone", newid=7056).status == 500
    task = pve.run("POST", "/nodes/pve1/vzdump", vmid=vmid, storage="local", mode="snapshot")
    assert any("create storage snapshot" in line for line in task.log)
    for backup in pve.do("GET", "/nodes/pve1/storage/local/content", content="backup", vmid=vmid):
        pve.do("DELETE", f"/nodes/pve1/storage/local/content/{backup['volid']}", delay=10)


def test_snapshots_that_cannot_be(pve: Pve, container: MakeContainer) -> None:
    """All but reserved names are accepted, and fail in the task."""
    vmid, plain = container(), container(storage="local")
    path = f"{LXC}/{vmid}/snapshot"
    for name in ("current", "vzdump"):
        assert pve.ask("POST", path, snapname=name).reason == f"unable to use snapshot name '{name}' (reserved name)"
    assert pve.ask("POST", path, snapname="a").status == 400, "a name has two characters or more"
    assert pve.fail("POST", f"{LXC}/{plain}/snapshot", snapname="one") == "snapshot feature is not available"
    assert pve.fail("POST", f"{path}/none/rollback") == "snapshot 'none' does not exist"
    assert pve.fail("DELETE", f"{path}/none") == "snapshot 'none' does not exist"
    assert pve.ask("GET", f"{path}/none/config").reason == "snapshot 'none' does not exist"
    assert "lock" not in pve.do("GET", f"{LXC}/{plain}/config")


def test_snapshot_freezes(sound: Api, pve: Pve, container: MakeContainer) -> None:
    """While a running container is copied its `ns` is frozen, and PVE says that it runs."""
    vmid = container(start=1)
    until(lambda: pve.do("GET", f"{LXC}/{vmid}/status/current")["status"] == "running")
    sound.faults.add("stall", "copy", seconds=60, times=1)
    running = pve.do("POST", f"{LXC}/{vmid}/snapshot", snapname="one")
    events = Path(f"/sys/fs/cgroup/lxc/{vmid}/ns/cgroup.events")
    until(lambda: "frozen 1" in events.read_text())
    told = pve.do("GET", f"{LXC}/{vmid}/status/current")
    assert (told["status"], told["lock"]) == ("running", "snapshot")
    pve.do("DELETE", f"/nodes/pve1/tasks/{running}")
    pve.finish(running)
    assert "frozen 0" in events.read_text()


@pytest.mark.parametrize("mode", ["snapshot", "suspend", "stop"])
def test_backup_and_restore(pve: Pve, container: MakeContainer, mode: str) -> None:
    """A real archive, listed with its guest, whose configuration can be read and whose content comes back."""
    mounts = {"mp0": "local-lvm:1,mp=/data,backup=1", "mp1": "local-lvm:1,mp=/scratch"}
    vmid = container(start=1, rootfs="local-lvm:1", tags="kept", **mounts)
    until(lambda: pve.do("GET", f"{LXC}/{vmid}/status/current")["status"] == "running")
    inside(vmid, "sh", "-c", "echo saved | tee /root/mark /data/mark /scratch/mark; chown 33:33 /root/mark")
    pve.run("POST", "/nodes/pve1/vzdump", vmid=vmid, storage="local", mode=mode, compress="zstd")
    assert pve.do("GET", f"{LXC}/{vmid}/status/current")["status"] == "running"
    found = pve.do("GET", "/nodes/pve1/storage/local/content", content="backup", vmid=vmid)
    backup = found[-1]["volid"]
    try:
        assert "tags: kept" in pve.do("GET", "/nodes/pve1/vzdump/extractconfig", volume=backup)
        pve.run("POST", LXC, vmid=7055, ostemplate=backup, restore=1, storage="local-lvm", start=1)
        until(lambda: pve.do("GET", f"{LXC}/7055/status/current")["status"] == "running")
        assert inside(7055, "sh", "-c", "cat /root/mark /data/mark; stat -c %u:%g /root/mark; ls /scratch") == (
            "saved\nsaved\n33:33\n"
        ), "what is not marked for backups is empty"
        shown = pve.do("GET", f"{LXC}/7055/config")
        assert (shown["tags"], shown["unprivileged"]) == ("kept", 1) and shown["mp0"].startswith("local-lvm:vm-7055-")
        taken = pve.ask("POST", LXC, vmid=7055, ostemplate=backup, restore=1, force=1)
        assert taken.reason == "can't overwrite running container"
    finally:
        pve.finish(pve.do("DELETE", f"/nodes/pve1/storage/local/content/{backup}"))


def test_protected_backup_stays(pve: Pve, container: MakeContainer) -> None:
    """It is not removed: the failure is the request's, when it waits for the end, else the task's."""
    vmid = container()
    pve.run("POST", "/nodes/pve1/vzdump", vmid=vmid, storage="local", protected=1, notes_template="of {{guestname}}")
    found = pve.do("GET", "/nodes/pve1/storage/local/content", content="backup", vmid=vmid)
    assert (found[0]["notes"], found[0]["protected"]) == (f"of c{vmid}", 1)
    path = f"/nodes/pve1/storage/local/content/{found[0]['volid']}"
    words = f"cannot remove protected volume '{found[0]['volid'].partition(':')[2]}' on 'local'"
    assert pve.fail("DELETE", path) == words
    reply = pve.ask("DELETE", path, delay=10)
    assert (reply.status, reply.reason) == (500, words)
    pve.do("PUT", path, protected=0)
    assert pve.do("DELETE", path, delay=10) is None
    assert pve.ask("DELETE", path).reason == f"volume '{found[0]['volid']}' does not exist"


def test_backups_that_cannot_be(sound: Api, pve: Pve, container: MakeContainer) -> None:
    """One guest's failure is `job errors`; a guest of another node is `OK` without a task; no lock stays."""
    vmid = container()
    sound.faults.fill("local")
    task = pve.finish(pve.do("POST", "/nodes/pve1/vzdump", vmid=vmid, storage="local"))
    assert task.exitstatus == "job errors"
    assert any(line.startswith(f"ERROR: Backup of VM {vmid} failed") for line in task.log)
    assert "lock" not in pve.do("GET", f"{LXC}/{vmid}/config")
    sound.faults.clear()
    pve.run("POST", f"{LXC}/{vmid}/migrate", target="pve2")
    assert pve.do("POST", "/nodes/pve1/vzdump", vmid=vmid, storage="local") == "OK"
    reply = pve.ask("POST", "/nodes/pve1/vzdump", vmid=vmid, storage="local-lvm")
    assert reply.data == "OK", "nothing of it is looked at"


def test_migrate(pve: Pve, container: MakeContainer) -> None:
    """The configuration moves to the other node and the guest with it; a running one needs `restart`."""
    vmid = container(start=1)
    path = f"{LXC}/{vmid}"
    until(lambda: pve.do("GET", f"{path}/status/current")["status"] == "running")
    assert pve.ask("POST", f"{path}/migrate", target="pve1").errors == {"target": "target is local node."}
    assert pve.ask("POST", f"{path}/migrate", target="pve2").reason == (
        "can't migrate running container without --online or --restart"
    )
    assert pve.fail("POST", f"{path}/migrate", target="pve2", online=1) == (
        "lxc live migration is currently not implemented"
    )
    pve.run("POST", f"{path}/migrate", target="pve2", restart=1, timeout=20)
    assert pve.ask("GET", f"{path}/status/current").reason == (
        f"Configuration file 'nodes/pve1/lxc/{vmid}.conf' does not exist"
    )
    until(lambda: pve.do("GET", f"/nodes/pve2/lxc/{vmid}/status/current")["status"] == "running")
    assert f'"{vmid}": {{"node": "pve2"' in (pmxcfs.ROOT / ".vmlist").read_text()


def test_resize(pve: Pve, container: MakeContainer) -> None:
    """Larger only; checked before the task."""
    path = f"{LXC}/{container(rootfs='local-lvm:1')}"
    pve.run("PUT", f"{path}/resize", disk="rootfs", size="+1G")
    assert pve.do("GET", f"{path}/config")["rootfs"].endswith(",size=2G")
    assert pve.ask("PUT", f"{path}/resize", disk="rootfs", size="1G").reason == "unable to shrink disk size"
    assert pve.ask("PUT", f"{path}/resize", disk="rootfs", size="2G").reason == "disk is already at specified size"
    assert pve.ask("PUT", f"{path}/resize", disk="rootfs", size="2Q").status == 400
