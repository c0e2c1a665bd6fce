"""The actions a grant can allow: the whole vocabulary, what each one gives, and what it implies of the others."""

from __future__ import annotations

from enum import StrEnum


class Action(StrEnum):
    """What a route asks for and a grant gives. The first two are for routes only and cannot be granted."""

    PUBLIC = "public"
    ANY_TOKEN = "any-token"
    GUEST_READ = "guest:read"
    GUEST_POWER = "guest:power"
    GUEST_CREATE = "guest:create"
    GUEST_CONFIG = "guest:config"
    GUEST_ROOT_CONFIG = "guest:root-config"
    GUEST_DESTROY = "guest:destroy"
    EXEC_RUN = "exec:run"
    EXEC_TERMINAL = "exec:terminal"
    EXEC_ADMIN = "exec:admin"
    FILE_READ = "file:read"
    FILE_WRITE = "file:write"
    DEVICE_READ = "device:read"
    AUDIT_READ = "audit:read"
    TOKEN_ADMIN = "token:admin"
    METRICS_READ = "metrics:read"

    @property
    def is_read(self) -> bool:
        """Whether it only looks at what is no guest's own data: such an action reaches protected guests too."""
        return self in _LOOKS

    @property
    def is_of_node(self) -> bool:
        """Whether it is about no guest: a grant of such actions alone needs to name none."""
        return self in _OF_NODE


_LOOKS = frozenset({Action.GUEST_READ, Action.DEVICE_READ, Action.AUDIT_READ, Action.METRICS_READ})
_OF_NODE = frozenset({Action.DEVICE_READ, Action.TOKEN_ADMIN, Action.METRICS_READ})

MEANINGS = {
    Action.GUEST_READ: "see guests: their state, configuration, addresses, snapshots, backups and tasks",
    Action.GUEST_POWER: "start, stop, suspend and resume guests",
    Action.GUEST_CREATE: "make guests under vmids within the grant: new ones, clones, restored ones, templates",
    Action.GUEST_CONFIG: "change guests as PVE lets API tokens; snapshot, back up, roll back, resize and migrate them",
    Action.GUEST_ROOT_CONFIG: "give guests what PVE allows to root@pam alone, as far as node policy lets anybody",
    Action.GUEST_DESTROY: "destroy guests, their snapshots and their backups",
    Action.EXEC_RUN: "run commands in guests: root in them, unless the grant names `commands` or `users`",
    Action.EXEC_TERMINAL: "open terminals in guests, and come back to its own: as exec:run, with somebody typing",
    Action.EXEC_ADMIN: "see, feed and end the execs of every token in the guests, output included",
    Action.FILE_READ: "read every file of the guests: all their data and secrets",
    Action.FILE_WRITE: "write every file of the guests, which is exec:run as root by another way",
    Action.DEVICE_READ: "look up the node's devices",
    Action.AUDIT_READ: "read the audit log about the guests, of all tokens; all of it with `all` guests",
    Action.TOKEN_ADMIN: "make, edit and revoke tokens that may no more than its own",
    Action.METRICS_READ: "read the metrics",
}
"""What the holder of each action can do, for people: the CLI, the OpenAPI document and SECURITY.md say it so."""

GRANTABLE = frozenset(MEANINGS)

_SEES_WHAT_IT_CHANGES = frozenset({Action.GUEST_READ})
IMPLIES = {
    Action.GUEST_POWER: _SEES_WHAT_IT_CHANGES,
    Action.GUEST_CREATE: _SEES_WHAT_IT_CHANGES,
    Action.GUEST_CONFIG: _SEES_WHAT_IT_CHANGES,
    Action.GUEST_ROOT_CONFIG: frozenset({Action.GUEST_CONFIG, Action.GUEST_READ}),
    Action.GUEST_DESTROY: _SEES_WHAT_IT_CHANGES,
    Action.EXEC_ADMIN: frozenset({Action.EXEC_RUN}),
    Action.FILE_WRITE: frozenset({Action.FILE_READ}),
}
"""Complete: nothing implied implies more. One who may read every output of a guest and end everything in it may as well
run commands there; file:write and exec:terminal are not said to imply exec:run, for their routes are recorded apart,
but give no less."""


def with_implied(actions: frozenset[Action]) -> frozenset[Action]:
    """`actions` and what they imply."""
    return actions.union(*(IMPLIES.get(action, frozenset()) for action in actions))
