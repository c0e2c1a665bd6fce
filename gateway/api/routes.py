"""ROUTES: every operation of the API, one entry each; URL rules, checks and OpenAPI derive from it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from gateway.api.call import Handler
from gateway.api.handlers import exec as exec_
from gateway.api.handlers import execs, health, openapi, output, tokens
from gateway.api.models.execs import ExecList, ListQuery, OutputQuery, Query, WaitQuery
from gateway.api.models.health import Alive, Readiness
from gateway.api.models.tokens import TokenSelf
from gateway.audit.record import Event
from gateway.auth.actions import Action
from gateway.errors import (
    AuditUnavailable,
    ExecEnded,
    ExecNotFound,
    GatewayError,
    GuestFrozen,
    GuestNotFound,
    GuestNotRunning,
    GuestUnsupported,
    NodeNotReady,
    OutputDropped,
    RangeNotSatisfiable,
    SpoolFull,
    SupervisorUnavailable,
    TooManyExecs,
)
from gateway.exec.spec import ExecSpec
from gateway.exec.view import ExecResult, ExecView

PARAMETERS = {
    "vmid": re.compile(r"[1-9][0-9]{2,8}"),
    "id": re.compile(r"ex_[0-9A-HJKMNP-TV-Z]{26}"),
}
"""What may stand in a path. Anything else is answered like a guest or exec that does not exist."""

_NOT_FOUND: dict[str, type[GatewayError]] = {"vmid": GuestNotFound, "id": ExecNotFound}


@dataclass(frozen=True, kw_only=True)
class Route:
    """One operation. `action` is what its caller must be granted; none or an unknown one fails at import.

    `event` is the audit event that records it, None for looking. `reply` is a TypedDict, or bytes.
    `errors` are those of its domain; those of the pipeline are added to every route that can raise them.
    """

    method: str
    path: str
    operation_id: str
    summary: str
    action: Action
    event: Event | None = None
    query: type[Query] = Query
    body: type[BaseModel] | None = None
    reply: Any
    statuses: tuple[int, ...] = (200,)
    errors: tuple[type[GatewayError], ...] = ()
    handler: Handler

    def __post_init__(self) -> None:
        if not isinstance(self.action, Action):
            raise TypeError(f"{self.operation_id}: {self.action!r} is no Action")
        if not set(self.parameters) <= PARAMETERS.keys():
            raise TypeError(f"{self.operation_id}: {self.path} has an unknown parameter")

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the path's parameters."""
        return tuple(re.findall(r"{(\w+)}", self.path))

    @property
    def possible_errors(self) -> tuple[type[GatewayError], ...]:
        """What the handler and the domain below it can raise, the path's 404 included."""
        return (*(_NOT_FOUND[name] for name in self.parameters), *self.errors)


ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/exec/{vmid}",
        operation_id="runExec",
        summary="Run a command in a guest and answer when it has ended",
        action=Action.EXEC_RUN,
        event=Event.EXEC_INTENT,
        body=ExecSpec,
        reply=ExecResult,
        errors=(
            GuestNotRunning,
            GuestFrozen,
            GuestUnsupported,
            TooManyExecs,
            AuditUnavailable,
            SupervisorUnavailable,
            NodeNotReady,
            SpoolFull,
        ),
        handler=exec_.run_exec,
    ),
    Route(
        method="GET",
        path="/execs",
        operation_id="listExecs",
        summary="Running and retained execs that the token may see",
        action=Action.EXEC_RUN,
        query=ListQuery,
        reply=ExecList,
        errors=(SupervisorUnavailable,),
        handler=execs.list_execs,
    ),
    Route(
        method="GET",
        path="/execs/{id}",
        operation_id="getExec",
        summary="One exec, at once or when it has ended",
        action=Action.EXEC_RUN,
        query=WaitQuery,
        reply=ExecView,
        errors=(SupervisorUnavailable,),
        handler=execs.get_exec,
    ),
    Route(
        method="DELETE",
        path="/execs/{id}",
        operation_id="killExec",
        summary="End an exec's whole process tree: 200 when it has ended, 202 while it is ending",
        action=Action.EXEC_RUN,
        event=Event.EXEC_CANCEL,
        query=WaitQuery,
        reply=ExecView,
        statuses=(200, 202),
        errors=(ExecEnded, AuditUnavailable, SupervisorUnavailable),
        handler=execs.kill_exec,
    ),
    Route(
        method="GET",
        path="/execs/{id}/stdout",
        operation_id="readStdout",
        summary="The bytes kept of stdout, also while the command runs",
        action=Action.EXEC_RUN,
        query=OutputQuery,
        reply=bytes,
        statuses=(200, 206),
        errors=(OutputDropped, RangeNotSatisfiable, SupervisorUnavailable),
        handler=output.read_stdout,
    ),
    Route(
        method="GET",
        path="/execs/{id}/stderr",
        operation_id="readStderr",
        summary="The bytes kept of stderr, also while the command runs",
        action=Action.EXEC_RUN,
        query=OutputQuery,
        reply=bytes,
        statuses=(200, 206),
        errors=(OutputDropped, RangeNotSatisfiable, SupervisorUnavailable),
        handler=output.read_stderr,
    ),
    Route(
        method="GET",
        path="/tokens/self",
        operation_id="showSelf",
        summary="What the caller's token is and may do",
        action=Action.ANY_TOKEN,
        reply=TokenSelf,
        handler=tokens.show_self,
    ),
    Route(
        method="GET",
        path="/health/live",
        operation_id="showLive",
        summary="Whether the web process answers",
        action=Action.PUBLIC,
        reply=Alive,
        handler=health.show_live,
    ),
    Route(
        method="GET",
        path="/health/ready",
        operation_id="showReady",
        summary="Whether commands can run; names what is missing, with details for callers with a token",
        action=Action.PUBLIC,
        reply=Readiness,
        statuses=(200, 503),
        handler=health.show_ready,
    ),
    Route(
        method="GET",
        path="/openapi.json",
        operation_id="showOpenapi",
        summary="This description",
        action=Action.PUBLIC,
        reply=dict,
        handler=openapi.show_openapi,
    ),
)
