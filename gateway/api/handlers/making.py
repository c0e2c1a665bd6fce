"""New guests: created of a template, restored of a backup, cloned."""

from __future__ import annotations

from gateway.api.call import Call, Reply
from gateway.api.models.making import MakingQuery, NewGuest
from gateway.api.services import Services
from gateway.api.work import asker
from gateway.auth.actions import Action
from gateway.auth.actor import Actor
from gateway.errors import Forbidden, GatewayRestarting, GuestNotFound
from gateway.exec.origin import Origin
from gateway.exec.permit import Ranges
from gateway.guests import origins
from gateway.guests.background import Work
from gateway.guests.container import ContainerRequest
from gateway.guests.machine import MachineRequest
from gateway.guests.making import Caller, MadeGuest
from gateway.guests.places import require_place
from gateway.guests.request import GuestRequest
from gateway.guests.wish import CloneRequest, Wish
from gateway.policy.change import GuestChange, on_node


def describe_guest(services: Services, call: Call) -> GuestChange:
    """What the new guest would be given of the node. First of all, whether the caller may make it at all."""
    wish = _asked(call)
    reach = _reach(call, wish)
    if wish.backup is not None:
        _, owner = origins.owner_of(wish.backup)
        _require_create(call.actor, owner)
    node = require_place(services.pve, services.guests, wish, here=services.config.node)
    if wish.backup is None:
        change = origins.describe_new(wish.vmid or (reach[0][0] if reach else 0), wish)
    else:
        change = origins.describe_restored(services.pve, node, wish)
    return on_node(change, node, services.config.node)


def create_guest(services: Services, call: Call) -> Reply:
    """Makes it, whole or not at all, whether the caller waits or not."""
    wish = _asked(call)
    return _answer(call, services.maker.create(_caller(services, call, wish), wish))


def describe_copy(services: Services, call: Call) -> GuestChange:
    """What the source has of the node, and its copy would have, too."""
    wish: CloneRequest = call.body
    _reach(call, wish)
    source = services.guests.find(call.vmid)
    if wish.node is not None:
        require_place(services.pve, services.guests, wish, here=source.node)
    change = origins.describe_clone(services.pve, source, wish)
    return on_node(change, wish.node or source.node, services.config.node)


def clone_guest(services: Services, call: Call) -> Reply:
    """Copies the path's guest, when those who copy it already have done so."""
    wish: CloneRequest = call.body
    source = services.guests.find(call.vmid)
    return _answer(call, services.maker.clone(_caller(services, call, wish), source, wish))


def _asked(call: Call) -> ContainerRequest | MachineRequest:
    request: GuestRequest = call.body
    return request.root


def _caller(services: Services, call: Call, wish: Wish) -> Caller:
    def renew(vmid: int) -> Origin:
        actor = call.standing.renew()
        _require_create(actor, vmid)
        _require_pool(actor, wish)
        return actor.origin(call.remote, call.request_id)

    def again(vmid: int) -> None:
        """The token as it is now, and the source."""
        renew(vmid)
        describe = describe_copy if isinstance(wish, CloneRequest) else describe_guest
        services.policy.require(describe(services, call))

    return Caller(asker(call), _reach(call, wish), call.origin, again, renew)


def _reach(call: Call, wish: Wish) -> Ranges:
    """The vmids that it may be made under. Raises GuestNotFound, Forbidden, before anything is looked up."""
    if wish.vmid is not None:
        _require_create(call.actor, wish.vmid)
    _require_pool(call.actor, wish)
    reach = call.actor.reach(Action.GUEST_CREATE)
    if not isinstance(wish, ContainerRequest) or not wish.for_root:
        return reach
    rooted = call.actor.reach(Action.GUEST_ROOT_CONFIG)
    reach = tuple(
        (max(low, first), min(high, last))
        for low, high in reach
        for first, last in rooted
        if max(low, first) <= min(high, last)
    )
    if not any(low <= (wish.vmid or low) <= high for low, high in reach):
        action = Action.GUEST_ROOT_CONFIG
        named = ", ".join(wish.for_root)
        raise Forbidden(f"this token may not {action}, which these need: {named}; see GET /tokens/self", action=action)
    return reach


def _require_create(actor: Actor, vmid: int) -> None:
    if actor.decide(Action.GUEST_CREATE, vmid) is not None:
        raise GuestNotFound.for_vmid(vmid)


def _require_pool(actor: Actor, wish: Wish) -> None:
    if wish.pool is not None and not actor.may_fill(wish.pool):
        action = Action.GUEST_CREATE
        raise Forbidden(
            f"this token may not {action} in pool {wish.pool}: a grant has to name that pool, or be on all guests",
            action=action,
            pool=wish.pool,
        )


def _answer(call: Call, work: Work[MadeGuest]) -> Reply:
    query: MakingQuery = call.query
    made = work.wait(query.wait, call.watch, lambda vmid: _require_create(call.standing.current(), vmid))
    begun = work.began
    if begun is None:
        raise GatewayRestarting("the web process ends, and had not begun to make the guest; ask again")
    guest: NewGuest = {
        "vmid": begun.guest.vmid,
        "node": begun.guest.node,
        "type": begun.guest.kind.value,
        "state": "making" if made is None else "made",
        "upid": str(begun.upid),
        "addresses": [
            {"interface": one.interface, "address": one.address, "prefix": one.prefix}
            for one in (made.addresses if made is not None else ())
        ],
        "audit_id": begun.audit_id,
    }
    if made is None:
        return Reply(guest, status=202, headers={"Location": f"/tasks/{begun.upid}"})
    return Reply(guest, status=201, headers={"Location": f"/guests/{begun.guest.vmid}"})
