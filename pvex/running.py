"""Running one command as if it ran here: its streams, input, signals or terminal are ours, and its exit code."""

from __future__ import annotations

import os
import re
import sys
from base64 import b64encode
from typing import TYPE_CHECKING, Any

from pvex.context import drop, note
from pvex.ending import exit_code, explain
from pvex.errors import BROKEN_PIPE, ClientError, Problem, UsageError
from pvex.events import cannot_stream, read_data, run_stream
from pvex.signals import Forwarding, Left, end_quietly
from pvex.stdin import Pump
from pvex.terminal import Begin, Detached, Keys, Terminal, terminal_size

if TYPE_CHECKING:
    from pvex.api import Api

MACHINE_STDIN = 64 << 10
"""Bytes of input that a guest agent takes."""


def run(api: Api, vmid: int, spec: dict[str, Any], key: str, *, with_stdin: bool) -> int:
    """Runs it to its end; the exit code. Raises ClientError."""
    if not with_stdin:
        return _attend(api, vmid, spec, key, with_stdin=False)
    try:
        return _attend(api, vmid, {**spec, "stdin_open": True}, key, with_stdin=True)
    except Problem as problem:
        if not cannot_stream(problem):
            raise
    data = sys.stdin.buffer.read(MACHINE_STDIN + 1)
    if len(data) > MACHINE_STDIN:
        raise UsageError(f"a machine takes {MACHINE_STDIN} bytes of input at most; its own ssh takes more")
    given = {**spec, "stdin": b64encode(data).decode(), "stdin_encoding": "base64"}
    return _attend(api, vmid, given, key, with_stdin=False)


def _attend(api: Api, vmid: int, spec: dict[str, Any], key: str, *, with_stdin: bool) -> int:
    """Runs it, hands input, output and signals through, and gives the exit code."""
    exec_id = ""
    try:
        with Forwarding(api) as forwarding:
            for event in run_stream(api, vmid, spec, key):
                kind = event["type"]
                if kind == "start" and not exec_id:
                    exec_id = event["exec"]["id"]
                    forwarding.begun(exec_id)
                    if with_stdin:
                        Pump(api, exec_id).start()
                elif kind == "end":
                    return tell_end(event["exec"])
                else:
                    write(api, exec_id, event)
    except Left:
        end_quietly(api, exec_id)
        raise
    raise AssertionError("a stream ends with an end")


def describe_terminal(*, ours: bool) -> dict[str, Any]:
    """The terminal that the command gets: one like ours, where that is to be it. Raises UsageError."""
    if not ours:
        return {}
    if not sys.stdin.isatty():
        raise UsageError("stdin is no terminal: leave -t out")
    term = os.environ.get("TERM", "")
    return {**terminal_size(), **({"term": term} if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", term) else {})}


def open_terminal(api: Api, vmid: int, spec: dict[str, Any], key: str, detach_keys: str) -> int:
    """Begins it, detached and so once only, and attaches to it; with exec:terminal alone it begins in its terminal."""
    keys = Keys(detach_keys)
    headers = {"Prefer": "respond-async", "Idempotency-Key": key}
    try:
        exec_id = api.call("POST", f"/exec/{vmid}", spec, headers=headers)["id"]
    except Problem as problem:
        if problem.code not in ("forbidden", "guest_not_found") or not _may_open_terminals(api):
            raise
        return _hold(api, Terminal(api, "", keys, begin=Begin(vmid, spec, key)))
    return hold_terminal(api, exec_id, keys)


def _may_open_terminals(api: Api) -> bool:
    return any(one["action"] == "exec:terminal" for one in api.get("/tokens/self")["reach"])


def hold_terminal(api: Api, exec_id: str, keys: Keys) -> int:
    """Our terminal is the exec's until it ends, or the detach keys are pressed."""
    return _hold(api, Terminal(api, exec_id, keys))


def _hold(api: Api, terminal: Terminal) -> int:
    try:
        view = terminal.run()
    except Detached:
        exec_id = terminal.exec_id
        ways = f"`pvex attach {exec_id}` comes back, `pvex kill {exec_id}` ends it" if exec_id else "`pvex ps` shows it"
        note(f"detached; {ways}")
        return 0
    except Left:
        end_quietly(api, terminal.exec_id)
        raise
    return tell_end(view)


def write(api: Api, exec_id: str, event: dict[str, Any]) -> None:
    """Shows what an event brings. Who reads us no more ends the command, as SIGPIPE would."""
    kind = event["type"]
    if kind == "gap":
        note(f"{event['bytes']} bytes of {event['stream']} were not kept")
    if kind not in ("stdout", "stderr"):
        return
    out = sys.stdout if kind == "stdout" else sys.stderr
    try:
        out.buffer.write(read_data(event))
        out.buffer.flush()
    except OSError as exc:
        end_quietly(api, exec_id)
        drop(out)
        if isinstance(exc, BrokenPipeError):
            sys.exit(BROKEN_PIPE)
        raise ClientError(f"cannot write {kind}: {exc.strerror}{'; the command was ended' * bool(exec_id)}") from exc


def tell_end(view: dict[str, Any]) -> int:
    """Says what the exit code does not; gives it."""
    text = explain(view)
    if text:
        note(text)
    return exit_code(view)
