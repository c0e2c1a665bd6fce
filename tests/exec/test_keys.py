"""Idempotency-Key and `exclusive` from outside: what is sent twice runs once, whatever dies meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.exec.api import Answer, Api
from tests.exec.gateways import Gateway
from tests.exec.inside import begun, living, new_mark
from tests.exec.waiting import until
from tests.pvesim import guests


@pytest.fixture(scope="module")
def other(make_gateway: Callable[..., Gateway]) -> Gateway:
    """A gateway whose supervisor may die."""
    return make_gateway()


@pytest.fixture
def other_api(other: Gateway) -> Iterator[Api]:
    opened = other.api()
    yield opened
    opened.close()


def send(api: Api, mark: str, *, then: str = "true", key: str | None = None, **fields: Any) -> Answer:
    """Asks for a command that writes one line more into /root/MARK of guest 101, under a key of the same name."""
    body = {"command": f"echo ran >> /root/{mark}; echo out; {then}", "labels": {"test": mark}, **fields}
    return api.post(101, body, headers={"Idempotency-Key": key or mark})


def times_run(mark: str) -> int:
    path = guests.get(101).rootfs / "root" / mark
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_second_request_is_answered_with_the_first_outcome(api: Api) -> None:
    """The same key and body: the same exec with its output and end, marked as replayed, and nothing runs again."""
    mark = new_mark()
    first, second = send(api, mark, then="exit 3"), send(api, mark, then="exit 3")
    assert (first.status, second.status) == (200, 200)
    assert first.headers["Idempotency-Replayed"] is None
    assert second.headers["Idempotency-Replayed"] == "true"
    assert first.json() == second.json()
    assert (second.json()["exit_code"], second.json()["stdout"], times_run(mark)) == (3, "out\n", 1)


def test_many_at_once_run_once(api: Api) -> None:
    """Requests with one key that come at the same time all get the one exec that ran."""
    mark = new_mark()
    with ThreadPoolExecutor(12) as pool:
        answers = [one.result() for one in [pool.submit(send, api, mark, then="sleep 0.3") for _ in range(12)]]
    assert {answer.json()["id"] for answer in answers} == {answers[0].json()["id"]}
    assert sum(answer.headers["Idempotency-Replayed"] is None for answer in answers) == 1
    assert times_run(mark) == 1


def test_key_of_another_request_is_a_conflict(api: Api) -> None:
    """The same key with another body is a 409 and runs nothing."""
    mark = new_mark()
    send(api, mark)
    answer = send(api, mark, then="false")
    assert (answer.status, answer.code, times_run(mark)) == (409, "idempotency_conflict", 1)


def test_key_is_its_tokens(api: Api, gateway: Gateway) -> None:
    """Another token's request under the same key is another, and learns nothing of the first."""
    mark = new_mark()
    second = gateway.api(gateway.token(f"other-{mark}"))
    assert send(api, mark).json()["id"] != send(second, mark).json()["id"]
    assert times_run(mark) == 2
    second.close()


def test_refused_request_leaves_its_key_free(api: Api) -> None:
    """What was refused before anything ran does not use up its key."""
    mark = new_mark()
    body = {"command": ["true"], "labels": {"test": mark}}
    assert api.post(103, body, headers={"Idempotency-Key": mark}).status == 409
    assert send(api, mark).status == 200


def test_replay_needs_no_running_guest(api: Api, make_guest: Callable[..., guests.Guest]) -> None:
    """The outcome is told again when the guest has stopped since."""
    guest, key = make_guest(921), {"Idempotency-Key": new_mark()}
    first = api.post(921, {"command": ["true"]}, headers=key)
    guest.stop(kill=True)
    second = api.post(921, {"command": ["true"]}, headers=key)
    assert (second.status, second.json()["id"]) == (200, first.json()["id"])


def test_killed_supervisor_runs_nothing_twice(other: Gateway, other_api: Api) -> None:
    """A15: after SIGKILL of the supervisor the key leads to the exec of then, ended as gateway_lost."""
    mark = new_mark()
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(send, other_api, mark, then=f"sleep {mark}")
        exec_id = begun(other_api, mark, mark)
        other.services.kill("supervisor")
        assert lost.result(20).status == 503
    other.services.restart("supervisor")
    again = send(other_api, mark, then=f"sleep {mark}")
    assert (again.status, again.json()["id"], again.json()["reason"]) == (200, exec_id, "gateway_lost")
    assert times_run(mark) == 1
    assert not living(mark)


@pytest.mark.parametrize("reload", [False, True], ids=["restart", "reload"])
def test_next_supervisor_knows_the_keys(other: Gateway, other_api: Api, reload: bool) -> None:
    """A restart and a reload forget no key."""
    mark = new_mark()
    first = send(other_api, mark)
    (other.services.reload if reload else other.services.restart)("supervisor")
    assert send(other_api, mark).json()["id"] == first.json()["id"]
    assert times_run(mark) == 1


def test_power_cut_runs_nothing_twice(other: Gateway, other_api: Api) -> None:
    """After a boot that has taken all of the spool, the audit log knows what ran: its end, or that nobody knows it."""
    ended, unknown = new_mark(), new_mark()
    first = send(other_api, ended, then="exit 3")
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(send, other_api, unknown, then=f"sleep {unknown}")
        exec_id = begun(other_api, unknown, unknown)
        other.services.kill("supervisor")
        lost.result(20)
    shutil.rmtree(other.spool / "journal")
    shutil.rmtree(other.spool / "output")
    (other.spool / "boot_id").write_text("another boot\n")
    other.services.restart("supervisor")
    again = send(other_api, ended, then="exit 3").json()
    assert (again["id"], again["state"], again["exit_code"]) == (first.json()["id"], "ended", 3)
    assert again["output"]["stdout"]["bytes"] == again["output"]["stdout"]["dropped"] == 4
    replayed = send(other_api, unknown, then=f"sleep {unknown}").json()
    assert (replayed["id"], replayed["state"], replayed["reason"]) == (exec_id, "unknown", None)
    assert other_api.get(f"/execs/{exec_id}").json()["state"] == "unknown"
    assert (times_run(ended), times_run(unknown)) == (1, 1)
    other.services.restart("supervisor")
    assert send(other_api, unknown, then=f"sleep {unknown}").json()["id"] == exec_id


def test_exclusive_exec_is_alone_in_its_guest(api: Api) -> None:
    """It waits for the others there, the later ones wait for it, and another guest goes on meanwhile."""
    first, alone, last = new_mark(), new_mark(), new_mark()
    log = guests.get(104).rootfs / "root" / alone

    def noted(mark: str, seconds: float, **fields: Any) -> Answer:
        script = f"echo begin {mark} >> /root/{alone}; sleep {seconds}; echo end {mark} >> /root/{alone}"
        return api.post(104, {"command": script, "labels": {"test": mark}, **fields})

    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(noted, first, 1)]
        begun(api, first)
        running.append(pool.submit(noted, alone, 0.3, exclusive=True))
        refused = until(lambda: _refused(api), why="the exclusive one is in line")
        assert (refused["code"], refused["limited_by"]) == ("too_many_execs", "exclusive")
        running.append(pool.submit(noted, last, 0))
        assert api.run(101, ["true"], queue_timeout=0)["reason"] == "exited"
        assert [one.result(20).status for one in running] == [200, 200, 200]
    order = [f"{what} {mark}" for mark in (first, alone, last) for what in ("begin", "end")]
    assert log.read_text().splitlines() == order


def _refused(api: Api) -> Any:
    answer = api.post(104, {"command": ["true"], "queue_timeout": 0})
    return answer.json() if answer.status == 429 else None
