"""The keys that sign tokens: one hex key a line, the newest first; every key verifies, the newest signs."""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import Path

from itsdangerous import Signer

from gateway.auth.private import Stamp, make_directory, read_private, stamp_file, write_private
from gateway.errors import TokenStoreError

PREFIX = "pveg_"
KEY_BYTES = 32
_KEY = re.compile(rb"[0-9a-f]{64}")
_SALT = b"pve-exec-gateway token"
# 32 bytes are 43 base64 characters; the last has two spare bits, and they must be zero: one form only.
_TOKEN = re.compile(r"pveg_((tk_[0-9A-HJKMNP-TV-Z]{26})\.[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048])")
# Of the right shape, and signed by no key: verifying it costs what verifying a real one costs.
_DUMMY = "tk_" + "0" * 26 + "." + "A" * 43


class KeyRing:
    """The key file, read again when it changes. Whoever can read it can make tokens for every known id."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loaded: tuple[Stamp, Signer] | None = None

    def create(self) -> None:
        """Makes the file with one random key unless it is there. Raises TokenStoreError."""
        make_directory(self._path.parent)
        if not self._path.exists():
            write_private(self._path, secrets.token_hex(KEY_BYTES).encode() + b"\n")

    def sign(self, token_id: str) -> str:
        """The token that carries `token_id`, signed by the newest key. Raises TokenStoreError."""
        return PREFIX + self._signer().sign(token_id).decode()

    def verify(self, token: str) -> str | None:
        """The id that `token` carries, or None when no key signed it. Raises TokenStoreError.

        A token that is not even of the right shape costs the same work as a forged one.
        """
        shape = _TOKEN.fullmatch(token)
        genuine = self._signer().validate(shape[1] if shape else _DUMMY)
        return shape[2] if shape and genuine else None

    def _signer(self) -> Signer:
        try:
            stamp = stamp_file(self._path)
            if self._loaded is None or self._loaded[0] != stamp:
                stamp, data = read_private(self._path)
                self._loaded = stamp, _make_signer(self._path, data)
        except FileNotFoundError as exc:
            raise TokenStoreError(f"no token keys in {self._path}; `token create` makes them") from exc
        return self._loaded[1]


def _make_signer(path: Path, data: bytes) -> Signer:
    keys = data.split()
    if not keys or not all(_KEY.fullmatch(key) for key in keys):
        raise TokenStoreError(f"{path}: a key is {2 * KEY_BYTES} hex digits, one a line; restore the file")
    # itsdangerous signs with the last key of its list.
    return Signer(keys[::-1], salt=_SALT, key_derivation="hmac", digest_method=hashlib.sha256)
