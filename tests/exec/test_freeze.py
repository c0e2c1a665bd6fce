"""A5: a frozen guest is refused at once, and what runs in it stops and goes on with it."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, get_args

import pytest

from tests.exec.api import Answer, Api
from tests.exec.gateways import Gateway
from tests.exec.inside import begun, exec_cgroups, living, new_mark
from tests.exec.waiting import BUSY, until
from tests.pvesim.guests import Guest

By = Literal["pve", "lxc"]
WAYS: tuple[By, ...] = get_args(By)
ALL_WAYS = [(way, unprivileged) for way in WAYS for unprivileged in (False, True)]


@pytest.fixture(params=ALL_WAYS, ids=[f"{way}-{'un' if un else ''}privileged" for way, un in ALL_WAYS])
def guest(make_guest: Callable[..., Guest], request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A guest that is thawed in the end, with the way in which it shall be frozen."""
    made = make_guest(905, unprivileged=request.param[1])
    yield made
    made.thaw(by=request.param[0])


@pytest.fixture
def by(request: pytest.FixtureRequest) -> By:
    """Who freezes: PVE freezes `ns` alone, LXC's own tool everything of the guest."""
    way: By = request.node.callspec.params["guest"][0]
    return way


def size_of(api: Api, exec_id: str) -> int:
    return len(api.get(f"/execs/{exec_id}/stdout").body)


def test_frozen_guest_is_refused_at_once(api: Api, guest: Guest, by: By) -> None:
    """A frozen guest is a 409 within a second, nothing is started, and after the thaw all is well."""
    guest.freeze(by=by)
    began = time.monotonic()
    answer = api.post(905, {"command": ["true"]})
    assert (answer.status, answer.code) == (409, "guest_frozen")
    assert answer.json()["retryable"] is True
    assert time.monotonic() - began < 1 + BUSY
    guest.thaw(by=by)
    until(lambda: api.post(905, {"command": ["true"]}).status == 200)


def test_exec_freezes_and_thaws_with_its_guest(api: Api, guest: Guest, by: By) -> None:
    """A running exec stops while its guest is frozen and others go on; thawed it ends as it would have."""
    mark = new_mark()
    dots = "i=0; while [ $i -lt {} ]; do echo .; sleep 0.01; i=$((i+1)); done; exit 7"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(api.run, 905, dots.format(100), labels={"test": mark})
        exec_id = begun(api, mark)
        until(lambda: size_of(api, exec_id) > 4)
        guest.freeze(by=by)
        group = next(path for path in exec_cgroups(905) if path.name == exec_id)
        until(lambda: "frozen 1" in (group / "cgroup.events").read_text(), why="the exec is frozen too")
        size_of(api, exec_id)  # what it had written is read from its pipe by the time of the next answer
        stopped = size_of(api, exec_id)
        assert api.run(101, dots.format(15))["stdout"] == ".\n" * 15, "a guest that is not frozen goes on"
        assert size_of(api, exec_id) == stopped
        guest.thaw(by=by)
        result = running.result(20)
    assert (result["reason"], result["exit_code"], result["stdout"]) == ("exited", 7, ".\n" * 100)


@pytest.mark.parametrize("way", ["timeout", "delete", "client_gone"])
def test_frozen_exec_can_be_ended(api: Api, guest: Guest, by: By, way: str) -> None:
    """A frozen exec ends by timeout, DELETE and lost client like any other, within its limit + 2 s."""
    mark = new_mark()
    timeout = 1.0 if way == "timeout" else 60.0
    body = {"command": ["sleep", mark], "labels": {"test": mark}, "timeout": timeout, "kill_grace": 0.2}
    connection = api.begin(905, body)
    try:
        exec_id = begun(api, mark, mark)
        guest.freeze(by=by)
        if way == "delete":
            api.request("DELETE", f"/execs/{exec_id}")
        elif way == "client_gone":
            connection.close()
        until(lambda: api.get(f"/execs/{exec_id}").json()["state"] == "ended", within=3 + BUSY, why="its end")
    finally:
        connection.close()
    assert api.get(f"/execs/{exec_id}").json()["reason"] == {"delete": "cancelled"}.get(way, way)
    assert not living(mark)
    assert not exec_cgroups(905)


def test_freeze_while_the_intent_is_written(api: Api, gateway: Gateway, guest: Guest, by: By) -> None:
    """A guest that is frozen by the time its exec's intent is durable is a 409, and the intent is taken back."""

    def freeze_meanwhile() -> Answer:
        with ThreadPoolExecutor(1) as pool:
            gateway.services.kill("audit", signal.SIGSTOP)
            try:
                running = pool.submit(api.post, 905, {"command": ["true"]})
                until(lambda: exec_cgroups(905) or running.done(), why="it has its place, and waits for the receipt")
                guest.freeze(by=by)
            finally:
                gateway.services.kill("audit", signal.SIGCONT)
            answer = running.result(30)
        guest.thaw(by=by)
        assert answer.code in ("guest_frozen", "audit_unavailable"), answer.body
        return answer

    answer = until(lambda: answer if (answer := freeze_meanwhile()).code == "guest_frozen" else None, within=60)
    assert answer is not None
    asked = {"vmid": 905, "request_id": answer.json()["request_id"]}
    (intent,) = until(lambda: gateway.records(event="exec:intent", **asked))
    until(lambda: gateway.records(event="exec:aborted", audit_id=intent["audit_id"]), why="it is taken back")
    assert not exec_cgroups(905)


def test_freeze_in_the_middle_of_a_spawn_leaves_nothing(api: Api, gateway: Gateway, guest: Guest, by: By) -> None:
    """Frozen at 12 random moments of a spawn: an answer within the limit + 2 s, and nothing stays behind."""
    api.run(905, ["true"])
    pid = gateway.services.pid("supervisor")
    fds, threads = count_fds(pid), count_threads(pid)
    choose, mark = random.Random(5), new_mark()
    answers = set()
    for _ in range(12):
        with ThreadPoolExecutor(1) as pool:
            began = time.monotonic()
            running = pool.submit(api.post, 905, {"command": ["sleep", f"0.{mark}"], "timeout": 0.5, "kill_grace": 0})
            time.sleep(choose.uniform(0, 0.02))  # the moment is the point
            guest.freeze(by=by)
            answer = running.result(30)
            assert time.monotonic() - began < 0.5 + 2 + BUSY
        guest.thaw(by=by)
        answers.add(answer.code or answer.json()["reason"])
    assert answers <= {"guest_frozen", "timeout", "exited"}
    until(lambda: not exec_cgroups(905) and not living(mark), why="all is gone")
    until(lambda: count_fds(pid) <= fds and count_threads(pid) <= threads, why="descriptors are back")
    until(lambda: not living("lxc-attach"), why="nobody is on the way")


def count_fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def count_threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))
