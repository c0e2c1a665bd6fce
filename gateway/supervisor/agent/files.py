"""A virtual machine's files by its guest agent: what the launcher does in file mode, by programs of the machine.

Requests and answers are those of `launcher/files.h`. What an agent cannot do is refused by its Cause before anything is
touched: trees, removal of directories, files that are too large.
"""

from __future__ import annotations

import base64
import bisect
import errno
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gateway.files.accounts import MAX_FILE
from gateway.files.answers import (
    END,
    Request,
    frame_content,
    frame_failure,
    frame_names,
    frame_status,
    take,
)
from gateway.files.machine import MAX_ENDLESS, MAX_NAMES, Cause
from gateway.files.wire import EXCLUSIVE, NOFOLLOW, RECURSIVE, Failure, FileType, Status, Step, WireError
from gateway.supervisor.agent import scripts
from gateway.supervisor.agent.commands import AgentCommands, CommandFailed, refused
from gateway.supervisor.agent.scripts import PIECE_IN, PIECE_OUT, escape, read_status
from gateway.supervisor.agent.upload import AgentUpload, Unfinished

_MAX_NAME_BYTES = 4 << 20
_STATUSES_AT_ONCE = 500
"""A program is started for each."""
_ACCOUNT_FILES = (b"/etc/passwd", b"/etc/group")
_ACCOUNT_BYTES = 256 << 10


@dataclass
class Reading:
    """A file on its way out; `left` bytes from `offset` on."""

    path: bytes
    offset: int
    left: int
    status: Status


class AgentFiles:
    """One session's. `advance` is called again and again; what it answers is added to `outbox`."""

    def __init__(self, commands: AgentCommands, *, write: bool) -> None:
        self.inbox = bytearray()
        self.outbox = bytearray()
        self._commands = commands
        self._write = write
        self._reading: Reading | None = None
        self._upload = AgentUpload(commands)
        self._accounts: dict[bytes, tuple[Status, bytes] | None] = {}
        self._listed: tuple[bytes, list[bytes]] = (b"", [])
        self._statuses: dict[bytes, Status | None] = {}

    async def advance(self) -> bool:
        """Does the next thing, one command of the agent's at most; False when more must come first.

        A command that was not begun changes nothing here. Raises WireError for what the web does not send, and after a
        piece of a file could not be written: like the launcher it has said so then, and ends.
        """
        if self._reading is not None:
            await self._read_on(self._reading)
            return True
        if len(self._upload.content) >= PIECE_IN:
            await self._append()
            return True
        taken = take(self.inbox)
        if taken is None:
            return False
        size, frame = taken
        if isinstance(frame, bytes):
            if not self._upload.open:
                raise WireError("content of no file")
            self._upload.content += frame
        elif frame.kind == "C" and self._upload.content:
            await self._append()
            return True
        else:
            self.outbox += await self._answer(frame)
        del self.inbox[:size]
        return True

    @property
    def unfinished(self) -> Unfinished | None:
        """What `drop` would remove."""
        return self._upload.unfinished

    async def drop(self) -> None:
        """Removes what has not been finished. Raises CommandFailed."""
        await self._upload.drop()

    # ---- requests

    async def _answer(self, request: Request) -> bytes:
        try:
            return await self._do(request)
        except CommandFailed as exc:
            return frame_failure(exc.failure)
        except ValueError:
            return frame_failure(Failure(Cause.NONSENSE, Step.AGENT))

    async def _do(self, request: Request) -> bytes:
        if request.kind in "WCU" and not self._write:
            raise WireError("a change by a session that only reads")
        if not request.path.startswith(b"/"):
            raise WireError("a path that is none")
        match request.kind:
            case "S" if not request.flags & ~NOFOLLOW:
                return await self._look(request)
            case "R" if request.path in _ACCOUNT_FILES and not request.offset and request.length == MAX_FILE:
                return await self._account_file(request.path)
            case "R":
                return await self._read(request)
            case "L":
                return await self._list(request)
            case "W" if not request.flags and not self._upload.open:
                return frame_status(await self._upload.begin(request))
            case "C" if not request.flags & ~EXCLUSIVE and self._upload.open:
                return frame_status(await self._upload.commit(request))
            case "U":
                return await self._remove(request)
            case "S" | "T" | "G" | "M" | "Y" | "H" | "I" | "F":
                raise refused(Cause.TAR)
        raise WireError("a request out of order")

    async def _look(self, request: Request) -> bytes:
        if not request.flags:
            line, _, _ = (await self._commands.run(scripts.LOOK, escape(request.path), "-L")).partition(b"\n")
            return frame_status(read_status(line))
        directory, _, name = request.path.rpartition(b"/")
        if request.path not in self._statuses and directory == self._listed[0]:
            await self._look_at_some(directory, self._listed[1], name)
        if request.path in self._statuses:
            status = self._statuses[request.path]
            return frame_status(status) if status else frame_failure(Failure(errno.ENOENT, Step.PATH))
        line, _, target = (await self._commands.run(scripts.LOOK, escape(request.path), "")).partition(b"\n")
        return frame_status(read_status(line, target))

    async def _look_at_some(self, directory: bytes, names: Sequence[bytes], name: bytes) -> None:
        """At a name that was listed, and those behind it, as many as fit into one command."""
        asked: list[bytes] = []
        lines = ""
        for index in range(bisect.bisect_left(names, name), len(names)):
            line = escape(names[index]) + "\n"
            if len(lines) + len(line) > PIECE_IN or len(asked) == _STATUSES_AT_ONCE:
                break
            asked.append(names[index])
            lines += line
        if asked[:1] != [name]:
            return
        said = await self._commands.run(scripts.STATUSES, escape(directory + b"/"), stdin=lines.encode())
        if said.count(b"\0") != len(asked) or not said.endswith(b"\0"):
            raise ValueError("as many statuses as names")
        statuses = {}
        for each, words in zip(asked, said[:-1].split(b"\0"), strict=True):
            first, _, target = words.partition(b"\n")
            statuses[directory + b"/" + each] = read_status(first, target) if first else None
        self._statuses = statuses

    async def _list(self, request: Request) -> bytes:
        said = await self._commands.run(scripts.NAMES, escape(request.path))
        line, _, told = said.partition(b"\n")
        status = read_status(line)
        if status.type is not FileType.DIRECTORY:
            return frame_status(status) + END
        if len(told) > _MAX_NAME_BYTES or told.count(b"\0") > MAX_NAMES:
            return frame_status(status) + frame_failure(Failure(Cause.ENTRIES, Step.AGENT))
        names = told.split(b"\0")
        if names.pop() or not all(_is_listed(name) for name in names):
            raise ValueError("names of a directory")
        names = sorted(name[2:] for name in names)
        self._listed, self._statuses = (request.path.rstrip(b"/"), names), {}
        return frame_status(status) + frame_names(names) + END

    async def _account_file(self, path: bytes) -> bytes:
        """Both come with the first."""
        if not self._accounts:
            said = await self._commands.run(scripts.ACCOUNTS, "", str(_ACCOUNT_BYTES))
            *lines, rest = said.split(b"\n", 2)
            contents = rest.split(b"\0", 2)
            if len(lines) != 2 or len(contents) < 3:
                raise ValueError("two files")
            self._accounts = {
                name: (read_status(line), content[:_ACCOUNT_BYTES]) if line else None
                for name, line, content in zip(_ACCOUNT_FILES, lines, contents, strict=False)
            }
        found = self._accounts[path]
        if found is None:
            return frame_failure(Failure(errno.ENOENT, Step.PATH))
        return frame_status(found[0]) + frame_content(found[1]) + END

    # ---- a file on its way out

    async def _read(self, request: Request) -> bytes:
        piece = min(request.length, PIECE_OUT)
        status, content, after = await self._read_piece(request.path, request.offset, piece)
        answer = frame_status(status)
        if status.type is not FileType.FILE:
            return answer + END
        if not status.size:  # what the kernel makes up as it is read
            cut = len(content) == MAX_ENDLESS < request.length
            end = frame_failure(Failure(Cause.ENDLESS, Step.AGENT)) if cut else END
            return answer + frame_content(content) + end
        left = min(request.length, max(0, status.size - request.offset))
        first = min(left, piece)
        if not _goes_on(status, after) or len(content) < first:
            raise refused(Cause.CHANGED)
        answer += frame_content(content[:first])
        if left == first:
            return answer + END
        self._reading = Reading(request.path, request.offset + first, left - first, status)
        return answer

    async def _read_on(self, reading: Reading) -> None:
        piece = min(reading.left, PIECE_OUT)
        try:
            status, content, after = await self._read_piece(reading.path, reading.offset, piece)
            if not (_goes_on(reading.status, status) and _goes_on(status, after)) or len(content) < piece:
                raise refused(Cause.CHANGED)
        except CommandFailed as exc:
            self.outbox += frame_failure(exc.failure)
            self._reading = None
            return
        except ValueError:
            self.outbox += frame_failure(Failure(Cause.NONSENSE, Step.AGENT))
            self._reading = None
            return
        self.outbox += frame_content(content)
        reading.offset += len(content)
        reading.left -= len(content)
        if not reading.left:
            self.outbox += END
            self._reading = None

    async def _read_piece(self, path: bytes, offset: int, length: int) -> tuple[Status, bytes, Status]:
        """The file's status before and after, and what was read of it."""
        said = await self._commands.run(scripts.READ, escape(path), str(offset), str(length))
        line, _, rest = said.partition(b"\n")
        status = read_status(line)
        if status.type is not FileType.FILE:
            return status, b"", status
        content, _, last = rest.rstrip(b"\n").rpartition(b"\n")
        if len(content) > length:
            raise ValueError("more than was asked for")
        return status, content, read_status(last)

    # ---- changes

    async def _append(self) -> None:
        try:
            await self._upload.append()
        except CommandFailed as exc:
            self.outbox += frame_failure(exc.failure)
            raise WireError("a piece could not be written") from exc

    async def _remove(self, request: Request) -> bytes:
        if request.flags & RECURSIVE:
            raise refused(Cause.RECURSIVE)
        await self._commands.run(scripts.UNLINK, escape(request.path))
        return END

    # ---- handing over to the next image of this program

    def to_state(self) -> dict[str, Any]:
        """What `resume` needs, between two commands. What can be looked at again is left out."""
        reading = None
        if self._reading is not None:
            status = {**asdict(self._reading.status), "target": ""}
            reading = {**vars(self._reading), "path": _text(self._reading.path), "status": status}
        return {
            "write": self._write,
            **{name: _text(bytes(data)) for name, data in self._buffers().items()},
            "reading": reading,
            "upload": self._upload.to_state(),
        }

    @classmethod
    def resume(cls, commands: AgentCommands, state: dict[str, Any]) -> AgentFiles:
        """Goes on where an earlier image of this program was."""
        self = cls(commands, write=state["write"])
        for name, buffer in self._buffers().items():
            buffer[:] = base64.b64decode(state[name])
        if (reading := state["reading"]) is not None:
            status = Status(**{**reading["status"], "target": b""})
            self._reading = Reading(base64.b64decode(reading["path"]), reading["offset"], reading["left"], status)
        self._upload.resume(state["upload"])
        return self

    def _buffers(self) -> dict[str, bytearray]:
        return {"inbox": self.inbox, "outbox": self.outbox, "content": self._upload.content}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _is_listed(name: bytes) -> bool:
    return name.startswith(b"./") and 2 < len(name) <= 2 + 255 and b"/" not in name[2:]


def _goes_on(before: Status, after: Status) -> bool:
    """Whether it is the same file, unchanged but for what was added behind its end."""
    same = (before.inode, before.device) == (after.inode, after.device)
    return same and (before.size < after.size or (before.mtime, before.size) == (after.mtime, after.size))
