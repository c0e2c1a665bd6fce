"""Unpacker: a guest's archive, which is not trusted, into a directory here: no link is followed, nothing gets out.

Why not tarfile's `data` filter: it looks at paths as text before it opens them, and has been fooled by links more than
once (CVE-2025-4138, -4330, -4517); Python 3.11.2 has none; and it refuses links that lead out, which /etc is full of.
Here each directory is opened from the one above it with O_NOFOLLOW, and links are made but never gone through.
"""

from __future__ import annotations

import errno
import io
import os
import secrets
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO

from pvex.errors import ClientError, Cut
from pvex.holes import HoleWriter

_PIECE = 256 << 10
_SECOND = 10**9
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ASTRAY = frozenset({errno.ELOOP, errno.ENOTDIR})


class Unpacker:
    """Each file replaces another at once and when it is whole. Modes go through our umask and without setuid, setgid
    and sticky bits; owners are ours. Directories that are there stay as they are."""

    def __init__(self, root: int, name: str) -> None:
        """`root`: a descriptor of the directory called `name`; it stays the caller's."""
        self._root = root
        self._root_name = name
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._new: list[tuple[list[str], int]] = []
        """Directories that we have made and are still in, and the times that they get when we leave."""
        self.entries = 0
        self.left_out = ""
        """What the gateway says that it has left out."""

    def unpack(self, pieces: Iterator[bytes]) -> None:
        """All of it. Raises ClientError for what cannot be made here, Cut for an archive that is not whole."""
        try:
            tar = tarfile.open(  # noqa: SIM115  # it owns nothing
                fileobj=_Reader(pieces), mode="r|", encoding="utf-8", errors="surrogateescape"
            )
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                parts = _split(info.name)
                if not parts:  # `./`, the last one
                    self._leave([])
                    self.left_out = info.pax_headers.get("comment", "")
                    return
                self._leave(parts[:-1])
                self._take(info, parts, tar)
        except tarfile.TarError as exc:
            raise Cut(f"what came is no whole archive: {exc}") from exc
        raise Cut("the archive broke off")

    def _take(self, info: tarfile.TarInfo, parts: list[str], tar: tarfile.TarFile) -> None:
        shown = os.path.join(self._root_name, *parts)
        try:
            parent = self._open(parts[:-1])
            try:
                if info.isdir():
                    self._make_directory(info, parts, parent)
                elif info.issym():
                    self._replace(parent, parts[-1], lambda new: os.symlink(info.linkname, new, dir_fd=parent))
                elif info.islnk():
                    self._link(info, parts, parent)
                elif info.isreg():
                    content = tar.extractfile(info)
                    assert content is not None
                    self._replace(parent, parts[-1], lambda new: self._write(info, content, new, parent))
                else:
                    return
                self.entries += 1
            finally:
                os.close(parent)
        except OSError as exc:
            raise refuse(shown, exc) from exc

    def _open(self, parts: list[str]) -> int:
        """A directory below the root. Those on the way that are missing are made."""
        at = os.dup(self._root)
        for part in parts:
            try:
                below = _enter(part, at)
            finally:
                os.close(at)
            at = below
        return at

    def _make_directory(self, info: tarfile.TarInfo, parts: list[str], parent: int) -> None:
        try:
            os.mkdir(parts[-1], 0o700, dir_fd=parent)
        except FileExistsError:
            os.close(os.open(parts[-1], _DIRECTORY, dir_fd=parent))
            return
        made = os.open(parts[-1], _DIRECTORY, dir_fd=parent)
        try:
            os.fchmod(made, self._mode(info) | stat.S_IRWXU)
        finally:
            os.close(made)
        self._new.append((parts, _moment(info)))

    def _link(self, info: tarfile.TarInfo, parts: list[str], parent: int) -> None:
        first = _split(info.linkname)
        if not first:
            raise ClientError(f"{'/'.join(parts)}: a link to nothing; the guest's archive is odd")
        there = self._open(first[:-1])
        try:
            self._replace(
                parent,
                parts[-1],
                lambda new: os.link(first[-1], new, src_dir_fd=there, dst_dir_fd=parent, follow_symlinks=False),
            )
        finally:
            os.close(there)

    def _write(self, info: tarfile.TarInfo, content: IO[bytes], new: str, parent: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(new, flags, 0o600, dir_fd=parent), "wb") as file:
            writer = HoleWriter(file)
            while piece := content.read(_PIECE):
                writer.write(piece)
            writer.finish()
            os.fchmod(file.fileno(), self._mode(info))
            os.utime(file.fileno(), ns=(_moment(info), _moment(info)))

    def _replace(self, parent: int, name: str, make: Callable[[str], None]) -> None:
        """Makes it under a name that nobody knows, and puts that in the place."""
        new = f".pvex-{secrets.token_hex(8)}"
        try:
            make(new)
            os.replace(new, name, src_dir_fd=parent, dst_dir_fd=parent)
        finally:
            with suppress(OSError):  # it failed, or both were names of one file: then rename(2) does nothing
                os.unlink(new, dir_fd=parent)

    def _mode(self, info: tarfile.TarInfo) -> int:
        return info.mode & 0o777 & ~self._umask

    def _leave(self, parts: list[str]) -> None:
        """Gives the directories that we are out of their times."""
        while self._new and self._new[-1][0] != parts[: len(self._new[-1][0])]:
            path, moment = self._new.pop()
            with suppress(OSError):  # it was moved away meanwhile
                parent = self._open(path[:-1])
                try:
                    made = os.open(path[-1], _DIRECTORY, dir_fd=parent)
                    os.utime(made, ns=(moment, moment))
                    os.close(made)
                finally:
                    os.close(parent)


def refuse(path: str, error: OSError) -> ClientError:
    """What cannot be made or opened here."""
    if error.errno in _ASTRAY:
        return ClientError(f"{path}: here a link or a file is in the way; move that, or copy elsewhere")
    return ClientError(f"{path}: {error.strerror or error}")


class _Reader(io.RawIOBase):
    """The pieces as a file that is read once; tarfile takes pieces of any size."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def read(self, size: int = -1, /) -> bytes:
        return next(self._pieces, b"")


def _enter(name: str, at: int) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=at)
    except FileNotFoundError:
        os.mkdir(name, 0o777, dir_fd=at)
        return os.open(name, _DIRECTORY, dir_fd=at)


def _split(path: str) -> list[str]:
    """The parts of a path of the archive. Raises ClientError for one that leads out of it."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts:
        raise ClientError(f"{path}: the guest's archive names what is outside of it; nothing of that is made")
    return parts


def _moment(info: tarfile.TarInfo) -> int:
    """Its time in nanoseconds, as exact as it was told."""
    try:
        whole, _, rest = info.pax_headers.get("mtime", f"{info.mtime:.0f}").partition(".")
        return min(max(0, int(whole)), 2**33) * _SECOND + int(rest[:9].ljust(9, "0") or 0)
    except ValueError:
        return 0
