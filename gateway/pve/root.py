"""What PVE allows to root@pam alone, asked of the supervisor's pvesh, with failures explained as those of PVE's API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from gateway.errors_pve import OutcomeUnknown, PveFailed, PveUnavailable
from gateway.exec.origin import Origin
from gateway.policy.root import RootChange
from gateway.pve.ids import Upid, parse_upid
from gateway.pve.problems import translate

_NO_PROGRAM = 127

Again = Callable[[str], Origin]
"""Who asks, as the token is when the change's turn comes, where it has had to wait. Raises why it may not any more."""


class Root(Protocol):
    """The supervisor, as far as it concerns this (supervisor.client.SupervisorClient)."""

    def change_as_root(self, change: RootChange, origin: Origin, again: Again) -> dict[str, Any]: ...


def change_as_root(root: Root, change: RootChange, origin: Origin, again: Again) -> Upid | None:
    """Has the change made, by way of node policy and the audit log, which the supervisor asks; its task, if it was one.

    A task has ended when this returns, well or not: Tasks.status and require_ok tell. Raises GatewayError.
    """
    return make_as_root(root, change, origin, again)[1]


def make_as_root(root: Root, change: RootChange, origin: Origin, again: Again) -> tuple[str, Upid | None]:
    """The same, with the audit id of its record before it."""
    said = root.change_as_root(change, origin, again)
    about = {"vmid": change.vmid, "node": change.node, "audit_id": said["audit_id"]}
    if said["exit_code"] is None:
        raise OutcomeUnknown("pvesh did not end in time; look at the guest before asking again", **about)
    if said["exit_code"] == _NO_PROGRAM:
        raise PveUnavailable(f"{said['words']} (pve.pvesh); nothing was done", **about)
    if said["exit_code"] != 0:
        raise translate(said["status"], said["words"], about, fallback=PveFailed)
    return str(said["audit_id"]), parse_upid(said["upid"]) if said["upid"] else None
