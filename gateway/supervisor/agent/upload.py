"""A file on its way into a virtual machine: it grows where nobody sees it, and takes its place when it is whole."""

from __future__ import annotations

import base64
import errno
import hashlib
import secrets
from dataclasses import dataclass
from typing import Any

from gateway.files.accounts import MAX_ID
from gateway.files.answers import NOTHING, Request
from gateway.files.machine import MAX_WRITE, Cause
from gateway.files.wire import EXCLUSIVE, Failure, FileType, Status, Step, WireError
from gateway.supervisor.agent import scripts
from gateway.supervisor.agent.commands import AgentCommands, CommandFailed, refused
from gateway.supervisor.agent.scripts import PIECE_IN, escape, read_place, read_status


@dataclass(frozen=True)
class Unfinished:
    """Where one grows: a directory of ours in the machine, and that one's inode."""

    inode: str
    directory: bytes


@dataclass
class _Place:
    """The directory that it grows in, that one's inode, and the name that it shall have."""

    inode: str
    directory: bytes
    name: bytes
    size: int = 0


class AgentUpload:
    """At most one at a time. `content` waits for being written. Each call raises CommandFailed, and ValueError for what
    no command of ours says."""

    def __init__(self, commands: AgentCommands) -> None:
        self.content = bytearray()
        self._commands = commands
        self._place: _Place | None = None

    @property
    def open(self) -> bool:
        return self._place is not None

    @property
    def unfinished(self) -> Unfinished | None:
        """What is in the machine and has not been given its place."""
        return Unfinished(self._place.inode, self._place.directory) if self._place is not None else None

    async def begin(self, request: Request) -> Status:
        """What stands there; where that is nothing or a regular file, one is open now."""
        if request.path.rpartition(b"/")[2] in (b"", b".", b".."):
            raise CommandFailed(Failure(errno.EISDIR, Step.PATH))
        if request.length > MAX_WRITE:
            raise refused(Cause.SIZE)
        said = await self._commands.run(scripts.BEGIN_WRITE, escape(request.path), secrets.token_hex(8))
        line, _, rest = said.partition(b"\n")
        status = NOTHING if line == b"-" else read_status(line)
        if status is NOTHING or status.type is FileType.FILE:
            self._place = _Place(*read_place(rest))
        return status

    async def append(self) -> None:
        """Writes a piece of `content`; the machine's own digest of it is to be ours."""
        place = self._place
        assert place is not None
        piece = bytes(self.content[:PIECE_IN])
        if place.size + len(piece) > MAX_WRITE:
            raise refused(Cause.SIZE)
        said = await self._commands.run(
            scripts.APPEND, escape(place.directory), place.inode, str(place.size), stdin=piece
        )
        if said[:64] != hashlib.sha256(piece).hexdigest().encode():
            raise refused(Cause.CHANGED)
        place.size += len(piece)
        del self.content[: len(piece)]

    async def commit(self, request: Request) -> Status:
        """Gives it its place; its status there."""
        place = self._place
        assert place is not None
        if max(request.uid, request.gid) > MAX_ID or request.mode > 0o7777:
            raise WireError("an owner or a mode that no file has")
        said = await self._commands.run(
            scripts.COMMIT,
            escape(place.directory),
            place.inode,
            str(place.size),
            str(request.uid),
            str(request.gid),
            f"{request.mode:o}",
            escape(place.name),
            "new" if request.flags & EXCLUSIVE else "",
        )
        self._place = None
        status = read_status(said.rstrip(b"\n"))
        if status.size != place.size:
            raise ValueError("the size of what was written")
        return status

    async def drop(self) -> None:
        """Removes what has not been given its place."""
        place, self._place = self._place, None
        if place is not None:
            await self._commands.run(scripts.DROP, escape(place.directory), place.inode, last=True)

    def to_state(self) -> dict[str, Any] | None:
        """For `resume`; `content` is its holder's."""
        place = self._place
        if place is None:
            return None
        names = [base64.b64encode(text).decode("ascii") for text in (place.directory, place.name)]
        return {"inode": place.inode, "names": names, "size": place.size}

    def resume(self, state: dict[str, Any] | None) -> None:
        """Goes on where an earlier image of this program was."""
        if state is not None:
            directory, name = (base64.b64decode(text) for text in state["names"])
            self._place = _Place(state["inode"], directory, name, state["size"])
