"""Grants: which actions on which guests. What no grant allows is denied."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gateway.auth.actions import GRANTABLE, Action, with_implied
from gateway.errors import GrantInvalid
from gateway.exec.origin import Ranges

# PVE's pve-vmid format: PVE::JSONSchema, pve_verify_vmid.
VMID_MIN = 100
VMID_MAX = 999_999_999
ALL_GUESTS: Ranges = ((VMID_MIN, VMID_MAX),)

_PART = re.compile(r"([1-9][0-9]{2,8})(?:-([1-9][0-9]{2,8}))?")


@dataclass(frozen=True)
class Grant:
    """`actions` are allowed on the guests in `guests`. An empty one allows nothing."""

    actions: frozenset[Action]
    guests: Ranges

    def to_json(self) -> dict[str, Any]:
        return {"actions": sorted(self.actions), "guests": format_guests(self.guests)}

    @classmethod
    def from_json(cls, data: object) -> Grant:
        """The grant that `to_json` described. Raises GrantInvalid for anything else."""
        if not isinstance(data, dict) or data.keys() != {"actions", "guests"}:
            raise GrantInvalid("a grant has the members `actions` and `guests`")
        actions, guests = data["actions"], data["guests"]
        if not isinstance(actions, list) or not all(isinstance(item, str) for item in [*actions, guests]):
            raise GrantInvalid("a grant's `actions` is a list of words, `guests` is a string")
        return cls(parse_actions(actions), parse_guests(guests))


def parse_actions(words: Iterable[str]) -> frozenset[Action]:
    """The named actions; `all` is every one that exists today. Raises GrantInvalid naming what is allowed."""
    actions: set[Action] = set()
    for word in words:
        if word == "all":
            actions |= GRANTABLE
        elif word in GRANTABLE:
            actions.add(Action(word))
        else:
            raise GrantInvalid(f"unknown action {word[:64]!r}; allowed: {', '.join(sorted(GRANTABLE))}, all")
    if not actions:
        raise GrantInvalid("a grant needs at least one action")
    return frozenset(actions)


def parse_guests(text: str) -> Ranges:
    """`100-199,205` or `all` as ranges, sorted and merged. Raises GrantInvalid for what is neither."""
    if text == "all":
        return ALL_GUESTS
    pairs = []
    for part in text.split(","):
        match = _PART.fullmatch(part.strip(" "))
        if not match:
            raise GrantInvalid(f"{part[:64]!r} is no guest or range of guests; {_ALLOWED}")
        low = int(match[1])
        high = int(match[2] or match[1])
        if low > high:
            raise GrantInvalid(f"{part[:64]!r}: a range begins with its smaller end")
        pairs.append((low, high))
    return merge(pairs)


_ALLOWED = f"write `all`, `101` or `100-199,205`, within {VMID_MIN} to {VMID_MAX}"


def format_guests(ranges: Ranges) -> str:
    """The text that `parse_guests` reads; empty for no guest."""
    if ranges == ALL_GUESTS:
        return "all"
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)


def merge(pairs: Iterable[tuple[int, int]]) -> Ranges:
    """The same guests as sorted ranges that neither overlap nor touch."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(pairs):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return tuple(merged)


def without(ranges: Ranges, vmids: Iterable[int]) -> Ranges:
    """`ranges` less the single guests `vmids`."""
    rest = list(ranges)
    for vmid in vmids:
        rest = [
            part
            for low, high in rest
            for part in ([(low, vmid - 1), (vmid + 1, high)] if low <= vmid <= high else [(low, high)])
            if part[0] <= part[1]
        ]
    return tuple(rest)


def reachable(grants: Iterable[Grant], protected: Iterable[int]) -> dict[Action, Ranges]:
    """What `grants` come to: for each action held, its guests. Protected guests can only be read.

    An action stays in the answer with no guests left: its holder is told 404, as for any guest out of reach.
    """
    pairs: dict[Action, list[tuple[int, int]]] = {}
    for grant in grants:
        for action in with_implied(grant.actions):
            pairs.setdefault(action, []).extend(grant.guests)
    guarded = tuple(protected)
    return {
        action: merge(ranges) if action.is_read else without(merge(ranges), guarded) for action, ranges in pairs.items()
    }
