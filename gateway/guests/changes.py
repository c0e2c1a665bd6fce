"""Changes: the one way in which the API has PVE change something: intent, call, task, outcome."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from gateway.audit.unfinished import UnfinishedChanges
from gateway.clientwatch import Watch
from gateway.errors import GatewayError, GuestNotFound, InvalidRequest
from gateway.errors_pve import (
    OutcomeUnknown,
    PveDenied,
    PveFailed,
    PveRejected,
    PveTokenRefused,
    PveUnsupported,
    TaskNotFound,
)
from gateway.guests.ledger import Audit, Ledger
from gateway.guests.trail import Asker, Change, Intent, Reason
from gateway.pve.ids import Upid, parse_upid
from gateway.pve.tasks import Task, Tasks
from gateway.pve.waiting import TaskWatcher

_RECOVER_SECONDS = 5.0
_LOST = (TaskNotFound, PveDenied, PveTokenRefused, PveFailed, PveRejected, PveUnsupported)
"""What the watcher says when it can no longer tell how a task ends."""


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Made:
    """A change that PVE has taken on: made already, or by the task `upid`."""

    change: Change
    audit_id: str
    upid: Upid | None


class Changes:
    """Safe in many threads. What was begun here is followed to its end, whoever waits for it or not."""

    def __init__(
        self,
        audit: Audit,
        tasks: Tasks,
        watcher: TaskWatcher,
        unfinished: UnfinishedChanges,
        settle: Callable[[Intent, Task | GatewayError], None] = Intent.end_with,
    ) -> None:
        """`settle` is told of the ends of tasks that an earlier process of ours began; it never waits."""
        self._ledger = Ledger(audit, unfinished)
        self._tasks = tasks
        self._watcher = watcher
        self._settle = settle

    def announce(self, asker: Asker, change: Change) -> Intent:
        """Its intent, durable now: for a change of several steps, whose ends its maker tells.

        Raises AuditUnavailable or NodeNotReady, and then nothing may be done.
        """
        return Intent.announce(self._ledger, asker, change)

    def make(self, asker: Asker, change: Change, act: Callable[[], Upid | None]) -> Made:
        """Records the intent, has `act` ask PVE, and has the outcome recorded when the task has ended.

        Raises AuditUnavailable with nothing done, and what `act` raises, with the record's `audit_id`.
        """
        intent = self.announce(asker, change)
        try:
            upid = act()
        except BaseException as exc:
            intent.fail(exc)
            if isinstance(exc, GatewayError) and not isinstance(exc, GuestNotFound):  # one body for no such guest
                exc.evidence.setdefault("audit_id", intent.audit_id)
            raise
        if upid is None:
            intent.end(Reason.OK)
        else:
            self.follow(intent, upid)
        return Made(change, intent.audit_id, upid)

    def follow(self, intent: Intent, upid: Upid) -> None:
        """Has the intent's outcome recorded when the task has ended, by us or by who comes after us."""
        intent.note_task(upid)
        self._watcher.follow(upid, intent.end_with)

    def keep_recovering(self) -> None:
        """Has a thread of this process recover now, and every five seconds: other processes of ours end, too."""
        threading.Thread(target=self._keep_recovering, name="recover", daemon=True).start()

    def _keep_recovering(self) -> None:
        while True:
            try:
                self.recover()
            except Exception:
                log.exception("cannot look for changes that another process has left")
            time.sleep(_RECOVER_SECONDS)

    def recover(self) -> None:
        """Goes on with what an earlier process of ours had in hand: tasks that go on, or have ended meanwhile."""
        for unfinished in self._ledger.adopt():
            intent = Intent(self._ledger, unfinished)
            if unfinished.upid is None:
                intent.end(Reason.UNKNOWN, words="the gateway ended before it knew")
                continue
            try:
                upid = parse_upid(unfinished.upid)
            except InvalidRequest:
                intent.end(Reason.UNKNOWN, words="what it left names no task")
            else:
                self._watcher.follow(upid, partial(self._settle, intent))

    def wait(self, made: Made, seconds: float, watch: Watch | None = None) -> Task | None:
        """The change's task when it has done what it was to do; None when `seconds` are over before, or it has none.

        Raises what its failure means, with `audit_id`, `upid` and the end of its log; OutcomeUnknown when PVE tells
        nothing of it any more; ClientGone, and what the watch raises.
        """
        if not seconds or made.upid is None:
            return None
        try:
            task = self._watcher.wait(made.upid, seconds, watch)
        except _LOST as exc:
            words = f"the task has begun, and PVE tells nothing of its end: {exc.detail}"
            about = {"vmid": made.change.vmid, "node": made.change.node, "audit_id": made.audit_id}
            raise OutcomeUnknown(words, upid=str(made.upid), **about) from exc
        if task is None or task.ok:
            return task
        failure = self._tasks.failure(task)
        if not isinstance(failure, GuestNotFound):
            failure.evidence["audit_id"] = made.audit_id
        raise failure
