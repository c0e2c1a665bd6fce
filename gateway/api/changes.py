"""Changes by way of PVE: announced in the audit log before anything is asked, their outcomes recorded when they end,
whoever has left meanwhile."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.audit.record import Event, build_record
from gateway.audit.unfinished import Unfinished, UnfinishedChanges
from gateway.auth.actions import Action
from gateway.errors import AuditUnavailable, GatewayError, NodeNotReady
from gateway.errors_pve import OutcomeUnknown
from gateway.exec.origin import Origin
from gateway.pve.ids import Upid, parse_upid
from gateway.pve.tasks import Task
from gateway.pve.waiting import TaskWatcher, Told

log = logging.getLogger(__name__)

_MAX_WORDS = 1000
_RETRY_SECONDS = 0.5
_RECOVER_SECONDS = 60.0


class Audit(Protocol):
    """The audit log (audit.client.AuditClient)."""

    def commit(self, record: Mapping[str, Any]) -> object: ...


@dataclass(frozen=True)
class Made:
    """A change that PVE has made, or begun to make as a task."""

    audit_id: str
    upid: Upid | None


class Changes:
    """Makes changes on the record. Any thread may use it."""

    def __init__(self, audit: Audit, watcher: TaskWatcher, unfinished: UnfinishedChanges, node: str) -> None:
        self._audit = audit
        self._watcher = watcher
        self._unfinished = unfinished
        self._node = node
        self._outcomes: queue.SimpleQueue[tuple[Unfinished, Mapping[str, Any]]] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._recovered = float("-inf")
        self._writer: threading.Thread | None = None

    def make(
        self,
        origin: Origin,
        event: Event,
        action: Action,
        act: Callable[[], Upid | None],
        *,
        vmid: int | None,
        node: str | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> Made:
        """Has `act` make the change. `data` is what is recorded of it, its secrets left out; `node` the guest's.

        Raises AuditUnavailable, with nothing done; and what `act` raises, with `audit_id` beside it. The outcome of a
        task is recorded when it has ended.
        """
        record = build_record(
            event,
            request_id=origin.request_id,
            token_id=origin.token_id,
            token_name=origin.token_name,
            remote=origin.remote,
            action=action,
            vmid=vmid,
            node=node or self._node,
            data=data,
        )
        audit_id = str(record["audit_id"])
        self._recover_now_and_then()
        try:
            change = self._unfinished.begin(record)
        except OSError as exc:
            raise NodeNotReady(
                f"cannot remember the change: {exc.strerror}; nothing was done", missing=["disk"]
            ) from exc
        try:
            self._audit.commit(record)
        except GatewayError:  # taken back by the client, should it be durable all the same
            change.close()
            raise
        try:
            upid = act()
        except GatewayError as error:
            self._record(change, _failure(error))
            error.evidence["audit_id"] = audit_id
            raise
        except BaseException as exc:
            self._record(change, {"result": "unknown", "detail": f"broken off by {type(exc).__name__}"})
            raise
        if upid is None:
            self._record(change, {"result": "ok"})
        else:
            try:
                change.note_task(str(upid))
            except OSError as exc:
                log.error("%s: its task %s is not remembered over a restart: %s", audit_id, upid, exc.strerror)
            self._follow(change, upid)
        return Made(audit_id, upid)

    def recover(self) -> None:
        """Goes on with what an earlier process of ours had in hand: outcomes of tasks that go on, or have ended."""
        self._recovered = time.monotonic()
        for change in self._unfinished.adopt():
            if change.upid is None:
                self._record(change, {"result": "unknown", "detail": "the gateway ended while PVE was asked"})
            else:
                self._follow(change, parse_upid(change.upid))

    def _recover_now_and_then(self) -> None:
        """Another process of ours may have ended since, and left something."""
        if time.monotonic() - self._recovered > _RECOVER_SECONDS:
            self.recover()

    def _follow(self, change: Unfinished, upid: Upid) -> None:
        self._watcher.follow(upid, lambda told: self._record(change, _end(upid, told)))

    def _record(self, change: Unfinished, data: dict[str, Any]) -> None:
        """Has the outcome written, without waiting, until it is durable."""
        subject = str(change.record["event"]).partition(":")[0]
        outcome = {**change.record, "event": f"{subject}:outcome", "data": data}
        self._outcomes.put((change, outcome))
        with self._starting:
            if self._writer is None or not self._writer.is_alive():
                self._writer = threading.Thread(target=self._write, name="outcomes", daemon=True)
                self._writer.start()

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


def _end(upid: Upid, told: Told) -> dict[str, Any]:
    if isinstance(told, GatewayError):
        return {**_failure(told), "result": "unknown", "upid": str(upid)}
    return {"result": "ok" if told.ok else "failed", "upid": str(upid), "exitstatus": _exitstatus(told)}


def _exitstatus(task: Task) -> str:
    return (task.exitstatus or "")[:_MAX_WORDS]


def _failure(error: GatewayError) -> dict[str, Any]:
    result = "unknown" if isinstance(error, OutcomeUnknown) else "failed"
    upid = {"upid": error.evidence["upid"]} if "upid" in error.evidence else {}
    return {"result": result, "code": error.code, "detail": error.detail[:_MAX_WORDS], **upid}
