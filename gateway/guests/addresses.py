"""A guest's addresses, waited for: no task tells of them, so that PVE is asked again, at a pace that all share."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterable

from gateway.clientwatch import Watch
from gateway.errors import GatewayError, GuestAgentUnavailable, GuestNotRunning
from gateway.errors_pve import PveFailed
from gateway.guests.pace import Pace
from gateway.pve.lifecycle import Lifecycle
from gateway.pve.models import Address, GuestRef

_LOOK_SECONDS = 0.5
NOT_YET = (GuestNotRunning, GuestAgentUnavailable, PveFailed)
"""What a guest that has just been started may be answered with for a while."""


def are_ready(addresses: Iterable[Address]) -> bool:
    """Whether one of them is an address that others can reach: not link-local."""
    return any(not _is_local(address.address) for address in addresses)


def find_addresses(
    guests: Lifecycle, pace: Pace, guest: GuestRef, seconds: float = 0, watch: Watch | None = None
) -> list[Address]:
    """Its addresses as soon as they are ready, or as they are when `seconds` are over.

    Raises GatewayError: what a guest that is not up yet causes only when the time is over. ClientGone.
    """
    deadline = time.monotonic() + seconds
    while True:
        error: GatewayError | None = None
        found: list[Address] = []
        try:
            found = guests.addresses(guest)
        except NOT_YET as exc:
            error = exc
        if are_ready(found) or not pace.wait(deadline, watch, _LOOK_SECONDS):
            if error is not None:
                raise error
            return found


def _is_local(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return True
    return address.is_link_local or address.is_loopback or address.is_unspecified
