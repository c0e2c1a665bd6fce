"""Somebody at a pseudo-terminal, in which pvex runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import subprocess
import termios
import time
from typing import IO, Any, Self

from tests.pvex.client import Pvex


class Screen:
    """pvex in a terminal of its own; what it shows is waited for. `stdout`: a file that its output goes to instead."""

    def __init__(
        self,
        pvex: Pvex,
        *arguments: str,
        rows: int = 24,
        cols: int = 80,
        stdout: IO[bytes] | None = None,
        **environment: str,
    ) -> None:
        self.master, self.slave = os.openpty()
        self.resize(rows, cols)
        self.before = termios.tcgetattr(self.slave)
        self.shown = bytearray()
        self.process = pvex.start(
            *arguments,
            stdin=self.slave,
            stdout=self.slave if stdout is None else stdout,
            stderr=self.slave,
            environment={"TERM": "xterm", **environment},
            start_new_session=True,
            preexec_fn=self._take_terminal,
        )

    def _take_terminal(self) -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def resize(self, rows: int, cols: int) -> None:
        """Another size of the window; the kernel sends SIGWINCH."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def type(self, text: str | bytes) -> None:
        """Types as fast as it is taken; what is shown meanwhile is kept."""
        data = text.encode() if isinstance(text, str) else text
        os.set_blocking(self.master, False)
        while data:
            ready, writable, _ = select.select([self.master], [self.master], [], 40)
            assert ready or writable, f"{len(data)} bytes were not taken"
            if ready:
                self.shown += os.read(self.master, 1 << 16)
            with contextlib.suppress(BlockingIOError):
                data = data[os.write(self.master, data[:4096]) :]
        os.set_blocking(self.master, True)

    def until(self, text: str, within: float = 40) -> str:
        """All that was shown up to `text`, which is dropped with it."""
        sought = text.encode()
        deadline = time.monotonic() + within
        while sought not in self.shown:
            left = deadline - time.monotonic()
            assert left > 0, f"not shown within {within} s: {text!r}: {bytes(self.shown[-2000:])!r}"
            if select.select([self.master], [], [], left)[0]:
                try:
                    data = os.read(self.master, 1 << 16)
                except OSError:
                    data = b""
                assert data, bytes(self.shown[-2000:])
                self.shown += data
        end = self.shown.index(sought) + len(sought)
        seen = bytes(self.shown[:end]).decode()
        del self.shown[:end]
        return seen

    def end(self, within: float = 40) -> int:
        """Its exit code; the terminal is as it was."""
        code = self.process.wait(within)
        assert termios.tcgetattr(self.slave) == self.before
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        os.close(self.master)
        os.close(self.slave)
