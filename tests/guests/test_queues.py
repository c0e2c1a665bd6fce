"""Who waits for whom: one copy of a source at a time, in order, and only so many waiting or being made."""

from __future__ import annotations

import threading

import pytest

from gateway.errors import ClientGone, InternalError
from gateway.errors_pve import GuestLocked, TooManyChanges
from gateway.exec.order import GuestKind
from gateway.guests.background import Begun, Work, Workers
from gateway.guests.turns import Turns
from gateway.pve.ids import parse_upid
from gateway.pve.models import GuestRef
from tests.exec.waiting import until

BEGUN = Begun(
    GuestRef(200, GuestKind.LXC, "pve1"),
    parse_upid("UPID:pve1:0000C350:0012D687:6920A1B2:vzcreate:200:a@pve!b:"),
    "au_1",
)


def test_turns_are_taken_in_order() -> None:
    """Each waits for the one before it; another source is not waited for."""
    turns, order, threads = Turns(), [], []
    with turns.take(100), turns.take(101):
        for number in range(5):

            def work(number: int = number) -> None:
                with turns.take(100):
                    order.append(number)

            threads.append(threading.Thread(target=work))
            threads[-1].start()
            until(lambda: len(turns._queues[100]) == len(threads) + 1)
        assert order == []
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4] and turns._queues == {}


def test_too_many_wait() -> None:
    """Past the queue it is 429 at once, with when to come again."""
    turns = Turns(waiting=0)
    with turns.take(100), pytest.raises(TooManyChanges) as caught, turns.take(100):
        pass
    assert caught.value.status == 429 and caught.value.evidence["retry_after"] > 0
    with turns.take(100):
        pass


def test_a_turn_that_does_not_come() -> None:
    """After the time that there is for it: 429, and who had the turn keeps it."""
    turns = Turns(seconds=0.05)
    with turns.take(100), pytest.raises(TooManyChanges), turns.take(100):
        pass
    assert turns._queues == {}


def test_only_so_many_are_made_at_once() -> None:
    """The place is free again when one has ended, well or not."""
    workers, go = Workers(most=1), threading.Event()

    def make(work: Work[int]) -> int:
        go.wait()
        raise GuestLocked("locked")

    work = workers.start("tk", make)
    with pytest.raises(TooManyChanges):
        workers.start("tk", make)
    go.set()
    with pytest.raises(GuestLocked):
        work.wait(5, None)
    until(lambda: _starts(workers))


def test_one_token_leaves_places_to_others() -> None:
    """Past its share one token is refused, and another is not."""
    workers, go = Workers(most=2, each=1), threading.Event()

    def make(work: Work[int]) -> int:
        go.wait()
        return 1

    works = [workers.start("a", make)]
    with pytest.raises(TooManyChanges):
        workers.start("a", make)
    works.append(workers.start("b", make))
    go.set()
    assert [work.wait(5, None) for work in works] == [1, 1]


def _starts(workers: Workers) -> bool:
    try:
        return workers.start("tk", lambda work: 1).wait(5, None) == 1
    except TooManyChanges:
        return False


def test_waiting_ends_when_it_has_begun() -> None:
    """Without time to wait the answer comes when PVE has taken it on, not before."""
    go, began = threading.Event(), threading.Event()

    def make(work: Work[str]) -> str:
        began.wait()
        work.begin(BEGUN)
        go.wait()
        return "made"

    work = Workers().start("tk", make)
    began.set()
    assert work.wait(0, None) is None and work.began is BEGUN
    go.set()


def test_a_client_that_leaves_ends_the_waiting_alone() -> None:
    """What is being made goes on."""
    go, done = threading.Event(), threading.Event()

    class Gone:
        fd, gone = False, True

        def wait(self, fd: int | None, timeout: float | None) -> Gone:
            return self

    def make(work: Work[str]) -> str:
        go.wait()
        work.begin(BEGUN)
        done.set()
        return "made"

    work = Workers().start("tk", make)
    with pytest.raises(ClientGone):
        work.wait(5, Gone())
    go.set()
    assert done.wait(20)


def test_a_fault_behind_a_request_is_logged_with_its_token(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever began it is known by the log, though the request may have been answered long before."""

    def make(work: Work[int]) -> int:
        raise KeyError("a defect")

    with pytest.raises(InternalError):
        Workers().start("tk_1", make).wait(20, None)
    assert "of tk_1 failed" in caplog.text and "KeyError" in caplog.text
