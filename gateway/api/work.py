"""How changes by PVE are asked for and answered: who asks, and 200 with the outcome or 202 with the task."""

from __future__ import annotations

from collections.abc import Callable

from gateway.api.call import Call, Reply
from gateway.api.models.work import Work
from gateway.api.services import Services
from gateway.audit.record import Event
from gateway.auth.actions import Action
from gateway.guests.changes import Made
from gateway.guests.trail import Asker, Change
from gateway.pve.ids import Upid
from gateway.pve.models import GuestRef
from gateway.pve.tasks import Task


def asker(call: Call) -> Asker:
    """The caller, as records name it."""
    return Asker(call.actor.token_id, call.actor.token_name, call.remote, call.request_id)


def change_guest(
    services: Services,
    call: Call,
    guest: GuestRef,
    event: Event,
    action: Action,
    act: Callable[[], Upid | None],
    **data: object,
) -> Reply:
    """Has one guest changed by `act`, on record with `data`, and answers as `answer` does."""
    change = Change(event, action, guest.node, guest.vmid, data)
    return answer(services, call, services.changes.make(asker(call), change, act))


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
