"""The snapshots of a guest: list, take, go back to, remove."""

from __future__ import annotations

from gateway.api.call import Call, Reply
from gateway.api.handlers.passing import require_power
from gateway.api.models.kept import PageQuery, RollbackQuery, SnapshotList, SnapshotRequest, SnapshotView
from gateway.api.paging import cut
from gateway.api.services import Services
from gateway.api.work import change_guest
from gateway.guests import origins
from gateway.policy.change import GuestChange, on_node
from gateway.pve.models import Snapshot


def list_snapshots(services: Services, call: Call) -> Reply:
    """A page of them, the oldest first."""
    asked: PageQuery = call.query
    found = services.pve.snapshots.list(services.guests.find(call.vmid))
    part, following = cut(found, lambda snapshot: snapshot.name, asked)
    page: SnapshotList = {"snapshots": [_show(snapshot) for snapshot in part], "next": following}
    return Reply(page)


def take_snapshot(services: Services, call: Call) -> Reply:
    asked: SnapshotRequest = call.body
    guest = services.guests.find(call.vmid)

    return change_guest(
        services,
        call,
        guest,
        lambda: services.pve.snapshots.create(
            guest, asked.name, description=asked.description, with_memory=asked.with_memory
        ),
        snapshot=asked.name,
    )


def describe_rollback(services: Services, call: Call) -> GuestChange:
    """What the guest had of the node when the snapshot was taken, and has no more."""
    guest = services.guests.find(call.vmid)
    change = origins.describe_rollback(services.pve, guest, call.names["snapshot"])
    return on_node(change, guest.node, services.config.node)


def roll_back(services: Services, call: Call) -> Reply:
    """A running guest is stopped for it."""
    asked: RollbackQuery = call.query
    require_power(call, starts=asked.start)
    guest, name = services.guests.find(call.vmid), call.names["snapshot"]
    return change_guest(
        services,
        call,
        guest,
        lambda: services.pve.snapshots.rollback(guest, name, start=asked.start),
        snapshot=name,
        start=asked.start,
    )


def delete_snapshot(services: Services, call: Call) -> Reply:
    guest, name = services.guests.find(call.vmid), call.names["snapshot"]
    return change_guest(
        services,
        call,
        guest,
        lambda: services.pve.snapshots.delete(guest, name),
        snapshot=name,
    )


def _show(snapshot: Snapshot) -> SnapshotView:
    return {
        "name": snapshot.name,
        "description": snapshot.description,
        "parent": snapshot.parent,
        "made_at": snapshot.made_at,
        "with_memory": snapshot.with_memory,
    }
