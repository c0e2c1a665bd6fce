"""The token store: issues tokens, verifies them on every request, revokes them; one private file each."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from gateway import ulid
from gateway.auth.actor import Actor
from gateway.auth.grants import Grant, PoolMap, reachable
from gateway.auth.keyring import KeyRing
from gateway.auth.private import (
    Stamp,
    check_directory,
    make_directory,
    read_private,
    stamp_file,
    write_private,
)
from gateway.auth.records import Network, TokenRecord, format_time, parse_name
from gateway.errors import TokenStoreError

ID_PREFIX = "tk_"
_ID = re.compile(r"tk_[0-9A-HJKMNP-TV-Z]{26}")

Clock = Callable[[], datetime]


class Refusal(StrEnum):
    """Why nobody is known behind a request. For the audit log: the client sees one body for all (401)."""

    NO_TOKEN = "no_token"
    BAD_SIGNATURE = "bad_signature"
    UNKNOWN_TOKEN = "unknown_token"
    REVOKED = "revoked"
    EXPIRED = "expired"
    WRONG_NETWORK = "wrong_network"
    STORE_UNAVAILABLE = "store_unavailable"
    BAD_TICKET = "bad_ticket"


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
    the next request. Whatever is absent, damaged or open to others gives nothing: it fails closed.
    """

    def __init__(
        self,
        directory: Path,
        key_file: Path,
        *,
        protected: Iterable[int] = (),
        pools: Callable[[], PoolMap] = dict,
        clock: Clock = utc_now,
    ) -> None:
        """`pools` gives the pools as they are now: the same object for as long as they are the same."""
        self._directory = directory
        self._keys = KeyRing(key_file)
        self._protected = frozenset(protected)
        self._pools = pools
        self._clock = clock
        self._cache: dict[str, tuple[Stamp, TokenRecord, Actor, PoolMap | None]] = {}

    def verify(self, token: str, remote: str) -> Actor | Refused:
        """The actor that `token` stands for when it comes from address `remote`, or why it is refused."""
        try:
            token_id = self._keys.verify(token)
        except TokenStoreError as exc:
            return Refused(Refusal.STORE_UNAVAILABLE, None, exc.detail)
        if token_id is None:
            return Refused(Refusal.BAD_SIGNATURE)
        return self.recall(token_id, remote)

    def recall(self, token_id: str, remote: str) -> Actor | Refused:
        """The same for one whose token has been verified before: it may have been revoked since."""
        try:
            check_directory(self._directory)
            record, actor = self._load(token_id)
        except FileNotFoundError:
            return Refused(Refusal.UNKNOWN_TOKEN, token_id)
        except TokenStoreError as exc:
            return Refused(Refusal.STORE_UNAVAILABLE, token_id, exc.detail)
        refusals = (
            (record.revoked is not None, Refusal.REVOKED),
            (record.expires is not None and record.expires <= self._clock(), Refusal.EXPIRED),
            (not _comes_from(remote, record.networks), Refusal.WRONG_NETWORK),
        )
        for refused, reason in refusals:
            if refused:
                return Refused(reason, token_id)
        return actor

    def prepare(
        self,
        name: str,
        grants: Iterable[Grant],
        *,
        lifetime: timedelta | None,
        networks: Iterable[Network] = (),
    ) -> TokenRecord:
        """A record for a new token, not stored yet: its audit record comes first. Raises GrantInvalid."""
        now = self._clock()
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
        make_directory(self._directory)
        self._keys.create()

    def issue(self, record: TokenRecord) -> str:
        """Stores a prepared record; the token, which exists nowhere else. Raises TokenStoreError."""
        check_directory(self._directory)
        token = self._keys.sign(record.id)
        write_private(self._path(record.id), record.dump())
        return token

    def get(self, token_id: str) -> TokenRecord:
        """The record of `token_id`. Raises TokenStoreError, also when there is none."""
        try:
            if _ID.fullmatch(token_id):
                return self._load(token_id)[0]
        except FileNotFoundError:
            pass
        raise TokenStoreError(f"no token {token_id[:64]!r} in {self._directory}; see `token list`")

    def revoke(self, record: TokenRecord) -> TokenRecord:
        """Marks `record` revoked for good; its file stays, so that the list still tells of it."""
        revoked = record if record.revoked else replace(record, revoked=self._clock())
        write_private(self._path(record.id), revoked.dump())
        return revoked

    def list(self) -> list[TokenRecord]:
        """Every record, the oldest first. Raises TokenStoreError when one cannot be trusted."""
        if not self._directory.exists():
            return []
        check_directory(self._directory)
        ids = sorted(path.stem for path in self._directory.glob(f"{ID_PREFIX}*.json"))
        return [self.get(token_id) for token_id in ids]

    def check(self) -> None:
        """Raises TokenStoreError when no token could be verified now."""
        check_directory(self._directory)
        self._keys.verify("")

    def _load(self, token_id: str) -> tuple[TokenRecord, Actor]:
        path = self._path(token_id)
        stamp = stamp_file(path)
        cached = self._cache.get(token_id)
        if cached is None or cached[0] != stamp:
            stamp, data = read_private(path)
            try:
                record = TokenRecord.parse(data)
            except ValueError as exc:
                raise TokenStoreError(f"{path}: {exc}") from exc
            if record.id != token_id:
                raise TokenStoreError(f"{path}: the record is of another token")
            cached = stamp, record, *self._actor(record)
            self._cache[token_id] = cached
        elif cached[3] is not None and cached[3] is not self._pools():
            cached = stamp, cached[1], *self._actor(cached[1])
            self._cache[token_id] = cached
        return cached[1], cached[2]

    def _actor(self, record: TokenRecord) -> tuple[Actor, PoolMap | None]:
        """What the record's grants come to, and the pools that this rests on, if any."""
        pools = self._pools() if any(grant.pools for grant in record.grants) else None
        permits = reachable(record.grants, self._protected, pools)
        return Actor(record.id, record.name, permits, format_time(record.expires), self._protected), pools

    def _path(self, token_id: str) -> Path:
        return self._directory / f"{token_id}.json"


def _comes_from(remote: str, networks: tuple[Network, ...]) -> bool:
    if not networks:
        return True
    try:
        address = ipaddress.ip_address(remote.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in networks)
