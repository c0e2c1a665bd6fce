"""EXEC_ROUTES: the part of ROUTES that is about commands: run, looked at, fed, ended, and their terminals."""

from __future__ import annotations

from gateway.api.handlers import events, execs, output, terminals, tickets
from gateway.api.handlers import exec as exec_
from gateway.api.handlers import input as input_
from gateway.api.models.events import EventsQuery
from gateway.api.models.execs import ExecList, ListQuery, OutputQuery, WaitQuery
from gateway.api.models.input import ResizeRequest, SignalRequest, StdinQuery, StdinState, Ticket, TicketRequest
from gateway.api.models.terminals import AttachQuery, TerminalQuery
from gateway.api.route import Route
from gateway.audit.record import Event
from gateway.auth.actions import Action
from gateway.errors import (
    AuditUnavailable,
    CommandNotGranted,
    DriverUnsupported,
    ExecEnded,
    ExecQueued,
    GatewayError,
    GatewayRestarting,
    GuestAgentUnavailable,
    GuestFrozen,
    GuestNotRunning,
    GuestUnsupported,
    IdempotencyConflict,
    MalformedRequest,
    NodeNotReady,
    NotAcceptable,
    NotATerminal,
    OriginRefused,
    OutputDropped,
    Overloaded,
    RangeNotSatisfiable,
    SpoolFull,
    StdinBlocked,
    StdinClosed,
    StdinOffset,
    SupervisorUnavailable,
    TooManyExecs,
    UpgradeRequired,
    WriterTaken,
)
from gateway.exec.spec import ExecSpec
from gateway.exec.view import ExecResult, ExecView

_TO_BEGIN: tuple[type[GatewayError], ...] = (
    CommandNotGranted,
    GuestNotRunning,
    GuestFrozen,
    GuestAgentUnavailable,
    GuestUnsupported,
    DriverUnsupported,
    IdempotencyConflict,
    TooManyExecs,
    AuditUnavailable,
    SupervisorUnavailable,
    GatewayRestarting,
    NodeNotReady,
    SpoolFull,
)
"""Why an exec may not begin."""

_TO_UPGRADE: tuple[type[GatewayError], ...] = (
    MalformedRequest,
    OriginRefused,
    UpgradeRequired,
    Overloaded,
    SupervisorUnavailable,
)
"""Why a WebSocket may not."""

EXEC_ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/exec/{vmid}",
        operation_id="runExec",
        summary="Run a command in a guest: its result, its events as they come (Accept), or 202 at once (Prefer)",
        description=(
            "Without more, the answer comes when the command has ended: 200, whatever its exit code is. With `Accept: "
            "application/x-ndjson` or `text/event-stream` its events come as they happen, at least one in five "
            "seconds, `end` always last. With `Prefer: respond-async` it is 202 at once, and the exec is asked for by "
            "its id. A body is at most `web.max_body` bytes (16 MiB by default); limits of time, output and number "
            "that the request leaves out are those of the node's configuration. Who goes away before the end ends the "
            "command, unless `on_disconnect` says `continue`."
        ),
        action=Action.EXEC_RUN,
        event=Event.EXEC_INTENT,
        body=ExecSpec,
        reply=ExecResult,
        events=True,
        statuses=(200, 202),
        asks=("Prefer", "Idempotency-Key"),
        tells=("Idempotency-Replayed", "Location", "Preference-Applied"),
        errors=(NotAcceptable, Overloaded, *_TO_BEGIN),
        handler=exec_.run_exec,
    ),
    Route(
        method="GET",
        path="/exec/{vmid}/terminal",
        operation_id="openTerminal",
        summary="A WebSocket (pvex.v1) whose first message starts a command, with a terminal or without",
        description=(
            "The client's first message is `start`, with the members of POST /exec/{vmid} and the window; "
            "`x-websocket` describes all messages. Who leaves ends the command, unless `on_disconnect` says "
            "`continue`. Who was cut before the exec's id came sends the same again, with the same key (here, or in "
            "`start`), and holds the exec that the first one began."
        ),
        action=Action.EXEC_TERMINAL,
        event=Event.EXEC_INTENT,
        query=TerminalQuery,
        reply=None,
        statuses=(101,),
        asks=("Sec-WebSocket-Protocol", "Origin", "Idempotency-Key"),
        tells=("Sec-WebSocket-Protocol",),
        errors=(GuestUnsupported, *_TO_UPGRADE),
        handler=terminals.open_terminal,
    ),
    Route(
        method="GET",
        path="/execs",
        operation_id="listExecs",
        summary="Queued, running and retained execs that the token may see",
        description=(
            "Ended ones stay for as long as the node's configuration keeps them. With exec:admin those of other "
            "tokens are listed, too."
        ),
        action=Action.EXEC_RUN,
        or_action=Action.EXEC_TERMINAL,
        query=ListQuery,
        reply=ExecList,
        errors=(SupervisorUnavailable,),
        handler=execs.list_execs,
    ),
    Route(
        method="GET",
        path="/execs/{id}",
        operation_id="showExec",
        summary="One exec, at once or when it has ended",
        action=Action.EXEC_RUN,
        or_action=Action.EXEC_TERMINAL,
        query=WaitQuery,
        reply=ExecView,
        errors=(SupervisorUnavailable,),
        handler=execs.get_exec,
    ),
    Route(
        method="DELETE",
        path="/execs/{id}",
        operation_id="killExec",
        summary="End an exec's whole process tree, or its waiting: 200 when it has ended, 202 while it is ending",
        description=(
            "SIGTERM, `kill_grace` seconds, SIGKILL: for all processes that descend from the command. Those that "
            "outlived an exec that has ended are not touched (409)."
        ),
        action=Action.EXEC_RUN,
        or_action=Action.EXEC_TERMINAL,
        event=Event.EXEC_CANCEL,
        query=WaitQuery,
        reply=ExecView,
        statuses=(200, 202),
        errors=(ExecEnded, DriverUnsupported, AuditUnavailable, SupervisorUnavailable, SpoolFull),
        handler=execs.kill_exec,
    ),
    Route(
        method="GET",
        path="/execs/{id}/stdout",
        operation_id="readStdout",
        summary="The bytes kept of stdout, also while the command runs",
        description=(
            "Without a Range or `offset` all that was kept, from its beginning. A Range into bytes that were not kept "
            "is 416 (`output_dropped`). With `follow` the reply goes on until the exec ends, and its length is not "
            "known."
        ),
        action=Action.EXEC_RUN,
        or_action=Action.EXEC_TERMINAL,
        query=OutputQuery,
        reply=bytes,
        statuses=(200, 206),
        asks=("Range",),
        tells=("Content-Range", "X-Output-Bytes", "X-Output-Complete", "X-Output-Dropped"),
        errors=(OutputDropped, RangeNotSatisfiable, Overloaded, SupervisorUnavailable),
        handler=output.read_stdout,
    ),
    Route(
        method="GET",
        path="/execs/{id}/stderr",
        operation_id="readStderr",
        summary="The bytes kept of stderr, also while the command runs",
        action=Action.EXEC_RUN,
        or_action=Action.EXEC_TERMINAL,
        query=OutputQuery,
        reply=bytes,
        statuses=(200, 206),
        asks=("Range",),
        tells=("Content-Range", "X-Output-Bytes", "X-Output-Complete", "X-Output-Dropped"),
        errors=(OutputDropped, RangeNotSatisfiable, Overloaded, SupervisorUnavailable),
        handler=output.read_stderr,
    ),
    Route(
        method="GET",
        path="/execs/{id}/events",
        operation_id="readEvents",
        summary="What an exec has done from any place on, and what it goes on to do; 204 behind its end",
        description=(
            "`seq` of an event is the place behind it in the exec's output, so that a stream that was cut goes on "
            "with `?from=` (or Last-Event-ID) and no byte is lost or comes twice. 204 behind the end tells an "
            "EventSource to come no more."
        ),
        action=Action.EXEC_RUN,
        or_action=Action.EXEC_TERMINAL,
        query=EventsQuery,
        reply=None,
        events=True,
        statuses=(200, 204),
        asks=("Last-Event-ID",),
        errors=(NotAcceptable, RangeNotSatisfiable, Overloaded, SupervisorUnavailable),
        handler=events.read_events,
    ),
    Route(
        method="GET",
        path="/execs/{id}/attach",
        operation_id="attachExec",
        summary="A WebSocket (pvex.v1) that follows a command from any place on, and may feed it",
        description=(
            "`?from=` begins behind a cursor that was seen; with `?write=true` this is the one client that may feed "
            "it. `x-websocket` describes all messages. Its leaving changes nothing."
        ),
        action=Action.EXEC_RUN,
        or_action=Action.EXEC_TERMINAL,
        event=Event.EXEC_INPUT,
        query=AttachQuery,
        reply=None,
        statuses=(101,),
        asks=("Sec-WebSocket-Protocol", "Origin"),
        tells=("Sec-WebSocket-Protocol",),
        errors=(CommandNotGranted, *_TO_UPGRADE),
        handler=terminals.attach_exec,
    ),
    Route(
        method="PUT",
        path="/execs/{id}/stdin",
        operation_id="putStdin",
        summary="Input for a command that was started with `stdin_open` or `tty`; the body is handed on as it comes",
        description=(
            "Bytes that were taken before are not taken twice, so the same request may be sent again. One that breaks "
            "off loses nothing that was taken: `offset` of the reply, or of a problem, says where to go on."
        ),
        action=Action.EXEC_RUN,
        or_action=Action.EXEC_TERMINAL,
        event=Event.EXEC_INPUT,
        query=StdinQuery,
        upload=True,
        reply=StdinState,
        errors=(
            CommandNotGranted,
            StdinOffset,
            StdinClosed,
            StdinBlocked,
            WriterTaken,
            ExecEnded,
            ExecQueued,
            DriverUnsupported,
            AuditUnavailable,
            SupervisorUnavailable,
            GatewayRestarting,
        ),
        handler=input_.put_stdin,
    ),
    Route(
        method="POST",
        path="/execs/{id}/signal",
        operation_id="sendSignal",
        summary="Send a signal to a command or to its whole tree",
        action=Action.EXEC_RUN,
        or_action=Action.EXEC_TERMINAL,
        event=Event.EXEC_SIGNAL,
        body=SignalRequest,
        reply=ExecView,
        errors=(ExecEnded, ExecQueued, DriverUnsupported, AuditUnavailable, SupervisorUnavailable),
        handler=input_.send_signal,
    ),
    Route(
        method="POST",
        path="/execs/{id}/resize",
        operation_id="resizeTerminal",
        summary="Give an exec's terminal another size",
        action=Action.EXEC_RUN,
        or_action=Action.EXEC_TERMINAL,
        body=ResizeRequest,
        reply=ExecView,
        errors=(NotATerminal, ExecEnded, ExecQueued, DriverUnsupported, SupervisorUnavailable),
        handler=input_.resize_terminal,
    ),
    Route(
        method="POST",
        path="/tickets",
        operation_id="makeTicket",
        summary="What stands for the caller's token on one WebSocket, once: browsers cannot send a header with it",
        description=(
            "It is sent as the subprotocol `pvex.ticket.<ticket>`, or as `?ticket=`. What the token may do there is "
            "asked when it is used."
        ),
        action=Action.ANY_TOKEN,
        body=TicketRequest,
        reply=Ticket,
        errors=(SupervisorUnavailable,),
        handler=tickets.make_ticket,
    ),
)
