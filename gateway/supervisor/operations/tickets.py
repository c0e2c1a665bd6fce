"""One-use tickets: they let a browser, which can set no header, open the one WebSocket that its token asked for."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from gateway.errors import TooManyRequests

LIFETIME = 30.0
"""Seconds for which a ticket can be used."""

_MAX_ALIVE = 1000
_MAX_ALIVE_PER_TOKEN = 100
_BYTES = 32


class Tickets:
    """The tickets that can still be used; of each only a hash is kept, so none can be read out of this process."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._alive: OrderedDict[str, _Ticket] = OrderedDict()
        self._per_token: Counter[str] = Counter()

    def make(self, token_id: str, data: dict[str, Any], path: str) -> str:
        """A new ticket: 43 characters that may stand in a URL, good once, for LIFETIME seconds, for `path` alone.

        `data` comes back from `take`. Raises TooManyRequests when as many are alive as may be.
        """
        self._drop_expired()
        if len(self._alive) >= _MAX_ALIVE or self._per_token[token_id] >= _MAX_ALIVE_PER_TOKEN:
            raise TooManyRequests("too many tickets wait to be used; use those, or ask again when they have expired")
        ticket = secrets.token_urlsafe(_BYTES)
        self._alive[_digest(ticket)] = _Ticket(token_id, data, path, self._monotonic() + LIFETIME)
        self._per_token[token_id] += 1
        return ticket

    def take(self, ticket: str, path: str) -> dict[str, Any] | None:
        """What the ticket was made with; None for one that is unknown, used, expired or for another path.

        It is used up by this, also at the wrong path.
        """
        self._drop_expired()
        digest = _digest(ticket)
        known = self._alive.get(digest)
        if known is None:
            return None
        self._drop(digest)
        return known.data if known.path == path else None

    def to_state(self) -> list[list[Any]]:
        """What `resume` needs, in JSON: for the next image of this program, on the same clock."""
        return [[digest, asdict(ticket)] for digest, ticket in self._alive.items()]

    def resume(self, state: list[list[Any]]) -> None:
        """Takes over the tickets that an earlier image of this program has made."""
        for digest, ticket in state:
            self._alive[digest] = _Ticket(**ticket)
            self._per_token[ticket["token_id"]] += 1

    def _drop_expired(self) -> None:
        now = self._monotonic()
        while self._alive:
            digest, oldest = next(iter(self._alive.items()))
            if oldest.until > now:
                return
            self._drop(digest)

    def _drop(self, digest: str) -> None:
        ticket = self._alive.pop(digest)
        self._per_token[ticket.token_id] -= 1
        if not self._per_token[ticket.token_id]:
            del self._per_token[ticket.token_id]


@dataclass(frozen=True)
class _Ticket:
    token_id: str
    data: dict[str, Any]
    path: str
    until: float


def _digest(ticket: str) -> str:
    return hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).hexdigest()
