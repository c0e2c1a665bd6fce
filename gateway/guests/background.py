"""Work: what goes on in a thread of its own, whoever waits for it, and how its client waits."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from gateway.clientwatch import Watch
from gateway.errors import ClientGone, GatewayError, InternalError
from gateway.errors_pve import TooManyChanges
from gateway.pve.ids import Upid
from gateway.pve.models import GuestRef

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Begun:
    """What PVE has taken on: which guest, by which task, recorded as what."""

    guest: GuestRef
    upid: Upid
    audit_id: str


class Work(Generic[T]):
    """One of several steps; `began` is the first of them. One waits for it, and may leave."""

    def __init__(self) -> None:
        self._changed = threading.Lock()
        self._signal: int | None = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.began: Begun | None = None
        self._result: T | None = None
        self._error: Exception | None = None
        self._ended = False

    def begin(self, begun: Begun) -> None:
        """PVE has taken it on."""
        with self._changed:
            self.began = begun
            self._tell()

    def wait(self, seconds: float, watch: Watch | None, require: Callable[[int], object] = lambda _: None) -> T | None:
        """Its result; None when it still goes on after `seconds`, but never before PVE has taken it on.

        Raises what it failed with, ClientGone, and what the watch raises; before all that is told of a guest, what
        `require` raises, which is given its vmid. To be called once.
        """
        deadline = time.monotonic() + seconds
        try:
            while not self._ended and (self.began is None or time.monotonic() < deadline):
                left = None if self.began is None else max(0.0, deadline - time.monotonic())
                if not self._look(left, watch) and self.began is None and not self._ended:
                    break  # our process ends
        finally:
            self.close()
        if self.began is not None:
            require(self.began.guest.vmid)
        if self._error is not None:
            raise self._error
        return self._result

    def close(self) -> None:
        """Nobody waits for it."""
        with self._changed:
            signal, self._signal = self._signal, None
        if signal is not None:
            os.close(signal)

    def _look(self, seconds: float | None, watch: Watch | None) -> bool:
        """Whether anything has changed within `seconds`."""
        signal = self._signal
        assert signal is not None
        if watch is not None:
            seen = watch.wait(signal, seconds)
            if seen.gone:
                raise ClientGone
            ready = seen.fd
        else:
            poll = select.poll()
            poll.register(signal, select.POLLIN)
            ready = bool(poll.poll(None if seconds is None else seconds * 1000))
        if ready:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(signal)
        return ready

    def run(self, make: Callable[[Work[T]], T], token_id: str) -> None:
        """Does it, in the thread that calls, for a request of this token."""
        result, error = None, None
        try:
            result = make(self)
        except GatewayError as exc:
            error = exc
        except Exception as exc:
            log.exception("what was begun for a request of %s failed", token_id)
            error = InternalError("a fault of the gateway; its log tells more")
            error.__cause__ = exc
        with self._changed:
            self._result, self._error, self._ended = result, error, True
            self._tell()

    def _tell(self) -> None:
        if self._signal is not None:
            os.eventfd_write(self._signal, 1)


class Workers:
    """The threads: at most `most` at once, and `each` of one token."""

    def __init__(self, most: int = 64, each: int = 48) -> None:
        self._most = most
        self._each = each
        self._lock = threading.Lock()
        self._busy: Counter[str] = Counter()

    def start(self, token_id: str, make: Callable[[Work[T]], T]) -> Work[T]:
        """Begins it. Raises TooManyChanges."""
        with self._lock:
            if self._busy.total() >= self._most or self._busy[token_id] >= self._each:
                raise TooManyChanges("as many guests are being made as may be; wait for one of them", retry_after=5)
            self._busy[token_id] += 1
        work: Work[T] = Work()

        def go() -> None:
            try:
                work.run(make, token_id)
            finally:
                with self._lock:
                    self._busy[token_id] -= 1
                    self._busy += Counter()  # drops those that have none

        try:
            threading.Thread(target=go, name="guest-making", daemon=True).start()
        except RuntimeError as exc:
            work.close()
            with self._lock:
                self._busy[token_id] -= 1
                self._busy += Counter()
            raise TooManyChanges("this node has no room for another thread now; try again", retry_after=5) from exc
        return work
