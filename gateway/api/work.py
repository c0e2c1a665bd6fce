"""How changes by PVE are asked for and answered: who asks, and 200 with the outcome or 202 with the task."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.api.call import Call, Reply
from gateway.api.models.work import Work
from gateway.api.services import Services
from gateway.guests.changes import Made
from gateway.guests.trail import Asker, Change
from gateway.pve.ids import Upid
from gateway.pve.models import GuestRef
from gateway.pve.tasks import Task


def asker(call: Call) -> Asker:
    """The caller, as records name it."""
    return Asker(call.actor.token_id, call.actor.token_name, call.remote, call.request_id)


def make_change(
    services: Services,
    call: Call,
    act: Callable[[], Upid | None],
    *,
    node: str,
    vmid: int | None,
    data: Mapping[str, object],
) -> Made:
    """Has `act` make the change that the call's route is about, on record with `data`."""
    if call.event is None:
        raise TypeError("the route of a change has an audit event")
    return services.changes.make(asker(call), Change(call.event, call.action, node, vmid, data), act)


def change_guest(
    services: Services, call: Call, guest: GuestRef, act: Callable[[], Upid | None], **data: object
) -> Reply:
    """The same of one guest; answers as `answer` does."""
    return answer(services, call, make_change(services, call, act, node=guest.node, vmid=guest.vmid, data=data))


def answer(services: Services, call: Call, made: Made, status: int = 200) -> Reply:
    """`status` with the outcome, when it is there within the query's `wait`; else 202 with the task to look at.

    Raises what a failed task means, with `upid` and the end of its log.
    """
    if made.upid is None:
        return Reply(show(made, None, ended=True), status=status)
    task = services.changes.wait(made, call.query.wait, call.watch)
    where = {"Location": f"/tasks/{made.upid}"}
    if task is None:
        return Reply(show(made, None, ended=False), status=202, headers=where)
    return Reply(show(made, task, ended=True), status=status, headers=where)


def show(made: Made, task: Task | None, *, ended: bool) -> Work:
    """The change as the caller sees it."""
    upid = made.upid
    return {
        "vmid": made.change.vmid,
        "node": made.change.node,
        "upid": str(upid) if upid is not None else None,
        "state": "ended" if ended else "running",
        "exitstatus": task.exitstatus if task is not None else None,
        "requested": upid is not None and upid.type.startswith("ha"),
        "audit_id": made.audit_id,
    }
