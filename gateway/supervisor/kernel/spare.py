"""One descriptor kept aside: what ends an exec can open a file for a moment on a node that has no other left."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator


class Spare:
    """Opens files that are closed again at once. For one thread, and for one file at a time: a second has none."""

    def __init__(self) -> None:
        self._kept: int | None = None
        self._keep()

    @contextlib.contextmanager
    def opened(self, name: str, flags: int, *, dir_fd: int | None = None) -> Iterator[int]:
        """The file, with the descriptor that was kept if there is no other. Raises OSError as open(2) does."""
        try:
            try:
                fd = os.open(name, flags | os.O_CLOEXEC, dir_fd=dir_fd)
            except OSError as exc:
                if exc.errno not in (errno.EMFILE, errno.ENFILE) or self._kept is None:
                    raise
                self.close()
                fd = os.open(name, flags | os.O_CLOEXEC, dir_fd=dir_fd)
            try:
                yield fd
            finally:
                os.close(fd)
        finally:
            self._keep()

    def close(self) -> None:
        """Gives it back."""
        if self._kept is not None:
            os.close(self._kept)
            self._kept = None

    def _keep(self) -> None:
        if self._kept is None:
            with contextlib.suppress(OSError):  # then the next file that is closed leaves one
                self._kept = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
