"""Whether LXC's library can be loaded on this node: a process of its own tells, for nobody else should load it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from gateway.config import Config
from gateway.supervisor.launching.nursery import Nursery
from gateway.supervisor.launching.tools import choose_tool

_AGAIN_SECONDS = 10.0
_PATIENCE_SECONDS = 5.0


class Library(NamedTuple):
    """Whether it can be loaded, and its version, or why not and what to do."""

    ok: bool
    detail: str


def look_at_library(config: Config) -> Library | None:
    """None where containers are entered by a program. Takes as long as a process, and that at most 5 s."""
    if not choose_tool(config).library:
        return None
    try:
        version, wrong = Nursery(config.lxc.nursery.read_bytes()).look_for_library(_PATIENCE_SECONDS)
    except OSError as exc:
        version, wrong = "", f"{config.lxc.nursery}: {exc.strerror}"
    if version:
        return Library(True, f"LXC {version}")
    return Library(False, f"LXC's library cannot be loaded: {wrong}; install lxc, or set exec.driver: lxc-attach")


class LookedAt:
    """The same for who must not wait: as it was found last, and looked at anew in the background where that is old."""

    def __init__(self, config: Config, monotonic: Callable[[], float] = time.monotonic) -> None:
        """It is good until it is asked for first: a supervisor that starts has looked by itself."""
        self._config = config
        self._monotonic = monotonic
        self._found = Library(True, "") if choose_tool(config).library else None
        self._again_at = monotonic()
        self._looking = threading.Lock()

    def find(self) -> Library | None:
        """As it was at most 10 s before it was asked for last."""
        if self._found is not None and self._monotonic() >= self._again_at and self._looking.acquire(blocking=False):
            self._again_at = self._monotonic() + _AGAIN_SECONDS
            threading.Thread(target=self._look, name="liblxc", daemon=True).start()
        return self._found

    def _look(self) -> None:
        try:
            self._found = look_at_library(self._config)
        finally:
            self._looking.release()
