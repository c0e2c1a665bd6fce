"""Tree: one directory of a guest that a session holds, what is unpacked into it, and what must not be overwritten."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TypeVar

from gateway.errors import GatewayError, PreconditionFailed
from gateway.errors_files import FileNotFound
from gateway.files.accounts import Accounts
from gateway.files.failures import is_a
from gateway.files.session import Session, expect
from gateway.files.tar_in import Entry, TarReader, refuse
from gateway.files.wire import BELOW, EXCLUSIVE, LATER, TIMED, End, Failure, FileType, Frame, Status, Step, request

MAX_DIRECTORY_NAMES = 8 << 20
"""Bytes of the paths of new directories, whose times are set when all is in them."""
_PARENT_MODE = 0o755
_ASTRAY = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EXDEV})

T = TypeVar("T", Status, End)


@dataclass
class Unpacked:
    """How far it has come."""

    entries: int = 0
    kept: int = 0


class Tree:
    """Each call names its things by their path in the tree, and follows no link on the way."""

    def __init__(self, session: Session, path: bytes) -> None:
        """Raises FileNotFound, and FileTypeRefused for what is no directory."""
        status = session.look(path)
        if status.type is not FileType.DIRECTORY:
            raise is_a(status.type)
        self._session = session
        self.status = expect(Status, session.ask(b"T", path))
        self._names = 0
        self._made: list[tuple[bytes, int]] = []

    def send(self) -> None:
        """Asks for all of it: what the session's channel says next is for a TarWriter."""
        self._session.channel.send(request(b"G", b"/"))

    def unpack(
        self,
        reader: TarReader,
        accounts: Accounts,
        *,
        uid: int | None,
        gid: int | None,
        keep: Collection[bytes],
        done: Unpacked,
        before_each: Callable[[], object],
    ) -> None:
        """Puts each entry in its place, at once instead of what stood there; `uid` and `gid` own all if given.

        What is at or below a path of `keep` is made only where nothing stands. A directory that is there stays as it
        is. `done` counts. All is on disk in the end. Raises TarRefused, and what the guest refuses, with the `entry`.
        """
        for entry in reader.entries():
            before_each()
            owner = uid if uid is not None else accounts.users.get(entry.user, entry.uid)
            group = gid if gid is not None else accounts.groups.get(entry.group, entry.gid)
            try:
                made = self._make(entry, owner, group, reader.content(), exclusive=_is_kept(entry.path, keep))
            except GatewayError as exc:
                exc.evidence.setdefault("entry", entry.path.decode("utf-8", "backslashreplace"))
                raise
            done.entries += made
            done.kept += not made
        for path, mtime in reversed(self._made):
            expect(End, self._session.ask(b"I", path, offset=mtime))
        expect(End, self._session.ask(b"F", b"/"))

    def _make(self, entry: Entry, uid: int, gid: int, content: Iterator[bytes], *, exclusive: bool) -> bool:
        """False: it was kept."""
        if entry.kind == "directory":
            if entry.path:
                self._make_directory(entry.path, entry.mode, uid, gid, entry.mtime)
            return True
        if exclusive and self._stands(entry.path):
            return False
        try:
            if entry.kind == "file":
                self._make_file(entry, uid, gid, content, EXCLUSIVE if exclusive else 0)
                return True
            second = entry.target
            self._ask(
                End,
                b"Y" if entry.kind == "link" else b"H",
                entry.path,
                second=second,
                uid=uid,
                gid=gid,
                offset=entry.mtime,
                flags=EXCLUSIVE if exclusive else 0,
            )
        except PreconditionFailed:
            return False
        return True

    def _make_file(self, entry: Entry, uid: int, gid: int, content: Iterator[bytes], flags: int) -> None:
        status = self._ask(Status, b"W", entry.path, flags=BELOW)
        if status.st_mode and status.type not in (FileType.FILE, FileType.LINK):
            raise is_a(status.type)
        for piece in content:
            self._session.write(piece)
        flags |= LATER | TIMED | BELOW
        fields = {"mode": entry.mode, "uid": uid, "gid": gid, "offset": entry.mtime}
        expect(Status, self._session.ask(b"C", b"/", flags=flags, **fields))

    def _make_directory(self, path: bytes, mode: int, uid: int, gid: int, mtime: int | None) -> None:
        made = self._ask(Status, b"M", path, mode=mode, uid=uid, gid=gid)
        if made.size and mtime is not None:
            self._names += len(path) + 64
            if self._names > MAX_DIRECTORY_NAMES:
                raise refuse("too_many", "it makes too many directories; send it in parts", path)
            self._made.append((path, mtime))

    def _stands(self, path: bytes) -> bool:
        try:
            self._ask(Status, b"S", path, flags=BELOW)
        except FileNotFound:
            return False
        return True

    def _ask(self, kind: type[T], what: bytes, path: bytes, *, second: bytes = b"", **fields: int) -> T:
        """Asks for what has a path, and once more when the directories on the way to it are made, as tar(1) does."""
        frame = self._send(what, path, second, fields)
        if isinstance(frame, Failure) and frame.errno == errno.ENOENT and what != b"S" and self._make_parents(path):
            frame = self._send(what, path, second, fields)
        if isinstance(frame, Failure) and frame.step in (Step.PATH, Step.PLACE) and frame.errno in _ASTRAY:
            raise refuse(
                "through_link",
                "its path, or that of what it names, leads through a link, or what is no directory",
                path,
            )
        if isinstance(frame, Failure) and frame.step is Step.PLACE and frame.errno == errno.EISDIR:
            raise is_a(FileType.DIRECTORY)
        return expect(kind, frame)

    def _send(self, what: bytes, path: bytes, second: bytes, fields: dict[str, int]) -> Frame:
        return self._session.ask(what, path + second, length=len(second), **fields)

    def _make_parents(self, path: bytes) -> bool:
        """Whether it has any. Those that are there stay as they are."""
        parts = path.split(b"/")[:-1]
        for count in range(1, len(parts) + 1):
            frame = self._send(b"M", b"/".join(parts[:count]), b"", {"mode": _PARENT_MODE})
            if isinstance(frame, Failure):
                return False
        return bool(parts)


def _is_kept(path: bytes, keep: Collection[bytes]) -> bool:
    return any(path == kept or path.startswith(kept + b"/") for kept in keep)
