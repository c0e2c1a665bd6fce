"""PVE's worker tasks: their state, their logs, their ends, and what a failed one means."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from gateway.errors import GatewayError
from gateway.errors_pve import (
    GuestLocked,
    PveNonsense,
    PveRejected,
    StorageFull,
    StorageUnsuitable,
    TaskFailed,
    TaskNotFound,
)
from gateway.pve.caller import Caller
from gateway.pve.ids import Upid, parse_node, parse_upid
from gateway.pve.problems import clean, translate
from gateway.pve.scalars import Raw, number, text

_PAGE = 500
_MAX_PAGES = 40
_TAIL = 10
_MAX_LINE = 1000


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task at one moment. `exitstatus`: `OK`, `WARNINGS: n` or why it failed; None while it runs."""

    upid: Upid
    exitstatus: str | None
    ended_at: int | None

    @property
    def ended(self) -> bool:
        return self.exitstatus is not None

    @property
    def ok(self) -> bool:
        """Whether it did what it was to do; with warnings, perhaps."""
        return self.exitstatus is not None and (self.exitstatus == "OK" or self.exitstatus.startswith("WARNINGS:"))

    @property
    def only_requested(self) -> bool:
        """Whether its end says no more than that the HA manager was asked: the guest is HA-managed."""
        return self.upid.type.startswith("ha")


@dataclass(frozen=True)
class LogLine:
    """One line of a task's log; `number` counts from 1."""

    number: int
    text: str


class Tasks:
    """The tasks of the cluster's nodes, as far as the gateway's token may see them: its own, with Sys.Audit all."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def shows_all(self, node: str) -> bool:
        """Whether a node's tasks are seen whoever began them, which takes Sys.Audit there. Raises GatewayError."""
        path = f"/nodes/{parse_node(node)}"
        granted = self._caller.ask_object("access", "permissions", options={"path": path}, about={"node": node})
        held = granted.get(path)
        return isinstance(held, dict) and bool(held.get("Sys.Audit"))

    def recent(
        self,
        node: str,
        *,
        vmid: int | None = None,
        since: int | None = None,
        errors: bool = False,
        start: int = 0,
        limit: int = 50,
    ) -> list[Task]:
        """A node's tasks, running ones too, newest first. `since`: seconds since 1970. Raises GatewayError."""
        options = {"source": "all", "vmid": vmid, "since": since, "errors": errors or None, "start": start}
        about = {"node": node, "vmid": vmid}
        rows = self._caller.ask_list(
            "nodes", parse_node(node), "tasks", about=about, options={**options, "limit": limit}
        )
        return [task for task in map(_read_listed, rows) if task is not None]

    def status(self, upid: Upid) -> Task:
        """The task as it is now. Raises TaskNotFound and other GatewayErrors."""
        told = self._caller.ask_object("nodes", upid.node, "tasks", upid.text, "status", about=_about(upid))
        if told.get("status") not in ("running", "stopped"):
            raise PveNonsense("PVE tells no state of the task", **_about(upid))
        if told["status"] == "running":
            return Task(upid=upid, exitstatus=None, ended_at=None)
        exitstatus = text(told.get("exitstatus")) or "unexpected status"
        return Task(upid=upid, exitstatus=exitstatus, ended_at=number(told.get("endtime")))

    def log(self, upid: Upid, *, start: int = 0, limit: int = _PAGE) -> list[LogLine]:
        """Up to `limit` lines after the first `start`; none where the log ends for now. Raises GatewayError."""
        rows = self._caller.ask_list(
            "nodes", upid.node, "tasks", upid.text, "log", about=_about(upid), options={"start": start, "limit": limit}
        )
        lines = [LogLine(number(row.get("n")) or 0, str(row.get("t") or "")[:_MAX_LINE]) for row in rows]
        if len(lines) == 1 and lines[0].text == "no content":  # of an empty log (PVE::Tools::dump_logfile)
            return []
        if len(lines) == 1 and lines[0].text.startswith("unable to open file - No such file"):
            raise TaskNotFound("no such task, or its log has been removed; see GET /tasks", **_about(upid))
        return [line for line in lines if line.number > start]

    def tail(self, upid: Upid, lines: int = _TAIL) -> tuple[str, ...]:
        """The log's last lines, cleaned. Raises GatewayError."""
        last: deque[str] = deque(maxlen=lines)
        for page in range(_MAX_PAGES):
            found = self.log(upid, start=page * _PAGE, limit=_PAGE)
            last.extend(clean(line.text) for line in found if line.text.strip())
            if len(found) < _PAGE:
                break
        return tuple(last)

    def stop(self, upid: Upid) -> None:
        """Has PVE end the task; one that has ended already is no error. Raises GatewayError."""
        self._caller.change("DELETE", "nodes", upid.node, "tasks", upid.text, about=_about(upid))

    def require_ok(self, task: Task) -> Task:
        """The task, if it did what it was to do.

        Raises what its exit status means (GuestLocked, StorageFull, ...), else TaskFailed; each with `upid`,
        `exitstatus` and the last lines of its `log`.
        """
        if task.ok:
            return task
        raise self.failure(task)

    def failure(self, task: Task) -> GatewayError:
        """What the end of a failed task means."""
        lines = self._try_tail(task.upid)
        evidence = {**_about(task.upid), "exitstatus": clean(task.exitstatus or ""), "log": list(lines)}
        found = translate(None, task.exitstatus or "", evidence, fallback=TaskFailed)
        if isinstance(found, TaskFailed):
            # Of a program that failed PVE tells the exit code alone; why, that program has told the log. Of a backup
            # that failed vzdump tells `job errors` alone (PVE::VZDump, exec_backup); volumes that stand against a
            # migration are in its log alone (PVE::QemuMigrate, PVE::LXC::Migrate).
            for line in reversed(lines):
                told = translate(None, line, evidence)
                is_backups = line.startswith("ERROR: Backup of VM ")
                is_volumes = "can't migrate local " in line
                if (
                    isinstance(told, StorageFull)
                    or (is_backups and isinstance(told, GuestLocked))
                    or (is_volumes and isinstance(told, PveRejected | StorageUnsuitable))
                ):
                    return told
        return found

    def _try_tail(self, upid: Upid) -> tuple[str, ...]:
        try:
            return self.tail(upid)
        except GatewayError:  # the failure itself is what matters
            return ()


def _read_listed(row: Raw) -> Task | None:
    try:
        upid = parse_upid(row.get("upid", ""))
    except GatewayError:
        return None
    status = text(row.get("status"))
    ended = status not in (None, "RUNNING", "running")
    return Task(upid=upid, exitstatus=status if ended else None, ended_at=number(row.get("endtime")) if ended else None)


def _about(upid: Upid) -> dict[str, Any]:
    return {"upid": str(upid), "node": upid.node, **({"vmid": upid.vmid} if upid.vmid is not None else {})}
