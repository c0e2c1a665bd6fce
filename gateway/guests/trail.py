"""What is recorded of a change to guests: its intent is durable before PVE is asked, its outcome follows its end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from gateway.audit.record import Event, build_aborted, build_record
from gateway.audit.unfinished import Unfinished
from gateway.errors import GatewayError
from gateway.errors_pve import OutcomeUnknown
from gateway.guests.ledger import Ledger
from gateway.pve.ids import Upid
from gateway.pve.problems import clean
from gateway.pve.tasks import Task

_MAX_WORDS = 256

log = logging.getLogger(__name__)


class Reason(StrEnum):
    """How a change ended, as its outcome's `reason`."""

    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"
    REQUESTED = "requested"
    """The HA manager was asked: what came of it, no task tells."""


@dataclass(frozen=True)
class Asker:
    """Who asks for a change, as records name it."""

    token_id: str
    token_name: str
    remote: str
    request_id: str


@dataclass(frozen=True)
class Change:
    """What is about to be changed. `data` is for the record: no passwords and no keys in it, names and hashes at most.

    `event` is of the subject `guest` or `storage`; `node` is where PVE does it.
    """

    event: Event
    action: str
    node: str
    vmid: int | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


class Intent:
    """A change that stands in the log as about to be made. One of its ends is told, once; if our process dies before,
    the next one finds it (`Changes.recover`) and tells what can be known."""

    def __init__(self, ledger: Ledger, unfinished: Unfinished) -> None:
        self._ledger = ledger
        self._unfinished = unfinished
        self.audit_id = str(unfinished.record["audit_id"])

    @property
    def record(self) -> Mapping[str, Any]:
        """Its announcement, after a restart without most of its data (audit.unfinished)."""
        return self._unfinished.record

    @property
    def is_to_be_whole(self) -> bool:
        """Whether there is more to be done than its task does, and nothing is to stay unless all of it is."""
        return bool((self.record.get("data") or {}).get("whole"))

    @classmethod
    def announce(cls, ledger: Ledger, asker: Asker, change: Change) -> Intent:
        """Raises AuditUnavailable or NodeNotReady when it cannot be recorded: then nothing may be done."""
        record = build_record(
            change.event,
            request_id=asker.request_id,
            token_id=asker.token_id,
            token_name=asker.token_name,
            remote=asker.remote,
            action=change.action,
            vmid=change.vmid,
            node=change.node,
            data=change.data,
        )
        return cls(ledger, ledger.announce(record))

    def note_task(self, upid: Upid) -> None:
        """PVE has begun it: who finds it later looks at this task."""
        try:
            self._unfinished.note_task(str(upid))
        except OSError as exc:
            log.error("%s: its task %s is not remembered over a restart: %s", self.audit_id, upid, exc.strerror)

    def note_whole(self) -> None:
        """More than its task is done, and all of it: before anybody is told so, for who finds it later removes what is
        not whole."""
        try:
            self._unfinished.note_whole()
        except OSError as exc:
            log.error("%s: that it is whole is not remembered over a restart: %s", self.audit_id, exc.strerror)

    def end(self, reason: Reason, **data: Any) -> None:
        """It has ended so. Never waits, never fails."""
        subject = str(self._unfinished.record["event"]).partition(":")[0]
        told = {"reason": reason, **{name: value for name, value in data.items() if value is not None}}
        self._ledger.settle(self._unfinished, {**self._unfinished.record, "event": f"{subject}:outcome", "data": told})

    def end_with(self, told: Task | GatewayError) -> None:
        """Its task has ended, or nobody can tell any more. Of a change of several steps (`then` in its data) that is
        all that who comes later knows."""
        if isinstance(told, GatewayError):
            upid = told.evidence.get("upid") or self._unfinished.upid
            self.end(Reason.UNKNOWN, upid=upid, code=told.code, words=told.detail[:_MAX_WORDS])
            return
        then = (self._unfinished.record.get("data") or {}).get("then")
        if told.ok and then:
            missed = f"made by its task; whether what follows was done ({', '.join(then)}) is not known"
            self.end(Reason.UNKNOWN, upid=str(told.upid), words=missed)
            return
        reason = Reason.FAILED if not told.ok else Reason.REQUESTED if told.only_requested else Reason.OK
        words = None if told.exitstatus == "OK" else clean(told.exitstatus or "")[:_MAX_WORDS]
        self.end(reason, upid=str(told.upid), words=words)

    def fail(self, error: BaseException) -> None:
        """PVE did not take it on (it is taken back), or what became of it is not known. Never waits, never fails."""
        if isinstance(error, OutcomeUnknown):
            self.end_with(error)
        elif isinstance(error, GatewayError):
            record = build_aborted(self._unfinished.record, error.detail[:_MAX_WORDS])
            self._ledger.settle(self._unfinished, record)
        else:
            self.end(Reason.UNKNOWN, words=f"broken off by {type(error).__name__}")
