"""Route: what one operation of the API is; the table of them is in `routes`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from gateway.api.call import Call, Handler
from gateway.api.models.execs import Query
from gateway.api.services import Services
from gateway.audit.record import Event
from gateway.auth.actions import Action
from gateway.errors import ExecNotFound, GatewayError, GuestNotFound, TokenNotFound
from gateway.errors_pve import PveUnavailable, SnapshotNotFound, TaskNotFound
from gateway.policy.change import GuestChange

PARAMETERS = {
    "vmid": re.compile(r"[1-9][0-9]{2,8}"),
    "id": re.compile(r"ex_[0-9A-HJKMNP-TV-Z]{26}"),
    "token_id": re.compile(r"tk_[0-9A-HJKMNP-TV-Z]{26}"),
    "snapshot": re.compile(r"[A-Za-z][A-Za-z0-9_-]{1,39}"),
    "upid": re.compile(r"UPID:[!-.0-~]{20,600}"),
}
"""What may stand in a path. Anything else is answered like a guest, exec, token, snapshot or task that is not there."""

CHANGES_GUESTS = frozenset({Action.GUEST_CREATE, Action.GUEST_CONFIG, Action.GUEST_ROOT_CONFIG})
"""What these do may give a guest something of the node, so node policy is asked."""

_NOT_FOUND: dict[str, tuple[type[GatewayError], Callable[[str], GatewayError]]] = {
    "vmid": (GuestNotFound, GuestNotFound.for_name),
    "id": (ExecNotFound, ExecNotFound.for_id),
    "token_id": (TokenNotFound, TokenNotFound.for_id),
    "snapshot": (SnapshotNotFound, SnapshotNotFound.for_name),
    "upid": (TaskNotFound, TaskNotFound.for_upid),
}


def check_names(names: Mapping[str, str]) -> None:
    """Raises the 404 of the first of a path's parameters that can name nothing."""
    for name, text in names.items():
        if not PARAMETERS[name].fullmatch(text):
            raise _NOT_FOUND[name][1](text[:64])


@dataclass(frozen=True, kw_only=True)
class Route:
    """One operation. `action` is what its caller must be granted; none or an unknown one fails at import. Who has been
    granted `or_action` alone is let in, too: what such a caller finds there is for the domain below the handler to say.

    `description` tells people what the summary leaves out; with `described` False the API's own description leaves
    all of it out. `event` is the audit event that records it, None for looking. `upload` says that the body is
    bytes of any kind, which the handler reads as they come. `reply` is a TypedDict, bytes, str, or None where there
    are only events; `media_type` is that of a reply that is neither bytes nor events. With `events` an Accept
    header may ask for a stream of them; with `content` it may be bytes as well. `archive` says that what it sends or
    takes as bytes may be a tar archive, too. `asks` and `tells` name header fields of request and reply. `errors` are
    those of its domain; those of the pipeline are added to every route that can raise them. `change` describes what
    the request would give a guest of the node: node policy decides about it before the handler is called. A route that
    makes guests or changes them has one.
    """

    method: str
    path: str
    operation_id: str
    summary: str
    description: str = ""
    described: bool = True
    action: Action
    or_action: Action | None = None
    event: Event | None = None
    query: type[Query] = Query
    body: type[BaseModel] | None = None
    upload: bool = False
    archive: bool = False
    reply: Any
    media_type: str = "application/json"
    content: bool = False
    events: bool = False
    statuses: tuple[int, ...] = (200,)
    asks: tuple[str, ...] = ()
    tells: tuple[str, ...] = ()
    errors: tuple[type[GatewayError], ...] = ()
    change: Callable[[Services, Call], GuestChange] | None = None
    handler: Handler

    def __post_init__(self) -> None:
        if not isinstance(self.action, Action):
            raise TypeError(f"{self.operation_id}: {self.action!r} is no Action")
        if self.or_action is not None and (not isinstance(self.or_action, Action) or "vmid" in self.parameters):
            raise TypeError(f"{self.operation_id}: {self.or_action!r} is no Action, or no second one may reach a guest")
        if (self.action in CHANGES_GUESTS) is not (self.change is not None):
            raise TypeError(f"{self.operation_id}: {self.action} and node policy's `change` belong together")
        if not set(self.parameters) <= PARAMETERS.keys():
            raise TypeError(f"{self.operation_id}: {self.path} has an unknown parameter")

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the path's parameters."""
        return tuple(re.findall(r"{(\w+)}", self.path))

    @property
    def asks_pve(self) -> bool:
        """Whether it may wait for PVE: as long as PVE hangs, it holds a thread."""
        return PveUnavailable in self.errors

    @property
    def upgrades(self) -> bool:
        """Whether it is a WebSocket."""
        return 101 in self.statuses

    @property
    def possible_errors(self) -> tuple[type[GatewayError], ...]:
        """What the handler and the domain below it can raise, the path's 404 included."""
        return (*(_NOT_FOUND[name][0] for name in self.parameters), *self.errors)
