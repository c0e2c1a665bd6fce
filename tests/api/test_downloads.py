"""GET /execs/{id}/stdout of much output, and with follow=1: whole or cut, never with something left out in silence."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import OutputDropped, SupervisorUnavailable

from .fake_exec import FakeExec
from .fakes import Api, assert_problem

MIB = 1 << 20
DATA = bytes(range(256)) * (3 * MIB // 256) + b"end"


@pytest.fixture
def running(api: Api) -> tuple[str, str, FakeExec]:
    """A token, the path of the stdout of a detached exec of it that has written DATA, and the exec."""
    token = api.token()
    api.supervisor.plays = lambda exec_: exec_.write("stdout", DATA)
    headers = {"Prefer": "respond-async"}
    view = api.request("POST", "/exec/101", token, headers=headers, json={"command": ["x"]}).json
    return token, f"/execs/{view['id']}/stdout", api.supervisor.live[view["id"]]


def test_much_output(api: Api, running: tuple[str, str, FakeExec]) -> None:
    """More than fits one answer of the supervisor: whole, its length told before, whatever it comes in."""
    token, path, exec_ = running
    exec_.largest = MIB - 7
    response = api.request("GET", path, token)
    assert response.headers["Content-Length"] == str(len(DATA))
    assert response.headers["X-Output-Complete"] == "false"
    assert response.data == DATA
    assert exec_.wait_for_feeds(0)


@pytest.mark.parametrize(("first", "last"), [(0, MIB - 1), (0, MIB), (5, 3 * MIB), (MIB, len(DATA) - 1)])
def test_much_of_a_range(api: Api, running: tuple[str, str, FakeExec], first: int, last: int) -> None:
    """A range is exact at its edges and at those of the pieces."""
    token, path, exec_ = running
    response = api.request("GET", path, token, headers={"Range": f"bytes={first}-{last}"})
    assert (response.status_code, response.data) == (206, DATA[first : last + 1])
    assert response.headers["Content-Length"] == str(last + 1 - first)
    assert exec_.wait_for_feeds(0)


def test_around_a_gap(api: Api, running: tuple[str, str, FakeExec]) -> None:
    """Without a range all that is kept comes, on both sides of what is not; the header tells where that was."""
    token, path, exec_ = running
    exec_.write("stdout", 1000)
    exec_.write("stdout", b"tail")
    response = api.request("GET", path, token)
    assert response.data == DATA + b"tail"
    assert response.headers["X-Output-Dropped"] == f"{len(DATA)}-{len(DATA) + 999}"


def test_head_takes_nothing(api: Api, running: tuple[str, str, FakeExec]) -> None:
    """HEAD tells the length of what it does not send, and lets all go."""
    token, path, exec_ = running
    response = api.request("HEAD", path, token)
    assert (response.data, response.headers["Content-Length"]) == (b"", str(len(DATA)))
    assert exec_.wait_for_feeds(0)


def test_output_that_goes_while_it_is_read(api: Api, running: tuple[str, str, FakeExec]) -> None:
    """What is removed under the reader cuts the reply: the client has seen the length, and misses some."""
    token, path, exec_ = running
    pieces = api.request("GET", path, token).iter_encoded()
    got = next(pieces) + next(pieces)
    exec_.log[0] = ("stdout", len(DATA))
    with pytest.raises(OutputDropped):
        for piece in pieces:
            got += piece
    assert len(got) < len(DATA) and DATA.startswith(got)
    assert exec_.wait_for_feeds(0)


def test_a_supervisor_that_goes_cuts_a_download(api: Api, running: tuple[str, str, FakeExec]) -> None:
    """A download whose supervisor goes away breaks off."""
    token, path, exec_ = running
    exec_.cut_after = 1
    with pytest.raises(SupervisorUnavailable):
        api.request("GET", path, token).get_data()


def follow(api: Api, running: tuple[str, str, FakeExec], query: str = "") -> Any:
    return api.request("GET", f"{running[1]}?follow=1{query}", running[0])


def test_follows(api: Api, running: tuple[str, str, FakeExec]) -> None:
    """From the offset on, what comes as it comes, until the command ends; its length nobody knows."""
    exec_ = running[2]
    response = follow(api, running, f"&offset={len(DATA) - 3}")
    assert (response.status_code, "Content-Length" in response.headers) == (200, False)
    assert response.headers["X-Accel-Buffering"] == "no"
    pieces = response.iter_encoded()
    assert next(pieces) == b"end"
    exec_.write("stderr", b"not this")
    exec_.write("stdout", b"more")
    assert next(pieces) == b"more"
    exec_.end()
    assert next(pieces, None) is None
    assert exec_.wait_for_feeds(0)
    assert follow(api, running).data == DATA + b"more"
    assert follow(api, running, f"&offset={len(DATA) + 4}").data == b""


def test_follows_what_has_not_begun(api: Api, running: tuple[str, str, FakeExec]) -> None:
    """A stream on which nothing has come yet, and never does."""
    token, path, exec_ = running
    exec_.end()
    assert api.request("GET", f"{path.replace('stdout', 'stderr')}?follow=1", token).data == b""


def test_follows_no_further_than_a_gap(api: Api, running: tuple[str, str, FakeExec]) -> None:
    """A reader whom the command has left behind is cut; who comes with an offset in the gap is told what is kept."""
    exec_ = running[2]
    pieces = follow(api, running, f"&offset={len(DATA) - 3}").iter_encoded()
    assert next(pieces) == b"end"
    exec_.write("stdout", 10)
    exec_.write("stdout", b"tail")
    with pytest.raises(OutputDropped):
        next(pieces)
    size = len(DATA) + 14
    for offset in (0, len(DATA) + 9):
        problem = assert_problem(follow(api, running, f"&offset={offset}"), 416, "output_dropped")
        assert problem["kept"] == [[0, len(DATA)], [size - 4, size]]
    exec_.end()
    assert follow(api, running, f"&offset={size - 4}").data == b"tail"
    assert_problem(follow(api, running, f"&offset={size + 1}"), 416, "range_not_satisfiable")
    assert exec_.wait_for_feeds(0)


def test_a_range_is_ignored_by_one_who_follows(api: Api, running: tuple[str, str, FakeExec]) -> None:
    """As RFC 9110 allows: the offset says where to begin."""
    running[2].end()
    response = api.request("GET", f"{running[1]}?follow=1", running[0], headers={"Range": "bytes=0-1"})
    assert (response.status_code, len(response.data)) == (200, len(DATA))
