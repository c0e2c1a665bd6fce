"""Free vmids: the lowest ones that a grant reaches and nobody has."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice

from gateway.errors_pve import GuestExists, NoFreeVmid
from gateway.exec.permit import Ranges
from gateway.pve.guests import GuestMap
from gateway.pve.inventory import Inventory

_MAX_TRIES = 20


def free_vmids(reach: Ranges, taken: Collection[int]) -> Iterator[int]:
    """Those of `reach` that are not `taken`, the lowest first."""
    for low, high in reach:
        yield from (vmid for vmid in range(low, high + 1) if vmid not in taken)


def first_free(reach: Ranges, taken: Collection[int]) -> int:
    """The lowest one. Raises NoFreeVmid."""
    found = next(free_vmids(reach, taken), None)
    if found is None:
        raise _none_free()
    return found


def pick_vmid(inventory: Inventory, guests: GuestMap, reach: Ranges) -> int:
    """The lowest free vmid of `reach`, as PVE confirms. It reserves nothing: what is made under it may find it taken.

    Raises NoFreeVmid; NodeNotReady and PVE's own errors.
    """
    for vmid in islice(free_vmids(reach, guests.vmids()), _MAX_TRIES):
        try:
            return inventory.next_vmid(vmid)
        except GuestExists:
            continue
    raise _none_free()


def _none_free() -> NoFreeVmid:
    return NoFreeVmid("no vmid within this token's grants is free; destroy a guest, or have the grant widened")
