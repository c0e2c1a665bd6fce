"""The ledger: announcements that have no outcome in the audit log yet, and how each gets its own, over lost logs and
lost processes."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from gateway.audit.unfinished import Unfinished, UnfinishedChanges
from gateway.errors import AuditUnavailable, GatewayError, NodeNotReady

_RETRY_SECONDS = 0.5

log = logging.getLogger(__name__)


class Audit(Protocol):
    """The audit log (audit.client.AuditClient)."""

    def commit(self, record: Mapping[str, Any]) -> object: ...


class Ledger:
    """Safe in many threads."""

    def __init__(self, audit: Audit, unfinished: UnfinishedChanges) -> None:
        self._audit = audit
        self._unfinished = unfinished
        self._outcomes: queue.SimpleQueue[tuple[Unfinished, Mapping[str, Any]]] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._writer: threading.Thread | None = None

    def announce(self, record: Mapping[str, Any]) -> Unfinished:
        """The announcement, durable in the log. Raises AuditUnavailable, NodeNotReady: then nothing may be done."""
        try:
            change = self._unfinished.begin(record)
        except OSError as exc:
            raise NodeNotReady(
                f"cannot remember the change: {exc.strerror}; nothing was done", missing=["disk"]
            ) from exc
        try:
            self._audit.commit(record)
        except GatewayError as exc:  # taken back by the client, should it be durable all the same
            change.close()
            if isinstance(exc, AuditUnavailable):
                exc.detail = f"nothing was changed: {exc.detail}; is pve-exec-gateway-audit running?"
            raise
        return change

    def settle(self, change: Unfinished, outcome: Mapping[str, Any]) -> None:
        """Has the outcome written, without waiting, until it is durable."""
        self._outcomes.put((change, outcome))
        with self._starting:
            if self._writer is None or not self._writer.is_alive():
                self._writer = threading.Thread(target=self._write, name="outcomes", daemon=True)
                try:
                    self._writer.start()
                except RuntimeError as exc:  # the next outcome tries again, and both are written
                    log.error("the outcome of %s waits to be written: %s", outcome["audit_id"], exc)

    def adopt(self) -> Iterator[Unfinished]:
        """What a process of ours that ended has left."""
        return self._unfinished.adopt()

    def _write(self) -> None:
        while True:
            change, outcome = self._outcomes.get()
            while True:
                try:
                    self._audit.commit(outcome)
                    break
                except AuditUnavailable:
                    time.sleep(_RETRY_SECONDS)
                except GatewayError as error:
                    log.error("the outcome of %s is not in the audit log: %s", outcome["audit_id"], error.detail)
                    break
            change.close()
