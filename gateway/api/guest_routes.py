"""GUEST_ROUTES: the part of ROUTES that is about guests as they are, their power and PVE's tasks."""

from __future__ import annotations

from gateway.api.call import Handler
from gateway.api.handlers import power, tasks
from gateway.api.models.execs import Query
from gateway.api.models.power import RebootQuery, ShutdownQuery, StopQuery, SuspendQuery
from gateway.api.models.tasks import TaskList, TaskLog, TaskLogQuery, TaskQuery, TasksQuery, TaskView
from gateway.api.models.work import Work, WorkQuery
from gateway.api.route import Route
from gateway.audit.record import Event
from gateway.auth.actions import Action
from gateway.errors import AuditUnavailable, GatewayError, GuestNotRunning, NodeNotReady
from gateway.errors_pve import (
    GuestIsTemplate,
    GuestLocked,
    GuestRunning,
    NodeNotFound,
    NodeUnreachable,
    NoQuorum,
    OutcomeUnknown,
    PveDenied,
    PveFailed,
    PveNonsense,
    PveRejected,
    PveTimeout,
    PveTokenRefused,
    PveUnavailable,
    PveUnsupported,
    TaskEnded,
    TaskFailed,
)

TO_ASK: tuple[type[GatewayError], ...] = (
    NodeNotReady,
    PveUnavailable,
    NodeUnreachable,
    PveTimeout,
    PveDenied,
    PveTokenRefused,
    PveUnsupported,
    PveNonsense,
    PveFailed,
)
"""Why PVE may not answer a question."""

TO_CHANGE: tuple[type[GatewayError], ...] = (
    *TO_ASK,
    AuditUnavailable,
    NoQuorum,
    GuestLocked,
    PveRejected,
    TaskFailed,
    OutcomeUnknown,
)
"""Why PVE may not make a change."""


def _power(
    word: str,
    operation_id: str,
    summary: str,
    event: Event,
    query: type[Query],
    handler: Handler,
    *errors: type[GatewayError],
) -> Route:
    return Route(
        method="POST",
        path=f"/guests/{{vmid}}/{word}",
        operation_id=operation_id,
        summary=summary,
        action=Action.GUEST_POWER,
        event=event,
        query=query,
        reply=Work,
        statuses=(200, 202),
        tells=("Location",),
        errors=(*errors, *TO_CHANGE),
        handler=handler,
    )


GUEST_ROUTES: tuple[Route, ...] = (
    _power(
        "start", "startGuest", "Start a guest", Event.GUEST_START, WorkQuery, power.start_guest,
        GuestRunning, GuestIsTemplate,
    ),
    _power(
        "stop", "stopGuest", "Stop a guest at once, as pulling the plug does", Event.GUEST_STOP, StopQuery,
        power.stop_guest, GuestNotRunning,
    ),
    _power(
        "shutdown", "shutGuestDown", "Shut a guest down; with `force` it is stopped when that takes too long",
        Event.GUEST_SHUTDOWN, ShutdownQuery, power.shut_guest_down, GuestNotRunning,
    ),
    _power(
        "reboot", "rebootGuest", "Shut a guest down and start it anew, with its pending changes", Event.GUEST_REBOOT,
        RebootQuery, power.reboot_guest, GuestNotRunning,
    ),
    _power(
        "suspend", "suspendGuest", "Halt a machine, in memory or to disk; containers by checkpoint, which mostly fails",
        Event.GUEST_SUSPEND, SuspendQuery, power.suspend_guest, GuestNotRunning,
    ),
    _power(
        "resume", "resumeGuest", "Let a suspended guest go on", Event.GUEST_RESUME, WorkQuery, power.resume_guest,
        GuestRunning,
    ),
    Route(
        method="GET",
        path="/tasks",
        operation_id="listTasks",
        summary="PVE's tasks on a node about guests that the token may read, the newest first",
        action=Action.GUEST_READ,
        query=TasksQuery,
        reply=TaskList,
        errors=(NodeNotFound, *TO_ASK),
        handler=tasks.list_tasks,
    ),
    Route(
        method="GET",
        path="/tasks/{upid}",
        operation_id="showTask",
        summary="One task, at once or when it has ended; that it failed is told in it",
        action=Action.GUEST_READ,
        query=TaskQuery,
        reply=TaskView,
        errors=TO_ASK,
        handler=tasks.show_task,
    ),
    Route(
        method="GET",
        path="/tasks/{upid}/log",
        operation_id="readTaskLog",
        summary="A task's log, line by line; with `wait` it is followed",
        action=Action.GUEST_READ,
        query=TaskLogQuery,
        reply=TaskLog,
        errors=TO_ASK,
        handler=tasks.read_log,
    ),
    Route(
        method="DELETE",
        path="/tasks/{upid}",
        operation_id="stopTask",
        summary="End a task: 200 when it has ended, 202 while it is ending",
        action=Action.GUEST_CONFIG,
        event=Event.GUEST_TASK_STOP,
        query=TaskQuery,
        reply=TaskView,
        statuses=(200, 202),
        errors=(TaskEnded, AuditUnavailable, OutcomeUnknown, *TO_ASK),
        change=tasks.gives_nothing,
        handler=tasks.stop_task,
    ),
)  # fmt: skip
