"""What new guests bring along from where they come: read before anything is made, for node policy to decide on."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gateway.errors import FieldError, GuestUnsupported, InvalidRequest
from gateway.errors_pve import VolumeNotFound
from gateway.exec.order import GuestKind
from gateway.guests.wish import CloneRequest, GuestRequest
from gateway.policy.change import GuestChange, describe_options
from gateway.policy.machine import describe_machine
from gateway.pve.ids import VolumeId
from gateway.pve.models import GuestRef
from gateway.pve.service import Pve

# pve-storage: Plugin.pm's and PBSPlugin.pm's names of backups.
_BACKUP = re.compile(r"backup/(?:vzdump-(lxc|qemu)-([1-9][0-9]{2,8})-[^/]+|(ct|vm)/([1-9][0-9]{2,8})/[^/]+)")
_KINDS = {"lxc": GuestKind.LXC, "ct": GuestKind.LXC, "qemu": GuestKind.QEMU, "vm": GuestKind.QEMU}
_MOUNT = re.compile(r"rootfs|(?:mp|unused)[0-9]{1,3}")
_VOLUME = re.compile(r"^(?:volume=)?[A-Za-z][A-Za-z0-9._-]*:[^=,]+")
# PVE::LXC::Config, parse_pct_config: whatever it reads otherwise than we do is a way past us.
_LINE = re.compile(r"([a-z][a-z_]*[0-9]*):\s*(\S.*?)\s*")
_RAW = re.compile(r"\s*[:=]")
_SECTION = re.compile(r"\[(?:pve:(?P<pending>pending)|[a-z][a-z0-9_-]+)\]\s*", re.IGNORECASE)

_NEW_VOLUME = "new:1"

Options = Mapping[str, str | int | bool]


def owner_of(backup: str, field: str = "backup") -> tuple[GuestKind, int]:
    """Which guest a backup is of, by its name alone. Raises InvalidRequest for a volume that is no backup."""
    found = _BACKUP.fullmatch(VolumeId(backup).name)
    if found is None:
        rule = "a backup is STORAGE:backup/NAME, as GET /guests/{vmid}/backups lists it"
        raise InvalidRequest(
            f"`{field}` cannot be that: {rule}", errors=[FieldError(field, "impossible", rule).to_json()]
        )
    return _KINDS[found[1] or found[3]], int(found[2] or found[4])


def no_such_backup(backup: str) -> VolumeNotFound:
    """The one body for a backup that does not exist, or is of a guest out of reach."""
    return VolumeNotFound(
        "no such backup of a guest within this token's grants; see GET /guests/{vmid}/backups", volume=backup
    )


def describe_new(vmid: int, wish: GuestRequest) -> GuestChange:
    """What a container of a template would be given of the node."""
    return describe_options(vmid, {**wish.options(), **wish.root_options()}, whole=True)


def describe_restored(pve: Pve, node: str, wish: GuestRequest) -> GuestChange:
    """The same of a container of a backup, whose archive brings a configuration. Raises VolumeNotFound, PolicyRefused.

    Its volumes are made anew, so they give nothing away; directories and devices of the node that were mounted do.
    """
    backup = VolumeId(wish.backup or "")
    kind, owner = owner_of(backup)
    if kind is not GuestKind.LXC:
        raise GuestUnsupported("only containers are restored here; restore this one in PVE itself", volume=backup)
    try:
        text = pve.storages.backup_config(node, backup)
    except VolumeNotFound:
        raise no_such_backup(backup) from None
    brought = {
        name: _VOLUME.sub(_NEW_VOLUME, value) if _MOUNT.fullmatch(name) else value
        for name, value in parse_config(text).items()
    }
    return describe_options(owner, {**brought, **wish.options(), **wish.root_options()}, whole=True)


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
            error = FieldError(name, "not_of_a_machine", rule)
            raise InvalidRequest(f"`{name}` cannot be taken: {rule}", errors=[error.to_json()])


def describe_rollback(pve: Pve, guest: GuestRef, snapshot: str) -> GuestChange:
    """What a guest would be given that it had once and has no more. Raises SnapshotNotFound, PolicyRefused."""
    then, now = read_options(pve, guest, snapshot), read_options(pve, guest, None)
    changed = {name: value for name, value in then.items() if now.get(name) != value}
    if then.get("unprivileged") == now.get("unprivileged"):
        changed["unprivileged"] = True  # not what is decided about
    else:
        changed["unprivileged"] = then.get("unprivileged", "0")
    return describe(guest, changed)


def describe(guest: GuestRef, options: Options) -> GuestChange:
    """What these options of a guest, all that it has, come to."""
    if guest.kind is GuestKind.LXC:
        return describe_options(guest.vmid, options, whole=True)
    return describe_machine(guest.vmid, options)


def read_options(pve: Pve, guest: GuestRef, snapshot: str | None) -> dict[str, str | int | bool]:
    """A guest's configuration as it is or was, raw `lxc.*` keys too."""
    config = pve.guests.config(guest, pending=False) if snapshot is None else pve.snapshots.config(guest, snapshot)
    return {**config.options, **config.raw}


def parse_config(text: str) -> dict[str, str]:
    """The options of a container's configuration file as PVE reads it, those that are pending too, without snapshots.

    Of what PVE leaves out, or what stands there twice, a name is told that nobody can have allowed.
    """
    found: dict[str, str] = {}
    is_read = True
    for line in text.split("\n"):
        if section := _SECTION.fullmatch(line):
            is_read = section["pending"] is not None
        elif is_read and line.strip() and not line.startswith("#"):
            parts = _LINE.fullmatch(line)
            name, value = (parts[1], parts[2]) if parts else (_RAW.split(line)[0][:64], "")
            found[f"{name} (twice)" if parts and name in found else name] = value
    return found
