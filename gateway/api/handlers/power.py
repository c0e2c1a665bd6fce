"""Power: guests started, stopped, shut down, rebooted, suspended and resumed, by PVE's tasks."""

from __future__ import annotations

from collections.abc import Callable

from gateway.api.call import Call, Reply
from gateway.api.models.power import RebootQuery, ShutdownQuery, StopQuery, SuspendQuery
from gateway.api.services import Services
from gateway.api.work import change_guest
from gateway.audit.record import Event
from gateway.auth.actions import Action
from gateway.pve.ids import Upid
from gateway.pve.models import GuestRef


def start_guest(services: Services, call: Call) -> Reply:
    return _act(services, call, Event.GUEST_START, services.pve.guests.start)


def stop_guest(services: Services, call: Call) -> Reply:
    """At once, as pulling the plug does."""
    asked: StopQuery = call.query

    def act(guest: GuestRef) -> Upid:
        return services.pve.guests.stop(guest, overrule_shutdown=asked.overrule_shutdown)

    return _act(services, call, Event.GUEST_STOP, act)


def shut_guest_down(services: Services, call: Call) -> Reply:
    asked: ShutdownQuery = call.query

    def act(guest: GuestRef) -> Upid:
        return services.pve.guests.shutdown(guest, timeout=asked.timeout, force_stop=asked.force)

    return _act(services, call, Event.GUEST_SHUTDOWN, act)


def reboot_guest(services: Services, call: Call) -> Reply:
    """With what was pending."""
    asked: RebootQuery = call.query

    def act(guest: GuestRef) -> Upid:
        return services.pve.guests.reboot(guest, timeout=asked.timeout)

    return _act(services, call, Event.GUEST_REBOOT, act)


def suspend_guest(services: Services, call: Call) -> Reply:
    asked: SuspendQuery = call.query

    def act(guest: GuestRef) -> Upid:
        return services.pve.guests.suspend(guest, to_disk=asked.to_disk)

    return _act(services, call, Event.GUEST_SUSPEND, act)


def resume_guest(services: Services, call: Call) -> Reply:
    return _act(services, call, Event.GUEST_RESUME, services.pve.guests.resume)


def _act(services: Services, call: Call, event: Event, act: Callable[[GuestRef], Upid]) -> Reply:
    guest = services.guests.find(call.vmid)
    asked = call.query.model_dump(exclude={"wait"}, exclude_defaults=True)
    return change_guest(services, call, guest, event, Action.GUEST_POWER, lambda: act(guest), **asked)
