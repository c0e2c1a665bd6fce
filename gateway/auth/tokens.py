"""The token store: verifies tokens on every request, and keeps their records, one private file each."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from gateway import ulid
from gateway.auth.actor import Actor
from gateway.auth.grants import Grant, PoolMap, fillable, reachable
from gateway.auth.keyring import KeyRing, Verified
from gateway.auth.last_used import LastUsed
from gateway.auth.lock import Held, StoreLock
from gateway.auth.private import (
    Stamp,
    check_directory,
    delete_private,
    make_directory,
    read_private,
    stamp_file,
    write_private,
)
from gateway.auth.records import Secret, TokenRecord, format_time
from gateway.auth.terms import Network, parse_name
from gateway.errors import TokenNotFound, TokenStoreError

ID_PREFIX = "tk_"
MAX_CACHED = 12_000
"""Records in memory: all that there may be (`administration.MAX_TOKENS`), and some that others have deleted."""
_ID = re.compile(r"tk_[0-9A-HJKMNP-TV-Z]{26}")

Clock = Callable[[], datetime]

log = logging.getLogger(__name__)


class Refusal(StrEnum):
    """Why nobody is known behind a request. For the audit log: the client sees one body for all (401)."""

    NO_TOKEN = "no_token"
    BAD_SIGNATURE = "bad_signature"
    UNKNOWN_TOKEN = "unknown_token"
    REVOKED = "revoked"
    EXPIRED = "expired"
    REPLACED = "replaced"
    WRONG_NETWORK = "wrong_network"
    BAD_RECORD = "bad_record"
    BAD_TICKET = "bad_ticket"
    STORE_UNAVAILABLE = "store_unavailable"


@dataclass(frozen=True)
class Refused:
    """A token that gives nothing now. `token_id` is known only where a key of ours signed it."""

    reason: Refusal
    token_id: str | None = None
    detail: str | None = None


def utc_now() -> datetime:
    """This moment; the clock outside tests."""
    return datetime.now(UTC)


class TokenStore:
    """The records under `directory` and the key ring beside them. Safe for use by many threads.

    A record is looked at (lstat) on every request and read again when it changed, so a revocation holds for
    the next request. Whatever is absent, damaged or open to others gives nothing: it fails closed. With
    `require_quorum` so does a store that cannot be written, as pmxcfs without quorum: it may miss revocations.
    Changes are `administration`'s, made under `lock`; `cluster_lock` is its path where the store is a cluster's.
    """

    def __init__(
        self,
        directory: Path,
        key_file: Path,
        *,
        protected: Iterable[int] = (),
        pools: Callable[[], PoolMap] = dict,
        clock: Clock = utc_now,
        require_quorum: bool = False,
        cluster_lock: Path | None = None,
        last_used: LastUsed | None = None,
    ) -> None:
        """`pools` gives the pools as they are now: the same object for as long as they are the same."""
        self._directory = directory
        self._protected = frozenset(protected)
        self._pools = pools
        self._require_quorum = require_quorum
        self._cache: dict[str, tuple[Stamp, TokenRecord, Actor, PoolMap | None]] = {}
        self.keys = KeyRing(key_file)
        self.lock = StoreLock(directory / ".lock", cluster_lock)
        self.clock = clock
        self.last_used = last_used

    def verify(self, token: str, remote: str) -> Actor | Refused:
        """The actor that `token` stands for when it comes from address `remote`, or why it is refused."""
        try:
            self.check_store()
            verified = self.keys.verify(token)
        except TokenStoreError as exc:
            return Refused(Refusal.STORE_UNAVAILABLE, None, exc.detail)
        if verified is None:
            return Refused(Refusal.BAD_SIGNATURE)
        found = self._find(verified, remote)
        if isinstance(found, Actor) and self.last_used is not None:
            self.last_used.note(found.token_id)
        return found

    def look_again(self, actor: Actor, remote: str) -> Actor | Refused | None:
        """What became of a caller who was let in by a token. None in doubt: a store that cannot be read at this moment
        lets nobody in, and ends nothing that is under way."""
        found = self.recall(actor.token_id, actor.secret, remote)
        doubtful = (Refusal.STORE_UNAVAILABLE, Refusal.BAD_RECORD)
        return None if isinstance(found, Refused) and found.reason in doubtful else found

    def recall(self, token_id: str, secret: tuple[int, str], remote: str) -> Actor | Refused:
        """The actor of a token that has been verified before, by this secret (Actor.secret): the token may have been
        revoked since, the secret replaced, or its key retired."""
        verified = Verified(token_id, *secret)
        try:
            self.check_store()
            signed = self.keys.has(verified.key)
        except TokenStoreError as exc:
            return Refused(Refusal.STORE_UNAVAILABLE, token_id, exc.detail)
        return self._find(verified, remote) if signed else Refused(Refusal.BAD_SIGNATURE, token_id)

    def check_store(self) -> None:
        """Raises TokenStoreError when no token of any kind could be verified now."""
        writable = check_directory(self._directory)
        if self._require_quorum and not writable:
            raise TokenStoreError(
                f"{self._directory} is read-only: this node has no quorum, and tokens.require_quorum asks for it"
            )

    def check(self) -> None:
        """The same, the key ring included."""
        self.check_store()
        self.keys.verify("")

    def prepare(
        self,
        name: str,
        grants: Iterable[Grant],
        *,
        lifetime: timedelta | None,
        networks: Iterable[Network] = (),
    ) -> TokenRecord:
        """A record for a new token, not stored yet: its audit record comes first. Raises GrantInvalid."""
        now = self.clock()
        return TokenRecord(
            id=ulid.new(ID_PREFIX),
            name=parse_name(name),
            grants=tuple(grants),
            created=now,
            expires=now + lifetime if lifetime else None,
            networks=tuple(networks),
        )

    def create(self) -> None:
        """Makes the directory and the key ring where they are missing. Raises TokenStoreError."""
        if self.keys.exists and self._directory.exists():
            return  # that is all on a node without quorum, too
        make_directory(self._directory)
        with self.lock.hold() as held:
            held.check()
            self.keys.create(self.clock())

    def sign(self, record: TokenRecord, until: datetime | None = None) -> tuple[TokenRecord, str]:
        """`record` with one more secret, and the token of it. The secret before it is valid up to `until`."""
        now = record.secrets[0] if record.secrets else None
        generation = now.generation + 1 if now else 1
        token, key = self.keys.sign(record.id, generation)
        before = (replace(now, until=until),) if now and until else ()
        return replace(record, secrets=(Secret(generation=generation, key=key), *before)), token

    def write(self, held: Held, record: TokenRecord) -> None:
        """Stores `record` in place of what there is. Raises TokenStoreError."""
        held.check()
        write_private(self._path(record.id), record.dump())

    def delete(self, held: Held, token_id: str) -> None:
        """Removes a record; its token is unknown from now on. Raises TokenStoreError."""
        held.check()
        delete_private(self._path(token_id))
        self._cache.pop(token_id, None)
        if self.last_used is not None:
            self.last_used.forget(token_id)

    def get(self, token_id: str) -> TokenRecord:
        """The record of `token_id`. Raises TokenNotFound, or TokenStoreError when it cannot be trusted."""
        try:
            if _ID.fullmatch(token_id):
                return self._load(token_id)[0]
        except FileNotFoundError:
            pass
        raise TokenNotFound.for_id(token_id[:64])

    def ids(self) -> list[str]:
        """Every token's id, the oldest first. Raises TokenStoreError."""
        if not self._directory.exists():
            return []
        check_directory(self._directory)
        try:
            names = os.listdir(self._directory)
        except OSError as exc:
            raise TokenStoreError(f"cannot list {self._directory}: {exc.strerror}") from exc
        return sorted(name[:-5] for name in names if name.endswith(".json") and _ID.fullmatch(name[:-5]))

    def list(self) -> list[TokenRecord]:
        """Every record, the oldest first. Raises TokenStoreError."""
        return list(self.read(self.ids()))

    def read(self, token_ids: Iterable[str]) -> Iterator[TokenRecord]:
        """The records of `token_ids`, but those deleted meanwhile, and those that cannot be trusted: they give nothing,
        the log names them."""
        for token_id in token_ids:
            try:
                yield self.get(token_id)
            except TokenNotFound:
                continue
            except TokenStoreError as exc:
                log.error("left out, and of no use: %s", exc.detail)

    def _find(self, verified: Verified, remote: str) -> Actor | Refused:
        token_id = verified.token_id
        try:
            record, actor = self._load(token_id)
        except FileNotFoundError:
            self._cache.pop(token_id, None)
            return Refused(Refusal.UNKNOWN_TOKEN, token_id)
        except TokenStoreError as exc:
            return Refused(Refusal.BAD_RECORD, token_id, exc.detail)
        now = self.clock()
        refusals = (
            (record.revoked is not None, Refusal.REVOKED),
            (record.expires is not None and record.expires <= now, Refusal.EXPIRED),
            (not _is_current(record, verified, now), Refusal.REPLACED),
            (not _comes_from(remote, record.networks), Refusal.WRONG_NETWORK),
        )
        for refused, reason in refusals:
            if refused:
                return Refused(reason, token_id)
        return replace(actor, secret=(verified.generation, verified.key))

    def _load(self, token_id: str) -> tuple[TokenRecord, Actor]:
        path = self._path(token_id)
        stamp = stamp_file(path)
        cached = self._cache.get(token_id)
        if cached is None or cached[0] != stamp:
            stamp, data = read_private(path)
            try:
                record = TokenRecord.parse(data)
            except (ValueError, RecursionError) as exc:
                raise TokenStoreError(f"{path}: {exc}") from exc
            if record.id != token_id:
                raise TokenStoreError(f"{path}: the record is of another token")
            cached = stamp, record, *self._actor(record)
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            self._cache[token_id] = cached
        elif cached[3] is not None and cached[3] is not self._pools():
            cached = stamp, cached[1], *self._actor(cached[1])
            self._cache[token_id] = cached
        return cached[1], cached[2]

    def _actor(self, record: TokenRecord) -> tuple[Actor, PoolMap | None]:
        """What the record's grants come to, and the pools that this rests on, if any."""
        pools = self._pools() if any(grant.pools for grant in record.grants) else None
        permits = reachable(record.grants, self._protected, pools)
        expires = format_time(record.expires)
        actor = Actor(record.id, record.name, permits, expires, self._protected, record.limits)
        return replace(actor, pools=fillable(record.grants)), pools

    def _path(self, token_id: str) -> Path:
        return self._directory / f"{token_id}.json"


def _is_current(record: TokenRecord, verified: Verified, now: datetime) -> bool:
    """Whether the secret is one that the record knows, signed by the key it was made with, and not replaced."""
    return any(
        secret.generation == verified.generation
        and secret.key == verified.key
        and (secret.until is None or now < secret.until)
        for secret in record.secrets
    )


def _comes_from(remote: str, networks: tuple[Network, ...]) -> bool:
    if not networks:
        return True
    try:
        address = ipaddress.ip_address(remote.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in networks)
