"""The device resource: the node's devices listed and looked up, with what a guest would need of each."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from gateway.api.call import Call, Reply
from gateway.api.models.devices import (
    DeviceList,
    DeviceLookup,
    DevicesQuery,
    DeviceView,
    GuestDevice,
    LookupQuery,
)
from gateway.api.services import Services
from gateway.devices.kinds import Kind
from gateway.devices.owners import group_name, user_name
from gateway.devices.passing import Passed, allow_line, device_options, device_value, free_keys
from gateway.devices.tree import Node
from gateway.errors import (
    DeviceNotFound,
    GuestFrozen,
    GuestNotFound,
    GuestNotRunning,
    GuestSilent,
    GuestUnsupported,
    NotADevice,
)
from gateway.exec.order import GuestKind
from gateway.exec.reply import Found
from gateway.pve.config_file import read_options
from gateway.pve.models import GuestRef

_NOBODY_KNOWS = (GuestNotRunning, GuestFrozen, GuestSilent)


def list_devices(services: Services, call: Call) -> Reply:
    """A page of those that fit, by path."""
    asked: DevicesQuery = call.query
    tree = services.devices
    fits = (
        node
        for node in tree.nodes()
        if (node.kind is asked.kind if asked.kind else node.kind is not Kind.OTHER)
        and (asked.after is None or node.path > asked.after)
    )
    found = sorted(fits, key=lambda node: node.path)
    page = found[: asked.limit]
    names = {kind: tree.names(kind) for kind in {node.kind for node in page}}
    shown = [_show(services, node, names[node.kind].get(node.path, ())) for node in page]
    told: DeviceList = {"devices": shown, "next": page[-1].path if len(found) > len(page) else None}
    return Reply(told)


def look_up_device(services: Services, call: Call) -> Reply:
    """One device; with a vmid, how that container would be given it."""
    asked: LookupQuery = call.query
    guest = None if asked.vmid is None else require_container(services, call, asked.vmid)
    node = services.devices.find(asked.path)
    shown = _show(services, node, services.devices.names(node.kind).get(node.path, ()))
    told: DeviceLookup = {
        "device": shown,
        "guest": None if guest is None else _for_guest(services, call, guest, asked.path, node, shown["group"]),
    }
    return Reply(told)


def require_container(services: Services, call: Call, vmid: int) -> GuestRef:
    """Raises GuestNotFound beyond the caller's grants, before anything is looked up."""
    if not call.actor.reaches(call.action, vmid):
        raise GuestNotFound.for_vmid(vmid)
    if services.guests.locate(vmid).kind is not GuestKind.LXC:
        raise GuestUnsupported(f"guest {vmid} is a virtual machine; devices like this are for containers", vmid=vmid)
    return GuestRef(vmid, GuestKind.LXC, services.config.node)


def _for_guest(
    services: Services, call: Call, guest: GuestRef, path: str, node: Node, group: str | None
) -> GuestDevice:
    gid, unknown = _resolve_group(services, call, guest.vmid, node.gid, group)
    given = device_options(read_options(services.config.pve.etc, guest))
    key = next(iter(free_keys(given)), "dev255")
    return {
        "vmid": guest.vmid,
        "group": group,
        "gid": gid,
        "unknown": unknown,
        "key": key,
        "line": f"{key}: {device_value(path, mode=node.mode, gid=gid or 0)}",
        "allow": allow_line(node),
        "given_as": [name for name, value in given.items() if _is_same(services, Passed.read(value).path, node)],
    }


def _resolve_group(
    services: Services, call: Call, vmid: int, gid: int, group: str | None
) -> tuple[int | None, str | None]:
    """The group's number in the guest, or why it is not known. Root's is root's everywhere."""
    if gid == 0:
        return 0, None
    if group is None:
        return None, "no_group_name"
    try:
        (found,) = services.supervisor.inspect(vmid, [group], call.origin)
    except _NOBODY_KNOWS as error:
        return None, error.code
    return read_group(found)


def read_group(found: Found) -> tuple[int | None, str | None]:
    if found.error == 0:
        return found.gid, None
    return None, "no_such_group" if found.error == errno.ENOENT else "group_file_unreadable"


def _is_same(services: Services, path: str, node: Node) -> bool:
    try:
        return services.devices.find(path) == node
    except (DeviceNotFound, NotADevice):
        return False


def _show(services: Services, node: Node, names: Sequence[str]) -> DeviceView:
    hardware = services.sysfs.hardware(node.major, node.minor, block=node.block)
    return {
        "path": node.path,
        "kind": node.kind,
        "type": "block" if node.block else "char",
        "major": node.major,
        "minor": node.minor,
        "mode": f"{node.mode:04o}",
        "uid": node.uid,
        "gid": node.gid,
        "user": user_name(node.uid),
        "group": group_name(node.gid),
        "names": list(names),
        "bus": hardware.bus,
        "vendor": hardware.vendor,
        "product": hardware.product,
        "model": hardware.model,
    }
