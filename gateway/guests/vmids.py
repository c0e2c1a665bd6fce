"""Free vmids: the lowest ones that a grant reaches and nobody has."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from gateway.errors_pve import GuestExists, NoFreeVmid
from gateway.exec.permit import Ranges
from gateway.pve.guests import GuestMap
from gateway.pve.inventory import Inventory

_MAX_TRIES = 20


def free_vmids(reach: Ranges, taken: Collection[int]) -> Iterator[int]:
    """Those of `reach` that are not `taken`, the lowest first."""
    for low, high in reach:
        yield from (vmid for vmid in range(low, high + 1) if vmid not in taken)


def pick_vmid(inventory: Inventory, guests: GuestMap, reach: Ranges, tried: Collection[int] = ()) -> int:
    """The lowest free vmid of `reach` but for those `tried`, as PVE confirms. It reserves nothing: what is made under
    it may find it taken (GuestExists), and picks again.

    Raises NoFreeVmid; NodeNotReady and PVE's own errors.
    """
    taken = {*guests.vmids(), *tried}
    for count, vmid in enumerate(free_vmids(reach, taken)):
        if count == _MAX_TRIES:
            break
        try:
            return inventory.next_vmid(vmid)
        except GuestExists:
            continue
    raise NoFreeVmid("no vmid within this token's grants is free; destroy a guest, or have the grant widened")
