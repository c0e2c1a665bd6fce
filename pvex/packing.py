"""Packing: a directory here as a tar archive (pax, POSIX.1-2001), entry by entry; no link in it is followed."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from pvex.errors import ClientError

MAX_ENTRIES = 100_000
"""What the gateway takes in one archive."""
MAX_LINKED = 65_536
"""Files with several names that are remembered; of more each name becomes a file of its own."""

_PIECE = 256 << 10
_BLOCK = 512
_SECOND = 10**9


@dataclass(frozen=True)
class Survey:
    """What a directory holds: `size` in bytes of all files; `left_out`: FIFOs, sockets and devices."""

    size: int
    left_out: int


@dataclass(frozen=True)
class Found:
    """Something in the directory: `name` is its path in there, empty for the directory itself."""

    name: str
    path: str
    about: os.stat_result


def survey(root: str) -> Survey:
    """Looks at all of it before anything is sent. Raises ClientError for what cannot be read."""
    size = left_out = 0
    for found in walk(root):
        mode = found.about.st_mode
        if stat.S_ISREG(mode):
            size += found.about.st_size
            if not os.access(found.path, os.R_OK):
                raise ClientError(f"{found.path}: Permission denied; nothing was copied")
        left_out += not _is_packed(mode)
    return Survey(size, left_out)


def walk(root: str) -> Iterator[Found]:
    """The directory itself and all below it, each directory before what is in it. Raises ClientError."""
    with _told(root):
        yield Found("", root, os.stat(root))
    below = [""]
    while below:
        name = below.pop()
        path = os.path.join(root, name)
        with _told(path), os.scandir(path) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
        for entry in entries:
            with _told(entry.path):
                about = entry.stat(follow_symlinks=False)
            inner = os.path.join(name, entry.name)
            if stat.S_ISDIR(about.st_mode):
                below.append(inner)
            yield Found(inner, entry.path, about)


class Packer:
    """Makes one directory into archives. They are root's in the guest: numbers and names of this machine mean nothing
    there. `prefix`: the directory's path in the archive, empty where its content goes to the top."""

    def __init__(self, root: str, prefix: str) -> None:
        self.done = False
        """Whether all is in the archives that were read to their end."""
        self._entries = walk(root)
        self._prefix = prefix
        self._linked: dict[tuple[int, int], str] = {}

    def archive(self) -> Iterator[bytes]:
        """The next archive, in pieces. Raises ClientError when something cannot be read to its end."""
        pending = bytearray()
        self.done = True
        for found in islice(self._entries, MAX_ENTRIES):
            self.done = False
            for piece in self._entry(found):
                pending += piece
                if len(pending) >= _PIECE:
                    yield bytes(pending)
                    pending.clear()
        yield bytes(pending + bytes(2 * _BLOCK))

    def _entry(self, found: Found) -> Iterator[bytes]:
        mode = found.about.st_mode
        if not _is_packed(mode):
            return
        name = os.path.join(self._prefix, found.name).rstrip("/") or "."
        if stat.S_ISREG(mode):
            yield from self._file(found, name)
            return
        info = _describe(name, found.about)
        if stat.S_ISLNK(mode):
            info.type = tarfile.SYMTYPE
            with _told(found.path):
                info.linkname = os.readlink(found.path)
        else:
            info.type = tarfile.DIRTYPE
        yield _header(info)

    def _file(self, found: Found, name: str) -> Iterator[bytes]:
        with _told(found.path), open(os.open(found.path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            about = os.fstat(file.fileno())
            info = _describe(name, about)
            first = self._remember(about, name)
            if first is not None:
                info.type, info.linkname = tarfile.LNKTYPE, first
                yield _header(info)
                return
            info.size = about.st_size
            yield _header(info)
            left = info.size
            while left:
                piece = file.read(min(_PIECE, left))
                if not piece:
                    raise ClientError(f"{found.path} was cut short while it was copied; copy it again")
                left -= len(piece)
                yield piece
            yield bytes(-info.size % _BLOCK)

    def _remember(self, about: os.stat_result, name: str) -> str | None:
        """The name that a file with several was sent under before."""
        if about.st_nlink < 2:
            return None
        key = (about.st_dev, about.st_ino)
        if key not in self._linked and len(self._linked) < MAX_LINKED:
            self._linked[key] = name
            return None
        return self._linked.get(key)


@contextmanager
def _told(path: str) -> Iterator[None]:
    """What the system refuses is told with the path, and never taken for a fault of the connection."""
    try:
        yield
    except OSError as exc:
        raise ClientError(f"{path}: {exc.strerror or exc}") from exc


def _is_packed(mode: int) -> bool:
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)


def _describe(name: str, about: os.stat_result) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode = stat.S_IMODE(about.st_mode)
    info.mtime, rest = divmod(max(0, about.st_mtime_ns), _SECOND)
    if rest:
        info.pax_headers = {"mtime": f"{info.mtime}.{rest:09d}"}
    return info


def _header(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
