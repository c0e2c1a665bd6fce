"""The frames that web and the launcher's file mode speak; `gateway/launcher/files.h` is their source.

What comes from a guest is untrusted: its root can answer in the launcher's place. All of it is bounded here.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum

FRAME_MAX = 256 << 10
MAX_PATH = 4095
"""PATH_MAX without the NUL."""
HEADER = struct.Struct("<II")

NOFOLLOW, EXCLUSIVE, RECURSIVE, BELOW, LATER, TIMED = 1, 2, 4, 8, 16, 32
WHOLE = 1 << 62
"""As `length`: to the end."""

PROGRESS_SECONDS = 5.0
"""How often a launcher says so, at most."""

_REQUEST = struct.Struct("<IIIIQQ")
_ANSWER = struct.Struct("<IIIIQQQQ")
_ERROR = struct.Struct("<II")
_ENTRY = struct.Struct("<QqHB")
_MAX_TARGET = 4096
_MAX_ENTRY = 4096 + 24
"""More than any file system's longest name takes, with what stands around it."""


class WireError(Exception):
    """What came is nothing that the launcher says."""


class Step(IntEnum):
    """What could not be done (enum files_step)."""

    PATH = 0
    CREATE = 1
    DATA = 2
    OWNER = 3
    MODE = 4
    PLACE = 5
    AGENT = 6
    """Of no launcher: what stands in the place of the errno is a Cause (gateway.files.machine)."""


class FileType(StrEnum):
    """What stands at a path."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    FIFO = "fifo"
    SOCKET = "socket"
    CHARACTER_DEVICE = "character-device"
    BLOCK_DEVICE = "block-device"
    UNKNOWN = "unknown"


_TYPES = {
    stat.S_IFREG: FileType.FILE,
    stat.S_IFDIR: FileType.DIRECTORY,
    stat.S_IFLNK: FileType.LINK,
    stat.S_IFIFO: FileType.FIFO,
    stat.S_IFSOCK: FileType.SOCKET,
    stat.S_IFCHR: FileType.CHARACTER_DEVICE,
    stat.S_IFBLK: FileType.BLOCK_DEVICE,
}


@dataclass(frozen=True)
class Status:
    """What the guest says stands at a path. `target`: where a link leads; `mtime` in nanoseconds."""

    st_mode: int
    uid: int
    gid: int
    size: int
    inode: int
    device: int
    mtime: int
    target: bytes
    links: int = 1

    @property
    def type(self) -> FileType:
        return _TYPES.get(stat.S_IFMT(self.st_mode), FileType.UNKNOWN)

    @property
    def mode(self) -> int:
        """The permissions, set-user-id and the like among them."""
        return stat.S_IMODE(self.st_mode)


@dataclass(frozen=True)
class Failure:
    """What could not be done, and why."""

    errno: int
    step: Step


class End:
    """Nothing follows."""


class Progress:
    """It is still at work."""


@dataclass(frozen=True)
class Name:
    """The path in its tree of what is told next."""

    path: bytes


Frame = Status | Failure | End | Progress | Name | bytes
"""What a launcher can say; bytes are a piece of content."""


def request(
    kind: bytes,
    path: bytes,
    *,
    flags: int = 0,
    mode: int = 0,
    uid: int = 0,
    gid: int = 0,
    offset: int = 0,
    length: int = 0,
) -> bytes:
    """One request, framed."""
    body = _REQUEST.pack(flags, mode, uid, gid, offset, length) + path + b"\x00"
    return HEADER.pack(kind[0], len(body)) + body


def data_header(size: int) -> bytes:
    """What stands before a piece of content, of at most FRAME_MAX bytes."""
    return HEADER.pack(ord("D"), size)


def check_header(header: bytes) -> tuple[str, int]:
    """The kind and length of the frame that begins so. Raises WireError."""
    kind, length = HEADER.unpack(header)
    bounds = _BOUNDS.get(chr(kind & 0x7F)) if kind < 0x80 else None
    if bounds is None or not bounds[0] <= length <= bounds[1]:
        raise WireError("a frame that the launcher does not send")
    return chr(kind), length


_BOUNDS = {
    "A": (_ANSWER.size, _ANSWER.size + _MAX_TARGET),
    "D": (1, FRAME_MAX),
    "E": (_ERROR.size, _ERROR.size),
    "N": (1, MAX_PATH),
    "P": (0, 0),
    "Z": (0, 0),
}


def parse(kind: str, body: bytes) -> Frame:
    """The frame of this kind, whose length has been checked. Raises WireError."""
    if kind == "A":
        mode, uid, gid, links, size, inode, device, mtime = _ANSWER.unpack_from(body)
        if size >= 1 << 63:
            raise WireError("a size that no file has")
        return Status(mode, uid, gid, size, inode, device, mtime, body[_ANSWER.size :], links)
    if kind == "E":
        number, step = _ERROR.unpack(body)
        if step not in _STEPS:
            raise WireError("a step that does not exist")
        return Failure(number, Step(step))
    if kind == "N":
        if b"\x00" in body or any(part in (b"", b".", b"..") for part in body.split(b"/")):
            raise WireError("a path that nothing in a tree has")
        return Name(body)
    if kind == "P":
        return Progress()
    return End() if kind == "Z" else body


_STEPS = frozenset(Step)


def entry_names(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The names in a directory that comes, in any pieces, as getdents64(2) gives it; without `.` and `..`.

    Whoever takes so many names and no more has read a bounded number of bytes. Raises WireError.
    """
    rest, own = b"", 0
    for piece in pieces:
        rest, at = rest + piece, 0
        while at + _ENTRY.size <= len(rest):
            length = _ENTRY.unpack_from(rest, at)[2]
            if not _ENTRY.size < length <= _MAX_ENTRY:
                raise WireError("an entry without a name, or with more than one")
            if at + length > len(rest):
                break
            name, nul, _ = rest[at + _ENTRY.size : at + length].partition(b"\x00")
            if not nul or not name or b"/" in name:
                raise WireError("a name that no file has")
            if name not in (b".", b".."):
                yield name
            elif (own := own + 1) > 2:
                raise WireError("a directory that names itself without end")
            at += length
        rest = rest[at:]
    if rest:
        raise WireError("half an entry")
