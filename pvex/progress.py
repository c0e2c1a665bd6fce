"""Progress: how far a copy is, on a terminal alone."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Self

from pvex.show import plain, size

_EVERY_SECONDS = 0.1
_BAR = 24


class Progress:
    """A line on stderr that changes."""

    def __init__(self, name: str, *, quiet: bool = False) -> None:
        self._name = plain(name)
        self._began = time.monotonic()
        self._drawn_at = 0.0
        self._on = sys.stderr.isatty() and not quiet

    def show(self, done: int, total: int | None) -> None:
        """So many bytes are there, of so many; None where nobody knows."""
        now = time.monotonic()
        if not self._on or now - self._drawn_at < _EVERY_SECONDS:
            return
        self._drawn_at = now
        rate = f"{size(int(done / max(0.001, now - self._began)))}/s"
        if total:
            full = min(_BAR, _BAR * done // total)
            bar = f"[{'#' * full}{'.' * (_BAR - full)}] {100 * done // total:3d}%"
        else:
            bar = ""
        line = f"{self._name}  {bar}  {size(done)}  {rate}"[: shutil.get_terminal_size().columns - 1]
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._on:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
