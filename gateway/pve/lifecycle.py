"""A guest's life through PVE's API: made, changed, started, stopped, moved, cloned, destroyed.

What each gives a guest of the node, node policy has decided before (gateway.policy); what PVE allows to root@pam alone
fails here with PveRootOnly.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from gateway.errors import InvalidRequest
from gateway.exec.order import GuestKind
from gateway.pve.caller import Caller, Options
from gateway.pve.ids import (
    Upid,
    VolumeId,
    parse_node,
    parse_pool,
    parse_snapshot,
    parse_storage,
    parse_vmid,
)
from gateway.pve.models import Address, GuestConfig, GuestRef, GuestStatus
from gateway.pve.scalars import number, text

_OPTION = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_DISK = re.compile(r"rootfs|(?:mp|scsi|virtio|sata|ide)[0-9]{1,3}|efidisk0|tpmstate0")
_SIZE = re.compile(r"\+?[1-9][0-9]{0,15}(?:\.[0-9]{1,3})?[KMGT]?")
_DIGEST = re.compile(r"[0-9a-f]{1,40}")


class Lifecycle:
    """Questions about one guest, and changes of it. Those that give a Upid have only begun when they return.

    All raise GatewayError: GuestNotFound, GuestLocked, GuestRunning, ... (pve.problems), OutcomeUnknown for a change
    that nobody answered.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    # ---- looking

    def status(self, guest: GuestRef) -> GuestStatus:
        """The guest as it is now."""
        told = self._caller.ask_object(*path(guest), "status", "current", about=about(guest))
        return GuestStatus.read(guest.vmid, told)

    def config(self, guest: GuestRef, *, pending: bool = True) -> GuestConfig:
        """Its configuration as it is in force, and with `pending` (a second request) what waits for its next start."""
        options: Options = {"current": True}
        told = self._caller.ask_object(*path(guest), "config", about=about(guest), options=options)
        waiting = self._caller.ask_list(*path(guest), "pending", about=about(guest)) if pending else []
        return GuestConfig.read(told, waiting)

    def addresses(self, guest: GuestRef) -> list[Address]:
        """The addresses of its interfaces but loopback: none while it is stopped, or has none yet.

        A machine's are told by its guest agent, or the call fails (PveFailed, GuestNotRunning).
        """
        if guest.kind is GuestKind.LXC:
            rows = self._caller.ask_list(*path(guest), "interfaces", about=about(guest))
            return [found for row in rows for found in _container_addresses(row)]
        told = self._caller.ask_object(*path(guest), "agent", "network-get-interfaces", about=about(guest))
        result = told.get("result")
        interfaces = [row for row in result if isinstance(row, dict)] if isinstance(result, list) else []
        return [found for row in interfaces for found in _machine_addresses(row)]

    # ---- making and ending

    def create(self, node: str, kind: GuestKind, vmid: int, options: Options) -> Upid:
        """Begins to make a guest of these options, in PVE's names. Raises GuestExists when the vmid is taken."""
        _check_options(options)
        where = {"vmid": parse_vmid(vmid), "node": parse_node(node)}
        return self._caller.start_task("POST", "nodes", node, kind, about=where, options={**options, "vmid": vmid})

    def restore(
        self, node: str, kind: GuestKind, vmid: int, backup: VolumeId, options: Options, *, overwrite: bool = False
    ) -> Upid:
        """Begins to make a guest of a backup; with `overwrite` in place of the one that has the vmid, all of it."""
        source: Options = {"ostemplate": backup, "restore": True} if kind is GuestKind.LXC else {"archive": backup}
        return self.create(node, kind, vmid, {**options, **source, "force": overwrite or None})

    def delete(self, guest: GuestRef, *, purge: bool = False, force: bool = False) -> Upid:
        """Begins to destroy it with its volumes. `purge`: backup jobs, HA and replication forget it, too.

        `force` destroys a running container; PVE has none for machines.
        """
        options: Options = {
            "purge": purge or None,
            "destroy-unreferenced-disks": purge or None,
            "force": (force or None) if guest.kind is GuestKind.LXC else None,
        }
        return self._caller.start_task("DELETE", *path(guest), about=about(guest), options=options)

    def clone(
        self,
        guest: GuestRef,
        new_vmid: int,
        *,
        name: str | None = None,
        full: bool | None = None,
        storage: str | None = None,
        target: str | None = None,
        pool: str | None = None,
        snapshot: str | None = None,
        description: str | None = None,
    ) -> Upid:
        """Begins to copy it to `new_vmid`: linked from a template unless `full`. `target` is the copy's node."""
        options: Options = {
            "newid": parse_vmid(new_vmid, "vmid"),
            "hostname" if guest.kind is GuestKind.LXC else "name": name,
            "full": full,
            "storage": parse_storage(storage) if storage is not None else None,
            "target": parse_node(target, "target") if target is not None else None,
            "pool": parse_pool(pool) if pool is not None else None,
            "snapname": parse_snapshot(snapshot, "snapshot") if snapshot is not None else None,
            "description": description,
        }
        return self._act(guest, "POST", "clone", options, source=guest.vmid)

    def make_template(self, guest: GuestRef) -> Upid:
        """Begins to make it a template, for good. A container's task PVE does not name (API2/LXC.pm, template)."""
        type_ = "vztemplate" if guest.kind is GuestKind.LXC else "qmtemplate"
        return self._caller.start_unnamed_task(type_, "POST", *path(guest), "template", about=about(guest))

    # ---- changing

    def set_config(
        self, guest: GuestRef, options: Options, *, delete: Iterable[str] = (), digest: str | None = None
    ) -> None:
        """Sets options, and takes back those of `delete`. Of a running guest some wait for its next start (`pending`).

        Raises GuestChanged when `digest` is not that of its configuration now.
        """
        gone = list(delete)
        _check_options({**options, **dict.fromkeys(gone, "")})
        sent: Options = {**options, "delete": ",".join(gone) or None, "digest": _check_digest(digest)}
        self._caller.change("PUT", *path(guest), "config", about=about(guest), options=sent)

    def resize(self, guest: GuestRef, disk: str, size: str, *, digest: str | None = None) -> Upid:
        """Begins to make a disk (`rootfs`, `mp0`, `scsi0`, ...) larger: to `32G`, or by `+8G`; never smaller."""
        _match(_DISK, disk, "disk", "a disk is rootfs, mp0 to mp255, scsi0, virtio0, sata0, ide0, ...")
        _match(_SIZE, size, "size", "a size is a number with K, M, G or T, and a + before it to add to the disk")
        options: Options = {"disk": disk, "size": size, "digest": _check_digest(digest)}
        return self._act(guest, "PUT", "resize", options)

    def migrate(
        self,
        guest: GuestRef,
        target: str,
        *,
        online: bool = False,
        restart: bool = False,
        storage: str | None = None,
        local_disks: bool = False,
    ) -> Upid:
        """Begins to move it to node `target`. A running machine needs `online`, a running container `restart`."""
        container = guest.kind is GuestKind.LXC
        options: Options = {
            "target": parse_node(target, "target"),
            "online": online or None,
            "restart": (restart or None) if container else None,
            "with-local-disks": (local_disks or None) if not container else None,
            "target-storage" if container else "targetstorage": parse_storage(storage) if storage is not None else None,
        }
        return self._act(guest, "POST", "migrate", options)

    # ---- power

    def start(self, guest: GuestRef) -> Upid:
        """Begins to start it. That it is missing or locked may be seen in the task's end only."""
        return self._power(guest, "start")

    def stop(self, guest: GuestRef, *, overrule_shutdown: bool = False) -> Upid:
        """Begins to end it at once, as pulling the plug does. `overrule_shutdown`: a shutdown under way ends first."""
        return self._power(guest, "stop", {"overrule-shutdown": overrule_shutdown or None})

    def shutdown(self, guest: GuestRef, *, timeout: int | None = None, force_stop: bool = False) -> Upid:
        """Begins to shut it down; after `timeout` seconds (PVE's default: 60) the task fails, or stops it by force."""
        return self._power(guest, "shutdown", {"timeout": timeout, "forceStop": force_stop or None})

    def reboot(self, guest: GuestRef, *, timeout: int | None = None) -> Upid:
        """Begins to shut it down and start it anew, with what was pending."""
        return self._power(guest, "reboot", {"timeout": timeout})

    def suspend(self, guest: GuestRef, *, to_disk: bool = False) -> Upid:
        """Begins to halt a machine, in memory or to disk; a container by checkpoint, which PVE calls experimental."""
        return self._power(guest, "suspend", {"todisk": (to_disk or None) if guest.kind is GuestKind.QEMU else None})

    def resume(self, guest: GuestRef) -> Upid:
        """Begins to let it go on."""
        return self._power(guest, "resume")

    def _power(self, guest: GuestRef, word: str, options: Options | None = None) -> Upid:
        return self._caller.start_task("POST", *path(guest), "status", word, about=about(guest), options=options or {})

    def _act(self, guest: GuestRef, method: str, word: str, options: Options, **more: Any) -> Upid:
        return self._caller.start_task(method, *path(guest), word, about={**about(guest), **more}, options=options)


def path(guest: GuestRef) -> tuple[str | int, ...]:
    """Where the guest is in PVE's API. Raises InvalidRequest for what cannot be a guest."""
    return "nodes", parse_node(guest.node), str(GuestKind(guest.kind)), parse_vmid(guest.vmid)


def about(guest: GuestRef) -> dict[str, Any]:
    """How the guest stands in a problem."""
    return {"vmid": guest.vmid, "node": guest.node}


def _check_options(options: Options) -> None:
    for name in options:
        _match(_OPTION, name, "options", "an option's name is PVE's: a letter, then letters, digits, - and _")


def _check_digest(digest: str | None) -> str | None:
    return _match(_DIGEST, digest, "digest", "a digest is 40 hexadecimal digits") if digest is not None else None


def _match(pattern: re.Pattern[str], value: str, field: str, rule: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise InvalidRequest.for_field(field, rule)
    return value


def _container_addresses(row: Any) -> Iterable[Address]:
    name = text(row.get("name"))
    if name is None or name == "lo":
        return
    mac = text(row.get("hwaddr")) or text(row.get("hardware-address"))
    for family in ("inet", "inet6"):
        address, _, prefix = (text(row.get(family)) or "").partition("/")
        if address:
            yield Address(interface=name, mac=mac, address=address, prefix=number(prefix or None), family=family)


def _machine_addresses(row: Any) -> Iterable[Address]:
    name = text(row.get("name"))
    if name is None or name == "lo":
        return
    mac = text(row.get("hardware-address"))
    addresses = row.get("ip-addresses")
    for entry in addresses if isinstance(addresses, list) else ():
        address = text(entry.get("ip-address")) if isinstance(entry, dict) else None
        if address is None:
            continue
        family = "inet6" if entry.get("ip-address-type") == "ipv6" else "inet"
        yield Address(interface=name, mac=mac, address=address, prefix=number(entry.get("prefix")), family=family)
