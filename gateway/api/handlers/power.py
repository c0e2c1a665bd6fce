"""Power: guests started, stopped, shut down, rebooted, suspended and resumed, by PVE's tasks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gateway.api.call import Call, Reply
from gateway.api.models.power import RebootQuery, ShutdownQuery, StopQuery, SuspendQuery
from gateway.api.services import Services
from gateway.api.work import change_guest
from gateway.pve.ids import Upid
from gateway.pve.models import GuestRef


def start_guest(services: Services, call: Call) -> Reply:
    return _act(services, call, services.pve.guests.start)


def stop_guest(services: Services, call: Call) -> Reply:
    """At once, as pulling the plug does."""
    asked: StopQuery = call.query
    return _act(services, call, partial(services.pve.guests.stop, overrule_shutdown=asked.overrule_shutdown))


def shut_guest_down(services: Services, call: Call) -> Reply:
    asked: ShutdownQuery = call.query
    return _act(services, call, partial(services.pve.guests.shutdown, timeout=asked.timeout, force_stop=asked.force))


def reboot_guest(services: Services, call: Call) -> Reply:
    """With what was pending."""
    asked: RebootQuery = call.query
    return _act(services, call, partial(services.pve.guests.reboot, timeout=asked.timeout))


def suspend_guest(services: Services, call: Call) -> Reply:
    asked: SuspendQuery = call.query
    return _act(services, call, partial(services.pve.guests.suspend, to_disk=asked.to_disk))


def resume_guest(services: Services, call: Call) -> Reply:
    return _act(services, call, services.pve.guests.resume)


def _act(services: Services, call: Call, act: Callable[[GuestRef], Upid]) -> Reply:
    guest = services.guests.find(call.vmid)
    asked = call.query.model_dump(exclude={"wait"}, exclude_defaults=True)
    return change_guest(services, call, guest, lambda: act(guest), **asked)
