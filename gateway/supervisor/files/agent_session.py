"""One session of files in a virtual machine: two pipes to the web, and what its agent does at their other ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from typing import Any

from gateway.files.wire import WireError
from gateway.supervisor.agent.commands import AgentCommands, CommandFailed
from gateway.supervisor.agent.files import AgentFiles
from gateway.supervisor.agent.questions import Questions
from gateway.supervisor.agent.upload import Unfinished
from gateway.supervisor.files.half_uploads import HalfUploads
from gateway.supervisor.files.web_pipes import WebPipes
from gateway.supervisor.guests.machines import Machine

log = logging.getLogger(__name__)

_AT_ONCE = 64 << 10


class _Over(Exception):
    """The web has closed its pipes, or nothing more is to be done."""


class AgentFileSession:
    """`started` is done at once. `gone` is called when nothing of it is left that could be removed."""

    def __init__(
        self,
        io: asyncio.AbstractEventLoop,
        questions: Questions,
        name: str,
        machine: Machine,
        half: HalfUploads,
        gone: Callable[[AgentFileSession], object],
        limit: float,
    ) -> None:
        """It ends at `limit`, by the loop's clock, in any case."""
        self.name = name
        self.guest = machine
        self.pipes = WebPipes()
        self.started: asyncio.Future[None] = io.create_future()
        self.started.set_result(None)
        self._io = io
        self._half = half
        self._noted: Unfinished | None = None
        self._gone = gone
        self._commands = AgentCommands(io, questions, machine)
        self._questions = questions
        self._files = AgentFiles(self._commands, write=False)
        self._reading = self._writing = -1
        self._life: asyncio.Task[None] | None = None
        self._waits: asyncio.Future[None] | None = None
        self._ending = False
        self._limit = io.call_at(limit, self.kill)

    def spawn(self, *, write: bool) -> None:
        """Serves from now on. Raises OSError when the node is out of descriptors."""
        flags = os.O_CLOEXEC | os.O_NONBLOCK
        with contextlib.ExitStack() as undo:
            answers, self._writing = os.pipe2(flags)
            for fd in (answers, self._writing):
                undo.callback(os.close, fd)
            self._reading, asked = os.pipe2(flags)
            undo.pop_all()
        self.pipes.take(answers, asked)
        self._files = AgentFiles(self._commands, write=write)
        self._life = self._io.create_task(self._live())

    def give_up(self) -> None:
        """It could not be begun: there is nothing to wait for."""
        self._limit.cancel()

    # ---- its life

    async def _live(self) -> None:
        try:
            await self._serve()
            self._close()
            if self.guest.alive():
                await self._files.drop()
                self._note()
        except CommandFailed as exc:
            log.warning("%s: what it had begun is in guest %s still: %s", self.name, self.guest.vmid, exc)
        finally:
            self._close()
            self._limit.cancel()
            self._gone(self)

    def _note(self) -> None:
        """Has remembered what is in the machine now, so that it is removed though we are not there any more."""
        unfinished = self._files.unfinished
        if unfinished == self._noted:
            return
        self._noted = unfinished
        if unfinished is not None:
            self._half.note(self.name, self.guest.vmid, unfinished)
        else:
            self._half.forget(self.name)

    def _close(self) -> None:
        self._ending = True
        self.pipes.close()
        for fd in (self._reading, self._writing):
            if fd >= 0:
                os.close(fd)
        self._reading = self._writing = -1

    async def _serve(self) -> None:
        """Until the web has had enough, or says what it never does."""
        files = self._files
        try:
            while not self._ending:
                await self._say(files.outbox)
                advanced = await files.advance()
                self._note()
                if not advanced:
                    await self._hear(files.inbox)
        except WireError:
            with contextlib.suppress(_Over, OSError):
                await self._say(files.outbox)
        except (_Over, OSError):
            return
        except Exception:
            log.exception("%s: cannot go on", self.name)

    async def _say(self, outbox: bytearray) -> None:
        while outbox:
            try:
                del outbox[: os.write(self._writing, outbox[:_AT_ONCE])]
            except BlockingIOError:
                await self._until(self._io.add_writer, self._io.remove_writer, self._writing)

    async def _hear(self, inbox: bytearray) -> None:
        while True:
            try:
                piece = os.read(self._reading, _AT_ONCE)
            except BlockingIOError:
                await self._until(self._io.add_reader, self._io.remove_reader, self._reading)
                continue
            if not piece:
                raise _Over
            inbox += piece
            return

    async def _until(self, add: Callable[..., object], remove: Callable[[int], object], fd: int) -> None:
        """Waits for one end. Raises _Over when nothing is to be waited for any more."""
        self._waits = waits = self._io.create_future()
        add(fd, self._wake)
        try:
            await waits
        finally:
            self._waits = None
            remove(fd)
        if self._ending:
            raise _Over

    def _wake(self) -> None:
        if self._waits is not None and not self._waits.done():
            self._waits.set_result(None)

    # ---- ending

    def end(self) -> None:
        """Its pipes are closed: it ends when the command that it is at has ended."""
        self._ending = True
        self.pipes.close()
        self._wake()

    def kill(self) -> None:
        """The same; at once where the machine is dead."""
        self.end()
        if self._life is not None and not self.guest.alive():
            self._life.cancel()

    # ---- handing over to the next image of this program

    @property
    def can_be_handed_over(self) -> bool:
        """Whether no command of its own is on its way, and it has not begun to end."""
        return not self._commands.in_hand and self._questions.quiet and not self._ending and self.guest.alive()

    def to_state(self) -> dict[str, Any]:
        """What `resume` needs."""
        return {
            "machine": True,
            "name": self.name,
            "vmid": self.guest.vmid,
            "run": self.guest.key,
            "limit": self._limit.when(),
            "fds": {"reading": self._reading, "writing": self._writing},
            "files": self._files.to_state(),
        }

    @classmethod
    def resume(
        cls,
        io: asyncio.AbstractEventLoop,
        questions: Questions,
        state: dict[str, Any],
        machine: Machine,
        half: HalfUploads,
        gone: Callable[[AgentFileSession], object],
    ) -> AgentFileSession:
        """Goes on with a session that an earlier image of this program began; its descriptors are ours."""
        self = cls(io, questions, state["name"], machine, half, gone, state["limit"])
        self._reading, self._writing = state["fds"]["reading"], state["fds"]["writing"]
        self._files = AgentFiles.resume(self._commands, state["files"])
        self._noted = self._files.unfinished
        self._life = io.create_task(self._live())
        return self
