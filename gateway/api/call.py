"""A request that passed every check, and the reply to it: what a handler takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.api.services import Services
from gateway.api.standing import Standing, Watch
from gateway.audit.record import Event
from gateway.auth.actions import Action
from gateway.auth.actor import Actor
from gateway.errors import GatewayError
from gateway.exec.origin import Origin
from gateway.web.disconnect import ENDING, ClientConnection


@dataclass
class Call:
    """One authenticated, authorized and valid request.

    `action` and `event` are its route's: what the caller was granted, and what records it (None for looking).
    `vmid`, `exec_id` and `token_id` are those of the path (0 and empty where it has none); `names` holds all of
    the path's parameters as they came; `query` and `body` are instances of the route's models (`body` None where it has
    none); `raw` is the JSON that `body` was read from.
    `standing` tells whether the caller may go on, later. `refuse` records an error if it is a denial, and gives it as
    the caller may see it: for what a handler leaves behind; what it raises goes that way by itself.
    """

    request_id: str
    remote: str
    actor: Actor
    action: Action
    event: Event | None
    environ: Mapping[str, Any] = field(repr=False)
    vmid: int
    exec_id: str
    token_id: str
    names: Mapping[str, str]
    query: Any
    body: Any
    raw: bytes = field(repr=False)
    standing: Standing
    refuse: Callable[[GatewayError], GatewayError]

    def give_raw(self) -> bytes:
        """The body's JSON, given away: it may be large, and the call is remembered for as long as a command runs."""
        raw, self.raw, self.body = self.raw, b"", None
        return raw

    @property
    def origin(self) -> Origin:
        """What the supervisor is told of the caller."""
        return self.actor.origin(self.remote, self.request_id)

    def decide_again(self, exec_id: str) -> Origin:
        """The same as the token is now, for an exec that has waited. Raises as Standing.renew does."""
        return self.standing.renew(exec_id).origin(self.remote, self.request_id)

    @property
    def latest_origin(self) -> Origin:
        """The same for a request that goes on. Raises as Standing.current does."""
        return self.standing.current().origin(self.remote, self.request_id)

    @property
    def watch(self) -> Watch:
        """Waits with the client for an answer, for as long as it is there and its token lets it."""
        return self.standing.watch(ClientConnection.of(self.environ))

    @property
    def right_watch(self) -> Watch:
        """The same for what goes on without its client, for as long as the token lets it."""
        return self.standing.watch(ClientConnection(None, self.environ.get(ENDING)))


@dataclass(frozen=True)
class Reply:
    """A handler's answer. `body` is a JSON value, or bytes of the given media type: whole, or as they come (Live)."""

    body: Any = field(repr=False)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/json"


Handler = Callable[[Services, Call], Reply]
