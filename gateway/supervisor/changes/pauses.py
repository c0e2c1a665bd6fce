"""Pauses: containers that are frozen and thawed because somebody asks for it, decided again and on record.

`lxc/<vmid>/ns` is frozen, as PVE does for its snapshots (PVE::LXC::freeze, liblxc's cgfsng_freeze), and not
`lxc/<vmid>`, as lxc-freeze does: while that is frozen, the container's monitor waits without end for the thaw that PVE
asks it for after a snapshot, and hears nothing else any more, `lxc-stop --kill` neither (tried on LXC 5.0.2). With `ns`
all of PVE's own ways go on working; its snapshots and backups, which thaw what they find frozen, end the pause.
"""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.audit.record import Event
from gateway.config import Config
from gateway.errors import GuestFrozen, GuestNotFound, GuestNotRunning, NodeNotReady
from gateway.exec.origin import Origin
from gateway.exec.permit import within
from gateway.supervisor.changes.announced import Announced
from gateway.supervisor.guests.containers import Guests, Incarnation

_SECONDS = 10.0
_LOOK_SECONDS = 0.005


class Pauses:
    """Those of this node's containers."""

    def __init__(self, config: Config, guests: Guests, announced: Announced) -> None:
        self._config = config
        self._guests = guests
        self._announced = announced

    async def set(self, vmid: int, node: str, origin: Origin, *, paused: bool) -> str:
        """Returns when all of the container stands still, or goes on; its record's `audit_id`. That it is so already
        is no error.

        Raises GuestNotFound beyond the caller's grants, NodeNotReady, GuestNotRunning, AuditUnavailable with nothing
        done; GuestFrozen when it could not be frozen in ten seconds, and is thawed again.
        """
        if not within(vmid, origin.power_guests) or vmid in self._config.guests.protected:
            raise GuestNotFound.for_vmid(vmid)
        if node != self._config.node:
            raise NodeNotReady(f"this is node {self._config.node}; ask the gateway of {node}", missing=["node"])
        guest = self._guests.require(vmid)
        event = Event.GUEST_SUSPEND if paused else Event.GUEST_RESUME
        made = await self._announced.finish(
            self._announced.make(
                event, origin, "guest:power", vmid, node, None, lambda: self._act(guest, paused=paused)
            )
        )
        audit_id = str(made["audit_id"])
        if made["reason"] == "failed":
            raise GuestFrozen(f"{made['words']}; try again", vmid=vmid, audit_id=audit_id)
        return audit_id

    async def _act(self, guest: Incarnation, *, paused: bool) -> dict[str, Any]:
        """Raises GuestNotRunning."""
        _set_frozen(guest, paused)
        try:
            async with asyncio.timeout(_SECONDS):
                while guest.frozen() != paused:
                    if not guest.alive():
                        raise _stopped(guest)
                    await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError:
            _set_frozen(guest, False)
            state = "frozen: one of its processes waits for a disk, perhaps" if paused else "thawed"
            return {"reason": "failed", "words": f"guest {guest.vmid} was not {state}, within {_SECONDS:g} s"}
        guest.mirror_freeze()
        return {"reason": "ok"}


def _set_frozen(guest: Incarnation, frozen: bool) -> None:
    try:
        guest.group.freeze_guest(frozen)
    except OSError as exc:
        raise _stopped(guest) from exc


def _stopped(guest: Incarnation) -> GuestNotRunning:
    return GuestNotRunning(f"guest {guest.vmid} has just stopped", vmid=guest.vmid)
