"""Blame: the failure of a guest's making, with the request as it was, what became of the guest, and no secret."""

from __future__ import annotations

from typing import Any

from gateway.errors import GatewayError
from gateway.guests.undo import Undone
from gateway.guests.wish import FreshWish, Wish, show


def explain(
    error: GatewayError, wish: Wish, *, vmid: int | None = None, kept: bool = False, undone: Undone | None = None
) -> GatewayError:
    """The same error, its words complete: `request` holds what was asked for, `undone` whether nothing is left."""
    said = error.detail
    if undone is not None and vmid is not None:
        if kept:
            said += f"; guest {vmid} is kept as it is (`on_failure`)"
        elif undone.clean:
            said += "; nothing of it is left"
        else:
            said += f"; {undone.why}"
    secrets = wish.secrets if isinstance(wish, FreshWish) else ()
    evidence: dict[str, Any] = {name: _without(value, secrets) for name, value in error.evidence.items()}
    if vmid is not None:
        evidence["vmid"] = vmid
    if undone is not None:
        evidence["undone"] = undone.clean
    evidence["request"] = show(wish)
    return type(error)(_without(said, secrets), **evidence)


def _without(value: Any, secrets: tuple[str, ...]) -> Any:
    """PVE's words are not ours: should they repeat what it was given, they lose it here."""
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "(not repeated)")
        return value
    if isinstance(value, dict):
        return {name: _without(item, secrets) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without(item, secrets) for item in value]
    return value
