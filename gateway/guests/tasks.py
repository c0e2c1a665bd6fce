"""Tasks under a grant: who may see one may read the guest that it is about; those about no guest need all guests."""

from __future__ import annotations

import time
from collections.abc import Iterator

from gateway.clientwatch import Watch
from gateway.errors import InvalidRequest
from gateway.errors_pve import NodeNotFound, TaskEnded, TaskNotFound
from gateway.exec.permit import Ranges, within
from gateway.guests.listing import ALL
from gateway.guests.pace import Pace
from gateway.pve.guests import GuestMap
from gateway.pve.ids import Upid, parse_upid
from gateway.pve.tasks import LogLine, Task, Tasks
from gateway.pve.waiting import TaskWatcher

_PAGE = 500
_MAX_PAGES = 20
_LOOK_SECONDS = 1.0


class VisibleTasks:
    """The tasks of a cluster as one who may read the guests `reach` sees them; all others do not exist."""

    def __init__(self, tasks: Tasks, watcher: TaskWatcher, guests: GuestMap, pace: Pace, reach: Ranges) -> None:
        self._tasks = tasks
        self._guests = guests
        self._watcher = watcher
        self._pace = pace
        self._reach = reach

    def find(self, text: str) -> Upid:
        """The task's name, if it may be one that is seen. Raises TaskNotFound, without asking PVE."""
        try:
            upid = parse_upid(text)
        except InvalidRequest:
            raise TaskNotFound.for_upid(text[:64]) from None
        if not self._sees(upid):
            raise TaskNotFound.for_upid(text)
        try:
            self._guests.require_node(upid.node)
        except NodeNotFound:
            raise TaskNotFound.for_upid(text) from None
        return upid

    def show(self, text: str, seconds: float = 0, watch: Watch | None = None) -> Task:
        """The task as it is now, or when it has ended or `seconds` are over. Raises TaskNotFound, ClientGone."""
        upid = self.find(text)
        try:
            task = self._tasks.status(upid)
            if seconds and not task.ended:
                task = self._watcher.wait(upid, seconds, watch) or task
        except TaskNotFound:
            raise TaskNotFound.for_upid(text) from None
        return task

    def to_stop(self, text: str) -> Upid:
        """A task that runs, for PVE to stop. Raises TaskNotFound, TaskEnded.

        PVE ends the process that the name holds; a name made up of one's own guest and another's process is no task
        there either, for a task's log stands under its whole name (PVE::API2::Tasks, stop_task).
        """
        task = self.show(text)
        if task.ended:
            raise TaskEnded("this task has ended; there is nothing to stop", upid=text, exitstatus=task.exitstatus)
        return task.upid

    def page(
        self, node: str, *, vmid: int | None, since: int | None, errors: bool, after: str | None, limit: int
    ) -> tuple[list[Task], str | None]:
        """A page of a node's tasks behind the one named `after`, and what the next begins behind, None on the last.

        It names a task that was seen: a number would count those that are not. Of the node's newest 10,000 tasks.
        """
        found: list[Task] = []
        if vmid is not None and not within(vmid, self._reach):
            return [], None  # without a look: how long it is would tell
        for task in self._walk(node, vmid, since, errors):
            if after is not None:
                after = None if str(task.upid) == after else after
            elif len(found) == limit:
                return found, str(found[-1].upid)
            else:
                found.append(task)
        return found, None

    def _walk(self, node: str, vmid: int | None, since: int | None, errors: bool) -> Iterator[Task]:
        """Those that are seen, each once: a task that begins meanwhile moves all others on."""
        passed: set[str] = set()
        for number in range(_MAX_PAGES):
            page = self._tasks.recent(node, vmid=vmid, since=since, errors=errors, start=number * _PAGE, limit=_PAGE)
            for task in page:
                if self._sees(task.upid) and str(task.upid) not in passed:
                    passed.add(str(task.upid))
                    yield task
            if len(page) < _PAGE:
                return

    def log(
        self, text: str, *, after: int, limit: int, seconds: float = 0, watch: Watch | None = None
    ) -> tuple[list[LogLine], int | None]:
        """Up to `limit` lines behind `after`, and the number to go on behind, None behind the log's end.

        With none there it waits for one for `seconds`, at a pace that all who wait share. Raises TaskNotFound.
        """
        upid = self.find(text)
        deadline = time.monotonic() + seconds
        try:
            while True:
                ended = self._tasks.status(upid).ended
                lines = self._tasks.log(upid, start=after, limit=limit)
                if lines:
                    over = ended and len(lines) < limit
                    return lines, None if over else lines[-1].number
                if ended:
                    return [], None
                if not self._pace.wait(deadline, watch, _LOOK_SECONDS):
                    return [], after
        except TaskNotFound:
            raise TaskNotFound.for_upid(text) from None

    def _sees(self, upid: Upid) -> bool:
        return self._reach == ALL if upid.vmid is None else within(upid.vmid, self._reach)
