"""Undo: what was made is destroyed, nobody else's guest ever is, and what is left is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.audit.unfinished import UnfinishedChanges
from gateway.errors import GatewayError, GuestNotFound, GuestNotRunning, InternalError
from gateway.errors_pve import OutcomeUnknown, PveTokenRefused
from gateway.exec.order import GuestKind
from gateway.guests.background import Work
from gateway.guests.changes import Changes
from gateway.guests.container import ContainerRequest
from gateway.guests.maker import ContainerCreation
from gateway.guests.trail import Asker, Reason
from gateway.guests.undo import Undone, clear_up, undo
from gateway.pve.ids import Upid, parse_upid
from gateway.pve.models import GuestRef
from gateway.pve.tasks import Task
from tests.guests.test_changes import Place, until

GUEST = GuestRef(7110, GuestKind.LXC, "pve1")
MAKER = parse_upid("UPID:pve1:0000C350:00001000:6920A1B2:vzcreate:7110:gateway@pve!web:")
STOP = parse_upid("UPID:pve1:0000C351:00002000:6920A1C2:vzstop:7110:gateway@pve!web:")
DESTROY = parse_upid("UPID:pve1:0000C352:00003000:6920A1D2:vzdestroy:7110:gateway@pve!web:")
THEIRS = parse_upid("UPID:pve1:0000C353:00002800:6920A1C8:vzdestroy:7110:admin@pam:")


@dataclass
class Node:
    """A node with a running guest 7110. `while_stopping`: what others do meanwhile."""

    while_stopping: Callable[[Node], None] = lambda node: None
    tasks: list[Upid] = field(default_factory=lambda: [MAKER])
    vmids: set[int] = field(default_factory=lambda: {GUEST.vmid})
    here: bool = True
    did: list[str] = field(default_factory=list)

    def status(self, guest: GuestRef) -> Any:
        if not self.here:
            raise GuestNotFound.for_vmid(guest.vmid)
        return SimpleNamespace(running="stop" not in self.did)

    def stop(self, guest: GuestRef) -> Upid:
        self.did.append("stop")
        self.while_stopping(self)
        return STOP

    def delete(self, guest: GuestRef, *, force: bool = False) -> Upid:
        self.did.append("delete")
        self.vmids.discard(guest.vmid)
        return DESTROY

    def undo(self, guest: GuestRef = GUEST, maker: Upid = MAKER, act: Callable[..., Any] = undo) -> Any:
        tasks = SimpleNamespace(
            shows_all=lambda node: True,
            recent=lambda node, **options: [Task(upid=upid, exitstatus="OK", ended_at=1) for upid in self.tasks],
            require_ok=lambda task: task,
        )
        watcher = SimpleNamespace(wait=lambda upid, seconds: None)
        pve: Any = SimpleNamespace(guests=self, tasks=tasks, watcher=watcher)
        guests: Any = SimpleNamespace(vmids=lambda: frozenset(self.vmids))
        return act(pve, guests, guest, maker)


def test_what_was_made_is_destroyed() -> None:
    """Stopped first, where it runs."""
    node = Node()
    assert node.undo() == Undone(True) and node.did == ["stop", "delete"]


def test_a_guest_that_took_its_place_while_it_was_stopped_stays() -> None:
    """Stopping takes up to minutes; who destroys it meanwhile, and makes another, keeps that."""
    node = Node(lambda node: node.tasks.append(THEIRS))
    assert not node.undo().clean and node.did == ["stop"] and GUEST.vmid in node.vmids


def test_a_clone_that_another_node_has() -> None:
    """Ticks of two nodes are not compared: what makes room for others there, at any time that counts, keeps it."""
    away = parse_upid(str(THEIRS).replace(":pve1:", ":pve2:").replace("00002800", "00000800"))
    maker = parse_upid("UPID:pve1:0000C350:00001000:6920A1B2:vzclone:7109:gateway@pve!web:")
    there = GUEST._replace(node="pve2")
    assert Node(tasks=[maker]).undo(there, maker) == Undone(True)
    assert not Node(tasks=[maker, away]).undo(there, maker).clean
    assert Node(tasks=[MAKER, parse_upid(str(away).replace(":pve2:", ":pve1:"))]).undo() == Undone(True)


def test_a_guest_that_stopped_by_itself_is_destroyed() -> None:
    """That it needs no stopping any more stops nothing."""

    def stopped(node: Node) -> None:
        raise GuestNotRunning("stopped", vmid=GUEST.vmid)

    node = Node(stopped)
    assert node.undo() == Undone(True) and node.did == ["stop", "delete"]


STARTED = parse_upid("UPID:pve1:0000C354:00000800:6920B1C8:vzstart:7110:admin@pam:")
SHUT_DOWN = parse_upid("UPID:pve1:0000C355:00000900:6920C1C8:vzshutdown:7110:admin@pam:")


@pytest.mark.parametrize(("tasks", "removed"), [([MAKER], True), ([MAKER, STARTED, SHUT_DOWN], False)])
def test_a_leftover_that_was_used_after_the_node_was_booted_stays(tasks: list[Upid], removed: bool) -> None:
    """A boot begins the ticks of tasks anew: one that is later by the clock counts, whatever its ticks say."""
    node = Node(tasks=tasks, did=["stop"])
    done = node.undo(act=clear_up)
    assert (done is not None, GUEST.vmid not in node.vmids) == (removed, removed)


@pytest.mark.parametrize("left", [True, False])
def test_what_is_not_on_its_node_any_more_may_be_elsewhere(left: bool) -> None:
    """PVE knows no such guest on the node: clean only where the cluster knows none either."""
    node = Node(here=False)
    node_vmids = {GUEST.vmid} if left else set()
    node.vmids = node_vmids
    assert node.undo().clean is not left and node.did == []


class Maker(Node):
    """A node on which `start` meets a defect of ours."""

    def create(self, *_: Any) -> Upid:
        return MAKER

    def start(self, guest: GuestRef) -> Upid:
        raise KeyError("a defect")


def make(node: Node, wait: Callable[..., Task]) -> tuple[GatewayError, list[Any]]:
    """How the making of a guest fails there, and the ends of its record. `wait`: what the task that makes it tells."""
    ends: list[Any] = []
    tasks = SimpleNamespace(
        recent=lambda node_name, **options: [Task(upid=MAKER, exitstatus="OK", ended_at=1)],
        require_ok=lambda task: task,
    )
    pve = SimpleNamespace(guests=node, tasks=tasks, watcher=SimpleNamespace(wait=wait))
    intent = SimpleNamespace(
        audit_id="au_1", note_task=lambda upid: None, end=lambda reason, **told: ends.append((reason, told["undone"]))
    )
    workshop: Any = SimpleNamespace(
        pve=pve,
        node="pve1",
        guests=SimpleNamespace(vmids=lambda: frozenset(node.vmids)),
        changes=SimpleNamespace(announce=lambda asker, change: intent),
        begun=lambda upid: True,
        reserve=lambda reach, wanted, tried: nullcontext(wanted),
    )
    caller: Any = SimpleNamespace(asker=None, reach=())
    wish = ContainerRequest(template="local:vztmpl/x.tar.zst", vmid=GUEST.vmid, start=True)
    with pytest.raises(GatewayError) as caught:
        ContainerCreation(workshop, caller, wish).make(Work())
    return caught.value, ends


def test_a_defect_of_ours_undoes_too() -> None:
    """An error that nobody foresaw leaves neither a guest nor a record without an outcome."""
    node = Maker()
    error, ends = make(node, lambda upid, seconds: Task(upid=MAKER, exitstatus="OK", ended_at=1))
    assert isinstance(error, InternalError) and error.evidence["undone"] is True
    assert node.vmids == set() and ends == [(Reason.FAILED, True)]


def test_a_task_of_which_pve_tells_nothing_any_more_has_not_failed() -> None:
    """It goes on, and what it makes is not touched: unknown is what is answered and recorded."""

    def refuse(upid: Upid, seconds: float) -> Task:
        raise PveTokenRefused("the token was replaced")

    node = Maker()
    error, ends = make(node, refuse)
    assert isinstance(error, OutcomeUnknown) and error.evidence["upid"] == str(MAKER)
    assert node.did == [] and node.vmids == {GUEST.vmid} and ends == [(Reason.UNKNOWN, False)]


def test_what_was_told_to_be_whole_is_no_leftover(tmp_path: Path) -> None:
    """A process that dies between its answer and the outcome's record leaves a guest that is taken for whole."""
    place = Place(tmp_path / "changes")
    done = Task(upid=MAKER, exitstatus="OK", ended_at=1)

    class Silent(Maker):
        def start(self, guest: GuestRef) -> Upid:
            place.log.down = True
            return MAKER

    pid = os.fork()
    if not pid:
        try:
            tasks = SimpleNamespace(require_ok=lambda task: task)
            watcher = SimpleNamespace(wait=lambda upid, seconds: done)
            workshop: Any = SimpleNamespace(
                pve=SimpleNamespace(guests=Silent(), tasks=tasks, watcher=watcher),
                node="pve1",
                changes=place.changes(),
                begun=lambda upid: True,
                reserve=lambda reach, wanted, tried: nullcontext(wanted),
            )
            caller: Any = SimpleNamespace(asker=Asker("tk_1", "ci", "10.0.0.1", "req_1"), reach=())
            wish = ContainerRequest(template="local:vztmpl/x.tar.zst", vmid=GUEST.vmid, start=True)
            ContainerCreation(workshop, caller, wish).make(Work())
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    found: list[Any] = []
    unfinished, nobody, watcher_here = UnfinishedChanges(place.directory), cast(Any, None), cast(Any, place.watcher)
    Changes(place.log, nobody, watcher_here, unfinished, lambda intent, told: found.append(intent)).recover()
    place.watcher.end(done)
    assert [intent.is_to_be_whole for intent in found] == [False]
    found[0].end_with(done)
    until(lambda: not place.left())
    assert place.log.outcomes() == [{"reason": "ok", "upid": str(MAKER)}]
