"""Containers come and go for real: created, started, stopped, restored, destroyed, and nothing left of a failure."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.exec.waiting import until
from tests.pvesim import pmxcfs
from tests.pvesim.api import storages
from tests.pvesim.api.client import Pve
from tests.pvesim.api.process import Api
from tests.pvesim.conftest import LXC, TEMPLATE, MakeContainer
from tests.pvesim.test_node import inside_a_node

pytestmark = inside_a_node
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g me@here"


def inside(vmid: int, *command: str) -> str:
    """What a command in a container prints."""
    argv = ["lxc-attach", "-n", str(vmid), "--clear-env", "--", *command]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout


@pytest.mark.parametrize("unprivileged", [0, 1])
def test_create_makes_a_container(pve: Pve, container: MakeContainer, unprivileged: int) -> None:
    """Unpacked, named, addressed, with a key and a second volume; owners are the guest's own; /etc/pve knows it."""
    vmid = container(
        unprivileged=unprivileged, hostname="made", start=1, rootfs="local-lvm:2", mp0="local-lvm:0.5,mp=/data",
        net0="name=eth0,bridge=vmbr0,ip=10.0.27.88/8", ssh_public_keys=KEY, password="12345",
    )  # fmt: skip
    until(lambda: pve.do("GET", f"{LXC}/{vmid}/status/current")["status"] == "running")
    assert inside(vmid, "sh", "-c", "hostname; stat -c %u /bin/busybox; cat /root/.ssh/authorized_keys; id -u") == (
        f"made\n0\n{KEY}\n0\n"
    )
    inside(vmid, "touch", "/data/mine")
    shown = pve.do("GET", f"{LXC}/{vmid}/config")
    assert shown["rootfs"] == f"local-lvm:vm-{vmid}-disk-0,size=2G"
    assert shown["mp0"] == f"local-lvm:vm-{vmid}-disk-1,mp=/data,size=512M"
    assert shown.get("unprivileged", 0) == unprivileged and isinstance(shown["memory"], int)
    assert "password" not in shown and "12345" not in (pmxcfs.ROOT / f"lxc/{vmid}.conf").read_text()
    assert f'"{vmid}": {{"node": "pve1", "type": "lxc"' in (pmxcfs.ROOT / ".vmlist").read_text()
    eth0 = until(lambda: next(one for one in pve.do("GET", f"{LXC}/{vmid}/interfaces") if one["name"] == "eth0"))
    assert eth0["inet"] == "10.0.27.88/8"


def test_interfaces(pve: Pve, container: MakeContainer) -> None:
    """Null for a stopped container; an address by DHCP comes later than the start's end."""
    vmid = container(net0="name=eth0,bridge=vmbr0,ip=dhcp")
    assert pve.do("GET", f"{LXC}/{vmid}/interfaces") is None
    pve.run("POST", f"{LXC}/{vmid}/status/start")

    def address() -> Any:
        return next(one.get("inet") for one in pve.do("GET", f"{LXC}/{vmid}/interfaces") if one["name"] == "eth0")

    assert until(address).startswith("10.128.")


def test_power(pve: Pve, container: MakeContainer) -> None:
    """Started and stopped it says so; the second time is a 500 at once, unlike a machine's."""
    path = f"{LXC}/{container()}"
    vmid = path.rpartition("/")[2]
    assert pve.ask("POST", f"{path}/status/stop").reason == f"CT {vmid} not running"
    pve.run("POST", f"{path}/status/start")
    assert pve.ask("POST", f"{path}/status/start").reason == f"CT {vmid} already running"
    assert pve.ask("DELETE", path).reason == f"unable to destroy CT {vmid} - container is running"
    before = pve.do("GET", f"{path}/status/current")["pid"]
    pve.run("POST", f"{path}/status/reboot")
    assert pve.do("GET", f"{path}/status/current")["pid"] != before
    pve.run("POST", f"{path}/status/shutdown", timeout=20)
    assert pve.do("GET", f"{path}/status/current")["status"] == "stopped"


def test_shutdown_that_is_not_heard(pve: Pve, container: MakeContainer) -> None:
    """The task fails when its time is over and the container runs on; with `forceStop` it is killed."""
    vmid = container(start=1)
    path = f"{LXC}/{vmid}"
    until(lambda: pve.do("GET", f"{path}/status/current")["status"] == "running")
    pid = pve.do("GET", f"{path}/status/current")["pid"]
    # busybox's init ends at SIGUSR2: stopped, it does not hear of it
    subprocess.run(["kill", "-STOP", str(pid)], check=True)
    assert pve.fail("POST", f"{path}/status/shutdown", timeout=1) == "container did not stop"
    assert pve.do("GET", f"{path}/status/current")["status"] == "running"
    pve.run("POST", f"{path}/status/shutdown", timeout=1, forceStop=1)
    assert pve.do("GET", f"{path}/status/current")["status"] == "stopped"


def test_taken_vmid(pve: Pve) -> None:
    """A taken vmid is a 500 whose text tells, also one of a machine or on another node."""
    for vmid, words in ((101, "CT 101 already exists on node 'pve1'"),):
        reply = pve.ask("POST", LXC, vmid=vmid, ostemplate=TEMPLATE)
        assert (reply.status, reply.reason) == (500, words)


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"ostemplate": "local:vztmpl/none.tar.zst"}, 200, "volume 'local:vztmpl/none.tar.zst' does not exist"),
        ({"ostemplate": "nowhere:vztmpl/x.tar.zst"}, 500, "storage 'nowhere' does not exist"),
        ({"ostemplate": "local:iso/x.iso"}, 500,
         "unable to use volume local:iso/x.iso - content type needs to be 'vztmpl'"),
        ({"storage": "nowhere"}, 500, "storage 'nowhere' does not exist"),
        ({"rootfs": "local-lvm:1", "mp0": "nowhere:1,mp=/x"}, 500, "storage 'nowhere' does not exist"),
        ({"mp0": "local-lvm:1,mp=/x"}, 500, "mount points configured, but 'rootfs' not set - aborting"),
        ({"ssh_public_keys": "nonsense"}, 500, "SSH public key validation error"),
        ({"pool": "nopool"}, 500, "pool 'nopool' does not exist"),
    ],
)  # fmt: skip
def test_create_that_cannot(pve: Pve, change: dict[str, str], status: int, words: str) -> None:
    """At once or in its task: nothing is left, no configuration, no volume, no entry."""
    asked = {"vmid": 7092, "ostemplate": TEMPLATE, "storage": "local-lvm", **change}
    reply = pve.ask("POST", LXC, **asked)
    assert reply.status == status
    said = reply.reason if status != 200 else pve.finish(reply.data).exitstatus
    assert said.endswith(words), said
    assert_gone(pve, 7092)


def test_full_storage(sound: Api, pve: Pve) -> None:
    """Unpacking fails half way in tar's words, and all that was made is removed."""
    sound.faults.fill("local-lvm")
    task = pve.finish(pve.do("POST", LXC, vmid=7092, ostemplate=TEMPLATE, storage="local-lvm"))
    assert task.exitstatus.startswith("unable to create CT 7092 - command 'tar")
    assert any("No space left on device" in line for line in task.log)
    assert pve.do("GET", "/nodes/pve1/storage/local-lvm/status")["avail"] == 0
    assert_gone(pve, 7092)


def test_start_after_create_is_a_task_of_its_own(sound: Api, pve: Pve) -> None:
    """A create with `start` succeeds though the container does not start: another task tells."""
    sound.faults.add("task", "vzstart", text="startup for container '7093' failed", times=1)
    pve.run("POST", LXC, vmid=7093, ostemplate=TEMPLATE, storage="local-lvm", start=1)
    try:
        failed = until(lambda: pve.do("GET", "/nodes/pve1/tasks", vmid=7093, typefilter="vzstart"))
        assert failed[0]["status"] == "startup for container '7093' failed"
        assert pve.do("GET", f"{LXC}/7093/status/current")["status"] == "stopped"
    finally:
        pve.run("DELETE", f"{LXC}/7093")


def test_start_that_fails(pve: Pve, root: Pve, container: MakeContainer) -> None:
    """LXC really fails, its log is the task's, and the container stays stopped."""
    vmid = container()
    root.do("PUT", f"{LXC}/{vmid}/config", mp0="/no/such/place,mp=/x")
    task = pve.finish(pve.do("POST", f"{LXC}/{vmid}/status/start"))
    assert task.exitstatus == f"startup for container '{vmid}' failed"
    assert any("/no/such/place" in line for line in task.log)
    assert pve.do("GET", f"{LXC}/{vmid}/status/current")["status"] == "stopped"


def test_destroy(pve: Pve, container: MakeContainer) -> None:
    """Volumes, configuration, pool and access lists go; a protected or locked container stays, with a 500."""
    vmid = container()
    path = f"{LXC}/{vmid}"
    pve.do("PUT", f"{path}/config", protection=1)
    assert pve.ask("DELETE", path).reason == f"can't remove CT {vmid} - protection mode enabled"
    pve.do("PUT", f"{path}/config", protection=0)
    pve.run("DELETE", path, purge=1)
    assert_gone(pve, vmid)
    reply = pve.ask("DELETE", path)
    assert (reply.status, reply.reason) == (500, f"Configuration file 'nodes/pve1/lxc/{vmid}.conf' does not exist")


def test_guests_of_the_test_set(pve: Pve) -> None:
    """The API drives those, too: 103 starts, answers and stops."""
    pve.run("POST", f"{LXC}/103/status/start")
    assert inside(103, "hostname") == "ct103\n"
    pve.run("POST", f"{LXC}/103/status/stop")


def assert_gone(pve: Pve, vmid: int) -> None:
    """No trace of a container in /etc/pve, LXC and the storages."""
    assert pve.ask("GET", f"{LXC}/{vmid}/config").status == 500
    assert f'"{vmid}"' not in (pmxcfs.ROOT / ".vmlist").read_text()
    assert not Path(f"/var/lib/lxc/{vmid}").exists()
    assert not [path for path in storages.ROOT.glob(f"*/images/**/*-{vmid}-*") if path.is_dir()]
