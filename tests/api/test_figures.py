"""WebFigures: what several processes count at once is there, whole, whoever of them lives."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from gateway.api.figures import CLIENT_GONE, EDGE, UNMATCHED, WebFigures

ROUTE = ("GET", "/execs")


@pytest.fixture
def figures() -> WebFigures:
    return WebFigures([ROUTE], [200, 404])


def in_child(work: Callable[[], object]) -> int:
    """Does it in a forked process; that one's pid, once it has ended well."""
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    return pid


def count(figures: WebFigures, times: int = 1) -> None:
    for _ in range(times):
        figures.count_request(ROUTE, 200, 0.02)


def test_counts_of_all_processes_are_one(figures: WebFigures) -> None:
    """Four processes with four threads each count at once, and no count is lost."""

    def work() -> None:
        threads = [threading.Thread(target=count, args=(figures, 500)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    children = []
    for _ in range(4):
        pid = os.fork()
        if not pid:
            work()
            os._exit(0)
        children.append(pid)
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
    read = figures.read()
    assert read["requests"] == [(*ROUTE, 200, 8000)]
    ((_, _, bounds, counts, total),) = read["seconds"]
    assert counts[bounds.index(0.025)] == sum(counts) == 8000
    assert total == pytest.approx(160)


def test_a_successor_goes_on_where_a_dead_worker_was(figures: WebFigures) -> None:
    """A hundred workers after each other need one row, and what each has counted stays counted."""
    for _ in range(100):
        in_child(lambda: count(figures))
    assert figures.read()["requests"] == [(*ROUTE, 200, 100)]
    assert sum(bool(figures._cells[row * figures._width]) for row in range(64)) == 1


def test_what_is_no_operation_has_a_name_of_its_own(figures: WebFigures) -> None:
    """Other paths, refusals of the edge and clients that left; a status that no route is known to have is `other`."""
    figures.count_request(UNMATCHED, 404, 0.001)
    figures.count_request(ROUTE, CLIENT_GONE, 0.001)
    figures.count_request(ROUTE, 299, 0.001)
    figures.count_refusal(404)
    assert figures.read()["requests"] == [
        (*ROUTE, 499, 1), (*ROUTE, "other", 1), (*UNMATCHED, 404, 1), (*EDGE, 404, 1)
    ]  # fmt: skip


def test_calls_of_pve(figures: WebFigures) -> None:
    """By method, outcome and time."""
    figures.count_call("POST", "refused", 0.3)
    read = figures.read()
    assert [call for call in read["calls"] if call[2]] == [("POST", "refused", 1)]
    assert [(entry[0], entry[3]) for entry in read["call_seconds"] if entry[3]] == [("POST", 0.3)]
