"""A PVE node to work on with the client: the real one that PVE_TEST_URL names, or a simulated one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from gateway.errors import GatewayError
from gateway.exec.order import GuestKind
from gateway.pve.access import WEB, Access
from gateway.pve.caller import Options
from gateway.pve.client import PveApi
from gateway.pve.ids import Upid
from gateway.pve.models import GuestRef
from gateway.pve.service import Pve
from gateway.pve.tasks import Task
from gateway.supervisor.changes.pvesh import call_at_once
from tests.pvesim import pmxcfs
from tests.pvesim.api.process import Api

TAG = "pve-exec-gateway-test"
_FIRST, _, _LAST = os.environ.get("PVE_TEST_VMIDS", "99000-99099").partition("-")
VMIDS = range(int(_FIRST), int(_LAST) + 1)
_TASK_SECONDS = 300


@dataclass(frozen=True)
class Real:
    """A node to work on."""

    pve: Pve
    api: PveApi
    node: str
    storage: str
    backups: str
    template: str

    def done(self, upid: Upid | None) -> Task:
        """The task, once it has ended well."""
        assert upid is not None
        task = self.pve.watcher.wait(upid, _TASK_SECONDS)
        assert task is not None, f"{upid} did not end"
        return self.pve.tasks.require_ok(task)

    def free_vmid(self) -> int:
        """The first of PVE_TEST_VMIDS that nobody has."""
        taken = {guest.vmid for guest in self.pve.inventory.guests()}
        return self.pve.inventory.next_vmid(next(vmid for vmid in VMIDS if vmid not in taken))

    def make(self, name: str) -> GuestRef:
        """A stopped container."""
        vmid = self.free_vmid()
        options: Options = {
            "hostname": name, "ostemplate": self.template, "rootfs": f"{self.storage}:1", "unprivileged": True,
            "memory": 64, "swap": 0, "cores": 1, "tags": TAG,
        }  # fmt: skip
        self.done(self.pve.guests.create(self.node, GuestKind.LXC, vmid, options))
        return self.pve.inventory.find(vmid)

    def sweep(self) -> None:
        """Destroys what a run that was broken off has left: guests of PVE_TEST_VMIDS with the tag, copies first."""
        for guest in sorted(self.pve.inventory.guests(tag=TAG), key=lambda guest: -guest.vmid):
            if guest.vmid in VMIDS:
                self.destroy(guest.ref)

    def destroy(self, guest: GuestRef) -> None:
        with contextlib.suppress(GatewayError):
            self.done(self.pve.guests.stop(guest))
        self.done(self.pve.guests.delete(guest, purge=True))


@contextlib.contextmanager
def simulated_node(api: Api, file: Path) -> Iterator[Real]:
    """The node of a simulated API, by a token that `setup` makes, in `file`."""
    ca = pmxcfs.ROOT / "pve-root-ca.pem"
    # A token of its own: another run in the same node has one, too.
    role = replace(WEB, token=f"{file.parent.name}-{os.getpid()}")
    access = Access(partial(_pvesh, api.pvesh), lambda path: PveApi(api.url, path, ca), dry=False)
    assert all(step.made for step in access.make({role: file}) if step.what.startswith("token"))
    with _open(PveApi(api.url, file, ca)) as node:
        yield node


@contextlib.contextmanager
def real_node(url: str, token: str, file: Path) -> Iterator[Real]:
    """The node at `url`, by that token."""
    file.touch(0o600)
    file.write_text(f"{token}\n")
    with _open(PveApi(url, file, Path(os.environ.get("PVE_TEST_CA", "/etc/pve/pve-root-ca.pem")))) as node:
        yield node


@contextlib.contextmanager
def _open(api: PveApi) -> Iterator[Real]:
    pve = Pve(api)
    node = os.environ.get("PVE_TEST_NODE") or next(node.name for node in pve.inventory.nodes() if node.online)
    storage, backups = os.environ.get("PVE_TEST_STORAGE", "local-lvm"), os.environ.get("PVE_TEST_BACKUPS", "local")
    template = os.environ.get("PVE_TEST_TEMPLATE") or pve.storages.volumes(node, backups, content="vztmpl")[0].volume
    real = Real(pve, api, node, storage, backups, template)
    real.sweep()
    try:
        yield real
    finally:
        real.sweep()
        api.close()


def _pvesh(program: Path, arguments: Sequence[str]) -> Any:
    said = call_at_once(program, arguments)
    assert said.exit_code == 0, said.words
    return said.data()
