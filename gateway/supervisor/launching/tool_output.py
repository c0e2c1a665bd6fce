"""What a tool of the node's says on a pipe: the last of it, in bounded memory."""

from __future__ import annotations

import asyncio
import os


class ToolOutput:
    """Reads as it comes; a process that the tool leaves behind may keep the pipe."""

    def __init__(self, io: asyncio.AbstractEventLoop, fd: int, most: int) -> None:
        """Keeps the last `most` bytes. The descriptor is closed by `close`."""
        self._io = io
        self._fd = fd
        self._most = most
        self._data = bytearray()
        os.set_blocking(fd, False)
        io.add_reader(fd, self._read)

    def close(self) -> str:
        """All that has come by now. Any number of times."""
        if self._fd >= 0:
            self._io.remove_reader(self._fd)
            while self._take():
                pass
            os.close(self._fd)
            self._fd = -1
        return self._data.decode("utf-8", "replace")

    def _read(self) -> None:
        if not self._take():
            self._io.remove_reader(self._fd)

    def _take(self) -> bool:
        try:
            piece = os.read(self._fd, 65536)
        except BlockingIOError:
            return False
        self._data += piece
        del self._data[: -self._most]
        return bool(piece)
