"""The task resource: what PVE's workers do and did, as far as the caller may read the guests that they are about."""

from __future__ import annotations

from gateway.api.call import Call, Reply
from gateway.api.models.tasks import TaskList, TaskLog, TaskLogQuery, TaskQuery, TasksQuery, TaskView
from gateway.api.services import Services
from gateway.api.work import make_change
from gateway.auth.actions import Action
from gateway.guests.tasks import VisibleTasks
from gateway.pve.tasks import Task


def list_tasks(services: Services, call: Call) -> Reply:
    """A page of a node's tasks, the newest first."""
    asked: TasksQuery = call.query
    tasks, following = _visible(services, call).page(
        services.guests.require_node(asked.node or services.config.node),
        vmid=asked.vmid,
        since=asked.since,
        errors=asked.errors,
        after=asked.after,
        limit=asked.limit,
    )
    page: TaskList = {"tasks": [_show(task) for task in tasks], "next": following}
    return Reply(page)


def show_task(services: Services, call: Call) -> Reply:
    """How it is, also when it failed: that is no failure of this request."""
    asked: TaskQuery = call.query
    task = _visible(services, call).show(call.names["upid"], asked.wait, call.watch)
    return Reply(_show(_still_seen(services, call, task)))


def read_log(services: Services, call: Call) -> Reply:
    asked: TaskLogQuery = call.query
    lines, following = _visible(services, call).log(
        call.names["upid"], after=asked.after, limit=asked.limit, seconds=asked.wait, watch=call.watch
    )
    _visible(services, call).find(call.names["upid"])  # it may have been long
    log: TaskLog = {"lines": [{"number": line.number, "text": line.text} for line in lines], "next": following}
    return Reply(log)


def stop_task(services: Services, call: Call) -> Reply:
    """Has PVE end it; 200 when it has ended within the query's `wait`, else 202."""
    asked: TaskQuery = call.query
    visible = _visible(services, call, call.action)
    upid = visible.to_stop(call.names["upid"])

    def act() -> None:
        services.pve.tasks.stop(upid)

    make_change(services, call, act, node=upid.node, vmid=upid.vmid, data={"upid": str(upid)})
    task = visible.show(str(upid), asked.wait, call.watch)
    return Reply(_show(_still_seen(services, call, task)), status=200 if task.ended else 202)


def _visible(services: Services, call: Call, action: Action = Action.GUEST_READ) -> VisibleTasks:
    """As the caller's grants are now."""
    pve, reach = services.pve, call.standing.current().reach(action)
    return VisibleTasks(pve.tasks, pve.watcher, services.guests, services.pace, reach)


def _still_seen(services: Services, call: Call, task: Task) -> Task:
    """The task, if the caller may see it still, who may have waited for it. Raises TaskNotFound."""
    _visible(services, call).find(str(task.upid))
    return task


def _show(task: Task) -> TaskView:
    upid = task.upid
    return {
        "upid": str(upid),
        "node": upid.node,
        "type": upid.type,
        "vmid": upid.vmid,
        "user": upid.user,
        "state": "ended" if task.ended else "running",
        "ok": task.ok if task.ended else None,
        "exitstatus": task.exitstatus,
        "requested": task.only_requested,
        "started_at": upid.start,
        "ended_at": task.ended_at,
    }
