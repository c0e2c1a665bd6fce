"""Power: guests started, stopped, shut down, rebooted, suspended and resumed, by PVE's tasks; containers are paused by
the supervisor, for PVE does that by CRIU, which mostly fails."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gateway.api.call import Call, Reply
from gateway.api.models.power import RebootQuery, ShutdownQuery, StopQuery, SuspendQuery
from gateway.api.models.work import Work
from gateway.api.services import Services
from gateway.api.work import change_guest
from gateway.errors import FieldError, GuestFrozen, InvalidRequest
from gateway.errors_pve import GuestLocked
from gateway.exec.order import GuestKind
from gateway.pve.ids import Upid
from gateway.pve.models import GuestRef


def start_guest(services: Services, call: Call) -> Reply:
    return _act(services, call, services.pve.guests.start)


def stop_guest(services: Services, call: Call) -> Reply:
    """At once, as pulling the plug does."""
    asked: StopQuery = call.query
    return _act(services, call, partial(services.pve.guests.stop, overrule_shutdown=asked.overrule_shutdown))


def shut_guest_down(services: Services, call: Call) -> Reply:
    """A container that is frozen would hear of it only when it is thawed: PVE waits, and its task fails."""
    asked: ShutdownQuery = call.query
    if not asked.force and services.freezer.is_frozen(services.guests.find(call.vmid)):
        raise GuestFrozen(
            f"guest {call.vmid} is paused, or in a snapshot or backup: resume it first, or stop it", vmid=call.vmid
        )
    return _act(services, call, partial(services.pve.guests.shutdown, timeout=asked.timeout, force_stop=asked.force))


def reboot_guest(services: Services, call: Call) -> Reply:
    """With what was pending."""
    asked: RebootQuery = call.query
    return _act(services, call, partial(services.pve.guests.reboot, timeout=asked.timeout))


def suspend_guest(services: Services, call: Call) -> Reply:
    asked: SuspendQuery = call.query
    guest = services.guests.find(call.vmid)
    if guest.kind is GuestKind.LXC:
        if asked.to_disk:
            wrong = FieldError("to_disk", "impossible", "a container is paused in memory only")
            raise InvalidRequest("some fields cannot be taken; see `errors`", errors=[wrong.to_json()])
        return _pause(services, call, guest, paused=True)
    return _act(services, call, partial(services.pve.guests.suspend, to_disk=asked.to_disk))


def resume_guest(services: Services, call: Call) -> Reply:
    guest = services.guests.find(call.vmid)
    if guest.kind is GuestKind.LXC:
        return _pause(services, call, guest, paused=False)
    return _act(services, call, services.pve.guests.resume)


def _pause(services: Services, call: Call, guest: GuestRef, *, paused: bool) -> Reply:
    """What PVE itself is doing with it, a snapshot say, is not interfered with: it freezes and thaws it for that."""
    services.guests.locate(guest.vmid)
    status = services.pve.guests.status(guest)
    if status.lock is not None:
        raise GuestLocked(
            f"guest {guest.vmid} is locked ({status.lock}): PVE is at work on it; try again",
            vmid=guest.vmid,
            node=guest.node,
            lock=status.lock,
        )
    audit_id = services.supervisor.pause(guest.vmid, guest.node, call.origin, paused=paused)
    work: Work = {
        "vmid": guest.vmid,
        "node": guest.node,
        "upid": None,
        "state": "ended",
        "exitstatus": None,
        "requested": False,
        "audit_id": audit_id,
    }
    return Reply(work)


def _act(services: Services, call: Call, act: Callable[[GuestRef], Upid]) -> Reply:
    guest = services.guests.find(call.vmid)
    asked = call.query.model_dump(exclude={"wait"}, exclude_defaults=True)
    return change_guest(services, call, guest, lambda: act(guest), **asked)
