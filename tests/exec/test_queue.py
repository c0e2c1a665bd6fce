"""Execs that wait for a place: they have an id and a state like others, and can be awaited, followed and cancelled."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.exec.api import Answer, Api
from tests.exec.gateways import Gateway
from tests.exec.inside import kill_all, labelled, living, new_mark
from tests.exec.streams import NDJSON, Event, Follower, Reply, stream
from tests.exec.waiting import until
from tests.pvesim import guests

VMID = 101
OTHER = 104
DETACHED = {"Prefer": "respond-async"}


@pytest.fixture(scope="module")
def narrow(make_gateway: Callable[..., Gateway]) -> Gateway:
    """A gateway that runs one exec at a time."""
    return make_gateway(exec={"max_running": 1})


@pytest.fixture
def api(narrow: Gateway) -> Iterator[Api]:
    opened = narrow.api()
    yield opened
    opened.close()


@pytest.fixture
def later() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@contextmanager
def occupied(api: Api) -> Iterator[Callable[[], None]]:
    """Somebody has the only place, until the block ends or what it gives is called."""
    mark = new_mark()
    with api.begin(VMID, {"command": ["sleep", mark]}), ExitStack() as undo:
        undo.callback(kill_all, mark)
        until(lambda: living(mark, alone=True), why="the place is taken")
        yield lambda: kill_all(mark)


def post(later: ThreadPoolExecutor, api: Api, label: str, **spec: Any) -> Future[Answer]:
    """Asks for an exec that has to wait; it does when this returns."""
    headers, vmid = spec.pop("headers", {}), spec.pop("vmid", VMID)
    body = {"command": ["true"], "queue_timeout": 30, "labels": {"test": label}, **spec}
    answer = later.submit(api.post, vmid, body, headers=headers)
    until(lambda: answer.done() or queued(api, label), why="it waits")
    assert not answer.done(), answer.result().body
    return answer


def queued(api: Api, label: str) -> dict[str, Any] | None:
    """The exec with this label, while it waits."""
    view = labelled(api, label)
    return view if view is not None and view["state"] == "queued" else None


def id_of(api: Api, label: str) -> str:
    view = queued(api, label)
    assert view is not None
    return str(view["id"])


def all_events(api: Api, spec: dict[str, Any]) -> list[Event]:
    with stream(api, VMID, spec) as reply:
        return list(reply.events())


def ran(mark: str) -> bool:
    return (guests.get(VMID).rootfs / "root" / mark).exists()


def test_waiting_exec_is_seen(api: Api, narrow: Gateway, later: ThreadPoolExecutor) -> None:
    """It is listed as `queued` with nothing known of its end, to its token alone; then it runs under the same id."""
    mark = new_mark()
    with occupied(api) as free:
        answer = post(later, api, mark)
        exec_id = id_of(api, mark)
        view = api.get(f"/execs/{exec_id}").json()
        assert (view["state"], view["command"], view["created_at"] is None) == ("queued", ["true"], False)
        assert {view[name] for name in ("reason", "exit_code", "output", "timing", "ended_at")} == {None}

        def listed(state: str) -> list[str]:
            return [entry["id"] for entry in api.get(f"/execs?state={state}&label=test={mark}").json()["execs"]]

        assert (listed("queued"), listed("running"), listed("ended")) == ([exec_id], [], [])
        stranger = narrow.api(narrow.token(f"stranger-{mark}"))
        assert stranger.get(f"/execs/{exec_id}").status == 404
        assert stranger.request("DELETE", f"/execs/{exec_id}").status == 404
        stranger.close()
        free()
    result = answer.result(30).json()
    assert (result["id"], result["reason"], result["created_at"]) == (exec_id, "exited", view["created_at"])
    assert result["timing"]["queued_ms"] > 0
    assert (listed("queued"), listed("ended")) == ([], [exec_id])


def test_waiting_exec_is_awaited(api: Api, later: ThreadPoolExecutor) -> None:
    """`wait` spans the queue and the run; a short one shows it still queued."""
    mark = new_mark()
    with occupied(api) as free:
        post(later, api, mark, headers=DETACHED, command="exit 3")
        place = f"/execs/{id_of(api, mark)}"
        assert api.get(f"{place}?wait=0.2").json()["state"] == "queued"
        end = later.submit(api.get, f"{place}?wait=20")
        free()
        assert end.result(30).json()["exit_code"] == 3


def test_waiting_exec_is_followed(api: Api, later: ThreadPoolExecutor) -> None:
    """Its output is empty and not complete; who follows sees it begin and end."""
    mark = new_mark()
    with occupied(api) as free:
        post(later, api, mark, headers=DETACHED, command="echo out; echo err >&2")
        place = f"/execs/{id_of(api, mark)}"
        raw = api.get(f"{place}/stdout")
        assert (raw.status, raw.body, raw.headers["X-Output-Complete"]) == (200, b"", "false")
        assert api.get(f"{place}/stdout?offset=1").status == 416
        now = [json.loads(line) for line in api.get(f"{place}/events?follow=0").body.splitlines()]
        assert [event["type"] for event in now] == ["start"]
        with Reply(api, "GET", f"{place}/stdout?follow=1") as bytes_, Reply(api, "GET", f"{place}/events") as events:
            first = events.next_event("start")
            assert first["exec"]["state"] == "queued"
            free()
            follower, came = Follower(), {"stdout": b"", "stderr": b""}
            for event in events.events():
                if taken := follower.take(event):
                    came[taken[0]] += taken[1]
            assert came == {"stdout": b"out\n", "stderr": b"err\n"}
            assert follower.end is not None and follower.end["exit_code"] == 0
            assert bytes_.read() == b"out\n"


def test_waiting_exec_cannot_be_acted_upon(api: Api, later: ThreadPoolExecutor) -> None:
    """A signal, input and a size are 409 `exec_queued`, and it goes on waiting."""
    mark = new_mark()
    with occupied(api) as free:
        answer = post(later, api, mark, headers=DETACHED, command=["cat"], stdin_open=True)
        place = f"/execs/{id_of(api, mark)}"
        for refused in (
            api.request("POST", f"{place}/signal", {"signal": "TERM"}),
            api.request("PUT", f"{place}/stdin?eof=1", raw=b"x"),
            api.request("POST", f"{place}/resize", {"rows": 9, "cols": 9}),
        ):
            assert (refused.status, refused.code, refused.json()["retryable"]) == (409, "exec_queued", True)
        assert queued(api, mark)
        free()
        assert answer.result(30).status == 202
    assert api.request("PUT", f"{place}/stdin?eof=1", raw=b"in").status == 200
    assert api.get(f"{place}?wait=10").json()["exit_code"] == 0
    assert api.get(f"{place}/stdout").body == b"in"


@pytest.mark.parametrize("way", ["json", "detached", "events"])
def test_delete_cancels_what_waits(api: Api, narrow: Gateway, later: ThreadPoolExecutor, way: str) -> None:
    """DELETE answers 200 at once, `cancelled`; who waits is told the same, it is remembered and recorded, and nothing
    ran."""
    mark = new_mark()
    spec = {"command": ["touch", f"/root/{mark}"]}
    with occupied(api):
        answer: Future[Any]
        if way == "events":
            answer = later.submit(all_events, api, {**spec, "labels": {"test": mark}})
            until(lambda: queued(api, mark))
        else:
            answer = post(later, api, mark, **spec, headers=DETACHED if way == "detached" else {})
        behind = post(later, api, f"{mark}-behind")
        exec_id = id_of(api, mark)
        ended = api.request("DELETE", f"/execs/{exec_id}")
        assert ended.status == 200
        view = ended.json()
        assert (view["state"], view["reason"], view["exit_code"], view["killed"]) == ("ended", "cancelled", None, 0)
        assert view["output"]["stdout"]["bytes"] == 0
        assert api.get(f"/execs/{exec_id}").json() == view
        again = api.request("DELETE", f"/execs/{exec_id}")
        assert (again.status, again.code) == (409, "exec_ended")
        told: Any = answer.result(15)
        if way == "events":
            assert [event["type"] for event in told] == ["start", "end"]
            assert told[-1]["exec"] == view
        else:
            assert told.status == (202 if way == "detached" else 200)
            assert view.items() <= told.json().items()
        assert queued(api, f"{mark}-behind"), "nobody else was touched"
    assert behind.result(30).json()["reason"] == "exited"
    assert not ran(mark)
    until(lambda: len(narrow.records(exec_id=exec_id)) == 2, why="the outcome is written")
    records = narrow.records(exec_id=exec_id)
    assert [record["event"] for record in records] == ["exec:cancel", "exec:outcome"]
    assert (records[0]["data"]["state"], records[0]["data"]["command"]) == ("queued", spec["command"])
    assert (records[1]["data"]["reason"], records[1]["audit_id"]) == ("cancelled", view["audit_id"])


def test_cancelled_key_is_used(api: Api, later: ThreadPoolExecutor) -> None:
    """The same Idempotency-Key is answered with the cancelled exec, and runs nothing."""
    mark = new_mark()
    request = {"command": ["touch", f"/root/{mark}"], "headers": {"Idempotency-Key": mark}}
    with occupied(api):
        first = post(later, api, mark, **request)
        exec_id = id_of(api, mark)
        assert api.request("DELETE", f"/execs/{exec_id}").status == 200
        assert first.result(15).json()["reason"] == "cancelled"
    body = {"command": request["command"], "queue_timeout": 30, "labels": {"test": mark}}
    second = api.post(VMID, body, headers=request["headers"])
    assert (second.headers["Idempotency-Replayed"], second.json()["id"]) == ("true", exec_id)
    assert not ran(mark)


def test_one_that_finds_no_place_never_was(api: Api, later: ThreadPoolExecutor) -> None:
    """After its queue_timeout the request is a 429, and its id is no exec's."""
    mark = new_mark()
    with occupied(api):
        answer = post(later, api, mark, queue_timeout=3)
        exec_id = id_of(api, mark)
        awaited = later.submit(api.get, f"/execs/{exec_id}?wait=20")
        assert answer.result(15).code == "too_many_execs"
        assert awaited.result(15).code == "exec_not_found"
        assert labelled(api, mark) is None


def test_a_guest_that_stops_while_its_exec_waits(api: Api, narrow: Gateway, later: ThreadPoolExecutor) -> None:
    """When its turn comes there is nothing to run it in: a 409, and the record says why nothing came of it."""
    mark, guest = new_mark(), guests.get(OTHER)
    with occupied(api) as free:
        answer = post(later, api, mark, vmid=OTHER)
        exec_id = id_of(api, mark)
        guest.stop(kill=True)
        try:
            free()
            told = answer.result(30)
        finally:
            guest.start()
    assert (told.status, told.code) == (409, "guest_not_running"), told.body
    (record,) = until(lambda: narrow.records(exec_id=exec_id), why="it is recorded")
    assert (record["event"], record["data"]["aborted"]) == ("exec:aborted", "exec:intent")
    assert record["data"]["reason"] == told.json()["detail"]


def test_reload_keeps_the_line(api: Api, narrow: Gateway, later: ThreadPoolExecutor) -> None:
    """Over an upgrade of the supervisor those who wait keep their ids, their order and their time, and one of them can
    be cancelled."""
    mark = new_mark()
    order = [f"{mark}-{number}" for number in range(4)]
    with occupied(api) as free:
        answers = [post(later, api, label, command=f"echo {label} >> /root/{mark}") for label in order]
        late = post(later, api, f"{mark}-late", queue_timeout=3)
        ids = [id_of(api, label) for label in order]
        narrow.services.reload("supervisor")
        until(lambda: all(queued(api, label) for label in order), why="they wait again")
        assert [id_of(api, label) for label in order] == ids
        assert late.result(15).code == "too_many_execs"
        assert api.request("DELETE", f"/execs/{ids[1]}").status == 200
        free()
        results = [answer.result(15).json() for answer in answers]
    assert [result["id"] for result in results] == ids
    assert [result["reason"] for result in results] == ["exited", "cancelled", "exited", "exited"]
    done = (guests.get(VMID).rootfs / "root" / mark).read_text().split()
    assert done == [order[0], order[2], order[3]]
    assert results[3]["timing"]["queued_ms"] > 1000


@pytest.mark.parametrize("way", ["json", "detached", "events"])
def test_stop_tells_those_who_wait_that_nothing_ran(
    api: Api, narrow: Gateway, later: ThreadPoolExecutor, way: str
) -> None:
    """A supervisor that is stopped lets none of them begin, says so to them and in the record; then the same request,
    with the same key, runs."""
    mark, answers = new_mark(), []
    spec = {"command": f"echo ran >> /root/{mark}", "queue_timeout": 30}
    headers = {"Accept": NDJSON} if way == "events" else DETACHED if way == "detached" else {}
    with occupied(api):
        for number in range(3):
            label, key = f"{mark}-{number}", {"Idempotency-Key": f"{mark}-{number}", **headers}
            answers.append(post(later, api, label, **spec, headers=key))
        ids = [id_of(api, f"{mark}-{number}") for number in range(3)]
        narrow.services.restart("supervisor")
        for answer in answers:
            told = answer.result(15)
            assert (told.status, told.code, told.headers["Retry-After"]) == (503, "node_not_ready", "1"), told.body
            assert told.json()["retryable"] and "nothing of this command has run" in told.json()["detail"]
    assert not ran(mark)
    for exec_id in ids:
        until(lambda: narrow.records(exec_id=exec_id), why="it is recorded")  # noqa: B023
        assert [record["event"] for record in narrow.records(exec_id=exec_id)] == ["exec:aborted"]
        assert api.get(f"/execs/{exec_id}").code == "exec_not_found"
    key = {"Idempotency-Key": f"{mark}-0"}
    again = api.post(VMID, {**spec, "labels": {"test": f"{mark}-0"}}, headers=key)
    assert (again.status, again.json()["reason"]) == (200, "exited"), again.body
    assert "Idempotency-Replayed" not in again.headers
    assert (guests.get(VMID).rootfs / "root" / mark).read_text() == "ran\n"


def test_stop_lets_nothing_begin_that_was_about_to(api: Api, narrow: Gateway, later: ThreadPoolExecutor) -> None:
    """One that waits for the receipt of its intent when the supervisor is stopped is refused when that comes, and its
    intent is taken back."""
    mark = new_mark()
    narrow.services.kill("audit", signal.SIGSTOP)
    try:
        answer = later.submit(api.post, VMID, {"command": ["touch", f"/root/{mark}"], "labels": {"test": mark}})
        journal = narrow.spool / "journal"
        until(lambda: any(mark in path.read_text() for path in journal.iterdir()), why="it is accepted")
        supervisor = narrow.services.pid("supervisor")
        narrow.services.kill("supervisor", signal.SIGTERM)
        until(lambda: not is_pending(supervisor, signal.SIGTERM), why="the stop is taken")
    finally:
        narrow.services.kill("audit", signal.SIGCONT)
    told = answer.result(15)
    assert (told.status, told.code) == (503, "node_not_ready"), told.body
    narrow.services.restart("supervisor")
    assert not ran(mark)
    records = [record for record in narrow.records() if mark in str(record.get("data"))]
    (intent,) = records
    until(lambda: len(narrow.records(exec_id=intent["exec_id"])) >= 2, why="it is taken back")
    events = [record["event"] for record in narrow.records(exec_id=intent["exec_id"])]
    assert events == ["exec:intent", "exec:aborted"]


def is_pending(pid: int, number: signal.Signals) -> bool:
    """Whether the process has not taken this signal yet (proc_pid_status(5))."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(status["ShdPnd"], 16) >> (number - 1) & 1)
