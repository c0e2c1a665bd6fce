"""Waiting for the ends of tasks: a thread for each node asks PVE for all who wait, together ten times a second at most.

PVE's list of a node's tasks tells the end of every one in one answer: it is written when a worker ends
(PVE::RESTEnvironment, active_workers).
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.clientwatch import Watch
from gateway.errors import ClientGone, GatewayError
from gateway.errors_pve import TaskNotFound
from gateway.pve.ids import Upid
from gateway.pve.tasks import Task, Tasks

_PAUSE = 0.2
_PACE = 0.105
"""Seconds between the begins of two rounds, and of two requests: so there are never more than ten in a second."""
_TROUBLE_PAUSE = 1.0
_FEW = 2
_MAX_LISTED = 1000

log = logging.getLogger(__name__)


Told = Task | GatewayError
"""A task that has ended, or why nobody can tell whether it has."""


@dataclass
class _Followed:
    upid: Upid
    listeners: list[Callable[[Told], None]] = field(default_factory=list)


class TaskWatcher:
    """Tells of tasks that end, at most 300 ms later. Its threads run as long as anybody waits: one for each node, so
    that a node that hangs delays nobody who waits for another."""

    def __init__(self, tasks: Tasks, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._tasks = tasks
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._followed: dict[str, _Followed] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._pacing = threading.Lock()
        self._turn = 0
        self._last = -1.0
        self._pid = os.getpid()

    def wait(self, upid: Upid, seconds: float, watch: Watch | None = None) -> Task | None:
        """The task when it has ended; None when `seconds` are over before, or our process is about to end.

        Raises ClientGone when the watched client leaves, and the GatewayError that keeps its end from being known.
        Whether it did what it was to do: Tasks.require_ok.
        """
        told: list[Told] = []
        signal = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        lock, closed = threading.Lock(), [False]

        def hear(end: Told) -> None:
            with lock:
                told.append(end)
                if not closed[0]:
                    os.eventfd_write(signal, 1)

        forget = self.follow(upid, hear)
        try:
            gone = _await(signal, seconds, watch)
        finally:
            forget()
            with lock:
                closed[0] = True
                os.close(signal)
        if gone:
            raise ClientGone
        if not told:
            return None
        if isinstance(told[0], GatewayError):
            raise told[0]
        return told[0]

    def follow(self, upid: Upid, hear: Callable[[Told], None]) -> Callable[[], None]:
        """Has `hear` called once, in another thread, when the task has ended. Returns what calls that off.

        `hear` must be quick: all who wait wait for it.
        """
        with self._changed:
            if self._pid != os.getpid():  # the thread is the parent's
                self._pid, self._threads, self._followed = os.getpid(), {}, {}
            followed = self._followed.setdefault(str(upid), _Followed(upid))
            followed.listeners.append(hear)
            if upid.node not in self._threads:
                thread = threading.Thread(target=self._run, args=(upid.node,), name="pve-tasks", daemon=True)
                try:
                    thread.start()
                except RuntimeError as exc:  # who follows the next task of this node tries again, for both
                    log.error("nobody looks at the tasks of node %s yet: %s", upid.node, exc)
                else:
                    self._threads[upid.node] = thread

        def forget() -> None:
            with self._changed:
                with contextlib.suppress(ValueError):
                    followed.listeners.remove(hear)
                if not followed.listeners and self._followed.get(str(upid)) is followed:
                    del self._followed[str(upid)]
                    self._changed.notify_all()

        return forget

    def _run(self, node: str) -> None:
        while True:
            with self._changed:
                upids = self._of(node)
                if not upids:
                    del self._threads[node]
                    return
            began = self._monotonic()
            try:
                good = self._look(node, upids)
            except Exception:  # a defect of ours: those who wait go on waiting, and so does what looks for them
                log.exception("cannot see the tasks of node %s", node)
                good = False
            pause = _PAUSE if good else _TROUBLE_PAUSE
            with self._changed:
                self._changed.wait_for(lambda: not self._of(node), began + pause - self._monotonic())

    def _of(self, node: str) -> list[Upid]:
        return [followed.upid for followed in self._followed.values() if followed.upid.node == node]

    def _look(self, node: str, wanted: list[Upid]) -> bool:
        """One round; whether PVE could be asked."""
        alone = wanted
        if len(wanted) > _FEW:
            try:
                unknown = self._look_at_list(node, wanted)
            except GatewayError as error:
                self._note(node, error)
                return False
            # What the list does not show is asked for by its name, one in a round.
            self._turn += 1
            alone = [unknown[self._turn % len(unknown)]] if unknown else []
        good = True
        for upid in alone:
            good = self._look_at_one(upid) and good
        return good

    def _look_at_list(self, node: str, wanted: list[Upid]) -> list[Upid]:
        self._keep_pace()
        since = min(upid.start for upid in wanted)
        listed = {str(task.upid): task for task in self._tasks.recent(node, since=since, limit=_MAX_LISTED)}
        unknown = []
        for upid in wanted:
            task = listed.get(str(upid))
            if task is None:
                unknown.append(upid)
            elif task.ended:
                self._tell(upid, task)
        return unknown

    def _look_at_one(self, upid: Upid) -> bool:
        self._keep_pace()
        try:
            task = self._tasks.status(upid)
        except TaskNotFound as error:
            self._tell(upid, error)
            return True
        except GatewayError as error:
            if not error.retryable:
                self._tell(upid, error)
                return True
            self._note(upid.node, error)
            return False
        if task.ended:
            self._tell(upid, task)
        return True

    def _tell(self, upid: Upid, told: Told) -> None:
        with self._changed:
            followed = self._followed.pop(str(upid), None)
            listeners = list(followed.listeners) if followed is not None else []
        for hear in listeners:
            try:
                hear(told)
            except Exception:
                log.exception("who waited for %s could not be told of its end", upid)

    def _keep_pace(self) -> None:
        with self._pacing:
            now = self._monotonic()
            self._last = max(now, self._last + _PACE)
            turn = self._last
        time.sleep(max(0.0, turn - now))

    def _note(self, node: str, error: GatewayError) -> None:
        log.warning("cannot see the tasks of node %s now: %s", node, error.detail)


def _await(fd: int, seconds: float, watch: Watch | None) -> bool:
    """Waits for the descriptor; whether the client left before."""
    if watch is not None:
        return watch.wait(fd, seconds).gone
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.poll(seconds * 1000)
    return False
