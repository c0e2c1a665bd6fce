"""Session: one launcher in file mode, asked one thing after another by the web."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from typing import TypeVar

from gateway.errors_files import GuestFilesFailed
from gateway.files.accounts import MAX_FILE, Accounts
from gateway.files.channel import Channel
from gateway.files.failures import is_a, to_error
from gateway.files.wire import (
    EXCLUSIVE,
    MAX_PATH,
    NOFOLLOW,
    PROGRESS_SECONDS,
    RECURSIVE,
    WHOLE,
    End,
    Failure,
    FileType,
    Frame,
    Progress,
    Status,
    Step,
    WireError,
    entry_names,
    request,
)

T = TypeVar("T", Status, End)


class Session:
    """Each call raises what the guest refuses (gateway.files.failures), GuestFilesFailed and GuestFilesStalled, and
    what the channel's watch raises. An error of a path leaves the session as it was."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    def look(self, path: bytes, *, follow: bool = True) -> Status:
        """What stands at a path; of a link itself with `follow` False."""
        return expect(Status, self.ask(b"S", path, flags=0 if follow else NOFOLLOW))

    def open(self, path: bytes, offset: int = 0, length: int = WHOLE) -> Status:
        """Begins to read a regular file; `content` is what follows, nothing of anything else."""
        return expect(Status, self.ask(b"R", path, offset=offset, length=length))

    def content(self) -> Iterator[bytes]:
        """The rest of what is being read, as it comes."""
        while True:
            frame = self.channel.next()
            if isinstance(frame, bytes):
                yield frame
                continue
            expect(End, frame)
            return

    def names(self, path: bytes) -> Iterator[bytes]:
        """The names in a directory, in no order; to be taken to their end. Raises FileTypeRefused for anything else."""
        status = expect(Status, self.ask(b"L", path))
        try:
            yield from entry_names(self.content())
        except WireError as exc:
            raise out_of_order() from exc
        if status.type is not FileType.DIRECTORY:
            raise is_a(status.type)

    def accounts(self) -> Accounts:
        """Who the guest's users and groups are. A file that cannot be read has nobody in it; an agent that does not
        answer is another thing."""
        return Accounts.parse(self._small(b"/etc/passwd"), self._small(b"/etc/group"))

    def begin_write(self, path: bytes, size: int = 0) -> Status | None:
        """Begins a new file at a path, which nobody sees before `commit`; what stands there, None if nothing does.
        `size`: what it will have at least, where that is known.

        Raises FileTypeRefused for what is there and no regular file.
        """
        status = expect(Status, self.ask(b"W", path, length=size))
        if not status.st_mode:
            return None
        if status.type is not FileType.FILE:
            raise is_a(status.type)
        return status

    def write(self, piece: bytes) -> None:
        """Appends to it, FRAME_MAX bytes at most. Raises GuestDiskFull, sooner or later."""
        self.channel.put(piece)
        frame = self.channel.take()
        if frame is not None:
            raise to_error(frame) if isinstance(frame, Failure) else out_of_order()

    def commit(self, *, mode: int, uid: int, gid: int, exclusive: bool) -> Status:
        """Puts it in its place, whole and on disk. Raises PreconditionFailed: `exclusive`, and something is there."""
        flags = EXCLUSIVE if exclusive else 0
        return expect(Status, self.ask(b"C", b"/", flags=flags, mode=mode, uid=uid, gid=gid))

    def remove(self, path: bytes, *, recursive: bool) -> None:
        """Removes what stands at a path itself, of a directory all that is in it first: that takes as long as the guest
        says that it is at work."""
        frame = self.ask(b"U", path, flags=RECURSIVE if recursive else 0)
        heard = -PROGRESS_SECONDS
        while isinstance(frame, Progress):
            now = time.monotonic()
            if now - heard < PROGRESS_SECONDS / 2:
                raise out_of_order()  # as it is for a guest that says nothing else, and that all the time
            frame, heard = self.channel.next(), now
        expect(End, frame)

    def _small(self, path: bytes) -> bytes:
        frame = self.ask(b"R", path, length=MAX_FILE)
        if isinstance(frame, Failure) and frame.step is Step.AGENT:
            raise to_error(frame)
        read = bytearray()
        for piece in self.content() if isinstance(frame, Status) else ():
            read += piece
            if len(read) > MAX_FILE:
                raise out_of_order()
        return bytes(read)

    def ask(self, kind: bytes, path: bytes, **fields: int) -> Frame:
        """The first frame of the answer to a request of `wire`."""
        if len(path) > MAX_PATH:
            return Failure(errno.ENAMETOOLONG, Step.PATH)
        return self.channel.ask(request(kind, path, **fields))


def expect(kind: type[T], frame: Frame) -> T:
    """The frame, which is to be of this kind. Raises what a Failure is, and GuestFilesFailed."""
    if isinstance(frame, Failure):
        raise to_error(frame)
    if not isinstance(frame, kind):
        raise out_of_order()
    return frame


def out_of_order() -> GuestFilesFailed:
    """For what a launcher never says there."""
    return GuestFilesFailed("our process in the guest answered what it never does; somebody there interferes")
