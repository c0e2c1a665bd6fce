"""The keys that sign tokens: the newest signs, every one verifies until it is retired."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from itsdangerous import Signer

from gateway.auth.private import Stamp, make_directory, read_private, stamp_file, write_private
from gateway.auth.records import format_time, pad
from gateway.errors import KeyRingRefused, TokenStoreError

PREFIX = "pveg_"
KEY_BYTES = 32
MAX_KEYS = 16
_VERSION = 1
_KEY = re.compile(r"[0-9a-f]{64}")
_SALT = b"pve-exec-gateway token"
# 32 bytes are 43 base64 characters; the last has two spare bits, and they must be zero: one form only.
_TOKEN = re.compile(
    r"pveg_((tk_[0-9A-HJKMNP-TV-Z]{26})\.([1-9][0-9]{0,8})\.[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048])", re.ASCII
)
# Of the right shape, and signed by no key: verifying it costs what verifying a real one costs.
_DUMMY = "tk_" + "0" * 26 + ".1." + "A" * 43


@dataclass(frozen=True)
class Verified:
    """What a genuine token carries, and the key that signed it."""

    token_id: str
    generation: int
    key: str


@dataclass(frozen=True)
class Key:
    """One key. `id` is the beginning of its SHA-256, and no secret; repr shows nothing else."""

    id: str
    created: str
    signer: Signer
    secret: str

    def __repr__(self) -> str:
        return f"Key({self.id})"


@dataclass(frozen=True)
class _Ring:
    revision: int
    keys: tuple[Key, ...]


class KeyRing:
    """The key file, read again when it changes. Whoever can read it can make tokens for every known id.

    Whoever changes it holds the store's lock.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loaded: tuple[Stamp, _Ring] | None = None

    @property
    def exists(self) -> bool:
        return self._path.exists()

    def create(self, now: datetime) -> None:
        """Makes the file with one random key unless it is there. Raises TokenStoreError."""
        if not self._path.exists():
            make_directory(self._path.parent)
            self._write(_Ring(1, (_make_key(now),)))

    def sign(self, token_id: str, generation: int) -> tuple[str, str]:
        """The token that carries `token_id` and `generation`, and the newest key's id. Raises TokenStoreError."""
        key = self._ring().keys[0]
        return PREFIX + key.signer.sign(f"{token_id}.{generation}").decode(), key.id

    def verify(self, token: str) -> Verified | None:
        """What `token` carries, or None when no key signed it. Raises TokenStoreError.

        A token that is not even of the right shape costs the same work as a forged one, and so does a genuine one.
        """
        shape = _TOKEN.fullmatch(token)
        signed = shape[1] if shape else _DUMMY
        by = [key.id for key in self._ring().keys if key.signer.validate(signed)]
        return Verified(shape[2], int(shape[3]), by[0]) if shape and by else None

    def has(self, key_id: str) -> bool:
        """Whether the key is in the ring still. Raises TokenStoreError."""
        return any(key.id == key_id for key in self._ring().keys)

    def list(self) -> tuple[Key, ...]:
        """The keys, the newest first: that is the one that signs. Raises TokenStoreError."""
        return self._ring().keys

    def prepare_rotation(self, now: datetime) -> tuple[Key, Callable[[], None]]:
        """A new key, and what makes it the one that signs. Raises TokenStoreError, KeyRingRefused."""
        ring = self._ring()
        if len(ring.keys) >= MAX_KEYS:
            raise KeyRingRefused(f"a ring holds at most {MAX_KEYS} keys; `keys retire` one that signs no token")
        key = _make_key(now)
        return key, lambda: self._write(_Ring(ring.revision + 1, (key, *ring.keys)))

    def prepare_retirement(self, key_id: str) -> Callable[[], None]:
        """What takes a key away, its tokens with it. Raises KeyRingRefused for the newest or an unknown one."""
        ring = self._ring()
        if key_id not in {key.id for key in ring.keys}:
            raise KeyRingRefused(f"no key {key_id[:64]!r} in the ring; see `keys list`")
        if key_id == ring.keys[0].id:
            raise KeyRingRefused(f"key {key_id} is the one that signs; `keys rotate` first")
        rest = tuple(key for key in ring.keys if key.id != key_id)
        return lambda: self._write(_Ring(ring.revision + 1, rest))

    def _ring(self) -> _Ring:
        try:
            stamp = stamp_file(self._path)
            loaded = self._loaded
            if loaded is None or loaded[0] != stamp:
                stamp, data = read_private(self._path)
                self._loaded = loaded = stamp, _parse(self._path, data)
        except FileNotFoundError as exc:
            raise TokenStoreError(f"no token keys in {self._path}; `token create` makes them") from exc
        return loaded[1]

    def _write(self, ring: _Ring) -> None:
        keys = [{"id": key.id, "created": key.created, "key": key.secret} for key in ring.keys]
        data = {"version": _VERSION, "revision": ring.revision, "keys": keys}
        write_private(self._path, pad(json.dumps(data, indent=2).encode(), ring.revision))


def _make_key(now: datetime) -> Key:
    return _key(secrets.token_hex(KEY_BYTES), format_time(now) or "")


def _key(secret: str, created: str) -> Key:
    raw = bytes.fromhex(secret)
    signer = Signer(secret, salt=_SALT, key_derivation="hmac", digest_method=hashlib.sha256)
    return Key(hashlib.sha256(_SALT + raw).hexdigest()[:12], created, signer, secret)


def _parse(path: Path, data: bytes) -> _Ring:
    try:
        fields = json.loads(data)
        keys = tuple(_parse_key(item) for item in fields["keys"])
        if fields["version"] == _VERSION and type(fields["revision"]) is int and keys:
            return _Ring(fields["revision"], keys)
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise TokenStoreError(f"{path}: not a key ring; restore the file") from None


def _parse_key(data: Any) -> Key:
    if not _KEY.fullmatch(data["key"]):
        raise ValueError("not a key")
    key = _key(data["key"], str(data["created"]))
    if key.id != data["id"]:
        raise ValueError("a key under another's id")
    return key
