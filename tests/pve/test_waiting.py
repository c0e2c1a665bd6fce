"""Waiting for tasks: how soon an end is told, what it costs PVE, and who stops waiting."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from gateway.errors import ClientGone, GatewayError
from gateway.errors_pve import PveDenied, PveUnavailable, TaskNotFound
from gateway.pve.ids import Upid, parse_upid
from gateway.pve.tasks import Task
from gateway.pve.waiting import TaskWatcher


def make_upid(number: int, node: str = "pve1") -> Upid:
    return parse_upid(f"UPID:{node}:{number:08X}:0012D687:6920A1B2:vzstart:{100 + number}:gateway@pve!web:")


@dataclass
class Recorded:
    """Tasks that run until `end`; every request is noted, with its time."""

    ended: dict[str, Task] = field(default_factory=dict)
    asked: list[tuple[float, str]] = field(default_factory=list)
    hidden: set[str] = field(default_factory=set)
    failing: GatewayError | None = None

    def end(self, upid: Upid) -> None:
        self.ended[str(upid)] = Task(upid=upid, exitstatus="OK", ended_at=1)

    def status(self, upid: Upid) -> Task:
        self._note("status")
        return self.ended.get(str(upid), Task(upid=upid, exitstatus=None, ended_at=None))

    def recent(self, node: str, *, since: int | None = None, limit: int = 50) -> list[Task]:
        self._note("list")
        return [task for name, task in self.ended.items() if task.upid.node == node and name not in self.hidden]

    def _note(self, what: str) -> None:
        self.asked.append((time.monotonic(), what))
        if self.failing is not None:
            raise self.failing


@pytest.fixture
def tasks() -> Recorded:
    return Recorded()


Threads = Callable[[], list[str]]


@pytest.fixture
def waiting_threads() -> Threads:
    """The threads that wait for tasks, but for those that were there before the test."""
    before = set(threading.enumerate())
    return lambda: [one.name for one in threading.enumerate() if one.name == "pve-tasks" and one not in before]


@pytest.fixture
def watcher(tasks: Recorded) -> TaskWatcher:
    return TaskWatcher(tasks)  # type: ignore[arg-type]


def wait_all(
    watcher: TaskWatcher, upids: list[Upid], seconds: float
) -> tuple[list[threading.Thread], dict[str, float]]:
    """Threads that wait for the tasks, and the moments at which each was told of an end."""
    told: dict[str, float] = {}

    def wait(upid: Upid) -> None:
        if watcher.wait(upid, seconds) is not None:
            told[f"{upid} {threading.get_ident()}"] = time.monotonic()

    threads = [threading.Thread(target=wait, args=(upid,)) for upid in upids]
    for thread in threads:
        thread.start()
    return threads, told


def most_in_a_second(asked: list[tuple[float, str]]) -> int:
    moments = [moment for moment, _ in asked]
    return max(sum(begin <= moment < begin + 0.85 for moment in moments) for begin in moments)  # one may be late


@pytest.mark.parametrize("same", [True, False], ids=["one task", "a hundred tasks"])
def test_hundred_wait(watcher: TaskWatcher, tasks: Recorded, same: bool) -> None:
    """They cost ten requests in a second at most, and all are told within 300 ms of the end."""
    upids = [make_upid(0 if same else number) for number in range(100)]
    threads, told = wait_all(watcher, upids, 30)
    until(lambda: len(tasks.asked) >= 12)
    ended = time.monotonic()
    for upid in upids:
        tasks.end(upid)
    for thread in threads:
        thread.join(30)
    assert len(told) == 100
    assert max(told.values()) - ended <= 0.3 + 2  # the second half: a loaded machine's threads
    assert most_in_a_second(tasks.asked) <= 10


def test_what_the_list_does_not_show_is_asked_for(watcher: TaskWatcher, tasks: Recorded) -> None:
    """A task that the list leaves out is found by its name."""
    upids = [make_upid(number) for number in range(4)]
    tasks.hidden = {str(upid) for upid in upids}
    threads, told = wait_all(watcher, upids, 30)
    for upid in upids:
        tasks.end(upid)
    for thread in threads:
        thread.join(30)
    assert len(told) == 4 and most_in_a_second(tasks.asked) <= 10


def test_time_is_over(watcher: TaskWatcher, tasks: Recorded, waiting_threads: Threads) -> None:
    """A task that runs on is no failure; nobody asks for it any more."""
    assert watcher.wait(make_upid(1), 0.05) is None
    until(lambda: not waiting_threads())
    upid = make_upid(2)
    tasks.end(upid)
    assert watcher.wait(upid, 10) is not None, "who comes later is looked after again"


def test_two_nodes(watcher: TaskWatcher, tasks: Recorded) -> None:
    """Each node's list is asked for, within the same bound."""
    upids = [make_upid(number, node) for node in ("pve1", "pve2", "pve3") for number in range(5)]
    threads, told = wait_all(watcher, upids, 30)
    until(lambda: len(tasks.asked) >= 12)
    for upid in upids:
        tasks.end(upid)
    for thread in threads:
        thread.join(30)
    assert len(told) == 15 and most_in_a_second(tasks.asked) <= 10


def test_client_that_leaves(watcher: TaskWatcher, tasks: Recorded) -> None:
    """Its wait ends; the task does not care."""

    @dataclass
    class Seen:
        fd: bool = False
        gone: bool = True

    class Leaving:
        def wait(self, fd: int | None, timeout: float | None) -> Seen:
            return Seen()

    with pytest.raises(ClientGone):
        watcher.wait(make_upid(1), 10, Leaving())


@pytest.mark.parametrize("error", [TaskNotFound("no such task"), PveDenied("may not")])
def test_what_never_gets_better_is_told(watcher: TaskWatcher, tasks: Recorded, error: GatewayError) -> None:
    """Who waits learns why its end cannot be known."""
    tasks.failing = error
    with pytest.raises(type(error)):
        watcher.wait(make_upid(1), 10)


def test_trouble_passes(watcher: TaskWatcher, tasks: Recorded) -> None:
    """While PVE cannot be asked the wait goes on, with fewer questions."""
    tasks.failing = PveUnavailable("not now")
    upid = make_upid(1)
    threads, told = wait_all(watcher, [upid], 30)
    until(lambda: len(tasks.asked) >= 1)
    tasks.failing = None
    tasks.end(upid)
    threads[0].join(30)
    assert len(told) == 1


def test_listener_that_fails_harms_nobody(watcher: TaskWatcher, tasks: Recorded) -> None:
    """The others are told all the same."""
    upid, heard = make_upid(1), threading.Event()

    def bad(_: object) -> None:
        raise RuntimeError("a defect")

    watcher.follow(upid, bad)
    watcher.follow(upid, lambda _: heard.set())
    tasks.end(upid)
    assert heard.wait(20)


def test_no_descriptor_is_left(watcher: TaskWatcher, tasks: Recorded) -> None:
    """A thousand waits leave nothing open."""
    before = len(os.listdir("/proc/self/fd"))
    for number in range(1000):
        watcher.wait(make_upid(number), 0)
    assert len(os.listdir("/proc/self/fd")) <= before  # what tests before this one left may go meanwhile


def test_a_node_that_hangs_delays_nobody_else(
    watcher: TaskWatcher, tasks: Recorded, waiting_threads: Callable[[], list[str]]
) -> None:
    """Ends on other nodes are told as soon as ever while one node does not answer."""
    answer = threading.Event()
    ask = tasks.status

    def status(upid: Upid) -> Task:
        if upid.node == "pve2":
            answer.wait(20)
        return ask(upid)

    tasks.status = status  # type: ignore[method-assign]
    hung, fine = make_upid(1, "pve2"), make_upid(2, "pve1")
    forget = watcher.follow(hung, lambda told: None)
    try:
        threads, told = wait_all(watcher, [fine], 15)
        until(lambda: len(tasks.asked) > 0)
        ended = time.monotonic()
        tasks.end(fine)
        for thread in threads:
            thread.join()
        assert told and max(told.values()) - ended < 5
    finally:
        forget()
        answer.set()
    until(lambda: not waiting_threads())


def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    """Waits for a condition that another thread brings about."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
