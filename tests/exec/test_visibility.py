"""Who sees which exec: its token, its guest's incarnation, its labels; and what is over the limits."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import pytest

from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.inside import begun, kill_all, living, new_mark
from tests.exec.waiting import until
from tests.pvesim import guests
from tests.pvesim.guests import Guest


@pytest.fixture(scope="module")
def other(gateway: Gateway) -> Iterator[Api]:
    """Another token with the same grant."""
    opened = gateway.api(gateway.token("other"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def admin(gateway: Gateway) -> Iterator[Api]:
    """A token that sees and ends the execs of all, in guest 101 alone."""
    opened = gateway.api(gateway.token("admin", actions="exec:run,exec:admin", guests="101"))
    yield opened
    opened.close()


def ids(api: Api, query: str = "") -> list[str]:
    """The ids of a listing."""
    return [view["id"] for view in api.get(f"/execs?limit=1000{query}").json()["execs"]]


def test_tokens_do_not_see_each_others_execs(api: Api, other: Api) -> None:
    """Another token's exec answers as one that never was: status and body, for every operation on it."""
    mark = new_mark()
    with api.begin(101, {"command": ["sleep", mark], "labels": {"test": mark}}):
        running = begun(api, mark, mark)
        ended = api.run(101, ["echo", "mine"])["id"]
        never = "ex_01J00000000000000000000000"
        for exec_id in (running, ended):
            for method, path in [
                ("GET", ""), ("GET", "?wait=0.1"), ("DELETE", ""), ("GET", "/stdout"), ("GET", "/stderr?offset=0"),
            ]:  # fmt: skip
                answer = other.request(method, f"/execs/{exec_id}{path}")
                expected = other.request(method, f"/execs/{never}{path}")
                assert (answer.status, answer.code) == (404, "exec_not_found")
                assert _without_ids(answer.json()) == _without_ids(expected.json())
            assert exec_id not in ids(other)
            assert exec_id in ids(api)
        assert living(mark), "a refused DELETE ends nothing"


def test_admin_sees_and_ends_execs_of_its_guests_only(api: Api, admin: Api) -> None:
    """exec:admin reaches the execs of every token in its guests, and none elsewhere."""
    mark = new_mark()
    with api.begin(101, {"command": ["sleep", mark], "labels": {"test": mark}, "kill_grace": 0.2}):
        exec_id = begun(api, mark, mark)
        elsewhere = api.run(104, ["true"])["id"]
        assert admin.get(f"/execs/{exec_id}").status == 200
        assert exec_id in ids(admin)
        assert admin.get(f"/execs/{elsewhere}").status == 404
        assert elsewhere not in ids(admin)
        assert admin.request("DELETE", f"/execs/{exec_id}?wait=20").json()["reason"] == "cancelled"


def test_listing_filters_and_pages(api: Api) -> None:
    """By label, guest and state, newest first, and page by page without one lost or twice."""
    label = new_mark()
    made = [
        api.run(number, ["true"], labels={"test": label, "n": str(index)})["id"]
        for index, number in enumerate([101, 104, 101, 104, 101])
    ]
    assert ids(api, f"&label=test={label}") == made[::-1]
    assert ids(api, f"&label=test={label}&vmid=104") == [made[3], made[1]]
    assert ids(api, f"&label=test={label}&label=n=2") == [made[2]]
    assert ids(api, f"&label=test={label}&state=running") == []
    found, after = [], ""
    while True:
        page = api.get(f"/execs?label=test={label}&limit=2{after}").json()
        found += [view["id"] for view in page["execs"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert found == made[::-1]
    assert api.get(f"/execs/{made[0]}").json()["labels"] == {"test": label, "n": "0"}


def test_replaced_guest_hides_the_old_ones_execs(make_guest: Callable[..., Guest], api: Api, admin: Api) -> None:
    """A new guest under an old vmid never shows the old one's output, to nobody."""
    guest = make_guest(903)
    old = api.run(903, ["echo", "old secret"])["id"]
    guest.destroy()
    make_guest(903)
    for path in ("", "/stdout", "/stderr", "?wait=0.1"):
        answer = api.get(f"/execs/{old}{path}")
        assert (answer.status, answer.code) == (404, "exec_not_found"), path
        assert b"old secret" not in answer.body
    assert api.request("DELETE", f"/execs/{old}").status == 404
    assert old not in ids(api)
    assert api.run(903, ["echo", "new"])["stdout"] == "new\n"


def test_restarted_guest_still_shows_its_execs(make_guest: Callable[..., Guest], api: Api) -> None:
    """A stop and start of the same guest hides nothing from the owner; nor does a destroyed guest."""
    guest = make_guest(904)
    mine = api.run(904, ["echo", "mine"])["id"]
    guest.stop(kill=True)
    assert api.get(f"/execs/{mine}/stdout").body == b"mine\n"
    guest.start()
    assert api.get(f"/execs/{mine}/stdout").body == b"mine\n"
    assert api.run(904, ["true"])["reason"] == "exited"
    guest.destroy()
    assert api.get(f"/execs/{mine}").status == 200
    assert api.post(904, {"command": ["true"]}).code == "guest_not_found"


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"timeout": 86_401}, "timeout"),
        ({"kill_grace": 61}, "kill_grace"),
        ({"queue_timeout": 301}, "queue_timeout"),
        ({"output": {"limit": (16 << 20) + 1}}, "output.limit"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"output": {"limit": -1}}, "output.limit"),
        ({"output": {"keep": "middle"}}, "output.keep"),
        ({"background": "forget"}, "background"),
        ({"labels": {"bad key": "x"}}, "labels"),
    ],
)
def test_limits_are_refused_by_name(api: Api, body: dict[str, Any], path: str) -> None:
    """A limit over its maximum, or none at all, is a 422 that names the field; nothing runs."""
    answer = api.post(101, {"command": ["true"], **body})
    assert (answer.status, answer.code) == (422, "invalid_request")
    assert any(error["path"].startswith(path) for error in answer.json()["errors"]), answer.body


def test_maximum_is_told_exactly(api: Api) -> None:
    """What may be asked for instead stands in the refusal, to the last byte, and is taken."""
    refused = api.post(101, {"command": ["true"], "output": {"limit": 1 << 40}, "timeout": 1e9}).json()["errors"]
    assert [error["message"] for error in refused] == [
        "at most 86400 is allowed here",
        f"at most {16 << 20} is allowed here",
    ]
    assert api.run(101, ["true"], output={"limit": 16 << 20}, timeout=86400)["exit_code"] == 0


@pytest.fixture(scope="module")
def narrow_gateway(make_gateway: Callable[..., Gateway]) -> Gateway:
    """A gateway that runs two execs at once, lets three more wait, and two of a guest leave processes behind."""
    return make_gateway(exec={"max_running": 2, "max_queued": 3, "max_survivors": 2})


@pytest.fixture(scope="module")
def narrow(narrow_gateway: Gateway) -> Iterator[Api]:
    opened = narrow_gateway.api()
    yield opened
    opened.close()


def test_full_node_answers_429_after_the_queue_time(narrow: Api) -> None:
    """A24: two run, the third waits its queue_timeout and is told when to come again; with a place it runs."""
    mark = new_mark()
    bodies = {"command": ["sleep", mark], "labels": {"test": mark}}
    with narrow.begin(101, bodies) as first, narrow.begin(104, bodies) as second:
        until(lambda: len(living(mark, alone=True)) == 2, why="two run")
        began = time.monotonic()
        answer = narrow.post(101, {"command": ["true"], "queue_timeout": 0.3})
        assert 0.3 <= time.monotonic() - began < 5, "it waited for longer than it asked to"
        assert (answer.status, answer.code) == (429, "too_many_execs")
        assert int(answer.headers["Retry-After"]) >= 1
        assert narrow.post(101, {"command": ["true"], "queue_timeout": 0}).status == 429
        with ThreadPoolExecutor(4) as pool:
            waiting = {pool.submit(narrow.post, 101, {"command": ["true"], "queue_timeout": 20}) for _ in range(4)}
            refused, queued = wait(waiting, timeout=15, return_when=FIRST_COMPLETED)
            assert [one.result().status for one in refused] == [429], "three may wait, the fourth is refused at once"
            kill_all(mark)
            results = [one.result(30).json() for one in queued]
        assert [result["reason"] for result in results] == ["exited"] * 3
        assert max(result["timing"]["queued_ms"] for result in results) > 0
        assert first and second
    assert narrow.run(101, ["true"], queue_timeout=0)["timing"]["queued_ms"] == 0


def test_client_that_leaves_the_queue_runs_nothing(make_gateway: Callable[..., Gateway]) -> None:
    """A client that goes away while it waits has no command run for it, and its place in the line is free."""
    mark, never = new_mark(), new_mark()
    leaving = []
    with contextlib.closing(make_gateway(exec={"max_running": 1, "max_queued": 1}).api()) as api:

        def one_waits() -> bool:
            leaving.append(api.begin(101, {"command": ["touch", f"/root/{never}"], "queue_timeout": 60}))
            return not may_wait(api)  # else our own look had the place when it came: with another one, then

        with api.begin(101, {"command": ["sleep", mark]}):
            until(lambda: living(mark, alone=True), why="it has the only place to run")
            until(one_waits, why="it has the only place in the line")
            for connection in leaving:
                connection.close()
            until(lambda: may_wait(api), why="that place is free")
            kill_all(mark)
            assert api.run(101, ["true"])["reason"] == "exited"
    assert not (guests.get(101).rootfs / "root" / never).exists()


def may_wait(api: Api) -> bool:
    """Whether a request that finds no place to run has one to wait in."""
    refused = api.post(101, {"command": ["true"], "queue_timeout": 0.01})
    assert refused.code == "too_many_execs"
    return bool(refused.json()["limited_by"] != "exec.max_queued")


def test_places_come_back_after_every_kind_of_failure(narrow: Api) -> None:
    """Failed spawns, stopped guests and lost clients keep no place."""
    for _ in range(4):
        narrow.post(103, {"command": ["true"]})
        narrow.run(101, ["/no/such"])
        narrow.begin(101, {"command": ["sleep", "60"], "kill_grace": 0}).close()
    until(lambda: not living("60", alone=True), why="the lost ones are gone")
    assert narrow.run(101, ["true"], queue_timeout=1)["reason"] == "exited"


def test_places_come_back_where_nothing_is_recorded(narrow: Api, narrow_gateway: Gateway) -> None:
    """What had its place, and was refused for its intent, gives it back at once."""
    narrow_gateway.services.kill("audit")
    try:
        for _ in range(4):
            assert narrow.post(101, {"command": ["true"], "queue_timeout": 0}).code == "audit_unavailable"
    finally:
        narrow_gateway.services.restart("audit")
    until(lambda: narrow.post(101, {"command": ["true"], "queue_timeout": 0}).status == 200, why="it recovers")


def test_survivors_of_a_guest_are_bounded(narrow: Api) -> None:
    """Where as many ended execs as may have left processes in a guest, no other may: one that kills its own, or another
    guest's, runs; and so does the next when those are gone."""
    mark = new_mark()
    for _ in range(2):
        assert narrow.run(104, f"sleep {mark} & echo ok")["survivors"] == 1
    refused = narrow.post(104, {"command": ["true"]})
    assert (refused.status, refused.code) == (429, "too_many_execs")
    assert narrow.run(104, f"sleep {mark} & echo ok", background="kill")["survivors"] == 0
    assert narrow.run(101, ["true"])["exit_code"] == 0
    kill_all(mark)
    until(lambda: narrow.post(104, {"command": ["true"]}).status == 200, why="those are gone")


def test_placement_in_the_guest_is_where_it_says(api: Api, vmid: int) -> None:
    """placement `guest` runs in the guest's own cgroup, ends like others, and has no usage of its own."""
    mark = new_mark()
    result = api.run(vmid, ["/bin/sh", "-c", "echo out; echo err >&2; exit 6"], placement="guest")
    assert (result["reason"], result["exit_code"]) == ("exited", 6), result["spawn_error"]
    assert (result["stdout"], result["stderr"]) == ("out\n", "err\n")
    assert result["usage"]["memory_peak"] is None
    with api.begin(vmid, {"command": ["sleep", mark], "placement": "guest", "labels": {"test": mark}}):
        exec_id = begun(api, mark, mark)
        pid = living(mark, alone=True)[0]
        with open(f"/proc/{pid}/cgroup") as file:
            assert f"/lxc/{vmid}/ns" in file.read().splitlines()[-1]
        assert api.request("DELETE", f"/execs/{exec_id}?wait=20").json()["reason"] == "cancelled"
    assert not living(mark)


def test_timeout_ends_a_placed_tree_that_kept_its_parents(api: Api, small_vmid: int) -> None:
    """placement `guest`: children that still have their parents are ended with the command."""
    mark = new_mark()
    script = f"trap '' TERM; sleep {mark} & sh -c 'trap \"\" TERM; sleep {mark}; :' & wait; wait; :"
    result = api.run(small_vmid, script, placement="guest", timeout=0.5, kill_grace=0.3)
    assert (result["reason"], result["exit_code"]) == ("timeout", 124)
    until(lambda: not living(mark))


def test_detached_from_a_placed_command_may_write(api: Api, small_vmid: int) -> None:
    """placement `guest` with `detach`: what is left behind is not ended by a SIGPIPE."""
    mark = new_mark()
    script = f"(sleep 0.3; echo more; echo more; exec sleep {mark}) & echo ok"
    began = time.monotonic()
    result = api.run(small_vmid, script, placement="guest")
    assert time.monotonic() - began < 10, "it waited for what goes on for ever"
    assert result["stdout"].startswith("ok\n")
    until(lambda: living(mark, alone=True), why="it wrote and lives")
    kill_all(mark)


def test_own_placement_has_usage(api: Api, vmid: int) -> None:
    """An exec's CPU time is its own tree's."""
    result = api.run(vmid, "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done")
    assert result["usage"]["cpu_ms"] >= 5


def _without_ids(problem: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in problem.items() if name not in ("request_id", "exec_id", "audit_id")}
