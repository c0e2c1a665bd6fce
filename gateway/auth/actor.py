"""Who asks: a verified token, and what it may do. The one decision about that is made here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from gateway.auth.actions import Action
from gateway.auth.grants import merge
from gateway.auth.terms import NO_LIMITS, Limits
from gateway.exec.origin import Origin
from gateway.exec.permit import Permit, Ranges, find_permit, within

if TYPE_CHECKING:
    from gateway.exec.spec import ExecSpec


class Denial(StrEnum):
    """Why a known caller is denied: for the audit log. A caller is not told what lies behind a 404."""

    ACTION_NOT_GRANTED = "action_not_granted"
    GUEST_NOT_GRANTED = "guest_not_granted"
    GUEST_PROTECTED = "guest_protected"
    UNKNOWN_GUEST = "unknown_guest"
    UNKNOWN_EXEC = "unknown_exec"
    COMMAND_NOT_GRANTED = "command_not_granted"
    POLICY_REFUSED = "policy_refused"
    FOREIGN_ORIGIN = "foreign_origin"
    UNKNOWN_TOKEN = "unknown_token"
    UNKNOWN_TASK = "unknown_task"
    PRIVILEGE_EXCEEDED = "privilege_exceeded"


@dataclass(frozen=True)
class Denied:
    """A decision against the caller; `field` is the field of its command that is refused, where it is one."""

    reason: Denial
    field: str | None = None


@dataclass(frozen=True)
class Actor:
    """One verified caller. `permits` holds an entry for every action that it has at all (grants.reachable); `limits`
    are its own."""

    token_id: str
    token_name: str
    permits: Mapping[Action, tuple[Permit, ...]]
    expires: str | None
    protected: frozenset[int] = frozenset()
    limits: Limits = NO_LIMITS
    secret: tuple[int, str] = (0, "")
    """The secret that was shown, or that a ticket was made by: its number and its key's id."""
    pools: frozenset[str] | None = frozenset()
    """Those that it may make guests in; None: any (grants.fillable)."""

    def holds(self, action: Action) -> bool:
        """Whether the actor may do `action` to any guest at all; if not, the answer is 403."""
        return action in (Action.PUBLIC, Action.ANY_TOKEN) or action in self.permits

    def reaches(self, action: Action, vmid: int) -> bool:
        """Whether the actor may do `action` to guest `vmid`; if not, there is no such guest for it: 404."""
        return any(within(vmid, permit.guests) for permit in self.permits.get(action, ()))

    def reach(self, action: Action) -> Ranges:
        """Every guest to which the actor may do `action`, on whatever terms: what a listing or nextid keeps to."""
        return merge(pair for permit in self.permits.get(action, ()) for pair in permit.guests)

    def may_fill(self, pool: str) -> bool:
        """Whether the actor may make guests in `pool`, whether that exists or not."""
        return self.pools is None or pool in self.pools

    def has_all_of(self, other: Actor) -> bool:
        """Whether every action that `other` has on a guest, and on which terms, this one has too, on those or none."""
        return all(
            any(
                mine.terms in (None, theirs.terms)
                and all(any(a <= low and high <= b for a, b in mine.guests) for low, high in theirs.guests)
                for mine in self.permits.get(action, ())
            )
            for action, permits in other.permits.items()
            for theirs in permits
        )

    def decide(self, action: Action, vmid: int | None = None, spec: ExecSpec | None = None) -> Denied | None:
        """Whether the actor may do `action`, to guest `vmid` where one is named, by running `spec` where one is: None
        if it may, else why not. It is decided by this alone, whether the guest exists or not. (The supervisor asks
        `Origin.require_permit` again before it runs anything: the same permits, the same function.)"""
        if not self.holds(action):
            return Denied(Denial.ACTION_NOT_GRANTED)
        if vmid is None or action in (Action.PUBLIC, Action.ANY_TOKEN):
            return None
        if not self.reaches(action, vmid):
            return Denied(Denial.GUEST_PROTECTED if vmid in self.protected else Denial.GUEST_NOT_GRANTED)
        if spec is not None and isinstance(field := find_permit(self.permits[action], vmid, spec), str):
            return Denied(Denial.COMMAND_NOT_GRANTED, field)
        return None

    def origin(self, remote: str, request_id: str) -> Origin:
        """What the supervisor is told of the actor."""
        return Origin(
            token_id=self.token_id,
            token_name=self.token_name,
            permits=self.permits.get(Action.EXEC_RUN, ()),
            admin_guests=self.reach(Action.EXEC_ADMIN),
            remote=remote,
            request_id=request_id,
            max_running=self.limits.max_running,
            root_guests=self.reach(Action.GUEST_ROOT_CONFIG),
            power_guests=self.reach(Action.GUEST_POWER),
            read_guests=self.reach(Action.FILE_READ),
            write_guests=self.reach(Action.FILE_WRITE),
            terminal_permits=self.permits.get(Action.EXEC_TERMINAL, ()),
        )


ANONYMOUS = Actor(token_id="", token_name="", permits={}, expires=None)
"""The caller of a public route that showed no valid token."""
