"""The web restarts with clients attached in every way: soon, no command lost, all told what to do; and a full stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.inside import kill_all, living, new_mark
from tests.exec.streams import NDJSON, Follower, Reply, stream
from tests.exec.waiting import until
from tests.exec.websocket import Closed, Session
from tests.pvesim import guests
from tests.soak.cutting import resume

SOON = 10.0
"""Seconds for a restart of the web that has nobody to wait for, on a busy machine; it is 1.5 on an idle one."""
SLOW = "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 1; done"
SPOKEN = "".join(f"{i}\n" for i in range(1, 9)).encode()


@pytest.fixture(scope="module")
def other(make_gateway: Callable[..., Gateway]) -> Gateway:
    """A gateway that may be restarted at will."""
    return make_gateway()


@pytest.fixture
def api(other: Gateway) -> Iterator[Api]:
    opened = other.api(other.token("restarts", actions="exec:run,exec:terminal"))
    yield opened
    opened.close()


def restart(gateway: Gateway) -> float:
    """How long until the next web service was ready."""
    begin = time.monotonic()
    gateway.services.restart("web")
    return time.monotonic() - begin


def test_stream_is_cut_and_resumed(api: Api, other: Gateway) -> None:
    """The follower of a command that goes on is cut soon, and misses nothing."""
    follower, output = Follower(), b""
    with stream(api, 101, {"command": SLOW}) as reply:
        events = reply.events()
        exec_id = next(events)["exec"]["id"]
        assert restart(other) < SOON
        for event in events:
            output += (follower.take(event) or ("", b""))[1]
    assert follower.end is None
    with resume(api, f"/execs/{exec_id}/events", follower.seq) as rest:
        for event in rest.events():
            output += (follower.take(event) or ("", b""))[1]
    assert follower.end is not None and follower.end["exit_code"] == 0
    assert output == SPOKEN


def test_terminal_is_told_and_attaches_again(api: Api, other: Gateway) -> None:
    """1001, and the shell is there as it was."""
    session = Session(api, "/exec/101/terminal")
    exec_id = session.start(["sh"], tty={"rows": 24, "cols": 80})
    session.type("echo one=$((1+0))\n")
    session.until(lambda: b"one=1" in session.shown[1])
    assert restart(other) < SOON
    while not isinstance(heard := session.receive(), Closed):
        pass
    assert heard == Closed(1001, "going_away")
    session.close()
    with Session(api, f"/execs/{exec_id}/attach?write=1&from={session.cursor}") as again:
        again.started()
        assert again.may_write()
        again.type("echo two=$((1+1)); exit 7\n")
        end = again.receive_until("end")
    assert (end["reason"], end["exit_code"]) == ("exited", 7)


def test_request_that_waits_gets_its_result_by_its_key(api: Api, other: Gateway) -> None:
    """503 with the way on; the command has gone on meanwhile, and ran once."""
    with ThreadPoolExecutor(2) as pool:
        key = {"Idempotency-Key": "restart-1"}
        waiting = pool.submit(api.post, 101, {"command": SLOW}, headers=key, timeout=30)
        detached = api.post(101, {"command": SLOW}, headers={"Prefer": "respond-async"}).json()
        polling = pool.submit(api.get, f"/execs/{detached['id']}?wait=30", timeout=30)
        until(lambda: len(api.get("/execs?state=running").json()["execs"]) >= 2, why="both run")
        assert restart(other) < SOON + 2
        answer = waiting.result()
        assert (answer.status, answer.json()["code"]) == (503, "gateway_restarting")
        assert polling.result().json()["state"] == "running"
    answer = api.post(101, {"command": SLOW}, headers=key, timeout=30)
    assert (answer.status, answer.headers["Idempotency-Replayed"]) == (200, "true")
    assert answer.json()["stdout"].encode() == SPOKEN


def test_input_that_rests_is_gone_on_with(api: Api, other: Gateway) -> None:
    """A PUT whose body does not come is told so; what had come has been taken, and the rest follows by offset."""
    started = api.post(101, {"command": "cat", "stdin_open": True}, headers={"Prefer": "respond-async"}).json()
    place = f"/execs/{started['id']}"
    connection = api.connect(30)
    connection.putrequest("PUT", f"{place}/stdin?offset=0")
    connection.putheader("Authorization", f"Bearer {api.token}")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders(b"5\r\nhello\r\n")
    until(lambda: api.get(f"{place}/stdout").body == b"hello", why="what had come is taken")
    assert restart(other) < SOON + 2
    reply = connection.getresponse()
    assert reply.status == 503
    connection.close()
    assert api.request("PUT", f"{place}/stdin?offset=5&eof=1", raw=b" again").status == 200
    assert api.get(f"{place}?wait=10").json()["exit_code"] == 0
    assert api.get(f"{place}/stdout").body == b"hello again"


def test_download_is_whole(api: Api, other: Gateway) -> None:
    """What ends by itself is not cut."""
    size = 24 << 20
    spec = {"command": f"head -c {size} /dev/zero", "output": {"limit": size}}
    done = api.post(101, spec, headers={"Prefer": "respond-async"}).json()
    assert api.get(f"/execs/{done['id']}?wait=30").json()["state"] == "ended"
    with Reply(api, "GET", f"/execs/{done['id']}/stdout") as reply, ThreadPoolExecutor(1) as pool:
        pieces = reply.pieces(1 << 20)
        taken = len(next(pieces))
        restarted = pool.submit(restart, other)
        taken += sum(map(len, pieces))
        assert restarted.result() < SOON + 2
    assert taken == size


def test_events_over_sse_end_in_a_cut(api: Api, other: Gateway) -> None:
    """An EventSource sees an end of the connection, without `end`, and comes back with Last-Event-ID."""
    started = api.post(101, {"command": SLOW}, headers={"Prefer": "respond-async"}).json()
    path = f"/execs/{started['id']}/events"
    with Reply(api, "GET", path, headers={"Accept": "text/event-stream"}) as reply:
        events = reply.events()
        seen = next(events)
        restart(other)
        seen = [seen, *events][-1]
    again = {"Accept": NDJSON, "Last-Event-ID": str(seen["seq"])}
    with Reply(api, "GET", path, headers=again) as reply:
        assert [event["type"] for event in reply.events()][-1] == "end"


def test_a_stop_removes_the_cgroups_that_are_empty(api: Api, other: Gateway) -> None:
    """In guests where nothing of it runs; where a process outlives it, its directory stays, and what is in it."""
    mark, name = new_mark(), f"pveg-{other.instance}"
    here, there = (guests.get(vmid).cgroup / name for vmid in (101, 104))
    assert api.run(101, ["true"])["exit_code"] == 0
    assert api.run(104, f"sleep {mark} >/dev/null 2>&1 &")["survivors"] == 1
    try:
        assert here.is_dir() and there.is_dir()
        other.services.kill("supervisor", signal.SIGTERM)
        other.services.wait_end("supervisor", 15)
        assert not here.exists() and there.is_dir() and living(mark)
        other.services.restart("supervisor")
        assert api.run(101, ["true"])["exit_code"] == 0
        assert here.is_dir() and living(mark)
    finally:
        kill_all(mark)
