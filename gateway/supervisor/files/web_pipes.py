"""The two pipes between the web and what serves a session of files: widened, given away once, else closed."""

from __future__ import annotations

import fcntl
import logging
import os

log = logging.getLogger(__name__)

_PIPE_BYTES = 512 << 10


class WebPipes:
    """The web's ends, ours until they are given to it."""

    def __init__(self) -> None:
        """None yet."""
        self._ends: list[int] = []

    def take(self, answers: int, requests: int) -> None:
        """Where to read and where to write, non-blocking both."""
        self._ends = [answers, requests]
        for end in self._ends:
            try:
                fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            except OSError as exc:  # then it is slower
                log.warning("the pipes of a session of files stay small: %s", exc.strerror)

    def give(self) -> list[int]:
        """As they were taken; the taker's to close."""
        ends, self._ends = self._ends, []
        return ends

    def close(self) -> None:
        """Those that were not given."""
        for end in self.give():
            os.close(end)
