"""POST /exec/{vmid}: run a command in a guest; its result, its events as they come, or 202 at once."""

from __future__ import annotations

from contextlib import ExitStack

from gateway.api.call import Call, Reply
from gateway.api.events import EventFormat, EventWriter
from gateway.api.headers import JSON, choose_media_type, prefers_async, read_idempotency_key
from gateway.api.services import Services
from gateway.api.streams import EventStream, take_stream
from gateway.errors import FieldError, InvalidRequest
from gateway.exec.reply import RunReply, Started
from gateway.exec.spec import ExecSpec
from gateway.exec.text import decode_output
from gateway.exec.view import ExecResult, ExecView

STREAM_HEADERS = {"X-Accel-Buffering": "no"}
"""nginx would keep a stream back until a buffer is full."""


def run_exec(services: Services, call: Call) -> Reply:
    """Runs it, and answers as Accept and Prefer ask. A command's non-zero exit is not an error."""
    media_type = choose_media_type(call.environ, (JSON, *EventFormat))
    key = read_idempotency_key(call.environ)
    if media_type != JSON:
        return _stream(services, call, EventFormat(media_type), key)
    if prefers_async(call.environ):
        return _detach(services, call, key)
    return _run(services, call, key)


def _run(services: Services, call: Call, key: str | None) -> Reply:
    """The result, when it has ended. That the client leaves, or its token ends, is seen while it runs."""
    _check_result_suffices(call.body)
    reply = services.supervisor.run(call.vmid, call.give_raw(), call.origin, call.watch, key, again=call.decide_again)
    call.standing.current()
    return Reply(build_result(reply), headers=_replayed(reply))


def _stream(services: Services, call: Call, format_: EventFormat, key: str | None) -> Reply:
    """Its events from the first on."""
    with ExitStack() as holds:
        holds.enter_context(take_stream(services, call))
        started, feed = services.supervisor.start(
            call.vmid, call.give_raw(), call.origin, attended=True, again=call.decide_again, key=key, watch=call.watch
        )
        holds.callback(feed.close)
        stream = EventStream.begin(feed, EventWriter(format_), holds.pop_all(), started.view)
        return Reply(stream, headers={**STREAM_HEADERS, **_replayed(started)}, media_type=format_)


def _detach(services: Services, call: Call, key: str | None) -> Reply:
    """The exec, which runs on by itself."""
    started, feed = services.supervisor.start(
        call.vmid,
        call.give_raw(),
        call.origin,
        attended=False,
        again=call.decide_again,
        key=key,
        watch=call.right_watch,
    )
    feed.close()
    headers = {"Location": f"/execs/{started.view['id']}", "Preference-Applied": "respond-async"}
    return Reply(_without_output(started.view), status=202, headers={**headers, **_replayed(started)})


def build_result(reply: RunReply) -> ExecResult:
    """The exec with its output as text, its counts fitting that text."""
    counts = reply.view["output"]
    if counts is None:
        return _without_output(reply.view)
    stdout = decode_output(reply.stdout, counts["stdout"])
    stderr = decode_output(reply.stderr, counts["stderr"])
    return {
        **reply.view,
        "output": {"stdout": stdout.count, "stderr": stderr.count},
        "stdout": stdout.text,
        "stderr": stderr.text,
        "encoding": {"stdout": stdout.encoding, "stderr": stderr.encoding},
    }


def _without_output(view: ExecView) -> ExecResult:
    """Of one shape with the others: a client in a typed language has one type for all that this answers."""
    return {**view, "stdout": "", "stderr": "", "encoding": {"stdout": "utf-8", "stderr": "utf-8"}}


def _check_result_suffices(spec: ExecSpec) -> None:
    """Nobody could type into an exec whose id is told only when it has ended."""
    asked = {"tty": spec.tty is not None, "stdin_open": spec.stdin_open}
    message = "needs a stream or a detached exec: `Accept: application/x-ndjson`, or `Prefer: respond-async`"
    errors = [FieldError(name, "not_in_one_reply", message).to_json() for name, given in asked.items() if given]
    if errors:
        raise InvalidRequest("some fields cannot be taken; see `errors`", errors=errors)


def _replayed(reply: RunReply | Started) -> dict[str, str]:
    return {"Idempotency-Replayed": "true"} if reply.replayed else {}
