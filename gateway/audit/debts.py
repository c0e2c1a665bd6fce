"""Records that a blocking caller's process still owes to the log: sent again and again until they are durable."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

MAX_OWED = 1000
_RETRY_SECONDS = 0.5

log = logging.getLogger(__name__)


class Debts:
    """Safe in many threads. While there are any, a thread of its own pays them, in order; a forked child has none.

    `pay` sends one record, and tells whether it need not be sent again.
    """

    def __init__(self, pay: Callable[[Mapping[str, Any]], bool]) -> None:
        self._pay = pay
        self._changed = threading.Condition()
        self._owed: deque[Mapping[str, Any]] = deque()
        self._pid = 0
        self._running = False

    def add(self, record: Mapping[str, Any]) -> None:
        """Have `record` written. More than 1,000 are not kept: the service's log says so."""
        with self._changed:
            if self._pid != os.getpid():
                self._owed.clear()
                self._pid, self._running = os.getpid(), False
            if len(self._owed) >= MAX_OWED:
                log.error("%s of %s will not be in the audit log", record["event"], record["audit_id"])
                return
            self._owed.append(record)
            self._begin()

    def settle(self, timeout: float) -> bool:
        """Whether nothing was owed any more within `timeout` seconds."""
        with self._changed:
            if self._owed and self._pid == os.getpid():
                self._begin()
            return self._changed.wait_for(lambda: not self._owed or self._pid != os.getpid(), timeout)

    def drop(self) -> None:
        """Nothing is owed any more."""
        with self._changed:
            self._owed.clear()
            self._changed.notify_all()

    def _begin(self) -> None:
        """The lock is held. Without a thread to be had what is owed waits for the next time."""
        if self._running:
            return
        try:
            threading.Thread(target=self._run, name="audit debts", daemon=True).start()
        except RuntimeError as exc:
            log.error("%d records wait to be written: %s", len(self._owed), exc)
        else:
            self._running = True

    def _run(self) -> None:
        while (record := self._next()) is not None:
            paid = self._pay(record)
            with self._changed:
                if not paid:
                    self._changed.wait_for(lambda: not self._owed, _RETRY_SECONDS)
                elif self._owed and self._owed[0] is record:
                    self._owed.popleft()
                    self._changed.notify_all()

    def _next(self) -> Mapping[str, Any] | None:
        with self._changed:
            self._running = bool(self._owed)
            return self._owed[0] if self._owed else None
