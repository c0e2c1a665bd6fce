"""What the tests of changed tokens share: an audit log in memory, and the store in somebody's hands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.auth.actor import Actor
from gateway.auth.administration import Administration
from gateway.auth.key_rotation import KeyRotation
from gateway.auth.records import TokenRecord
from gateway.auth.tokens import TokenStore
from gateway.auth.trail import Trail
from gateway.errors import AuditUnavailable

HOME = "127.0.0.1"


@dataclass
class Log:
    """Keeps records; refuses them while `down`."""

    records: list[Mapping[str, Any]] = field(default_factory=list)
    down: bool = False

    def commit(self, record: Mapping[str, Any]) -> None:
        if self.down:
            raise AuditUnavailable("the audit writer does not answer")
        self.records.append(record)

    @property
    def events(self) -> list[str]:
        return [str(record["event"]) for record in self.records]


def issue_token(store: TokenStore, record: TokenRecord) -> str:
    """Stores `record` with its first secret, and gives the token, without anybody asked or anything recorded."""
    with store.lock.hold() as held:
        signed, token = store.sign(record)
        store.write(held, signed)
    return token


def root(store: TokenStore, log: Log | None = None) -> Administration:
    """The store in the hands of root on the node."""
    return Administration(store, Trail(log or Log(), "pve1"))


def by(store: TokenStore, token: str, log: Log | None = None) -> Administration:
    """The store in the hands of who holds `token`."""
    actor = store.verify(token, HOME)
    assert isinstance(actor, Actor)
    trail = Trail(log or Log(), "pve1", remote=HOME, token_id=actor.token_id, token_name=actor.token_name)
    return Administration(store, trail, actor)


def ring(store: TokenStore, log: Log | None = None) -> KeyRotation:
    """Its keys."""
    return KeyRotation(store, Trail(log or Log(), "pve1"))
