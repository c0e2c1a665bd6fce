"""What of an exec is recorded in the audit log: everything but its secrets, which appear as keyed hashes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.exec.ending import Ending
from gateway.exec.order import Order
from gateway.exec.spec import ExecSpec

Hash = Callable[[bytes | str], str]


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
