"""Changes on the record: the intent before, the outcome after, over lost answers, lost clients and lost processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.audit.record import Event
from gateway.audit.unfinished import UnfinishedChanges
from gateway.auth.actions import Action
from gateway.errors import AuditUnavailable, GatewayError, GuestNotFound, NodeNotReady
from gateway.errors_pve import GuestLocked, OutcomeUnknown, TaskNotFound
from gateway.guests.changes import Changes
from gateway.guests.trail import Asker, Change
from gateway.pve.ids import Upid, parse_upid
from gateway.pve.tasks import Task
from gateway.pve.waiting import Told

UPID = parse_upid("UPID:pve1:0000C350:0012D687:6920A1B2:vzstart:101:gateway@pve!web:")
ASKER = Asker("tk_1", "ci", "10.0.0.1", "req_1")
DONE = Task(upid=UPID, exitstatus="OK", ended_at=1)


@dataclass
class Log:
    """An audit log that can be down."""

    records: list[Mapping[str, Any]] = field(default_factory=list)
    down: bool = False

    def commit(self, record: Mapping[str, Any]) -> None:
        if self.down:
            raise AuditUnavailable("down")
        self.records.append(record)

    def outcomes(self) -> list[Any]:
        return [record["data"] for record in list(self.records) if record["event"] == "guest:outcome"]


@dataclass
class Watcher:
    """Tells of ends when the test says so."""

    listeners: list[tuple[Upid, Callable[[Told], None]]] = field(default_factory=list)

    def follow(self, upid: Upid, hear: Callable[[Told], None]) -> Callable[[], None]:
        self.listeners.append((upid, hear))
        return lambda: None

    def end(self, told: Told) -> None:
        for _, hear in self.listeners:
            hear(told)


@dataclass
class Place:
    """Everything around Changes."""

    directory: Path
    log: Log = field(default_factory=Log)
    watcher: Watcher = field(default_factory=Watcher)

    def changes(self) -> Changes:
        return Changes(self.log, None, self.watcher, UnfinishedChanges(self.directory))  # type: ignore[arg-type]

    def left(self) -> list[str]:
        return sorted(os.listdir(self.directory)) if self.directory.exists() else []


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "changes")


def start(changes: Changes, act: Callable[[], Upid | None]) -> Any:
    change = Change(Event.GUEST_START, Action.GUEST_POWER, "pve1", 101, {"timeout": 5})
    return changes.make(ASKER, change, act)


def until(holds: Callable[[], object]) -> None:
    """Waits for what another thread brings about."""
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_task(place: Place) -> None:
    """Announced before it is asked for; its outcome is that of the task, once that has ended."""
    seen: list[int] = []

    def act() -> Upid:
        seen.append(len(place.log.records))
        return UPID

    made = start(place.changes(), act)
    assert seen == [1] and made.upid == UPID
    (intent,) = place.log.records
    assert intent["event"] == "guest:start" and intent["data"] == {"timeout": 5} and intent["vmid"] == 101
    assert intent["actor"] == {"token_id": "tk_1", "name": "ci"} and intent["action"] == "guest:power"
    assert place.left() == [f"{made.audit_id}.json"]
    assert (place.directory / place.left()[0]).stat().st_mode & 0o777 == 0o600
    place.watcher.end(DONE)
    until(lambda: not place.left())
    assert place.log.outcomes() == [{"reason": "ok", "upid": str(UPID)}]
    assert place.log.records[1]["audit_id"] == made.audit_id


@pytest.mark.parametrize(
    ("told", "result"),
    [
        (Task(upid=UPID, exitstatus="CT is locked", ended_at=1), "failed"),
        (TaskNotFound("gone"), "unknown"),
    ],
)
def test_task_that_fails(place: Place, told: Told, result: str) -> None:
    """How it ended stands there; where nobody knows, that does."""
    start(place.changes(), lambda: UPID)
    place.watcher.end(told)
    until(place.log.outcomes)
    assert place.log.outcomes()[0]["reason"] == result


def test_done_at_once(place: Place) -> None:
    """What is no task is done when it returns."""
    start(place.changes(), lambda: None)
    until(lambda: place.log.outcomes() and not place.left())
    assert place.log.outcomes() == [{"reason": "ok"}]


def test_a_file_that_cannot_be_removed(place: Place) -> None:
    """It stops neither the outcomes behind it, nor who comes after us, and none is told twice."""
    changes = place.changes()
    stuck = start(changes, lambda: UPID)
    path = place.directory / f"{stuck.audit_id}.json"
    path.rename(path.with_suffix(".moved"))
    path.mkdir()  # what no unlink removes
    start(changes, lambda: None)
    place.watcher.end(DONE)
    start(changes, lambda: None)
    until(lambda: len(place.log.outcomes()) == 3)
    until(lambda: len(place.left()) == 2)
    path.rmdir()
    path.with_suffix(".moved").rename(path)
    place.changes().recover()
    assert len(place.log.outcomes()) == 3 and path.read_bytes() == b""


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (OutcomeUnknown("silence", vmid=101, upid=str(UPID)), "unknown"),
        (RuntimeError("a defect"), "unknown"),
    ],
)
def test_refusals(place: Place, error: Exception, result: str) -> None:
    """What PVE refuses is recorded, and the caller can name the record."""

    def act() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        start(place.changes(), act)
    until(lambda: place.log.outcomes() and not place.left())
    assert place.log.outcomes()[0]["reason"] == result
    if isinstance(raised.value, GatewayError):
        assert raised.value.evidence["audit_id"] == place.log.records[0]["audit_id"]


def test_refused_by_pve(place: Place) -> None:
    """What PVE did not take on is taken back, and the caller can name the record; but of a guest that is not there
    all answers are alike."""

    def refuse(error: GatewayError) -> Callable[[], Upid]:
        def act() -> Upid:
            raise error

        return act

    with pytest.raises(GuestLocked) as raised:
        start(place.changes(), refuse(GuestLocked("locked", vmid=101)))
    until(lambda: not place.left())
    assert raised.value.evidence["audit_id"] == place.log.records[0]["audit_id"]
    assert place.log.records[1]["event"] == "guest:aborted"
    assert place.log.records[1]["data"] == {"aborted": "guest:start", "reason": "locked"}
    with pytest.raises(GuestNotFound) as unknown:
        start(place.changes(), refuse(GuestNotFound("gone", vmid=101)))
    assert "audit_id" not in unknown.value.evidence


def test_no_record_no_change(place: Place) -> None:
    """Without a durable intent nothing is asked of PVE, and nothing is remembered."""
    place.log.down = True
    with pytest.raises(AuditUnavailable):
        start(place.changes(), lambda: pytest.fail("it was made"))
    assert place.left() == []


def test_no_room_no_change(place: Place) -> None:
    """Neither without a place to remember it."""
    place.directory.parent.joinpath("changes").touch()
    with pytest.raises(NodeNotReady):
        start(place.changes(), lambda: pytest.fail("it was made"))
    assert place.log.records == []


def test_log_that_is_away_for_a_while(place: Place) -> None:
    """The outcome comes when the log does."""
    start(place.changes(), lambda: UPID)
    place.log.down = True
    place.watcher.end(DONE)
    assert place.left()
    place.log.down = False
    until(lambda: not place.left())
    assert len(place.log.outcomes()) == 1


def test_process_that_died(place: Place) -> None:
    """The next one follows the tasks that were under way, and says of what it cannot know that it is unknown."""
    pid = os.fork()
    if not pid:
        changes = place.changes()
        start(changes, lambda: UPID)
        try:
            start(changes, lambda: os._exit(0))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len(place.left()) == 2
    place.changes().recover()
    assert [upid for upid, _ in place.watcher.listeners] == [UPID]
    place.watcher.end(DONE)
    until(lambda: not place.left())
    assert sorted(outcome["reason"] for outcome in place.log.outcomes()) == ["ok", "unknown"]


def test_what_another_process_has_in_hand(place: Place) -> None:
    """Nobody takes that away from it."""
    start(place.changes(), lambda: UPID)
    place.changes().recover()
    assert len(place.watcher.listeners) == 1
    (place.directory / "au_damaged.json").write_text("{")
    place.changes().recover()
    assert len(place.left()) == 1
