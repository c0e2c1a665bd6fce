"""A command's input: written as fast as it reads, counted by offset, queued within a bound."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

from gateway.errors import StdinBlocked, StdinClosed, StdinOffset

QUEUE_BYTES = 1 << 20
"""How much may wait for the command; more input waits with its sender."""
_CHUNK = 65536
_ROUNDS = 8  # writes in a row before others get their turn: a command may read as fast as this
_END_OF_TYPING = b"\x04"
"""What a terminal in its usual mode takes for the end of input at the start of a line: VEOF, Ctrl-D (termios(3))."""


class Stdin:
    """The writing end of one command's stdin. A command that does not read, or has closed it, is no error."""

    def __init__(
        self,
        io: asyncio.AbstractEventLoop,
        fd: int | None,
        data: bytes,
        *,
        stay_open: bool,
        terminal: bool = False,
        offset: int | None = None,
    ) -> None:
        self.offset = len(data) if offset is None else offset
        """How many bytes have been taken so far: where the input goes on."""
        self.eof = not stay_open
        self._io = io
        self.fd: int | None = fd
        self._terminal = terminal
        self._typed_end_at: int | None = None
        """Where the end of input was typed last, which a terminal takes as often as it comes."""
        self._queue = bytearray(data)
        self._writing = False
        self._room: set[asyncio.Future[None]] = set()
        self._write()

    async def put(
        self,
        data: bytes,
        offset: int | None,
        *,
        eof: bool,
        timeout: float,
        may: Callable[[], object] = lambda: None,
    ) -> None:
        """Takes `data`, which begins at `offset` of all input (None: where it goes on); what came before is skipped.

        Waits for room at most `timeout` seconds. Raises StdinOffset, StdinClosed, StdinBlocked, or what `may` raises,
        which is asked right before anything is taken; then nothing of `data` was taken.
        """
        try:
            async with asyncio.timeout(timeout):
                may()
                while not self._take(data, offset, eof=eof):
                    await self._wait_for_room()
                    may()
        except TimeoutError:
            raise StdinBlocked(
                "the command does not read its input, and no more of it can wait; try again", offset=self.offset
            ) from None

    def _take(self, data: bytes, offset: int | None, *, eof: bool) -> bool:
        begin = self.offset if offset is None else offset
        if begin > self.offset:
            raise StdinOffset(
                f"the input so far ends at {self.offset}; go on from there", expected=self.offset, offset=begin
            )
        new = data[self.offset - begin :]
        if eof and offset is not None and self._typed_end_at == self.offset and begin + len(data) == self.offset:
            return True  # sent again: a second one would end what the first has left, a shell for example
        if self.eof:
            if new or (eof and begin + len(data) < self.offset):
                raise StdinClosed(f"the input has ended at {self.offset}", offset=self.offset)
            return True
        if new and len(self._queue) >= QUEUE_BYTES and self.fd is not None:
            return False
        self.offset += len(new)
        if self.fd is not None:
            self._queue += new
            if eof and self._terminal:
                self._queue += _END_OF_TYPING
                self._typed_end_at = self.offset
        self.eof = eof and not self._terminal
        self._write()
        return True

    async def _wait_for_room(self) -> None:
        future: asyncio.Future[None] = self._io.create_future()
        self._room.add(future)
        try:
            await future
        finally:
            self._room.discard(future)

    def close(self) -> None:
        """The command takes no more."""
        if self.fd is not None:
            if self._writing:
                self._io.remove_writer(self.fd)
                self._writing = False
            os.close(self.fd)
            self.fd = None
            self._queue = bytearray()
        self._wake()

    def to_state(self) -> dict[str, Any]:
        """For the next image of this program, the descriptor apart."""
        return {
            "offset": self.offset,
            "eof": self.eof,
            "terminal": self._terminal,
            "typed_end_at": self._typed_end_at,
            "queue": self._queue.hex(),
        }

    @classmethod
    def from_state(cls, io: asyncio.AbstractEventLoop, state: dict[str, Any], fd: int | None) -> Stdin:
        data, stay_open = bytes.fromhex(state["queue"]), not state["eof"]
        self = cls(io, fd, data, stay_open=stay_open, terminal=state["terminal"], offset=state["offset"])
        self._typed_end_at = state.get("typed_end_at")
        return self

    def _write(self) -> None:
        if self.fd is None:
            return
        try:
            for _ in range(_ROUNDS):
                if not self._queue:
                    break
                with memoryview(self._queue) as view:
                    written = os.write(self.fd, view[:_CHUNK])
                del self._queue[:written]
        except BlockingIOError:
            pass
        except OSError:  # EPIPE: nobody reads; EIO: the terminal is hung up
            self.close()
            return
        if len(self._queue) < QUEUE_BYTES:
            self._wake()
        if self._queue:
            if not self._writing:
                self._writing = True
                self._io.add_writer(self.fd, self._write)
            return
        if self._writing:
            self._writing = False
            self._io.remove_writer(self.fd)
        if self.eof:
            self.close()

    def _wake(self) -> None:
        waiting, self._room = self._room, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)
