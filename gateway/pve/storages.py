"""Storages and what is on them: templates, backups and other volumes."""

from __future__ import annotations

import re
from typing import Any, Literal

from gateway.errors import InvalidRequest
from gateway.errors_pve import PveNonsense
from gateway.pve.caller import Caller, Options
from gateway.pve.ids import Upid, VolumeId, parse_node, parse_storage, parse_vmid
from gateway.pve.lifecycle import about, path
from gateway.pve.models import GuestRef
from gateway.pve.resources import Appliance, Storage, Volume

Mode = Literal["snapshot", "suspend", "stop"]
Compression = Literal["0", "gzip", "lzo", "zstd"]

_TEMPLATE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~@:-]{0,253}")


class Storages:
    """The storages as a node sees them. Those that give a Upid have only begun when they return. All raise
    GatewayError: StorageNotFound, StorageUnsuitable, StorageFull, VolumeNotFound, ..."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def on_node(self, node: str, *, content: str | None = None) -> list[Storage]:
        """The node's storages by name; with `content` (rootdir, images, vztmpl, iso, backup) those that may hold it."""
        options: Options = {"content": content}
        rows = self._caller.ask_list("nodes", parse_node(node), "storage", about={"node": node}, options=options)
        found = [storage for storage in (Storage.read(node, row) for row in rows) if storage is not None]
        return sorted(found, key=lambda storage: storage.name)

    def volumes(self, node: str, storage: str, *, content: str | None = None, vmid: int | None = None) -> list[Volume]:
        """What is on a storage, by name; with `vmid` what belongs to that guest."""
        about_it = {"node": node, "storage": storage, "vmid": vmid}
        options: Options = {"content": content, "vmid": parse_vmid(vmid) if vmid is not None else None}
        rows = self._caller.ask_list(
            "nodes", parse_node(node), "storage", parse_storage(storage), "content", about=about_it, options=options
        )
        found = [volume for volume in map(Volume.read, rows) if volume is not None]
        return sorted(found, key=lambda volume: volume.volume)

    def volume(self, node: str, name: VolumeId) -> dict[str, Any]:
        """What PVE knows of one volume: format, path, size, used, notes, protected. Raises VolumeNotFound."""
        return dict(self._caller.ask_object(*_place(node, name), about=_about_volume(node, name)))

    def delete_volume(self, node: str, name: VolumeId) -> Upid | None:
        """Begins to remove a volume: a backup, a template."""
        return self._caller.change("DELETE", *_place(node, name), about=_about_volume(node, name))

    # ---- templates

    def appliances(self, node: str) -> list[Appliance]:
        """The container templates that PVE's catalogue offers, by name."""
        rows = self._caller.ask_list("nodes", parse_node(node), "aplinfo", about={"node": node})
        found = [appliance for appliance in map(Appliance.read, rows) if appliance is not None]
        return sorted(found, key=lambda appliance: appliance.template)

    def download(self, node: str, storage: str, template: str) -> Upid:
        """Begins to download a template of the catalogue. The URL is the catalogue's, never a request's."""
        if not _TEMPLATE.fullmatch(template):
            raise InvalidRequest.for_field("template", "a template's name is one of GET /templates?available=true")
        options: Options = {"storage": parse_storage(storage), "template": template}
        about_it = {"node": node, "storage": storage, "template": template}
        return self._caller.start_task("POST", "nodes", parse_node(node), "aplinfo", about=about_it, options=options)

    # ---- backups

    def backups(self, guest: GuestRef, storage: str | None = None) -> list[Volume]:
        """The guest's backups, the newest first: on `storage`, or on all of its node that hold backups."""
        path(guest)
        if storage is not None:
            places = [str(parse_storage(storage))]
        else:
            places = [
                place.name for place in self.on_node(guest.node, content="backup") if place.active and place.enabled
            ]
        found = [
            volume
            for place in places
            for volume in self.volumes(guest.node, place, content="backup", vmid=guest.vmid)
            if volume.vmid in (None, guest.vmid)
        ]
        # Their names hold the time, too: for those of one second.
        return sorted(found, key=lambda volume: (volume.made_at or 0, volume.volume), reverse=True)

    def backup_config(self, node: str, backup: VolumeId) -> str:
        """The configuration that a backup holds, as the text of a file. Raises VolumeNotFound."""
        told = self._caller.ask(
            "nodes",
            parse_node(node),
            "vzdump",
            "extractconfig",
            about=_about_volume(node, backup),
            options={"volume": str(backup)},
        )
        if not isinstance(told, str):
            raise PveNonsense("PVE tells no configuration of the backup", **_about_volume(node, backup))
        return told

    def back_up(
        self,
        guest: GuestRef,
        storage: str,
        *,
        mode: Mode = "snapshot",
        compress: Compression = "zstd",
        notes: str | None = None,
        protected: bool = False,
    ) -> Upid:
        """Begins to back the guest up; nothing older is pruned by it. `notes` may hold PVE's {{guestname}} and such."""
        path(guest)
        options: Options = {
            "vmid": guest.vmid,
            "storage": parse_storage(storage),
            "mode": mode,
            "compress": compress,
            "notes-template": notes,
            "protected": protected or None,
            "remove": False,
        }
        about_it = {**about(guest), "storage": storage}
        return self._caller.start_task("POST", "nodes", guest.node, "vzdump", about=about_it, options=options)


def _place(node: str, name: VolumeId) -> tuple[str, ...]:
    return "nodes", parse_node(node), "storage", parse_storage(name.storage), "content", name


def _about_volume(node: str, name: VolumeId) -> dict[str, Any]:
    return {"node": node, "storage": name.storage, "volume": str(name)}
