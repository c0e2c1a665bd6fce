"""A request that passed every check, and the reply to it: what a handler takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.api.services import Services
from gateway.auth.actor import Actor
from gateway.exec.origin import Origin


@dataclass(frozen=True)
class Call:
    """One authenticated, authorized and valid request.

    `vmid` and `exec_id` are those of the path (0 and empty where it has none); `query` is an instance of the
    route's query model; `raw` is the body's JSON, which the route's body model has accepted.
    """

    request_id: str
    remote: str
    actor: Actor
    environ: Mapping[str, Any]
    vmid: int
    exec_id: str
    query: Any
    raw: bytes

    @property
    def origin(self) -> Origin:
        """What the supervisor is told of the caller."""
        return self.actor.origin(self.remote, self.request_id)


@dataclass(frozen=True)
class Reply:
    """A handler's answer. `body` is a JSON value, or bytes (whole or in pieces) of the given media type."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/json"


Handler = Callable[[Services, Call], Reply]
