"""TarWriter: a tree, as the launcher tells of it, as a tar archive (pax, POSIX.1-2001), one entry at a time."""

from __future__ import annotations

import tarfile

from gateway.errors_files import GuestFilesFailed
from gateway.files.accounts import Accounts
from gateway.files.failures import to_error
from gateway.files.wire import End, Failure, FileType, Frame, Name, Status

MAX_LINKED = 65_536
"""Files with several names that are remembered; of more each name becomes a file of its own."""

_BLOCK = 512
_SECOND = 10**9
_TYPES = {FileType.FILE: tarfile.REGTYPE, FileType.DIRECTORY: tarfile.DIRTYPE, FileType.LINK: tarfile.SYMTYPE}


class TarWriter:
    """Fed with all frames of a tree. `entries` and `left_out` are counted.

    The directory itself is the last entry, `./`. FIFOs, sockets, devices, what is mounted in the tree and what cannot
    be read are left out: a comment (pax) at that entry says how many. Holes of sparse files become zeros.
    """

    def __init__(self, root: Status, accounts: Accounts) -> None:
        self.entries = 0
        self.left_out = 0
        self.ended = False
        self._root = root
        self._accounts = accounts
        self._name: bytes | None = None
        self._left = 0
        self._padding = 0
        self._drops = False
        self._linked: dict[tuple[int, int], bytes] = {}

    def feed(self, frame: Frame) -> bytes:
        """What it adds to the archive. Raises what a Failure is, and GuestFilesFailed for what is out of order."""
        if isinstance(frame, bytes):
            return self._add_content(frame)
        if self._left:
            raise to_error(frame) if isinstance(frame, Failure) else _out_of_order()
        name, self._name = self._name, None
        if isinstance(frame, Name) and name is None:
            self._name = frame.path
            return b""
        if isinstance(frame, End) and name is None:
            return self._end()
        if isinstance(frame, Failure):
            if name is None:
                raise to_error(frame)
            self.left_out += 1
            return b""
        if not isinstance(frame, Status) or name is None:
            raise _out_of_order()
        return self._begin(name, frame)

    def _begin(self, name: bytes, status: Status) -> bytes:
        kind = _TYPES.get(status.type)
        if status.type is FileType.FILE:
            self._left, self._padding = status.size, -status.size % _BLOCK
            self._drops = False
        if kind is None or b"\x00" in status.target or (kind == tarfile.SYMTYPE and not status.target):
            self.left_out += 1
            return b""
        self.entries += 1
        info = self._describe(name, status)
        info.type = kind
        if kind == tarfile.SYMTYPE:
            info.linkname = _text(status.target)
        elif kind == tarfile.REGTYPE:
            self._begin_file(info, name, status)
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")

    def _describe(self, name: bytes, status: Status) -> tarfile.TarInfo:
        info = tarfile.TarInfo(_text(name))
        info.mode, info.uid, info.gid = status.mode, status.uid, status.gid
        info.uname = self._accounts.user_names.get(status.uid, "")
        info.gname = self._accounts.group_names.get(status.gid, "")
        info.mtime, rest = divmod(status.mtime, _SECOND)
        if rest:
            info.pax_headers = {"mtime": f"{info.mtime}.{rest:09d}"}
        return info

    def _begin_file(self, info: tarfile.TarInfo, name: bytes, status: Status) -> None:
        key = (status.device, status.inode)
        first = self._linked.get(key) if status.links > 1 else None
        if first is not None:
            info.type, info.linkname = tarfile.LNKTYPE, _text(first)
            self._drops = True
            return
        info.size = status.size
        if status.links > 1 and len(self._linked) < MAX_LINKED:
            self._linked[key] = name

    def _add_content(self, piece: bytes) -> bytes:
        if len(piece) > self._left:
            raise _out_of_order()
        self._left -= len(piece)
        if self._drops:
            return b""
        return piece if self._left else piece + bytes(self._padding)

    def _end(self) -> bytes:
        self.ended = True
        root = self._describe(b"./", self._root)
        root.type = tarfile.DIRTYPE
        if self.left_out:
            told = f"left out: {self.left_out} (FIFOs, sockets, devices, mounts, or not to be read)"
            root.pax_headers = {**root.pax_headers, "comment": told}
        return root.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") + bytes(2 * _BLOCK)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _out_of_order() -> GuestFilesFailed:
    return GuestFilesFailed("our process in the guest answered what it never does; somebody there interferes")
