"""Who asks: a verified token, and for every action the guests it may reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.auth.actions import Action
from gateway.exec.origin import Origin, Ranges, within


@dataclass(frozen=True)
class Actor:
    """One verified caller. `reach` holds an entry for every action that it has at all."""

    token_id: str
    token_name: str
    reach: Mapping[Action, Ranges]
    expires: str | None

    def holds(self, action: Action) -> bool:
        """Whether the actor may do `action` to any guest at all; if not, the answer is 403."""
        return action is Action.ANY_TOKEN or action in self.reach

    def reaches(self, action: Action, vmid: int) -> bool:
        """Whether the actor may do `action` to guest `vmid`; if not, there is no such guest for it: 404."""
        return within(vmid, self.reach.get(action, ()))

    def origin(self, remote: str, request_id: str, action: Action = Action.EXEC_RUN) -> Origin:
        """What the supervisor is told of the actor, who may run commands where it may do `action`."""
        return Origin(
            token_id=self.token_id,
            token_name=self.token_name,
            guests=self.reach.get(action, ()),
            admin_guests=self.reach.get(Action.EXEC_ADMIN, ()),
            remote=remote,
            request_id=request_id,
        )


ANONYMOUS = Actor(token_id="", token_name="", reach={}, expires=None)
"""The caller of a public route that showed no valid token."""
