"""Files that nobody else may read: checked before they are trusted, replaced whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import TokenStoreError

MAX_BYTES = 64 << 10


@dataclass(frozen=True)
class Stamp:
    """What tells one version of a file from the next. Times on pmxcfs are whole seconds: see `records.pad`."""

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
    """The file's bytes and the stamp they belong to. Raises as `stamp_file` does, also past 64 KiB.

    The stamp is taken before the bytes: where it is older than they are, the next look at the file tells.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise TokenStoreError(f"cannot read {path}: {exc.strerror}") from exc
    try:
        info = os.fstat(fd)
        _check(path, info, stat.S_IFREG)
        # At once: pmxcfs looks the path up at every read, and the file may be replaced between two.
        data = os.read(fd, MAX_BYTES + 1)
    except OSError as exc:
        raise TokenStoreError(f"cannot read {path}: {exc.strerror}") from exc
    finally:
        os.close(fd)
    if len(data) > MAX_BYTES:
        raise TokenStoreError(f"{path} is larger than {MAX_BYTES} bytes")
    return Stamp(info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns), data


def check_directory(path: Path) -> bool:
    """Raises TokenStoreError unless `path` is a directory of ours with no rights for anybody else.

    Whether its owner may write there: pmxcfs takes those bits off everything while the node has no quorum
    (cfs-plug-memdb.c, tree_entry_stat).
    """
    try:
        info = path.lstat()
    except OSError as exc:
        raise TokenStoreError(f"cannot use {path}: {exc.strerror}") from exc
    _check(path, info, stat.S_IFDIR)
    return bool(info.st_mode & stat.S_IWUSR)


def make_directory(path: Path) -> None:
    """Makes `path` with mode 0700, its parents too, unless it is there. Raises TokenStoreError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as exc:
        raise TokenStoreError(f"cannot make {path}: {explain(exc)}") from exc
    check_directory(path)


def write_private(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replaces `path` by a new durable file of that mode, in one step. Raises TokenStoreError.

    One writer at a time, which is the caller's matter (`lock`); what one left half-written the next takes away.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        part.replace(path)
        _sync_directory(path.parent)
    except OSError as exc:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise TokenStoreError(f"cannot write {path}: {explain(exc)}") from exc


def delete_private(path: Path) -> None:
    """Deletes `path` durably; one that is not there is no error. Raises TokenStoreError."""
    try:
        path.unlink(missing_ok=True)
        _sync_directory(path.parent)
    except OSError as exc:
        raise TokenStoreError(f"cannot delete {path}: {explain(exc)}") from exc


def explain(error: OSError) -> str:
    """What an error of writing means on a node, and what to look at."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.strerror}: it is read-only, as /etc/pve is without quorum; see `pvecm status`"
    if error.errno in (errno.EFBIG, errno.ENOSPC, errno.EDQUOT):
        return f"{error.strerror}: no room is left (/etc/pve holds 128 MiB); see `token prune`"
    return error.strerror or str(error)


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
