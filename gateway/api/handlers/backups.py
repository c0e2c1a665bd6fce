"""The backups of a guest: list, make, remove. What restores one is `making`."""

from __future__ import annotations

from typing import Any

from gateway.api.call import Call, Reply
from gateway.api.models.kept import BackupDeleteQuery, BackupList, BackupRequest, BackupsQuery, BackupView
from gateway.api.paging import cut
from gateway.api.services import Services
from gateway.api.work import change_guest
from gateway.errors import GuestNotFound
from gateway.exec.order import GuestKind
from gateway.guests import origins
from gateway.pve.ids import VolumeId, parse_upid
from gateway.pve.models import GuestRef
from gateway.pve.resources import Volume

_CLOCK_SLACK = 1


def list_backups(services: Services, call: Call) -> Reply:
    """A page of them, the newest first; those of a guest that is no more, too."""
    asked: BackupsQuery = call.query
    found = services.pve.storages.backups(_place(services, call.vmid), asked.storage)
    part, following = cut(found, lambda volume: volume.volume, asked)
    page: BackupList = {"backups": [_show(volume) for volume in part], "next": following}
    return Reply(page)


def make_backup(services: Services, call: Call) -> Reply:
    """With `wait` the answer names the backup."""
    asked: BackupRequest = call.body
    guest = services.guests.find(call.vmid)
    reply = change_guest(
        services,
        call,
        guest,
        lambda: services.pve.storages.back_up(
            guest,
            asked.storage,
            mode=asked.mode,
            compress="0" if asked.compress == "none" else asked.compress,
            notes=asked.notes,
            protected=asked.protected,
        ),
        **asked.model_dump(exclude_none=True),
    )
    work: dict[str, Any] = reply.body
    work["volume"] = _find_new(services, guest, asked.storage, work) if work["state"] == "ended" else None
    return reply


def delete_backup(services: Services, call: Call) -> Reply:
    """Of a guest that is no more, too."""
    asked: BackupDeleteQuery = call.query
    volume = VolumeId(asked.volume)
    place = _place(services, call.vmid)
    _, owner = origins.owner_of(volume, "volume")
    if owner != call.vmid:
        raise origins.no_such_backup(volume)
    return change_guest(
        services,
        call,
        place,
        lambda: services.pve.storages.delete_volume(place.node, volume),
        volume=str(volume),
    )


def _place(services: Services, vmid: int) -> GuestRef:
    """Where the guest is, or for one that is no more, this node."""
    try:
        return services.guests.find(vmid)
    except GuestNotFound:
        return GuestRef(vmid, GuestKind.LXC, services.config.node)


def _find_new(services: Services, guest: GuestRef, storage: str, work: dict[str, Any]) -> str | None:
    """The backup that the task has made: PVE tells its name in the task's log alone."""
    since = parse_upid(work["upid"]).start - _CLOCK_SLACK
    found = services.pve.storages.backups(guest, storage)
    return next((volume.volume for volume in found if (volume.made_at or 0) >= since), None)


def _show(volume: Volume) -> BackupView:
    return {
        "volume": volume.volume,
        "storage": volume.volume.partition(":")[0],
        "size": volume.size,
        "format": volume.format,
        "made_at": volume.made_at,
        "notes": volume.notes,
        "protected": volume.protected,
    }
