"""How a command ended: our exit code for it, and what people are told where the code does not say it."""

from __future__ import annotations

from typing import Any

from pvex.errors import FAILED


def exit_code(view: dict[str, Any]) -> int:
    """Its own, 128+n for a signal, 124 for a timeout, 126 and 127 where it never began; 125 where nobody knows."""
    code = view.get("exit_code")
    return FAILED if code is None else int(code)


def explain(view: dict[str, Any]) -> str | None:
    """A line about an end that was not the command's own."""
    reason = view.get("reason")
    if view.get("state") == "unknown":
        return "nobody knows whether the command ran: the supervisor was killed meanwhile; look at the guest"
    if reason == "spawn_failed":
        error = view.get("spawn_error") or {}
        return f"the command did not begin: {error.get('message') or error.get('errno')}"
    return {
        "timeout": "the command was ended: its time was over",
        "cancelled": "the command was ended: somebody cancelled it",
        "output_limit": "the command was ended: its output passed the limit",
        "client_gone": "the command was ended: the gateway lost us, and --on-disconnect is kill",
        "container_stopped": "the guest was stopped, and the command with it",
        "gateway_lost": "the command was ended: the gateway's supervisor was stopped",
    }.get(str(reason))
