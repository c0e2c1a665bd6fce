"""The guests of a fuzzed gateway, by a simulated PVE API: made before a round, gone after it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gateway.auth.actions import GRANTABLE, Action
from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.guests import made
from tests.pvesim.api import access, archives, storages, tasks
from tests.pvesim.api.client import Pve
from tests.pvesim.api.process import running_api
from tests.pvesim.api.roles import EVERY_PRIVILEGE
from tests.pvesim.api.upid import Upid
from tests.pvesim.conftest import LXC, QEMU, remove_guests

VMIDS = range(7400, 7420)
"""All that a fuzzed gateway may change or make: what is free of them bounds what it makes."""
RUNNING, STOPPED, MOUNTED, BASE = 7400, 7401, 7402, 7403
MACHINE, STOPPED_MACHINE, BASE_MACHINE = 7404, 7405, 7406
SPARE = (7407, 7408, 7409)
"""Two containers and a machine, for what cannot be taken back."""
FREE = range(7410, 7418)
STOCK = (RUNNING, STOPPED, MOUNTED, BASE, MACHINE, STOPPED_MACHINE, BASE_MACHINE)
SNAPSHOT, PEER = "kept", "pve2"
DOWNLOADED = "debian-12-standard_12.12-1_amd64.tar.zst"
TEMPLATE = f"local:vztmpl/{archives.BUSYBOX}"

_TOKEN = ("gateway@pve!fuzz", "6c6a9a1e-7d7a-4a7b-9d3c-5f1d3a5b9d11")
_OF_RANGE = frozenset(
    {Action.GUEST_POWER, Action.GUEST_CREATE, Action.GUEST_CONFIG, Action.GUEST_ROOT_CONFIG, Action.GUEST_DESTROY}
)
_IDLE_SECONDS = 60.0
_AT_ONCE = 4
_PATIENT = {"qmshutdown", "vzshutdown", "qmreboot", "vzreboot"}
"""Tasks that wait for a guest as long as they were told to: up to an hour."""


class Stock:
    """The guests of one fuzzed gateway."""

    def __init__(self, pve: Pve) -> None:
        self._pve = pve
        self._why = ""

    def renew(self) -> None:
        """Every guest as it was at first, and none else: what PVE still does about them ends before."""
        self.clear()
        container = {"ostemplate": TEMPLATE, "memory": 64, "unprivileged": 1}
        machine = {"memory": 64, "scsi0": "local-lvm:1", "net0": "virtio,bridge=vmbr0", "agent": 1}
        wanted = [
            *((LXC, vmid, {**container, "storage": "local-lvm"}) for vmid in (RUNNING, MOUNTED, BASE, *SPARE[:2])),
            (LXC, STOPPED, {**container, "storage": "local"}),
            *((QEMU, vmid, machine) for vmid in (MACHINE, STOPPED_MACHINE, BASE_MACHINE, SPARE[2])),
        ]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda one: self._pve.run("POST", one[0], vmid=one[1], **one[2]), wanted))
        self._pve.do("PUT", f"{LXC}/{MOUNTED}/config", mp0="local-lvm:1,mp=/srv")
        for path in (f"{LXC}/{RUNNING}", f"{QEMU}/{MACHINE}"):
            self._pve.run("POST", f"{path}/snapshot", snapname=SNAPSHOT)
            self._pve.run("POST", f"{path}/status/start")
        self._pve.do("POST", f"{LXC}/{BASE}/template")
        self._pve.run("POST", f"{QEMU}/{BASE_MACHINE}/template")
        self._pve.run("POST", "/nodes/pve1/vzdump", vmid=STOPPED, storage="local", compress="zstd")

    def clear(self) -> None:
        """None of them is left, nor a backup or volume of theirs, nor what was downloaded."""
        for task in self._running():
            if task.type in _PATIENT:
                tasks.stop(task)
        with contextlib.suppress(AssertionError):
            until(lambda: not self._running(), within=_IDLE_SECONDS)
        assert not (left := self._running()), f"PVE's tasks about the guests of the fuzz: {', '.join(map(str, left))}"
        with contextlib.suppress(AssertionError):
            until(self._is_empty, within=_IDLE_SECONDS)
        assert not made.known() & set(VMIDS), self._why
        made.sweep(VMIDS[0], VMIDS[-1])
        for storage in ("local", "shared"):
            (storages.find(storage).place("vztmpl") / DOWNLOADED).unlink(missing_ok=True)

    def _running(self) -> list[Upid]:
        return [task for task in tasks.every_task() if task.id in map(str, VMIDS) and tasks.is_running(task)]

    def _is_empty(self) -> bool:
        """Again until it holds: a base goes after its linked clones, and the gateway may end what it has begun."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self._remove, made.known() & set(VMIDS)))
        return not made.known() & set(VMIDS)

    def _remove(self, vmid: int) -> None:
        try:
            remove_guests(self._pve, range(vmid, vmid + 1))
        except (AssertionError, FileNotFoundError) as error:
            self._why = f"guest {vmid} of the fuzz cannot be removed: {error}"


@contextlib.contextmanager
def stocked(home: Path) -> Iterator[tuple[Stock, dict[str, Any]]]:
    """The guests, and the settings `pve` of a gateway that may do with them what it is asked for; files in `home`."""
    with running_api(peers=[PEER]) as running:
        file = home / "pve.token"
        access.store_token(file, *_TOKEN, privileges=sorted(EVERY_PRIVILEGE))
        stock = Stock(Pve(running.port, "=".join(_TOKEN)))
        stock.renew()
        try:
            yield stock, {"api": running.url, "token_file": str(file), "pvesh": str(running.pvesh)}
        finally:
            stock.clear()


def token_of(gateway: Gateway) -> str:
    """One that may everything; of what changes guests, to those of the fuzz alone."""
    return gateway.token_for(
        {"actions": sorted(GRANTABLE - _OF_RANGE), "guests": "all"},
        {"actions": sorted(_OF_RANGE), "guests": f"{VMIDS[0]}-{VMIDS[-1]}"},
    )
