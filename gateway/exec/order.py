"""An exec as it was accepted: who asked, where it runs, under which limits. Holds no secret: it is stored and shown."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gateway.exec.limits import Limits
from gateway.exec.spec import Background, Keep, OnDisconnect, OnLimit, Placement


class GuestKind(StrEnum):
    """What a guest is, in PVE's words, and so which driver runs its commands."""

    LXC = "lxc"
    QEMU = "qemu"


@dataclass(frozen=True)
class Order:
    """What stays known of an exec from its acceptance to the end of its retention."""

    id: str
    audit_id: str
    request_id: str
    vmid: int
    node: str
    incarnation: str
    """The guest's init, by pid and start time: which run of the guest this exec belongs to."""
    config_id: str
    """The guest's configuration file, by inode and mtime: tells a new guest under an old vmid."""
    token_id: str
    token_name: str
    remote: str
    command: list[str]
    """As sent, with the arguments that `redact` names replaced by keyed hashes."""
    labels: dict[str, str]
    created_at: str
    queued_ms: int
    limits: Limits
    background: Background
    on_disconnect: OnDisconnect
    on_limit: OnLimit
    placement: Placement
    keep: Keep
    spooled: bool
    """Streamed or detached: its output is kept in files, to be followed; else in memory, for one answer."""
    exclusive: bool
    kind: GuestKind = GuestKind.LXC
    idempotency: str | None = None
    """The keyed hash of token and Idempotency-Key, if one was sent; never the key."""
    fingerprint: str | None = None
    """The keyed hash of the request that came with it."""
    terms: str = ""
    """The mark of the terms on which its token might run it (exec.permit); empty where it might run anything."""
    terminal: bool = False
    """Begun by `exec:terminal`, as what somebody types into, with a `tty` or without; else by `exec:run`."""

    def to_wire(self) -> dict[str, Any]:
        members = {**vars(self), "limits": {**vars(self.limits)}}
        if not self.terminal:
            del members["terminal"]  # a supervisor of before, which knows no such member, can go on with all others
        return members

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> Order:
        return cls(
            **{
                **data,
                "limits": Limits(**data["limits"]),
                "background": Background(data["background"]),
                "on_disconnect": OnDisconnect(data["on_disconnect"]),
                "on_limit": OnLimit(data["on_limit"]),
                "placement": Placement(data["placement"]),
                "keep": Keep(data["keep"]),
                "kind": GuestKind(data.get("kind", GuestKind.LXC)),
            }
        )
