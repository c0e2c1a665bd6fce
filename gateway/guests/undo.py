"""Undo: a guest whose making failed half-way is destroyed, if it is surely the one that was being made."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass

from gateway.errors import GatewayError, GuestNotFound, GuestNotRunning
from gateway.exec.order import GuestKind
from gateway.pve.guests import GuestMap
from gateway.pve.ids import Upid
from gateway.pve.models import GuestRef
from gateway.pve.service import Pve

_SECONDS = 120.0
_CLOCK_SLACK = 5
_MAKES_ROOM = frozenset({"vzdestroy", "qmdestroy", "vzcreate", "qmcreate", "vzrestore", "qmrestore"})
"""Tasks about a vmid behind which another guest may stand under it (PVE::API2::LXC, PVE::API2::Qemu)."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Undone:
    """Whether nothing is left, and if not, why."""

    clean: bool
    why: str = ""


def undo(pve: Pve, guests: GuestMap, guest: GuestRef, maker: Upid | None) -> Undone:
    """Destroys what task `maker` has made under the guest's vmid, its volumes too. Never fails: it tells what is left.

    `maker` None: no task is known that made it whole. PVE itself clears up behind one that failed; what it does not is
    locked, and can be unlocked on the node only: PVE has no API for it (PVE.md).
    """
    try:
        if not _exists(guests, guest.vmid):
            return Undone(True)
        if maker is None:
            program = "pct" if guest.kind is GuestKind.LXC else "qm"
            return Undone(
                False,
                f"PVE has a guest {guest.vmid} now, half-made or another's: look at it; `{program} unlock "
                f"{guest.vmid}` and `{program} destroy {guest.vmid}` on the node remove it",
            )
        return _destroy(pve, guests, guest, maker)
    except GatewayError as error:
        log.error("guest %d, whose making failed, could not be removed: %s", guest.vmid, error.detail)
        return Undone(False, f"guest {guest.vmid} could not be removed: {error.detail}")


def clear_up(pve: Pve, guests: GuestMap, guest: GuestRef, maker: Upid) -> Undone | None:
    """The same long after, perhaps: only if it does not run, and nobody has had PVE do anything with it since `maker`
    made it: started it, say. None: it may be in use, and is left alone."""
    try:
        if not _exists(guests, guest.vmid):
            return Undone(True)
        if not pve.tasks.shows_all(guest.node):
            return None
        tasks = pve.tasks.recent(guest.node, vmid=guest.vmid, since=maker.start, limit=500)
        later = {str(task.upid) for task in tasks if _is_since(task.upid, maker)}
        if later != {str(maker)} or pve.guests.status(guest).running:
            return None
        _finish(pve, pve.guests.delete(guest))  # which PVE refuses of one that runs
        return Undone(not _exists(guests, guest.vmid), "it is still there")
    except GuestNotFound:
        return Undone(True)
    except GatewayError as error:
        log.error("guest %d, which was not made whole, could not be removed: %s", guest.vmid, error.detail)
        return Undone(False, f"guest {guest.vmid} could not be removed: {error.detail}")


def _exists(guests: GuestMap, vmid: int) -> bool:
    return vmid in guests.vmids()


def _may_be_anothers(pve: Pve, guest: GuestRef, maker: Upid) -> bool:
    since = maker.start if maker.node == guest.node else maker.start - _CLOCK_SLACK
    tasks = pve.tasks.recent(guest.node, vmid=guest.vmid, since=since, limit=500)
    later = (task.upid for task in tasks if _is_later(task.upid, maker) and str(task.upid) != str(maker))
    return any(upid.type in _MAKES_ROOM for upid in later)


def _is_later(upid: Upid, maker: Upid) -> bool:
    """Of a clone to another node all that is known there counts as later."""
    return upid.node != maker.node or _began(upid) >= _began(maker)


def _is_since(upid: Upid, maker: Upid) -> bool:
    """As `_is_later`, of one node that may have been booted since: its ticks began anew then, its clock did not."""
    return upid.start > maker.start or (upid.start == maker.start and _began(upid) >= _began(maker))


def _began(upid: Upid) -> int:
    """When its process began, in ticks since the node was booted: finer than its seconds (PVE::UPID)."""
    return int(str(upid).split(":")[3], 16)


def _destroy(pve: Pve, guests: GuestMap, guest: GuestRef, maker: Upid) -> Undone:
    unsure = Undone(False, f"whether guest {guest.vmid} is still the one that was being made is not sure: look")
    if _may_be_anothers(pve, guest, maker):
        return unsure
    try:
        if pve.guests.status(guest).running:
            with suppress(GuestNotRunning):  # it stopped by itself
                _finish(pve, pve.guests.stop(guest))
            if _may_be_anothers(pve, guest, maker):  # stopping it took its time
                return unsure
        _finish(pve, pve.guests.delete(guest, force=True))
    except GuestNotFound:
        pass
    if _exists(guests, guest.vmid):
        return Undone(False, f"there is still a guest {guest.vmid}: moved to another node, or another's; look")
    return Undone(True)


def _finish(pve: Pve, upid: Upid) -> None:
    task = pve.watcher.wait(upid, _SECONDS)
    if task is not None:
        pve.tasks.require_ok(task)
