"""The three streams of one exec: its input as it is taken, its outputs as they are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from gateway.exec.spec import Keep
from gateway.exec.view import OutputCounts
from gateway.supervisor.capture import Capture
from gateway.supervisor.pipes import PipeReader, StdinWriter


class Streams:
    """`over_limit`, if given, is called whenever an output has passed its limit."""

    def __init__(
        self, io: asyncio.AbstractEventLoop, limit: int, keep: Keep, over_limit: Callable[[], object] | None
    ) -> None:
        self.stdout = Capture(limit, keep)
        self.stderr = Capture(limit, keep)
        self._io = io
        self._over_limit = over_limit
        self._readers: dict[str, PipeReader] = {}
        self._writer: StdinWriter | None = None

    def connect(self, *, stdout: int | None, stderr: int | None, stdin: int | None, data: bytes) -> None:
        """Takes these pipes over: reads from the first two, writes `data` into the third."""
        for name, fd, capture in (("stdout", stdout, self.stdout), ("stderr", stderr, self.stderr)):
            if fd is not None:
                self._readers[name] = PipeReader(self._io, fd, self._sink(capture))
        if stdin is not None:
            self._writer = StdinWriter(self._io, stdin, data)

    @property
    def has_writers(self) -> bool:
        """Whether somebody still holds the other end of an output."""
        return any(reader.fd is not None for reader in self._readers.values())

    def drain(self) -> None:
        """Takes all that has been written by now."""
        for reader in self._readers.values():
            reader.drain()

    def counts(self) -> OutputCounts:
        return {"stdout": self.stdout.count(), "stderr": self.stderr.count()}

    def give_up(self) -> list[int]:
        """The output pipes that still have writers, out of our hands."""
        return [reader.give_up() for reader in self._readers.values() if reader.fd is not None]

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
        if self._writer is not None:
            self._writer.close()

    def to_state(self) -> dict[str, Any]:
        """For the next image of this program; descriptors by number under `fds` and `stdin`."""
        writer = self._writer
        return {
            "stdout": self.stdout.to_state(),
            "stderr": self.stderr.to_state(),
            "fds": {name: reader.fd for name, reader in self._readers.items()},
            "stdin": {"fd": writer.fd, "rest": writer.rest().hex()} if writer is not None else None,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Goes on where an earlier image of this program was."""
        self.stdout, self.stderr = Capture.from_state(state["stdout"]), Capture.from_state(state["stderr"])
        stdin = state["stdin"] or {"fd": None, "rest": ""}
        fds = state["fds"]
        self.connect(
            stdout=fds.get("stdout"), stderr=fds.get("stderr"), stdin=stdin["fd"], data=bytes.fromhex(stdin["rest"])
        )

    def _sink(self, capture: Capture) -> Callable[[bytes], None]:
        over_limit = self._over_limit
        if over_limit is None:
            return capture.feed

        def feed(data: bytes) -> None:
            capture.feed(data)
            if capture.over_limit:
                over_limit()

        return feed
