"""Progress: how far a copy is, on a terminal alone."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from typing import Self

from pvex.show import plain, size

_EVERY_SECONDS = 0.1
_BAR = 24


class Progress:
    """A line on stderr that changes. `total` bytes are expected; None where nobody knows."""

    def __init__(self, name: str, total: int | None = None, *, quiet: bool = False) -> None:
        self.total = total
        self._name = plain(name)
        self._began = time.monotonic()
        self._drawn_at = 0.0
        self._on = sys.stderr.isatty() and not quiet

    def show(self, done: int) -> None:
        """So many bytes are there."""
        now = time.monotonic()
        if not self._on or now - self._drawn_at < _EVERY_SECONDS:
            return
        self._drawn_at = now
        rate = f"{size(int(done / max(0.001, now - self._began)))}/s"
        if self.total:
            share = min(1.0, done / self.total)
            full = int(_BAR * share)
            bar = f"[{'#' * full}{'.' * (_BAR - full)}] {100 * share:3.0f}%"
        else:
            bar = ""
        line = f"{self._name}  {bar}  {size(done)}  {rate}"[: shutil.get_terminal_size().columns - 1]
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()

    def watch(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The same pieces, counted when they have been dealt with."""
        done = 0
        for piece in pieces:
            yield piece
            done += len(piece)
            self.show(done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._on:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
