"""One node's mount: FUSE's requests as pmxcfs answers them (pmxcfs.c), with inodes and caches as libfuse has them.

An inode is libfuse's number of a path. A rename made on this node moves the number; of one made on another node
libfuse knows nothing, so the replaced file keeps its number. Attributes and names are cached for a second.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from pathlib import Path

from .memdb import Entry, Memdb, Refusal

CACHE_SECONDS = 1
WWW_DATA = 33
_DIRECT_IO = 1  # FOPEN_DIRECT_IO: no shared mmap
_MODE, _UID, _GID, _SIZE, _MTIME, _MTIME_NOW = 1, 2, 4, 8, 32, 256  # FATTR_*
_HEADER = struct.Struct("<IIQQIIIHH")
_ATTRIBUTES = struct.Struct("<6Q10I")
_NO_REPLY = frozenset({2, 36, 42})  # FORGET, INTERRUPT, BATCH_FORGET
_libc = ctypes.CDLL(None, use_errno=True)


class Node:
    """A node's view of the tree at `mountpoint`, by a descriptor of /dev/fuse that the caller polls."""

    def __init__(self, memdb: Memdb, number: int, mountpoint: Path) -> None:
        self.memdb = memdb
        self.number = number
        self.quorate = True
        self.fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        self._paths = {1: ""}
        self._last = 1
        options = f"fd={self.fd},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
        if _libc.mount(b"pmxcfs", os.fsencode(mountpoint), b"fuse", 6, options.encode()):  # MS_NOSUID | MS_NODEV
            raise OSError(ctypes.get_errno(), f"cannot mount {mountpoint}")

    def answer(self) -> None:
        """Takes one request and answers it. Raises OSError (ENODEV) when it has been unmounted."""
        request = os.read(self.fd, 1 << 18)
        _, operation, unique, number, *_ = _HEADER.unpack_from(request)
        body = request[_HEADER.size :]
        if operation in _NO_REPLY:
            return
        try:
            reply, error = self._answer(operation, number, body), 0
        except Refusal as refusal:
            reply, error = b"", -refusal.number
        os.write(self.fd, struct.pack("<IiQ", 16 + len(reply), error, unique) + reply)

    def _answer(self, operation: int, number: int, body: bytes) -> bytes:
        if operation == 26:  # INIT
            major, minor, readahead, _ = struct.unpack_from("<4I", body)
            return struct.pack("<4I2H2I2H2I6I", major, min(minor, 31), readahead, 0, 12, 9, 1 << 17, 1, *[0] * 10)
        handler = _HANDLERS.get(operation)
        if handler is None:
            raise Refusal(errno.ENOSYS)  # symlink, link, mknod, fsync, flush, locks, xattr
        if number not in self._paths:
            raise Refusal(errno.ENOENT)
        return handler(self, self._paths[number], body)

    # ---- looking

    def _lookup(self, path: str, body: bytes) -> bytes:
        return self._entry(_join(path, body))

    def _getattr(self, path: str, body: bytes) -> bytes:
        return struct.pack("<QII", CACHE_SECONDS, 0, 0) + self._attributes(path, self.memdb.get(path))

    def _open(self, path: str, body: bytes) -> bytes:
        self.memdb.get(path)
        return struct.pack("<QII", 0, _DIRECT_IO, 0)

    def _read(self, path: str, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        return self.memdb.get(path).data[offset : offset + size]

    def _opendir(self, path: str, body: bytes) -> bytes:
        return struct.pack("<QII", 0, 0, 0)

    def _readdir(self, path: str, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        reply = b""
        names = [".", "..", *(child.rpartition("/")[2] for child in self.memdb.children(path))]
        for place, name in enumerate(names[offset:], offset + 1):
            raw = name.encode()
            item = struct.pack("<QQII", 0xFFFFFFFF, place, len(raw), 0) + raw
            item += b"\0" * (-len(item) % 8)
            if len(reply) + len(item) > size:
                break
            reply += item
        return reply

    def _statfs(self, path: str, body: bytes) -> bytes:
        return struct.pack("<5Q4I24x", 32768, 32768, 32768, 262144, 262144, 4096, 256, 4096, 0)

    def _nothing(self, path: str, body: bytes) -> bytes:
        return b""

    # ---- changing

    def _setattr(self, path: str, body: bytes) -> bytes:
        valid, _, _, size, _, _, mtime = struct.unpack_from("<IIQQQQQ", body)
        mode, uid, gid = (struct.unpack_from("<I", body, place)[0] for place in (68, 76, 80))
        # cfs_fuse_chmod, cfs_fuse_chown: what it is anyway, and nothing else
        if valid & _MODE and mode & 0o7777 != (0o600 if _is_private(path) else 0o640):
            raise Refusal(errno.EPERM)
        if (valid & _UID and uid != 0) or (valid & _GID and gid != WWW_DATA):
            raise Refusal(errno.EPERM)
        if valid & _SIZE:
            self._require_quorum()
            self.memdb.truncate(path, self.number, size)
        if valid & (_MTIME | _MTIME_NOW):
            self._require_quorum()
            self.memdb.touch(path, self.number, int(self.memdb.now()) if valid & _MTIME_NOW else mtime)
        if path not in self.memdb.entries:  # a stale lock, gone by this
            return struct.pack("<QII", 0, 0, 0) + self._attributes(path, Entry(True, 0, 0))
        return self._getattr(path, b"")

    def _mkdir(self, path: str, body: bytes) -> bytes:
        return self._make(_join(path, body[8:]), directory=True)

    def _create(self, path: str, body: bytes) -> bytes:
        return self._make(_join(path, body[16:]), directory=False) + struct.pack("<QII", 0, _DIRECT_IO, 0)

    def _make(self, path: str, *, directory: bool) -> bytes:
        self._require_quorum()
        self.memdb.make(path, self.number, directory=directory)
        return self._entry(path)

    def _write(self, path: str, body: bytes) -> bytes:
        self._require_quorum()
        _, offset, size = struct.unpack_from("<QQI", body)
        return struct.pack("<II", self.memdb.write(path, self.number, body[40 : 40 + size], offset), 0)

    def _remove(self, path: str, body: bytes) -> bytes:
        self._require_quorum()
        gone = _join(path, body)
        self.memdb.delete(gone)
        self._paths = {number: known for number, known in self._paths.items() if known != gone}
        return b""

    def _rename(self, path: str, body: bytes) -> bytes:
        return self._move(path, body, 8)

    def _rename2(self, path: str, body: bytes) -> bytes:
        return self._move(path, body, 16)

    def _move(self, path: str, body: bytes, head: int) -> bytes:
        self._require_quorum()
        old_name, new_name = body[head:].split(b"\0")[:2]
        directory = self._paths[struct.unpack_from("<Q", body)[0]]
        old, new = _join(path, old_name), _join(directory, new_name)
        self.memdb.rename(old, new, self.number)
        self._paths = {number: known for number, known in self._paths.items() if known != new}
        self._paths = {number: new if known == old else known for number, known in self._paths.items()}
        return b""

    def _require_quorum(self) -> None:
        if not self.quorate:
            raise Refusal(errno.EACCES)

    # ---- replies

    def _entry(self, path: str) -> bytes:
        entry = self.memdb.get(path)
        head = struct.pack("<4Q2I", self._number(path), 0, CACHE_SECONDS, CACHE_SECONDS, 0, 0)
        return head + self._attributes(path, entry)

    def _number(self, path: str) -> int:
        known = next((number for number, name in self._paths.items() if name == path), None)
        if known is None:
            self._last += 1
            known = self._last
            self._paths[known] = path
        return known

    def _attributes(self, path: str, entry: Entry) -> bytes:
        kind, bits = (stat.S_IFDIR, 0o777) if entry.is_directory else (stat.S_IFREG, 0o666)
        bits = bits if self.quorate else bits & 0o555
        bits &= 0o700 if _is_private(path) else 0o755 if entry.is_directory else 0o750
        size, when = len(entry.data), entry.mtime
        number = self._number(path)
        return _ATTRIBUTES.pack(
            number, size, -(-size // 4096), when, when, when, 0, 0, 0, kind | bits, 1, 0, WWW_DATA, 0, 4096, 0
        )


def _join(directory: str, name: bytes) -> str:
    return f"{directory}/{name.rstrip(bytes(1)).decode()}"


def _is_private(path: str) -> bool:
    return path == "/priv" or path.startswith("/priv/")


_HANDLERS = {
    1: Node._lookup,
    3: Node._getattr,
    4: Node._setattr,
    9: Node._mkdir,
    10: Node._remove,
    11: Node._remove,
    12: Node._rename,
    14: Node._open,
    15: Node._read,
    16: Node._write,
    17: Node._statfs,
    18: Node._nothing,
    27: Node._opendir,
    28: Node._readdir,
    29: Node._nothing,
    35: Node._create,
    45: Node._rename2,
}
