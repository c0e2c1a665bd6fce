"""Grants: which actions on which guests, and which commands there. What no grant allows is denied."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.auth.actions import GRANTABLE, Action, with_implied
from gateway.errors import GrantInvalid
from gateway.exec.permit import CommandPattern, Permit, Ranges, Terms, is_plain_path

# PVE's pve-vmid format: PVE::JSONSchema, pve_verify_vmid.
VMID_MIN = 100
VMID_MAX = 999_999_999
ALL_GUESTS: Ranges = ((VMID_MIN, VMID_MAX),)

LIMITABLE = frozenset({Action.EXEC_RUN, Action.EXEC_TERMINAL})
"""The actions that `commands` and `users` limit. Beside any other in one grant they would seem to limit that, too."""

MAX_LISTED = 100
"""Members of each list of one grant."""

_PART = re.compile(r"([1-9][0-9]{2,8})(?:-([1-9][0-9]{2,8}))?")
# PVE::AccessControl, verify_poolname: three levels at most.
_POOL = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+){0,2}")
# As ExecSpec.user.
_USER = re.compile(r"[^\s:\x00]{1,64}(:[0-9]{1,10})?")
_ENV = re.compile(r"[^=\x00-\x1f\x7f]{1,256}")
_MEMBERS = ("actions", "guests", "pools", "commands", "users", "cwd", "env")

PoolMap = Mapping[str, frozenset[int]]
"""The members of each pool that exists."""


@dataclass(frozen=True)
class Grant:
    """`actions` are allowed on the guests in `guests` and in `pools`, on `terms` where commands are limited.

    An empty one allows nothing. Its JSON form, in which `guests` is text and only what is given stands:

        {"actions": ["exec:run"], "guests": "100-199,205", "pools": ["web"],
         "commands": [["/usr/bin/systemctl", "restart", "*"]], "users": ["root"], "cwd": ["/srv"], "env": ["LANG"]}
    """

    actions: frozenset[Action]
    guests: Ranges = ()
    pools: frozenset[str] = frozenset()
    terms: Terms | None = None

    def __post_init__(self) -> None:
        """Raises GrantInvalid for what contradicts itself."""
        if not self.guests and not self.pools and not all(action.is_of_node for action in self.actions):
            raise GrantInvalid("a grant names its guests, its pools, or both; `guests` may be `all`")
        if self.terms is None:
            return
        if not self.actions <= LIMITABLE:
            others = ", ".join(sorted(self.actions - LIMITABLE))
            raise GrantInvalid(
                f"`commands` and `users` do not limit {others}: put those actions into a grant of their own"
            )
        if (self.terms.cwd or self.terms.env) and not self.terms.commands:
            raise GrantInvalid("`cwd` and `env` limit nothing without `commands`")
        if self.terms.terminal != (Action.EXEC_TERMINAL in self.actions):
            raise GrantInvalid("terms are on terminals exactly where the grant is")

    def to_json(self) -> dict[str, Any]:
        """The form in token records, the API and the audit log."""
        members: dict[str, Any] = {"actions": sorted(self.actions)}
        if self.guests or not self.pools:
            members["guests"] = format_guests(self.guests)
        if self.pools:
            members["pools"] = sorted(self.pools)
        return {**members, **(show_terms(self.terms) if self.terms else {})}

    @classmethod
    def from_json(cls, data: object) -> Grant:
        """The grant that `to_json` described. Raises GrantInvalid for anything else."""
        if not isinstance(data, dict) or "actions" not in data or not data.keys() <= set(_MEMBERS):
            raise GrantInvalid(f"a grant has `actions`, and of these what it needs: {', '.join(_MEMBERS[1:])}")
        guests, commands = data.get("guests", ""), data.get("commands")
        if not isinstance(guests, str):
            raise GrantInvalid("a grant's `guests` is a text")
        if commands is not None and not (isinstance(commands, list) and 1 <= len(commands) <= MAX_LISTED):
            raise GrantInvalid(f"`commands` lists 1 to {MAX_LISTED} command patterns, each a list of words")
        users, cwd, env = (_texts(data, name) for name in ("users", "cwd", "env"))
        actions = parse_actions(_texts(data, "actions"))
        limited = commands is not None or users or cwd or env
        return cls(
            actions=actions,
            guests=parse_guests(guests) if guests else (),
            pools=parse_pools(_texts(data, "pools")),
            terms=build_terms(actions, commands or (), users, cwd, env) if limited else None,
        )


def build_terms(
    actions: frozenset[Action],
    commands: Iterable[Iterable[str]] = (),
    users: Iterable[str] = (),
    cwd: Iterable[str] = (),
    env: Iterable[str] = (),
) -> Terms:
    """The terms of a grant of `actions`. Raises GrantInvalid naming what is wrong with which."""
    patterns = []
    for words in commands:
        if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
            raise GrantInvalid("a command pattern is a list of words, one for each argument")
        try:
            patterns.append(CommandPattern(tuple(words)))
        except ValueError as exc:
            raise GrantInvalid(f"command pattern {_shown(words)}: {exc}") from exc
    for user in users:
        if not _USER.fullmatch(user):
            raise GrantInvalid(f"{user[:64]!r} is no user: a name, a uid, or uid:gid")
    for path in cwd:
        if path != "/" and not is_plain_path(path):
            raise GrantInvalid(f"cwd {path[:64]!r}: give an absolute path without `.`, `..` or a slash at its end")
    for name in env:
        if not _ENV.fullmatch(name):
            raise GrantInvalid(f"{name[:64]!r} is no name of an environment variable; there are no wildcards here")
    return Terms(
        commands=tuple(patterns),
        users=tuple(users),
        cwd=tuple(cwd),
        env=tuple(env),
        terminal=Action.EXEC_TERMINAL in actions,
    )


def show_terms(terms: Terms) -> dict[str, Any]:
    """The members of a grant's JSON form that are its terms; only what is given."""
    members = terms.to_wire()
    return {name: members[name] for name in ("commands", "users", "cwd", "env") if members[name]}


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


def parse_pools(names: Iterable[str]) -> frozenset[str]:
    """Names of pools, whether they exist or not. Raises GrantInvalid."""
    pools = frozenset(names)
    for name in pools:
        if not _POOL.fullmatch(name):
            raise GrantInvalid(f"{name[:64]!r} is no name of a pool, like `web` or `web/staging`")
    return pools


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


def reachable(
    grants: Iterable[Grant], protected: Iterable[int], pools: PoolMap | None = None
) -> dict[Action, tuple[Permit, ...]]:
    """What `grants` come to: for each action held, its guests, and on which terms. Protected guests can only be read.

    An action stays in the answer with no guests left: its holder is told 404, as for any guest out of reach. A pool
    that does not exist has no members, nor has one that a guest has left.
    """
    members = pools or {}
    guarded = tuple(protected)
    pairs: dict[Action, dict[Terms | None, list[tuple[int, int]]]] = {}
    for grant in grants:
        own = [*grant.guests, *((vmid, vmid) for pool in grant.pools for vmid in members.get(pool, ()))]
        for action in with_implied(grant.actions):
            pairs.setdefault(action, {}).setdefault(grant.terms, []).extend(own)
    return {
        action: tuple(
            Permit(merge(ranges) if action.is_read else without(merge(ranges), guarded), terms)
            for terms, ranges in sorted(by_terms.items(), key=lambda item: item[0] is not None)
        )
        for action, by_terms in pairs.items()
    }


def fillable(grants: Iterable[Grant]) -> frozenset[str] | None:
    """The pools that guests may be made in: those that the grants of guest:create name. None: any, for these are on all
    guests. Whom a pool has is what other grants go by, so a range of vmids alone gives none."""
    making = [grant for grant in grants if Action.GUEST_CREATE in grant.actions]
    if merge(pair for grant in making for pair in grant.guests) == ALL_GUESTS:
        return None
    return frozenset(pool for grant in making for pool in grant.pools)


def covers(held: Iterable[Grant], wanted: Grant) -> bool:
    """Whether who has `held` has all that `wanted` gives: each action on each guest, on the same terms or on none.

    Doubt is a no: a pool is held by its name alone, since its members change, and terms are held as they stand.
    """
    for action in with_implied(wanted.actions):
        fitting = [
            grant for grant in held if action in with_implied(grant.actions) and grant.terms in (None, wanted.terms)
        ]
        rest = merge(pair for grant in fitting for pair in grant.guests)
        missing = any(not any(low <= a and b <= high for low, high in rest) for a, b in merge(wanted.guests))
        named = frozenset(pool for grant in fitting for pool in grant.pools)
        if not fitting or missing or not (wanted.pools <= named or rest == ALL_GUESTS):
            return False
    return True


def _texts(data: Mapping[str, Any], name: str) -> list[str]:
    if name not in data:
        return []
    items = data[name]  # an empty list is no word for "none", nor for "any": it is left out
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_LISTED or not all(isinstance(i, str) for i in items):
        raise GrantInvalid(f"a grant's `{name}`, where it stands, is a list of 1 to {MAX_LISTED} texts")
    return items


def _shown(words: Iterable[str]) -> str:
    return repr(" ".join(words)[:200])
