"""Changes to the key ring: a new key to sign with, and the end of an old one, each recorded before it is made."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict

from gateway.audit.record import Event
from gateway.auth.keyring import Key
from gateway.auth.records import TokenRecord, TokenState
from gateway.auth.tokens import TokenStore
from gateway.auth.trail import Trail
from gateway.errors import KeyRingRefused


class KeyView(TypedDict):
    """One key: `signs` for the newest; `live_tokens` would die with it."""

    id: str
    created: str
    signs: bool
    live_tokens: int


@dataclass(frozen=True)
class KeyRotation:
    """The ring in the hands of root on the node: no token reaches it."""

    store: TokenStore
    trail: Trail

    def list(self) -> tuple[KeyView, ...]:
        """The keys, the newest first. Raises TokenStoreError."""
        keys = self.store.keys.list()
        live = self._count_live()
        return tuple(
            {"id": key.id, "created": key.created, "signs": key is keys[0], "live_tokens": live[key.id]} for key in keys
        )

    def rotate(self) -> Key:
        """A new key signs from now on; all others verify still. Raises KeyRingRefused, AuditUnavailable, ..."""
        with self.store.lock.hold() as held:
            key, write = self.store.keys.prepare_rotation(self.store.clock())
            with self.trail.announced(Event.TOKEN_KEY_ROTATE, {"key": key.id}):
                held.check()
                write()
        return key

    def retire(self, key_id: str, *, force: bool = False) -> int:
        """Takes a key away for good; how many live tokens died with it, which only `force` allows.

        Raises KeyRingRefused, AuditUnavailable, TokenStoreError.
        """
        with self.store.lock.hold() as held:
            write = self.store.keys.prepare_retirement(key_id)
            live = self._count_live()[key_id]
            if live and not force:
                raise KeyRingRefused(
                    f"{live} live tokens are signed by key {key_id}; rotate them first (`token list --key {key_id}`), "
                    "or end them with --force"
                )
            with self.trail.announced(Event.TOKEN_KEY_RETIRE, {"key": key_id, "live_tokens": live}):
                held.check()
                write()
        return live

    def _count_live(self) -> Counter[str]:
        now = self.store.clock()
        return Counter(key for record in self.store.list() for key in live_keys(record, now))


def live_keys(record: TokenRecord, now: datetime) -> set[str]:
    """The keys by which the token is valid now: that of its secret, and of the one before while they overlap."""
    if record.state(now) is not TokenState.ACTIVE:
        return set()
    return {secret.key for secret in record.secrets if secret.until is None or now < secret.until}
