"""Machines through the API: the same lifecycle as a container's, and where PVE treats them differently."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.exec.waiting import until
from tests.pvesim.api.client import Pve
from tests.pvesim.api.machines import Machine
from tests.pvesim.conftest import QEMU, remove_guests
from tests.pvesim.test_node import inside_a_node

pytestmark = inside_a_node
VMID = 7060


@pytest.fixture
def machine(pve: Pve) -> Iterator[str]:
    """The path of a stopped machine with one disk of 2 GiB."""
    pve.run("POST", QEMU, vmid=VMID, name="vm", memory=64, scsi0="local-lvm:2", net0="virtio,bridge=vmbr0", agent=1)
    yield f"{QEMU}/{VMID}"
    remove_guests(pve)


def status(pve: Pve, path: str) -> Any:
    return pve.do("GET", f"{path}/status/current")["qmpstatus"]


def test_power(pve: Pve, machine: str) -> None:
    """A second start, or a stop of what is stopped, is accepted; the task tells. Pausing is not stopping."""
    pve.run("POST", f"{machine}/status/stop")
    pve.run("POST", f"{machine}/status/start")
    assert pve.fail("POST", f"{machine}/status/start") == f"VM {VMID} already running"
    until(lambda: pve.ask("POST", f"{machine}/agent/ping").status == 200)
    pve.run("POST", f"{machine}/status/suspend")
    assert status(pve, machine) == "paused" and pve.do("GET", f"{machine}/status/current")["status"] == "running"
    assert pve.ask("POST", f"{machine}/status/shutdown").reason == "VM is paused - cannot shutdown"
    pve.run("POST", f"{machine}/status/resume")
    assert status(pve, machine) == "running"
    pve.run("POST", f"{machine}/status/reboot")
    assert pve.ask("DELETE", machine).reason == f"VM {VMID} is running - destroy failed"
    pve.run("POST", f"{machine}/status/shutdown", timeout=5)
    assert status(pve, machine) == "stopped"


def test_shutdown_that_is_not_heard(pve: Pve, machine: str) -> None:
    """A timeout in the task's words; with `forceStop` it ends all the same."""
    pve.run("POST", f"{machine}/status/start")
    Machine(VMID).set_quirks(deaf=True)
    assert pve.fail("POST", f"{machine}/status/shutdown", timeout=1) == "VM quit/powerdown failed - got timeout"
    pve.run("POST", f"{machine}/status/shutdown", timeout=1, forceStop=1)
    assert status(pve, machine) == "stopped"


def test_changes_of_a_running_machine_wait(pve: Pve, machine: str) -> None:
    """PUT is done when it answers, POST gives a task; memory waits for the next start."""
    pve.run("POST", f"{machine}/status/start")
    assert pve.do("PUT", f"{machine}/config", memory=128, description="now") is None
    assert pve.do("GET", f"{machine}/config", current=1)["memory"] == "64"
    assert pve.do("GET", f"{machine}/config")["memory"] == "128"
    pve.run("POST", f"{machine}/config", name="other")
    pve.run("POST", f"{machine}/status/stop")
    assert pve.do("GET", f"{machine}/config", current=1)["memory"] == "128"
    digest = pve.do("GET", f"{machine}/config")["digest"]
    pve.do("PUT", f"{machine}/config", cores=2, digest=digest)
    assert pve.ask("PUT", f"{machine}/config", cores=1, digest=digest).status == 500
    refused = pve.ask("PUT", f"{machine}/config", serial0="/dev/ttyS0")
    assert refused.reason == "only root can set 'serial0' config for real devices"
    pve.do("PUT", f"{machine}/config", serial0="socket")


def test_copies(pve: Pve, machine: str) -> None:
    """Snapshots, a template (with a UPID, unlike a container's), linked clones, a move to another node."""
    pve.run("POST", f"{machine}/snapshot", snapname="one")
    assert [entry["name"] for entry in pve.do("GET", f"{machine}/snapshot")] == ["one", "current"]
    assert pve.ask("POST", f"{machine}/template").reason == "unable to create template, because VM contains snapshots"
    pve.run("POST", f"{machine}/snapshot/one/rollback")
    pve.run("DELETE", f"{machine}/snapshot/one")
    pve.run("PUT", f"{machine}/resize", disk="scsi0", size="+1G")
    assert pve.fail("PUT", f"{machine}/resize", disk="scsi0", size="1G") == "shrinking disks is not supported"
    pve.run("POST", f"{machine}/template")
    pve.run("POST", f"{machine}/clone", newid=VMID + 1, name="copy")
    copied = pve.do("GET", f"{QEMU}/{VMID + 1}/config")
    assert copied["scsi0"] == f"local-lvm:vm-{VMID + 1}-disk-0,size=3G" and copied["name"] == "copy"
    assert copied["net0"] != pve.do("GET", f"{machine}/config")["net0"]
    pve.run("POST", f"{QEMU}/{VMID + 1}/migrate", target="pve2")
    assert pve.do("GET", f"/nodes/pve2/qemu/{VMID + 1}/status/current")["status"] == "stopped"


def test_backup_and_restore(pve: Pve, machine: str) -> None:
    """Its configuration comes back with a disk of the same size."""
    pve.run("POST", "/nodes/pve1/vzdump", vmid=VMID, storage="local")
    found = pve.do("GET", "/nodes/pve1/storage/local/content", content="backup", vmid=VMID)
    assert found[0]["volid"].endswith(".vma") and found[0]["subtype"] == "qemu"
    pve.run("POST", QEMU, vmid=VMID + 2, archive=found[0]["volid"])
    restored = pve.do("GET", f"{QEMU}/{VMID + 2}/config")
    assert (restored["name"], restored["scsi0"]) == ("vm", f"local-lvm:vm-{VMID + 2}-disk-0,size=2G")
    assert pve.do("DELETE", f"/nodes/pve1/storage/local/content/{found[0]['volid']}", delay=10) is None


def test_taken_vmid(pve: Pve, machine: str) -> None:
    """Guests of both kinds share their numbers."""
    assert pve.ask("POST", QEMU, vmid=101).reason == "CT 101 already exists on node 'pve1'"
    assert pve.ask("POST", QEMU, vmid=VMID).reason == f"VM {VMID} already exists on node 'pve1'"
