"""`/nodes/{node}/tasks` and `/cluster/tasks`: status, log, list, stop (pve-manager, API2/Tasks.pm)."""

from functools import lru_cache
from typing import Any

from tests.pvesim.api import privileges, tasks
from tests.pvesim.api.call import Call, Handler, Listed, split_list
from tests.pvesim.api.failure import refuse
from tests.pvesim.api.upid import Upid, classify, decode, read_status

_LISTED = 25  # $MAX_FINISHED


def show_status(call: Call) -> Any:
    task = _find(call, "Sys.Audit")
    running = tasks.is_running(task)
    told = {**task.told(), "status": "running" if running else "stopped"}
    return told if running else {**told, "exitstatus": read_status(task)}


def show_log(call: Call) -> Any:
    task = _find(call, "Sys.Audit", must_exist=False)
    start, limit = call.get("start", 0), call.get("limit", 50)
    if not task.log.exists():
        return Listed([{"n": 1, "t": "unable to open file - No such file or directory"}], 1)
    lines = task.log.read_text(errors="replace").splitlines()
    if not lines:
        return Listed([{"n": 1, "t": "no content"}], 1)
    numbered = [{"n": number, "t": text} for number, text in enumerate(lines, 1)]
    return Listed(numbered[start:] if limit == 0 else numbered[start : start + limit], len(lines))


def stop(call: Call) -> Any:
    tasks.stop(_find(call, "Sys.Modify"))


def list_of_node(call: Call) -> Any:
    auditor = privileges.may(call.user, f"/nodes/{call.node}", "Sys.Audit")
    source, found = call.get("source", "archive"), []
    for task in tasks.every_task():
        if task.node != call.node or not (auditor or _is_own(task, call.user)) or not _is_asked_for(call, task):
            continue
        running = tasks.is_running(task)
        if source == ("archive" if running else "active"):
            continue
        shown = _summary(task, running)
        if running or classify(shown["status"]) in _wanted(call):
            found.append(shown)
    start, limit = call.get("start", 0), call.get("limit", 50)
    return Listed(found[start : start + limit], len(found))


def list_of_cluster(call: Call) -> Any:
    """What runs, and of what has ended the last, 25 in all, of each node."""
    found: list[dict[str, Any]] = []
    for node in call.sim.nodes:
        auditor = privileges.may(call.user, f"/nodes/{node}", "Sys.Audit")
        ended, room = 0, _LISTED - sum(map(tasks.is_running, tasks.every_task()))
        for task in tasks.every_task():
            running = tasks.is_running(task)
            if task.node == node and (auditor or _is_own(task, call.user)) and (running or ended < room):
                ended += not running
                shown = _summary(task, running)
                found.append({key: value for key, value in shown.items() if not running or key != "status"})
    return found


def _find(call: Call, privilege: str, *, must_exist: bool = True) -> Upid:
    task = decode(call["upid"])
    if task is None:
        refuse({"upid": "unable to parse worker upid"})
    if must_exist and not task.log.is_file():
        refuse({"upid": "no such task"})
    if not _is_own(task, call.user):
        privileges.require(call.user, f"/nodes/{call.node}", privilege)
    return task


def _is_own(task: Upid, user: str) -> bool:
    """A user's task is also that of his tokens the other way round: a token sees what it started itself."""
    return task.user == user or task.user.partition("!")[0] == user


def _summary(task: Upid, running: bool) -> dict[str, Any]:
    return {**task.told(), "status": "RUNNING"} if running else {**task.told(), **_end(task)}


@lru_cache(maxsize=20_000)
def _end(task: Upid) -> dict[str, Any]:
    """Of a task that has ended: PVE keeps these in an index, and reads no log for them."""
    return {"status": read_status(task), "endtime": int(task.log.stat().st_mtime)}


def _wanted(call: Call) -> set[str]:
    if call.get("errors"):
        return {"warning", "error", "unknown"}
    return {word.lower() for word in split_list(call.get("statusfilter"))} or {"ok", "warning", "error", "unknown"}


def _is_asked_for(call: Call, task: Upid) -> bool:
    return (
        str(call.get("userfilter", "")).lower() in task.user.lower()
        and call.get("typefilter", task.type) == task.type
        and str(call.get("vmid", task.id)) == task.id
        and call.get("since", 0) <= task.starttime <= call.get("until", task.starttime)
    )


_TASK = "/nodes/{node}/tasks/{upid}"
ROUTES: dict[tuple[str, str], Handler] = {
    ("GET", "/cluster/tasks"): list_of_cluster,
    ("GET", "/nodes/{node}/tasks"): list_of_node,
    ("GET", f"{_TASK}/status"): show_status,
    ("GET", f"{_TASK}/log"): show_log,
    ("DELETE", _TASK): stop,
}
