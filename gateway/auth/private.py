"""Files that nobody else may read: checked before they are trusted, replaced whole or not at all."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import TokenStoreError

MAX_BYTES = 64 << 10


@dataclass(frozen=True)
class Stamp:
    """What tells one version of a file from the next. On pmxcfs (inode, size) tells, mtimes are coarse."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def stamp_file(path: Path) -> Stamp:
    """The file's stamp now. Raises FileNotFoundError; TokenStoreError when it is open to others."""
    try:
        info = path.lstat()
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise TokenStoreError(f"cannot read {path}: {exc.strerror}") from exc
    _check(path, info, stat.S_IFREG)
    return Stamp(info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def read_private(path: Path) -> tuple[Stamp, bytes]:
    """The file's bytes and the stamp they belong to. Raises as `stamp_file` does, also past 64 KiB."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise TokenStoreError(f"cannot read {path}: {exc.strerror}") from exc
    with os.fdopen(fd, "rb") as file:
        info = os.fstat(fd)
        _check(path, info, stat.S_IFREG)
        try:
            data = file.read(MAX_BYTES + 1)
        except OSError as exc:
            raise TokenStoreError(f"cannot read {path}: {exc.strerror}") from exc
    if len(data) > MAX_BYTES:
        raise TokenStoreError(f"{path} is larger than {MAX_BYTES} bytes")
    return Stamp(info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns), data


def check_directory(path: Path) -> None:
    """Raises TokenStoreError unless `path` is a directory of ours with no rights for anybody else."""
    try:
        info = path.lstat()
    except OSError as exc:
        raise TokenStoreError(f"cannot use {path}: {exc.strerror}") from exc
    _check(path, info, stat.S_IFDIR)


def make_directory(path: Path) -> None:
    """Makes `path` with mode 0700, its parents too, unless it is there. Raises TokenStoreError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as exc:
        raise TokenStoreError(f"cannot make {path}: {exc.strerror}") from exc
    check_directory(path)


def write_private(path: Path, data: bytes) -> None:
    """Replaces `path` by a new durable file of mode 0600, in one step. Raises TokenStoreError."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.unlink(missing_ok=True)
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        part.replace(path)
        _sync_directory(path.parent)
    except OSError as exc:
        part.unlink(missing_ok=True)
        raise TokenStoreError(f"cannot write {path}: {exc.strerror}") from exc


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _check(path: Path, info: os.stat_result, kind: int) -> None:
    if stat.S_IFMT(info.st_mode) != kind:
        raise TokenStoreError(f"{path} is not a {'directory' if kind == stat.S_IFDIR else 'regular file'}")
    if info.st_uid not in (0, os.geteuid()):
        raise TokenStoreError(f"{path} belongs to uid {info.st_uid}; it must belong to the service's user")
    if info.st_mode & 0o077:
        mode = "0700" if kind == stat.S_IFDIR else "0600"
        raise TokenStoreError(f"{path} is open to others (mode {info.st_mode & 0o7777:04o}); chmod {mode} it")
