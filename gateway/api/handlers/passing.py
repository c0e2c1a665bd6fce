"""The devices of containers: listed, given, taken back."""

from __future__ import annotations

import stat
from collections.abc import Sequence

from gateway.api.call import Call, Reply
from gateway.api.handlers.devices import read_group, require_container
from gateway.api.models.devices import (
    DeviceRequest,
    GivenView,
    PassedDevice,
    PassedDevices,
    TakeBackQuery,
)
from gateway.api.services import Services
from gateway.api.work import asker
from gateway.auth.actions import Action
from gateway.devices.owners import group_name
from gateway.devices.passing import Passed, device_options, device_value
from gateway.devices.presets import OPEN_TO_ALL, preset_paths
from gateway.devices.tree import Node
from gateway.errors import DeviceNotFound, Forbidden, GuestNotRunning, NotADevice
from gateway.errors_pve import GroupUnknown
from gateway.exec.reply import Found
from gateway.guests.giving import Gift, Given, Giver, Giving
from gateway.policy.change import GuestChange
from gateway.pve.models import GuestConfig, GuestRef


def list_passed(services: Services, call: Call) -> Reply:
    """As its configuration has them, each looked at in the guest if that runs."""
    guest = require_container(services, call, call.vmid)
    config = services.pve.guests.config(guest)
    running = services.pve.guests.status(guest).running
    options = device_options({**config.options, **{k: v for k, v in config.pending.items() if v is not None}})
    passed = {key: Passed.read(value) for key, value in options.items()}
    found: Sequence[Found] | None = None
    unknown: str | None = GuestNotRunning.code
    if running and passed:
        found, unknown = giving(services).look(call.origin, guest, [one.path for one in passed.values()])
    told: PassedDevices = {
        "vmid": guest.vmid,
        "node": guest.node,
        "running": running,
        "devices": [
            _show(services, key, one, config, found[number] if found else None, unknown)
            for number, (key, one) in enumerate(passed.items())
        ],
    }
    return Reply(told)


def describe_devices(services: Services, call: Call) -> GuestChange:
    """For node policy: the devices that are asked for, all of a preset's."""
    guest = require_container(services, call, call.vmid)
    return GuestChange(vmid=guest.vmid, devices=tuple(_paths(services, call.body)))


def give_devices(services: Services, call: Call) -> Reply:
    """Gives them as free `dev[n]`, and looks whether the guest has them; what fails is taken back."""
    asked: DeviceRequest = call.body
    guest = require_container(services, call, call.vmid)
    require_power(call, starts=asked.restart)
    nodes = [(path, services.devices.find(path)) for path in _paths(services, asked)]
    gids = _gids(services, call, guest, asked, [node for _, node in nodes])
    mode = int(asked.mode, 8) if asked.mode else OPEN_TO_ALL.get(asked.preset or "")
    gifts = [
        _gift(path, node, asked.uid, gids[node.gid], node.mode if mode is None else mode, read_only=asked.read_only)
        for path, node in nodes
    ]
    return tell(guest, giving(services).give(giver_of(call), guest, gifts, restart=asked.restart))


def take_devices_back(services: Services, call: Call) -> Reply:
    """Of a running guest they go with its next start."""
    asked: TakeBackQuery = call.query
    guest = require_container(services, call, call.vmid)
    require_power(call, starts=asked.restart)
    config = services.pve.guests.config(guest)
    options = device_options({**config.options, **{k: v for k, v in config.pending.items() if v is not None}})
    keys = [key for key, value in options.items() if asked.key == key or asked.path == Passed.read(value).path]
    if not keys:
        raise DeviceNotFound(
            f"guest {guest.vmid} has not been given that; see GET /guests/{guest.vmid}/devices", vmid=guest.vmid
        )
    return tell(guest, giving(services).take_back(giver_of(call), guest, keys, restart=asked.restart))


def _paths(services: Services, asked: DeviceRequest) -> list[str]:
    if asked.path is not None:
        return [asked.path]
    return preset_paths(services.devices, services.sysfs, asked.preset or "")


def _gids(services: Services, call: Call, guest: GuestRef, asked: DeviceRequest, nodes: list[Node]) -> dict[int, int]:
    """The group that each is given to in the guest, by its number on the node. Raises GroupUnknown."""
    if asked.gid is not None:
        return {node.gid: asked.gid for node in nodes}
    gids = {0: 0}
    names = {gid: group_name(gid) for gid in sorted({node.gid for node in nodes} - {0})}
    known = {gid: name for gid, name in names.items() if name is not None}
    found, unknown = None, None
    if known:
        found, unknown = giving(services).look(call.origin, guest, list(known.values()))
    for gid, name in names.items():
        number, why = None, unknown or "no_group_name"
        if found is not None and gid in known:
            number, why_not = read_group(found[list(known).index(gid)])
            why = why_not or ""
        if number is None:
            raise GroupUnknown(
                f"the group {name or gid} owns it on the node, and its number in guest {guest.vmid} is not known "
                f"({why}); give `gid`, or start the guest",
                vmid=guest.vmid,
                group=name,
                why=why,
            )
        gids[gid] = number
    return gids


def _gift(path: str, node: Node, uid: int, gid: int, mode: int, *, read_only: bool) -> Gift:
    value = device_value(path, mode=mode, uid=uid, gid=gid, deny_write=read_only)
    passed = Passed.read(value)
    return Gift("dev", path, value, lambda found: _differs(passed, node, found))


def _differs(passed: Passed, node: Node, found: Found) -> str | None:
    """What is wrong with what the guest has there."""
    if found.error:
        return "nothing is there"
    if stat.S_IFMT(found.mode) != (stat.S_IFBLK if node.block else stat.S_IFCHR):
        return "no such device, but something else"
    if (found.major, found.minor) != (node.major, node.minor):
        return f"another device, {found.major}:{found.minor} and not {node.major}:{node.minor}"
    there = f"{stat.S_IMODE(found.mode):04o} {found.uid}:{found.gid}"
    wanted = f"{passed.mode:04o} {passed.uid}:{passed.gid}"
    return None if there == wanted else f"mode and owner are {there} and not {wanted}"


def require_power(call: Call, *, starts: bool) -> None:
    """Raises Forbidden where a start, or a restart, is asked for by who may not power the guest."""
    if starts and call.actor.decide(Action.GUEST_POWER, call.vmid) is not None:
        action = Action.GUEST_POWER
        raise Forbidden(f"this token may not {action} in this guest, which a start is", action=action, vmid=call.vmid)


def giving(services: Services) -> Giving:
    return Giving(services.pve, services.supervisor, services.changes, services.pace)


def giver_of(call: Call) -> Giver:
    return Giver(asker(call), call.origin, call.decide_again, call.action)


def tell(guest: GuestRef, given: Given) -> Reply:
    told: GivenView = {
        "vmid": guest.vmid,
        "node": guest.node,
        "keys": list(given.keys),
        "running": given.running,
        "restart_needed": given.restart_needed,
        "seen": given.seen,
        "unknown": given.unknown,
        "upid": str(given.restarted) if given.restarted is not None else None,
        "audit_id": given.audit_id,
    }
    return Reply(told)


def _show(
    services: Services, key: str, one: Passed, config: GuestConfig, found: Found | None, unknown: str | None
) -> PassedDevice:
    try:
        node: Node | None = services.devices.find(one.path)
    except (DeviceNotFound, NotADevice):
        node = None
    differs = None
    if found is not None:
        differs = _differs(one, node, found) if node is not None else "the node has no such device any more"
    waits = key in config.pending
    return {
        "key": key,
        "path": one.path,
        "mode": f"{one.mode:04o}",
        "uid": one.uid,
        "gid": one.gid,
        "read_only": one.read_only,
        "state": "given" if not waits else "until_next_start" if config.pending[key] is None else "at_next_start",
        "type": None if node is None else "block" if node.block else "char",
        "major": None if node is None else node.major,
        "minor": None if node is None else node.minor,
        "in_guest": None if found is None else differs is None,
        "differs": differs,
        "unknown": unknown if found is None else None,
    }
