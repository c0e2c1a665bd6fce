"""What new guests bring along from where they come: read before anything is made, for node policy to decide on."""

from __future__ import annotations

import re

from gateway.errors import InvalidRequest
from gateway.errors_pve import VolumeNotFound
from gateway.exec.order import GuestKind
from gateway.guests.archived import brought_by
from gateway.guests.container import ContainerRequest
from gateway.guests.machine import MachineRequest
from gateway.guests.wish import CloneRequest
from gateway.policy.change import GuestChange, Options, describe_options
from gateway.policy.machine import describe_machine
from gateway.pve.ids import VolumeId
from gateway.pve.models import GuestRef
from gateway.pve.service import Pve

# pve-storage: Plugin.pm's and PBSPlugin.pm's names of backups.
_BACKUP = re.compile(r"backup/(?:vzdump-(lxc|qemu)-([1-9][0-9]{2,8})-[^/]+|(ct|vm)/([1-9][0-9]{2,8})/[^/]+)")
_KINDS = {"lxc": GuestKind.LXC, "ct": GuestKind.LXC, "qemu": GuestKind.QEMU, "vm": GuestKind.QEMU}


def owner_of(backup: str, field: str = "backup") -> tuple[GuestKind, int]:
    """Which guest a backup is of, by its name alone. Raises InvalidRequest for a volume that is no backup."""
    found = _BACKUP.fullmatch(VolumeId(backup).name)
    if found is None:
        raise InvalidRequest.for_field(field, "a backup is STORAGE:backup/NAME, as GET /guests/{vmid}/backups lists it")
    return _KINDS[found[1] or found[3]], int(found[2] or found[4])


def no_such_backup(backup: str) -> VolumeNotFound:
    """The one body for a backup that does not exist, or is of a guest out of reach."""
    return VolumeNotFound(
        "no such backup of a guest within this token's grants; see GET /guests/{vmid}/backups", volume=backup
    )


def describe_new(vmid: int, wish: ContainerRequest | MachineRequest) -> GuestChange:
    """What a guest that is made of no backup would be given of the node."""
    return _describe_all(vmid, {}, wish)


def describe_restored(pve: Pve, node: str, wish: ContainerRequest | MachineRequest) -> GuestChange:
    """The same of a guest of a backup, whose archive brings a configuration. Raises VolumeNotFound, PolicyRefused, and
    InvalidRequest for the backup of another kind of guest.

    Its volumes are made anew, so they give nothing away; directories and devices of the node that were mounted do.
    """
    backup = VolumeId(wish.backup or "")
    kind, owner = owner_of(backup)
    if kind != wish.type:
        raise InvalidRequest.for_field("type", f"it is the backup of a guest of type `{kind}`")
    try:
        text = pve.storages.backup_config(node, backup)
    except VolumeNotFound:
        raise no_such_backup(backup) from None
    return _describe_all(owner, brought_by(kind, text), wish)


def _describe_all(vmid: int, brought: Options, wish: ContainerRequest | MachineRequest) -> GuestChange:
    if isinstance(wish, ContainerRequest):
        return describe_options(vmid, {**brought, **wish.options(), **wish.root_options()}, whole=True)
    return describe_machine(vmid, {**brought, **wish.options()})


def describe_clone(pve: Pve, source: GuestRef, wish: CloneRequest) -> GuestChange:
    """The same of a copy: all that the source has, its own volumes among it. Raises SnapshotNotFound, PolicyRefused."""
    if source.kind is GuestKind.QEMU:
        _require_machines(wish)
    options = read_options(pve, source, wish.snapshot)
    return describe(source, {**options, **wish.common()})


def _require_machines(wish: CloneRequest) -> None:
    for name in ("networks", "swap"):
        if getattr(wish, name) is not None:
            rule = "containers alone take this; change the machine's own network cards afterwards"
            raise InvalidRequest.for_field(name, rule, "not_of_a_machine")


def describe_rollback(pve: Pve, guest: GuestRef, snapshot: str) -> GuestChange:
    """What a guest would be given that it had once and has no more. Raises SnapshotNotFound, PolicyRefused."""
    then, now = read_options(pve, guest, snapshot), read_options(pve, guest, None)
    changed = {name: value for name, value in then.items() if now.get(name) != value}
    if then.get("unprivileged") == now.get("unprivileged"):
        changed["unprivileged"] = True  # not what is decided about
    else:
        changed["unprivileged"] = then.get("unprivileged", "0")
    return describe(guest, changed)


def describe_move(pve: Pve, guest: GuestRef) -> GuestChange:
    """What a guest has by path, or as raw options: on another node the same words are another thing, and a container
    takes them along (PVE::LXC::Migrate, prepare). Of a machine PVE looks after that itself
    (PVE::QemuServer, check_local_resources).
    """
    if guest.kind is GuestKind.QEMU:
        return GuestChange(vmid=guest.vmid)
    config = pve.guests.config(guest)
    waiting = {name: value for name, value in config.pending.items() if value is not None}
    now, then = (describe(guest, options) for options in (config.options, {**config.options, **waiting}))
    mounts = (source for source in (*now.mounts, *then.mounts) if source.startswith("/"))
    return GuestChange(
        vmid=guest.vmid,
        mounts=tuple(dict.fromkeys(mounts)),
        devices=tuple(dict.fromkeys((*now.devices, *then.devices))),
        raw_keys=tuple(config.raw),
    )


def describe(guest: GuestRef, options: Options) -> GuestChange:
    """What these options of a guest, all that it has, come to."""
    if guest.kind is GuestKind.LXC:
        return describe_options(guest.vmid, options, whole=True)
    return describe_machine(guest.vmid, options)


def read_options(pve: Pve, guest: GuestRef, snapshot: str | None) -> dict[str, str | int | bool]:
    """A guest's configuration as it is or was, raw `lxc.*` keys too."""
    config = pve.guests.config(guest, pending=False) if snapshot is None else pve.snapshots.config(guest, snapshot)
    return {**config.options, **config.raw}
