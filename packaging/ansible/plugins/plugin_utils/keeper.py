"""The keeper: a small process that holds the connections to one gateway while tasks come and go, as ControlPersist does
for ssh. It knows no token: those who use a connection send their own with each request.

`python -c BOOT SOCKET` reads `{"address": {...}, "persist": 60}` on stdin and writes a line to stdout when it listens.
It ends when nobody has used it for `persist` seconds, or when its socket is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
import sys
from collections.abc import Awaitable
from typing import Any

from .wire import CONNECTED, LENGTH, Address, Failure, explain, make_context, show_refusal

PIECE = 256 << 10
_TICK_SECONDS = 1.0
_Upstream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def main() -> None:
    order = json.loads(sys.stdin.buffer.read())
    if os.fork():  # who has started it need not wait for its end
        os._exit(0)
    os.chdir("/")
    asyncio.run(_Keeper(Address(**order["address"]), sys.argv[1], float(order["persist"])).serve())


class _Keeper:
    def __init__(self, address: Address, path: str, persist: float) -> None:
        self._address = address
        self._path = path
        self._persist = persist
        self._context: ssl.SSLContext | None = None
        self._idle: list[_Upstream] = []
        self._users = 0
        self._quiet = 0.0

    async def serve(self) -> None:
        """Until nobody comes any more."""
        os.umask(0o177)
        server = await asyncio.start_unix_server(self._serve_one, self._path, limit=PIECE)
        ours = os.stat(self._path).st_ino
        os.write(1, b"ready\n")
        os.close(1)
        while self._quiet < self._persist and _inode(self._path) == ours:
            await asyncio.sleep(_TICK_SECONDS)
            self._quiet = 0.0 if self._users else self._quiet + _TICK_SECONDS
        if _inode(self._path) == ours:
            os.unlink(self._path)
        server.close()
        while self._users:  # who came at the last moment, or began before the socket was taken away
            await asyncio.sleep(_TICK_SECONDS)

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._users += 1
        self._quiet = 0.0
        try:
            try:
                upstream = await self._take()
            except (Failure, OSError) as exc:
                failure = exc if isinstance(exc, Failure) else explain(self._address, exc)
                writer.write(show_refusal(failure))
                return
            writer.write(CONNECTED)
            if await self._relay(reader, writer, upstream):
                self._idle.append(upstream)
            else:
                upstream[1].close()
        finally:
            self._users -= 1
            writer.close()

    async def _take(self) -> _Upstream:
        """A connection that nobody uses, or a new one."""
        while self._idle:
            upstream = self._idle.pop()
            if not upstream[0].at_eof() and not upstream[1].is_closing():
                return upstream
            upstream[1].close()
        if self._context is None:
            self._context = make_context(self._address.ca)
        asked = asyncio.open_connection(self._address.host, self._address.port, ssl=self._context, limit=PIECE)
        return await asyncio.wait_for(asked, self._address.seconds)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream: _Upstream) -> bool:
        """Whether the connection can serve the next: the client has said so, and the gateway has not closed it."""
        answers = asyncio.ensure_future(_copy(upstream[0], writer))
        try:
            released = await _forward(reader, upstream[1], answers)
        finally:
            ended = answers.done()
            answers.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await answers
        return released and not ended


async def _forward(reader: asyncio.StreamReader, to: asyncio.StreamWriter, answers: Awaitable[Any]) -> bool:
    """The client's pieces, to its release (True) or its end. When the gateway takes no more, what it answers counts."""
    broken = False
    with contextlib.suppress(asyncio.IncompleteReadError, OSError):
        while length := LENGTH.unpack(await reader.readexactly(LENGTH.size))[0]:
            while length:
                piece = await reader.read(min(length, PIECE))
                if not piece:
                    return False
                length -= len(piece)
                if broken:
                    continue
                try:
                    to.write(piece)
                    await to.drain()
                except OSError:
                    broken = True
        return not broken
    return False


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """To its end, of which the target is told by its own."""
    try:
        while piece := await source.read(PIECE):
            target.write(piece)
            await target.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass
    target.close()


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None
