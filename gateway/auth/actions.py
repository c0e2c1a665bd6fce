"""The actions a grant can allow: the whole vocabulary, and the little that one action implies of another."""

from __future__ import annotations

from enum import StrEnum


class Action(StrEnum):
    """What a route asks for and a grant gives. The first two are for routes only and cannot be granted."""

    PUBLIC = "public"
    ANY_TOKEN = "any-token"
    EXEC_RUN = "exec:run"
    EXEC_TERMINAL = "exec:terminal"
    EXEC_ADMIN = "exec:admin"
    GUEST_READ = "guest:read"
    TOKEN_ADMIN = "token:admin"
    AUDIT_READ = "audit:read"
    METRICS_READ = "metrics:read"

    @property
    def is_read(self) -> bool:
        """Whether it only looks: such an action reaches protected guests too."""
        return self.value.endswith(":read")


GRANTABLE = frozenset(Action) - {Action.PUBLIC, Action.ANY_TOKEN}

IMPLIES = {Action.EXEC_ADMIN: frozenset({Action.EXEC_RUN})}
"""One who may read every output of a guest and end everything in it may as well run commands there."""


def with_implied(actions: frozenset[Action]) -> frozenset[Action]:
    """`actions` and what they imply."""
    return actions.union(*(IMPLIES.get(action, frozenset()) for action in actions))
