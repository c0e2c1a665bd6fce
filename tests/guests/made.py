"""What is there of a guest on the node: whether it is known, its volumes; and how a range of guests is swept."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from tests.pvesim import config, guests, pmxcfs
from tests.pvesim.api import archives, machines, storages, volumes

TEMPLATE = f"local:vztmpl/{archives.BUSYBOX}"


def known() -> set[int]:
    """The vmids that PVE knows."""
    return {int(vmid) for vmid in json.loads((pmxcfs.ROOT / ".vmlist").read_text())["ids"]}


def leftovers(vmid: int) -> list[Path]:
    """What is on any storage under a guest's number, backups aside."""
    return [path for path in storages.ROOT.glob("*/images/**/*") if f"-{vmid}-" in path.name]


def assert_nothing_left(vmid: int) -> None:
    """No guest, no volume, no lock."""
    assert vmid not in known()
    assert not list((pmxcfs.ROOT / "nodes").glob(f"*/*/{vmid}.conf"))
    assert leftovers(vmid) == []


def sweep(first: int, last: int) -> None:
    """Removes the guests of a range, on any node, with their volumes and backups; clones go before what they are clones
    of."""
    for vmid in range(last, first - 1, -1):
        for far in (pmxcfs.ROOT / "nodes").glob(f"*/lxc/{vmid}.conf"):
            far.rename(config.pve_path(vmid))
        if config.pve_path(vmid).exists():
            with contextlib.suppress(guests.GuestError, KeyError):
                guests.get(vmid).destroy()
            config.pve_path(vmid).unlink(missing_ok=True)
            pmxcfs.unregister(vmid)
        machines.Machine(vmid).pull_the_plug()
        for left in (pmxcfs.ROOT / "nodes").glob(f"*/*/{vmid}.conf"):
            left.unlink()
            pmxcfs.unregister(vmid)
        for storage in storages.every_storage().values():
            for volume in volumes.used_by(storage, vmid):
                volumes.free(volume)
            for path in storage.root.glob(f"dump/vzdump-*-{vmid}-*"):
                path.unlink()
