"""What of an exec is recorded in the audit log, and how that is read back: everything but its secrets, which appear as
keyed hashes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.exec.ending import Ending
from gateway.exec.limits import Limits
from gateway.exec.order import GuestKind, Order
from gateway.exec.spec import Background, ExecSpec, Keep, OnDisconnect, OnLimit, Placement
from gateway.exec.view import OutputCounts, Reason, StreamCount

Hash = Callable[[bytes | str], str]


_TERMINAL = "exec:terminal"
_MAX_WORD = 4096
_MAX_SHOWN = 65536
"""Characters of one argument, and of all, that are shown; of what is longer, its beginning and a keyed hash."""


def shown_command(spec: ExecSpec, hash_value: Hash) -> list[str]:
    """The argument list that runs, with those that `redact` names as keyed hashes, bounded in length."""
    argv = spec.argv()
    offset = len(argv) - 1 if isinstance(spec.command, str) else 0
    hidden = {position + offset for position in spec.redact}
    shown: list[str] = []
    room = _MAX_SHOWN
    for index, word in enumerate(argv):
        if room <= 0:
            shown.append(f"[{len(argv) - index} more arguments]")
            break
        text = hash_value(word) if index in hidden else word
        if len(text) > min(_MAX_WORD, room):
            text = f"{text[: min(_MAX_WORD, room) // 4]}[of {len(word)} characters, {hash_value(word)}]"
        shown.append(text)
        room -= len(text) + 1
    return shown


def action_of(order: Order) -> str:
    """The action by which an exec was begun; its records carry it."""
    return _TERMINAL if order.terminal else "exec:run"


def intent(spec: ExecSpec, order: Order, hash_value: Hash) -> dict[str, Any]:
    """What is about to run."""
    stdin = spec.stdin_bytes()
    return {
        "command": order.command,
        "env": {name: hash_value(value) for name, value in spec.env.items()},
        "cwd": spec.cwd,
        "user": spec.user,
        "stdin": {"bytes": len(stdin), "hash": hash_value(stdin)} if stdin else None,
        "timeout": order.limits.timeout,
        "background": order.background,
        "on_disconnect": order.on_disconnect,
        "placement": order.placement,
        "labels": order.labels,
        "config_id": order.config_id,
        "incarnation": order.incarnation,
    }


def outcome(ending: Ending) -> dict[str, Any]:
    """How it ended."""
    return {
        "reason": ending.reason,
        "exit_code": ending.exit_code,
        "signal": ending.signal,
        "spawn_error": dict(ending.spawn_error) if ending.spawn_error else None,
        "output": {name: dict(count) for name, count in ending.output.items()} if ending.output else None,  # type: ignore[call-overload]
        "killed": ending.killed,
        "survivors": ending.survivors,
        "timing": dict(ending.timing) if ending.timing else None,
    }


def read_intent(record: dict[str, Any]) -> Order:
    """The order of an exec that only its intent is left of. What no longer matters to it is zero.

    `data` may have been cut (audit.record.bound_record): then what was cut is unknown.
    """
    data, actor = record.get("data", {}), record.get("actor", {})
    command, labels = data.get("command"), data.get("labels")
    return Order(
        id=record["exec_id"],
        audit_id=record["audit_id"],
        request_id=record.get("request_id", ""),
        vmid=record["vmid"],
        node=record["node"],
        incarnation=str(data.get("incarnation", "")),
        config_id=str(data.get("config_id", "")),
        token_id=actor.get("token_id", ""),
        token_name=actor.get("name") or "",
        remote=record.get("remote", ""),
        command=[_uncut(word) for word in command] if isinstance(command, list) else [],
        labels={name: _uncut(value) for name, value in labels.items()} if isinstance(labels, dict) else {},
        created_at=_milliseconds(record["ts"]),
        queued_ms=0,
        limits=Limits(timeout=0.0, kill_grace=0.0, queue_timeout=0.0, output_limit=0),
        background=Background.DETACH,
        on_disconnect=OnDisconnect.CONTINUE,
        on_limit=OnLimit.DROP,
        placement=Placement.OWN,
        keep=Keep.HEAD,
        spooled=False,
        exclusive=False,
        kind=GuestKind(data.get("kind", GuestKind.LXC)),
        idempotency=record.get("idempotency_key"),
        fingerprint=record.get("fingerprint"),
        terminal=record.get("action") == _TERMINAL,
    )


def read_outcome(record: dict[str, Any]) -> Ending | None:
    """The ending of an exec that only its outcome is left of, its output lost; None when nobody knows it."""
    data = record.get("data", {})
    if data.get("reason") not in set(Reason):
        return None
    output = data.get("output")
    return Ending(
        reason=Reason(data["reason"]),
        exit_code=data.get("exit_code"),
        signal=data.get("signal"),
        ended_at=_milliseconds(record["ts"]),
        spawn_error=data.get("spawn_error"),
        output=OutputCounts(stdout=_nothing_kept(output["stdout"]), stderr=_nothing_kept(output["stderr"]))
        if output
        else None,
        killed=data.get("killed", 0),
        survivors=data.get("survivors", 0),
        timing=data.get("timing"),
    )


def _nothing_kept(count: StreamCount) -> StreamCount:
    return {**count, "dropped": count["bytes"], "dropped_at": 0 if count["bytes"] else None}


def _uncut(value: Any) -> str:
    """A word of a record, or what a long one was cut to."""
    if isinstance(value, dict) and value.keys() == {"cut", "bytes", "hash"}:
        return f"{value['cut']}[of {value['bytes']} bytes, {value['hash']}]"
    return str(value)


def _milliseconds(moment: str) -> str:
    """The log's time in microseconds as execs show theirs."""
    return f"{moment[:23]}Z"
