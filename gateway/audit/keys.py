"""The audit key file and what is derived from it: the chain's key, the anchors' key and the redactor."""

from __future__ import annotations

import hmac
import os
import stat
from pathlib import Path

from gateway.errors import ConfigError

KEY_BYTES = 32


class AuditKeys:
    """Independent keys of one secret: who can hash a value cannot therefore make a record."""

    __slots__ = ("anchor", "chain", "redactor")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise ValueError(f"an audit key has {KEY_BYTES} bytes")
        self.chain = _derive(secret, b"chain")
        self.anchor = _derive(secret, b"anchor")
        self.redactor = Redactor(_derive(secret, b"redact"))


class Redactor:
    """Stands keyed hashes in for secrets: equal values look equal, none can be guessed without the key."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def hash(self, value: bytes | str) -> str:
        """`hmac-sha256:` and 64 hex digits. Text is hashed as its UTF-8 bytes, lone surrogates included."""
        raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        return "hmac-sha256:" + hmac.digest(self._key, raw, "sha256").hex()


def create_key(path: Path) -> bool:
    """Make a key file (0600, random) unless there is one; True when it was made now.

    The file appears whole or not at all, and durably. Raises ConfigError when it cannot be written.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, os.urandom(KEY_BYTES))
            os.fsync(fd)
        finally:
            os.close(fd)
        try:
            path.hardlink_to(part)
        except FileExistsError:
            return False
        finally:
            part.unlink()
        _sync_directory(path.parent)
    except OSError as exc:
        raise ConfigError(f"cannot make the audit key {path}: {exc.strerror}") from exc
    return True


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def load_keys(path: Path) -> AuditKeys:
    """Raises ConfigError unless the file is regular, 32 bytes, ours or root's, and closed to all others."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as exc:
        raise ConfigError(f"cannot read the audit key {path}: {exc.strerror}") from exc
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_uid not in (0, os.geteuid()) or info.st_mode & 0o077:
            raise ConfigError(f"the audit key {path} must be a file of its service's user with mode 0600")
        secret = os.read(fd, KEY_BYTES + 1)
    finally:
        os.close(fd)
    if len(secret) != KEY_BYTES:
        raise ConfigError(f"the audit key {path} must hold {KEY_BYTES} bytes; restore it from a backup")
    return AuditKeys(secret)


def _derive(secret: bytes, purpose: bytes) -> bytes:
    return hmac.digest(secret, b"pve-exec-gateway audit " + purpose, "sha256")
