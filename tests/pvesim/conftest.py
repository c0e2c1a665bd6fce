"""Fixtures: an API of a cluster of two nodes, users of it, and containers that are gone when the test is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.pvesim import pmxcfs
from tests.pvesim.api import access, archives, ha
from tests.pvesim.api.client import Pve
from tests.pvesim.api.process import Api, running_api
from tests.pvesim.api.roles import EVERY_PRIVILEGE

LXC, QEMU = "/nodes/pve1/lxc", "/nodes/pve1/qemu"
TEMPLATE = f"local:vztmpl/{archives.BUSYBOX}"
VMIDS = range(7000, 7100)
"""Of the guests that these tests make; nobody else's."""

MakeContainer = Callable[..., int]


@pytest.fixture(scope="module")
def api(node: None) -> Iterator[Api]:
    """An API whose cluster has a second node, pve2."""
    with running_api(peers=["pve2"]) as running:
        yield running


@pytest.fixture
def sound(api: Api) -> Iterator[Api]:
    """The same, for a test that has it do something wrong: afterwards it does not."""
    yield api
    api.faults.clear()


@pytest.fixture(scope="module")
def pve(api: Api) -> Pve:
    """A token that has every privilege there is; it still is not root@pam."""
    access.add_token("suite@pve!all", "all-secret", privileges=sorted(EVERY_PRIVILEGE))
    return Pve(api.port, "suite@pve!all=all-secret")


@pytest.fixture(scope="module")
def root(api: Api) -> Pve:
    """root@pam itself, by a ticket."""
    access.set_password("root@pam", "root-secret")
    ticket = Pve(api.port).do("POST", "/access/ticket", username="root@pam", password="root-secret")
    cookie = {"Cookie": f"PVEAuthCookie={ticket['ticket']}", "CSRFPreventionToken": ticket["CSRFPreventionToken"]}
    return Pve(api.port, headers=cookie)


@pytest.fixture
def as_token(api: Api) -> Callable[..., Pve]:
    """A user who has these privileges on that path: `as_token("VM.Audit", path="/vms/101")`."""

    def make(*privileges: str, path: str = "/") -> Pve:
        access.add_token("few@pve!few", "few-secret", privileges=privileges, path=path)
        return Pve(api.port, "few@pve!few=few-secret")

    return make


@pytest.fixture
def container(api: Api, pve: Pve) -> Iterator[MakeContainer]:
    """Makes stopped busybox containers on `local-lvm`: `container(start=1, memory=64)`; its vmid."""

    def make(**parameters: Any) -> int:
        vmid = int(next(number for number in VMIDS if str(number) not in _listed(pve)))
        wanted = {"hostname": f"c{vmid}", "memory": 64, "storage": "local-lvm", "ostemplate": TEMPLATE}
        pve.run("POST", LXC, vmid=vmid, **{**wanted, **parameters})
        return vmid

    yield make
    api.faults.clear()
    remove_guests(pve)


def remove_guests(pve: Pve, vmids: range = VMIDS) -> None:
    """Whatever a test left, locked or not; linked clones before what they come from."""
    for vmid in sorted((int(vmid) for vmid in _listed(pve) if int(vmid) in vmids), reverse=True):
        ha.manage("lxc", vmid, None)
        for entry in pve.do("GET", "/cluster/resources", type="vm"):
            if entry["vmid"] == vmid:
                path = f"/nodes/{entry['node']}/{entry['type']}/{vmid}"
                config = pmxcfs.ROOT / "nodes" / entry["node"] / _directory(entry["type"]) / f"{vmid}.conf"
                kept = [
                    line for line in config.read_text().splitlines() if not line.startswith(("lock:", "protection:"))
                ]
                pmxcfs.write(config, "\n".join(kept) + "\n")
                if entry["status"] == "running":
                    pve.run("POST", f"{path}/status/stop")
                pve.run("DELETE", path)


def _directory(kind: str) -> str:
    return "lxc" if kind == "lxc" else "qemu-server"


def _listed(pve: Pve) -> set[str]:
    return {str(entry["vmid"]) for entry in pve.do("GET", "/cluster/resources", type="vm")}
