"""Changes to tokens: who may make them, what they need, and that each is recorded before it is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypedDict

from gateway.audit.record import Event
from gateway.auth.actor import Actor
from gateway.auth.covering import covers_grants, exceeding
from gateway.auth.grants import Grant
from gateway.auth.lock import Held
from gateway.auth.records import TokenRecord, TokenState, format_time
from gateway.auth.terms import Limits, Network, parse_name
from gateway.auth.tokens import Refusal, TokenStore
from gateway.auth.trail import Trail
from gateway.errors import (
    GrantInvalid,
    PreconditionFailed,
    PrivilegeExceeded,
    RotationUnderWay,
    TokenDead,
    TokenLive,
    TokenNotFound,
    TokenStoreError,
    TooManyTokens,
    Unauthenticated,
)

MAX_RECORD_BYTES = 8 << 10
MAX_TOKENS = 10_000
"""All of them at their largest leave room in /etc/pve (128 MiB), which the whole cluster needs."""


class Changes(TypedDict, total=False):
    """What an edit may set; what is absent stays. None means never (expires), or what anybody may (limits)."""

    name: str
    grants: tuple[Grant, ...]
    expires: datetime | None
    networks: tuple[Network, ...]
    rate: float | None
    max_running: int | None


@dataclass(frozen=True)
class Administration:
    """The token store in the hands of `asker`: a token with token:admin, or None for root on the node.

    A token administers those that may do no more than itself; all others do not exist for it. What a change makes of
    a token is within its own grants, expiry, networks and limits. Each is decided, recorded and made under the lock of
    the store, on records read there: of two changes at a time the later sees the earlier, and none is lost.
    """

    store: TokenStore
    trail: Trail
    asker: Actor | None = None

    def find(self, token_id: str) -> TokenRecord:
        """Raises TokenNotFound, TokenStoreError."""
        return self._find(token_id, self._holder())

    def all(self) -> Iterator[TokenRecord]:
        """The tokens there are for the asker, the oldest first. Raises TokenStoreError."""
        return self.after("")

    def after(self, token_id: str) -> Iterator[TokenRecord]:
        """Those behind `token_id`."""
        holder = self._holder()
        records = self.store.read(known for known in self.store.ids() if known > token_id)
        return (record for record in records if holder is None or covers_grants(holder, record))

    def create(self, changes: Changes) -> tuple[TokenRecord, str]:
        """A new token: its record, and the token itself, which nobody can be shown again.

        Raises GrantInvalid, PrivilegeExceeded, TooManyTokens, AuditUnavailable, TokenStoreError.
        """
        record = replace(
            self.store.prepare(changes["name"], changes["grants"], lifetime=None),
            created_by=self.asker.token_id if self.asker else "local",
        )
        record = _apply(record, changes)
        self._check_given(record, self._holder())  # first: a refused one must not make the store
        self.store.create()
        with self._changing() as (held, holder):
            self._check_given(record, holder)
            if len(self.store.ids()) >= MAX_TOKENS:
                raise TooManyTokens(f"{MAX_TOKENS} tokens are stored; delete dead ones (`token prune`, DELETE /tokens)")
            record, token = self.store.sign(record)
            with self.trail.announced(Event.TOKEN_CREATE, {"token": record.to_json()}):
                self.store.write(held, record)
        return record, token

    def edit(self, token_id: str, changes: Changes, revision: int | None = None) -> TokenRecord:
        """The token with `changes`. `revision` is the one they were meant for, where that matters.

        Raises TokenNotFound, TokenDead, PreconditionFailed, GrantInvalid, PrivilegeExceeded, AuditUnavailable,
        TokenStoreError.
        """
        self.find(token_id)
        with self._changing() as (held, holder):
            record = self._find(token_id, holder, revision)
            self._check_active(record)
            edited = _apply(record, changes)
            if edited == record:
                return record
            self._check_given(edited, holder)
            edited = replace(edited, revision=record.revision + 1)
            self._store(held, Event.TOKEN_EDIT, record, edited)
        return edited

    def rotate(
        self,
        token_id: str,
        *,
        overlap: timedelta = timedelta(),
        changes: Changes | None = None,
        revision: int | None = None,
    ) -> tuple[TokenRecord, str]:
        """Gives the token a new secret. The one it has stays valid for `overlap`; without that, no earlier one does.

        `changes` may hold `expires`: without it a token that has expired cannot be rotated, and the old secret of
        one that has does not come back. Raises RotationUnderWay, and what `edit` raises.
        """
        self.find(token_id)
        now = self.store.clock()
        with self._changing() as (held, holder):
            record = self._find(token_id, holder, revision)
            renewed = _apply(record, changes or {})
            state = record.state(now)
            if state is TokenState.REVOKED or renewed.state(now) is not TokenState.ACTIVE:
                raise _dead(state, "give it a new `expires` as it is rotated" if record.revoked is None else None)
            self._check_given(renewed, holder)
            if overlap and state is TokenState.ACTIVE:
                _check_overlap(record, now)
            until = now.replace(microsecond=0) + overlap if overlap and state is TokenState.ACTIVE else None
            rotated, token = self.store.sign(replace(renewed, revision=record.revision + 1), until)
            self._store(held, Event.TOKEN_ROTATE, record, rotated)
        return rotated, token

    def revoke(self, token_id: str, revision: int | None = None) -> TokenRecord:
        """Ends the token for good; its record stays, so that the list still tells of it. Again is no error.

        Raises TokenNotFound, PreconditionFailed, AuditUnavailable, TokenStoreError.
        """
        self.find(token_id)
        with self._changing() as (held, holder):
            record = self._find(token_id, holder, revision)
            if record.revoked is not None:
                return record
            now = self.store.clock().replace(microsecond=0)
            revoked = replace(record, revoked=now, secrets=(), revision=record.revision + 1)
            self._store(held, Event.TOKEN_REVOKE, record, revoked)
        return revoked

    def delete(self, token_id: str, revision: int | None = None) -> TokenRecord:
        """Removes the record of a token that is revoked or has expired. Raises TokenLive, and what `revoke` raises."""
        self.find(token_id)
        with self._changing() as (held, holder):
            record = self._find(token_id, holder, revision)
            if record.state(self.store.clock()) is TokenState.ACTIVE:
                raise TokenLive("this token is active; revoke it first")
            with self.trail.announced(Event.TOKEN_DELETE, {"token": record.to_json()}):
                self.store.delete(held, record.id)
        return record

    def prune(self, dead_for: timedelta) -> list[TokenRecord]:
        """Deletes all that have been revoked or expired for so long; what was deleted."""
        before = self.store.clock() - dead_for
        died = ((record, record.died(self.store.clock())) for record in self.all())
        gone = [record for record, moment in died if moment is not None and moment <= before]
        deleted = [self.delete(record.id, record.revision) for record in gone]
        if self.store.last_used is not None:
            for token_id in set(self.store.last_used.known()) - set(self.store.ids()):
                self.store.last_used.forget(token_id)
        return deleted

    # ---- what every change shares

    @contextmanager
    def _changing(self) -> Iterator[tuple[Held, TokenRecord | None]]:
        with self.store.lock.hold() as held:
            yield held, self._holder()

    def _holder(self) -> TokenRecord | None:
        """The asker's own record as it is now: it may have been revoked, rotated, or cut, since it was let in."""
        if self.asker is None:
            return None
        found = self.store.recall(self.asker.token_id, self.asker.secret, self.trail.remote)
        if not isinstance(found, Actor):
            if found.reason is Refusal.STORE_UNAVAILABLE:
                raise TokenStoreError(found.detail or "the token store cannot be used")
            raise Unauthenticated("this token is not valid any more")
        return self.store.get(self.asker.token_id)

    def _find(self, token_id: str, holder: TokenRecord | None, revision: int | None = None) -> TokenRecord:
        try:
            record = self.store.get(token_id)
        except (TokenNotFound, TokenStoreError) as exc:
            if holder is not None:  # what cannot be read cannot be compared, and what is wrong is root's matter
                raise TokenNotFound.for_id(token_id[:64]) from exc
            if isinstance(exc, TokenNotFound):
                raise TokenNotFound(f"no token {token_id[:64]!r} here; see `token list`") from exc
            raise
        if holder is not None and not covers_grants(holder, record):
            raise TokenNotFound.for_id(token_id)
        if revision is not None and revision != record.revision:
            raise PreconditionFailed(
                "the token was changed since you looked at it; look again, and decide anew",
                token_id=token_id,
                etag=etag(record),
            )
        return record

    def _check_active(self, record: TokenRecord) -> None:
        state = record.state(self.store.clock())
        if state is TokenState.REVOKED:
            raise _dead(state, None)
        if state is TokenState.EXPIRED:
            raise _dead(state, "rotate it with a new `expires`: that makes a new secret, and leaves the old one dead")

    def _check_given(self, record: TokenRecord, holder: TokenRecord | None) -> None:
        if len(record.dump()) > MAX_RECORD_BYTES:
            raise GrantInvalid(f"a token's record is at most {MAX_RECORD_BYTES} bytes; give it fewer or wider grants")
        exceeds = exceeding(record, holder) if holder is not None else []
        if exceeds:
            raise PrivilegeExceeded(
                f"the token would exceed your own in {', '.join(exceeds)}; see GET /tokens/self, and name no more",
                exceeds=exceeds,
            )

    def _store(self, held: Held, event: Event, before: TokenRecord, after: TokenRecord) -> None:
        old, new = before.to_json(), after.to_json()
        changed = {name: old[name] for name in old if old[name] != new[name]}
        with self.trail.announced(event, {"token": new, "before": changed}):
            self.store.write(held, after)


def etag(record: TokenRecord) -> str:
    """The record's version as an entity tag (RFC 9110, 8.8.3)."""
    return f'"{record.revision}"'


def _apply(record: TokenRecord, changes: Changes) -> TokenRecord:
    limits = Limits(
        rate=changes.get("rate", record.limits.rate),
        max_running=changes.get("max_running", record.limits.max_running),
    )
    return replace(
        record,
        name=parse_name(changes.get("name", record.name)),
        grants=_checked(changes.get("grants", record.grants)),
        expires=changes.get("expires", record.expires),
        networks=changes.get("networks", record.networks),
        limits=limits,
    )


def _checked(grants: Iterable[Grant]) -> tuple[Grant, ...]:
    found = tuple(grants)
    if not found:
        raise GrantInvalid("a token needs at least one grant; revoke one that may do nothing")
    return found


def _check_overlap(record: TokenRecord, now: datetime) -> None:
    before = next((secret for secret in record.secrets[1:] if secret.until is not None and now < secret.until), None)
    if before is not None:
        raise RotationUnderWay(
            f"the secret before the current one is valid until {format_time(before.until)}; wait for that, or rotate "
            "with overlap `0`, which ends every earlier one at once",
            until=format_time(before.until),
        )


def _dead(state: TokenState, what_next: str | None) -> TokenDead:
    if state is TokenState.REVOKED:
        return TokenDead("this token is revoked, for good; create another", state=state)
    return TokenDead(f"this token has expired; {what_next}", state=state)
