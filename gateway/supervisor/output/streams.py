"""The streams of one exec: its input as it is taken, its outputs as they are kept, and who follows them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import termios
from collections.abc import Callable
from typing import Any

from gateway.exec.view import OutputCounts
from gateway.supervisor.output.capture import Capture
from gateway.supervisor.output.followers import Followers
from gateway.supervisor.output.interleaving import STREAMS, Interleaving
from gateway.supervisor.output.pipes import PipeReader
from gateway.supervisor.output.recording import Recording
from gateway.supervisor.output.stdin import Stdin

_ROOM = 512 << 10
"""Where followers hold a stream, it is read while this much can come: what a pipe may still hold when its command
ends has to fit, too."""
_RUNS = 1024
"""The same for the order of both: so many turns of stdout and stderr."""


class Streams:
    """`over_limit`, if given, is called whenever an output has passed its limit. `block`: a full spool, or an order of
    stdout and stderr that has more turns than are remembered, makes the command wait for whoever follows it."""

    def __init__(
        self,
        io: asyncio.AbstractEventLoop,
        stdout: Capture,
        stderr: Capture,
        *,
        block: bool,
        over_limit: Callable[[], object] | None,
    ) -> None:
        self.stdout, self.stderr = stdout, stderr
        self.order = Interleaving()
        self.followers = Followers(io, self._go_on)
        self.stdin: Stdin | None = None
        self._io = io
        self._block = block
        self._wide = stdout.fd is not None
        self._over_limit = over_limit
        self._readers: dict[str, PipeReader] = {}
        self._terminal: int | None = None

    @property
    def recording(self) -> Recording:
        """What has come so far."""
        return Recording((self.stdout, self.stderr), self.order)

    def connect(self, *, stdout: int | None, stderr: int | None) -> None:
        """Takes these pipes over and reads from them."""
        for name, fd in (("stdout", stdout), ("stderr", stderr)):
            if fd is not None:
                self._readers[name] = PipeReader(
                    self._io, fd, self._sink(name), terminal=self.has_terminal, wide=self._wide
                )

    def connect_stdin(self, fd: int, data: bytes, *, stay_open: bool) -> None:
        """Takes this pipe over and writes `data` into it."""
        self.stdin = Stdin(self._io, fd, data, stay_open=stay_open)

    def connect_terminal(self, master: int, data: bytes) -> None:
        """Takes a terminal over: its output is stdout, and what is typed is stdin."""
        self._terminal = master
        self.connect(stdout=os.dup(master), stderr=None)
        self.stdin = Stdin(self._io, os.dup(master), data, stay_open=True, terminal=True)

    def feed(self, name: str, data: bytes) -> None:
        """Takes output that comes from no pipe."""
        self._sink(name)(data)

    def lose(self, name: str, size: int) -> None:
        """Counts bytes of an output that nobody has."""
        capture = self.stdout if name == "stdout" else self.stderr
        capture.lose(size)
        self.order.add(STREAMS.index(name), size)
        self.followers.wake()

    @property
    def has_terminal(self) -> bool:
        return self._terminal is not None

    def resize(self, rows: int, cols: int) -> None:
        """Gives the terminal another size; whoever runs in its foreground gets SIGWINCH (tty_ioctl(4))."""
        if self._terminal is not None:
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    @property
    def has_writers(self) -> bool:
        """Whether somebody still holds the other end of an output."""
        return any(reader.fd is not None for reader in self._readers.values())

    def drain(self) -> None:
        """Takes all that has been written by now."""
        for reader in self._readers.values():
            reader.drain()

    def captures(self) -> tuple[tuple[str, Capture], tuple[str, Capture]]:
        return ("stdout", self.stdout), ("stderr", self.stderr)

    def counts(self) -> OutputCounts:
        return {"stdout": self.stdout.count(), "stderr": self.stderr.count()}

    def give_up(self) -> list[int]:
        """The output pipes that still have writers, out of our hands."""
        return [reader.give_up() for reader in self._readers.values() if reader.fd is not None]

    def close(self) -> None:
        """Closes the command's side; what was kept can be read until `forget`."""
        for reader in self._readers.values():
            reader.close()
        if self.stdin is not None:
            self.stdin.close()
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = None

    def forget(self) -> None:
        """Gives back what was kept."""
        self.stdout.close()
        self.stderr.close()

    def to_state(self) -> dict[str, Any]:
        """For the next image of this program; every descriptor by number under `fds`."""
        return {
            "stdout": self.stdout.to_state(),
            "stderr": self.stderr.to_state(),
            "interleaving": self.order.to_state(),
            "block": self._block,
            "stdin": self.stdin.to_state() if self.stdin is not None else None,
            "fds": {
                **{name: reader.fd for name, reader in self._readers.items()},
                "stdin": self.stdin.fd if self.stdin is not None else None,
                "terminal": self._terminal,
                "kept_stdout": self.stdout.fd,
                "kept_stderr": self.stderr.fd,
            },
        }

    @classmethod
    def from_state(
        cls,
        io: asyncio.AbstractEventLoop,
        state: dict[str, Any],
        grant: Callable[[int], bool],
        over_limit: Callable[[], object] | None,
    ) -> Streams:
        """Goes on where an earlier image of this program was."""
        fds = state["fds"]
        stdout, stderr = (Capture.from_state(state[name], fds[f"kept_{name}"], grant) for name in STREAMS)
        self = cls(io, stdout, stderr, block=state["block"], over_limit=over_limit)
        self.order = Interleaving.from_state(state["interleaving"])
        self._terminal = fds["terminal"]
        self.connect(stdout=fds.get("stdout"), stderr=fds.get("stderr"))
        if state["stdin"] is not None:
            self.stdin = Stdin.from_state(io, state["stdin"], fds["stdin"])
        return self

    def _sink(self, name: str) -> Callable[[bytes], None]:
        number = STREAMS.index(name)
        capture = (self.stdout, self.stderr)[number]

        def feed(data: bytes) -> None:
            capture.feed(data)
            self.order.add(number, len(data))
            if self._block and name in self._readers and self._is_full(name, capture):
                self._readers[name].pause()
            self.followers.wake()
            if self._over_limit is not None and capture.over_limit:
                self._over_limit()

        return feed

    def _is_full(self, name: str, capture: Capture) -> bool:
        unread, cursor = self.followers.holds(name), self.followers.cursor()
        if cursor is not None and self.order.room_before(cursor) < _RUNS:
            return True
        return unread is not None and capture.room_before(unread) < _ROOM

    def _go_on(self) -> None:
        for name, capture in zip(STREAMS, (self.stdout, self.stderr), strict=True):
            reader = self._readers.get(name)
            if reader is not None and reader.paused and not self._is_full(name, capture):
                reader.go_on()
