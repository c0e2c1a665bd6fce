"""The guest resource: guests listed, shown, changed, moved and destroyed."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from gateway.api.call import Call, Reply
from gateway.api.handlers.passing import giver_of, giving, require_power
from gateway.api.headers import read_digest
from gateway.api.models.guests import (
    Addresses,
    AddressesQuery,
    ConfigView,
    DeleteQuery,
    GuestList,
    GuestPatch,
    GuestsQuery,
    GuestSummary,
    GuestView,
    MigrateRequest,
    ResizeDisk,
)
from gateway.api.services import Services
from gateway.api.work import change_guest, make_change
from gateway.auth.actions import Action
from gateway.errors import ConfirmationMissing, Forbidden, GatewayError, InvalidRequest, PreconditionFailed
from gateway.errors_pve import GuestChanged, VolumeNotFound
from gateway.exec.order import GuestKind
from gateway.guests import origins
from gateway.guests.addresses import are_ready, find_addresses
from gateway.guests.edit import Edit
from gateway.guests.fields import features_text
from gateway.guests.listing import page_of
from gateway.policy.change import GuestChange, on_node
from gateway.policy.root import RootChange
from gateway.pve.models import Guest, GuestConfig, GuestRef
from gateway.pve.root import make_as_root


def list_guests(services: Services, call: Call) -> Reply:
    """A page of those that the caller may read and that fit."""
    asked: GuestsQuery = call.query
    guests = services.pve.inventory.guests(
        node=asked.node, kind=asked.type, pool=asked.pool, tag=asked.tag, status=asked.status
    )
    found, following = page_of(guests, call.actor.reach(Action.GUEST_READ), asked.after or 0, asked.limit)
    shown = [_summarize(guest, services.freezer.is_frozen(guest.ref)) for guest in found]
    page: GuestList = {"guests": shown, "next": following}
    return Reply(page)


def show_guest(services: Services, call: Call) -> Reply:
    """As it is now, of its node."""
    guest = services.guests.find(call.vmid)
    status = services.pve.guests.status(guest)
    config = services.pve.guests.config(guest)
    view: GuestView = {
        "vmid": guest.vmid,
        "type": guest.kind,
        "node": guest.node,
        "name": status.name or config.name,
        "status": status.status,
        "paused": status.paused if guest.kind is GuestKind.QEMU else services.freezer.is_frozen(guest),
        "lock": status.lock,
        "ha_managed": status.ha_managed,
        "template": status.template,
        "tags": list(config.tags),
        "notes": config.notes,
        "pool": next((name for name, members in services.pools.read().items() if guest.vmid in members), None),
        "cpus": status.cpus,
        "memory": status.memory,
        "disk": status.disk,
        "uptime": status.uptime,
        "config": dict(config.options),
        "pending": dict(config.pending),
        "digest": config.digest,
    }
    return Reply(view, headers=_etag(config))


def show_addresses(services: Services, call: Call) -> Reply:
    """As soon as there is one, or as they are when the query's `wait` is over."""
    asked: AddressesQuery = call.query
    guest = services.guests.find(call.vmid)
    found = find_addresses(services.pve.guests, services.pace, guest, asked.wait, call.watch)
    told: Addresses = {
        "vmid": guest.vmid,
        "ready": are_ready(found),
        "addresses": [
            {
                "interface": address.interface,
                "mac": address.mac,
                "address": address.address,
                "prefix": address.prefix,
                "family": address.family,
            }
            for address in found
        ],
    }
    return Reply(told)


def edit_guest(services: Services, call: Call) -> Reply:
    """Changes what the body names, if the configuration is the one that is meant; what it is then."""
    guest = services.guests.find(call.vmid)
    edit = _read_edit(guest.kind, call)
    services.policy.require(_describe(services, guest, edit))  # another guest may have got the vmid since
    asked: GuestPatch = call.body
    require_power(call, starts=asked.restart)
    reads = asked.restart or "features" in {*edit.options, *edit.delete}
    config = services.pve.guests.config(guest, pending=False).options if reads else {}
    try:
        if edit.for_root(config):
            audit_id = _edit_as_root(services, call, guest, edit)
        else:
            audit_id = _edit(services, call, guest, edit)
    except GuestChanged as error:
        if read_digest(call.environ) is None:
            raise
        raise PreconditionFailed(error.detail, **error.evidence) from error
    if asked.restart:
        _restart(services, call, guest, edit, config)
    return _show_config(services, guest, audit_id)


def describe_edit(services: Services, call: Call) -> GuestChange:
    """For node policy."""
    guest = services.guests.find(call.vmid)
    return _describe(services, guest, _read_edit(guest.kind, call))


def delete_guest(services: Services, call: Call) -> Reply:
    asked: DeleteQuery = call.query
    if asked.confirm != call.vmid:
        raise ConfirmationMissing(
            f"to destroy guest {call.vmid} and all its disks, say so: ?confirm={call.vmid}", vmid=call.vmid
        )
    guest = services.guests.find(call.vmid)
    return change_guest(
        services,
        call,
        guest,
        lambda: services.pve.guests.delete(guest, purge=asked.purge, force=asked.force),
        **asked.model_dump(include={"purge", "force"}, exclude_defaults=True),
    )


def resize_disk(services: Services, call: Call) -> Reply:
    asked: ResizeDisk = call.body
    guest = services.guests.find(call.vmid)
    if asked.disk not in services.pve.guests.config(guest, pending=False).options:
        raise VolumeNotFound(f"guest {guest.vmid} has no disk {asked.disk}; see its `config`", vmid=guest.vmid)
    return change_guest(
        services,
        call,
        guest,
        lambda: services.pve.guests.resize(guest, asked.disk, asked.size, digest=asked.digest),
        **asked.model_dump(exclude_defaults=True),
    )


def migrate_guest(services: Services, call: Call) -> Reply:
    asked: MigrateRequest = call.body
    guest = services.guests.find(call.vmid)
    target = services.guests.require_node(asked.target)
    return change_guest(
        services,
        call,
        guest,
        lambda: services.pve.guests.migrate(
            guest,
            target,
            online=asked.online,
            restart=asked.restart,
            storage=asked.storage,
            local_disks=asked.local_disks,
        ),
        **asked.model_dump(exclude_defaults=True),
    )


def describe_migration(services: Services, call: Call) -> GuestChange:
    """For node policy: what would be another thing on the other node."""
    asked: MigrateRequest = call.body
    guest = services.guests.find(call.vmid)
    target = services.guests.require_node(asked.target)
    return on_node(origins.describe_move(services.pve, guest), target, services.config.node)


def make_template(services: Services, call: Call) -> Reply:
    """For good: a template is only cloned and destroyed."""
    guest = services.guests.find(call.vmid)
    return change_guest(
        services,
        call,
        guest,
        lambda: services.pve.guests.make_template(guest),
    )


def gives_nothing(services: Services, call: Call) -> GuestChange:
    """For node policy: what changes a guest, and gives it nothing of the node."""
    return GuestChange(vmid=call.vmid)


def _describe(services: Services, guest: GuestRef, edit: Edit) -> GuestChange:
    return on_node(edit.describe(guest.vmid), guest.node, services.config.node)


def _edit(services: Services, call: Call, guest: GuestRef, edit: Edit) -> str:
    def act() -> None:
        services.pve.guests.set_config(guest, edit.options, delete=edit.delete, digest=edit.digest)

    return make_change(services, call, act, node=guest.node, vmid=guest.vmid, data=edit.show()).audit_id


def _edit_as_root(services: Services, call: Call, guest: GuestRef, edit: Edit) -> str:
    """By way of the supervisor, which decides again and records it."""
    if call.actor.decide(Action.GUEST_ROOT_CONFIG, guest.vmid) is not None:
        raise Forbidden(
            f"PVE allows this to root@pam alone, and this token may not {Action.GUEST_ROOT_CONFIG} in this guest; "
            "see GET /tokens/self for what it may",
            action=Action.GUEST_ROOT_CONFIG,
            vmid=guest.vmid,
        )
    change = RootChange(node=guest.node, vmid=guest.vmid, options=edit.options, delete=edit.delete, digest=edit.digest)
    return make_as_root(services.supervisor, change, call.origin, call.decide_again)[0]


def _restart(services: Services, call: Call, guest: GuestRef, edit: Edit, before: Mapping[str, str]) -> None:
    """With what waits for it. If that fails, the options are as they were before."""
    names = (*edit.options, *edit.delete)
    old = {name: before[name] for name in names if name in before}
    gone = tuple(name for name in names if name not in before)

    def put_back() -> None:
        undo = Edit(kind=edit.kind, options=old, delete=gone)
        if edit.for_root(before):
            change = RootChange(node=guest.node, vmid=guest.vmid, options=old, delete=gone)
            make_as_root(services.supervisor, change, call.origin, lambda _: call.origin)
        else:
            _edit(services, call, guest, undo)

    giving(services).restart(giver_of(call), guest, names, put_back)


def _read_edit(kind: GuestKind, call: Call) -> Edit:
    """The body as options of PVE's. Raises InvalidRequest."""
    asked: GuestPatch = call.body
    container = kind is GuestKind.LXC
    names = {"name": "hostname" if container else "name", "notes": "description"}
    options: dict[str, str | int | bool] = dict(asked.options)
    delete = list(asked.delete)
    for member in sorted(asked.model_fields_set - {"options", "delete", "digest", "restart"}):
        value = getattr(asked, member)
        name = names.get(member, member)
        if member == "tags":
            value = ";".join(sorted(set(value or ())))
        if member == "features":
            if not container:
                raise InvalidRequest("`features` are of containers; a machine has none")
            value = features_text(value or ())
        if value is None or value == "":
            delete.append(name)
        else:
            options[name] = value
    return Edit(kind=kind, options=options, delete=tuple(delete), digest=asked.digest or read_digest(call.environ))


def _show_config(services: Services, guest: GuestRef, audit_id: str) -> Reply:
    config: GuestConfig | None = None
    with contextlib.suppress(GatewayError):  # the change is made: that is what is answered
        config = services.pve.guests.config(guest)
    view: ConfigView = {
        "vmid": guest.vmid,
        "node": guest.node,
        "config": dict(config.options) if config is not None else None,
        "pending": dict(config.pending) if config is not None else None,
        "restart_needed": bool(config.pending) if config is not None else None,
        "digest": config.digest if config is not None else None,
        "audit_id": audit_id,
    }
    return Reply(view, headers=_etag(config))


def _etag(config: GuestConfig | None) -> dict[str, str]:
    return {"ETag": f'"{config.digest}"'} if config is not None and config.digest else {}


def _summarize(guest: Guest, paused: bool | None) -> GuestSummary:
    return {
        "vmid": guest.vmid,
        "type": guest.kind,
        "node": guest.node,
        "name": guest.name,
        "status": guest.status,
        "paused": paused,
        "template": guest.template,
        "tags": list(guest.tags),
        "pool": guest.pool,
        "lock": guest.lock,
        "ha_state": guest.ha_state,
        "cpus": guest.cpus,
        "cpu_used": guest.cpu_used,
        "memory": guest.memory,
        "memory_used": guest.memory_used,
        "disk": guest.disk,
        "uptime": guest.uptime,
    }
