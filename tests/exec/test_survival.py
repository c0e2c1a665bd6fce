"""A11, A12, A14 to A16, A23 to A25: nothing is lost, doubled, left behind or refused, whoever is slow, leaves or dies.

The scenarios are those of tests/soak, which `make soak` runs at full size.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.inside import kill_all, living, new_mark
from tests.exec.streams import NDJSON, SSE, detach
from tests.exec.waiting import until
from tests.soak import cutting, killing, leaving, looping, slow_reader, upgrading
from tests.soak.installing import Installation


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="module")
def mortal(make_gateway: Callable[..., Gateway], installation: Installation) -> Gateway:
    """A gateway whose processes may die, and that is upgraded."""
    return make_gateway(environment=installation.environment)


@pytest.fixture(scope="module")
def calm(make_gateway: Callable[..., Gateway]) -> Gateway:
    """A gateway with nobody else's execs."""
    return make_gateway(listen={"address": "0.0.0.0"})


@pytest.fixture(scope="module")
def api(calm: Gateway) -> Iterator[Api]:
    """As a token that may open terminals, too."""
    with contextlib.closing(calm.api(calm.token("terminals", actions=leaving.ACTIONS))) as opened:
        yield opened


class Lost:
    """Execs whose clients' network was cut, and when."""

    def __init__(self, execs: dict[tuple[str, str], leaving.Exec]) -> None:
        self.execs = execs
        self.cut = time.monotonic()

    def check(self, way: str, on_disconnect: str) -> None:
        self.execs[way, on_disconnect].check(max(1.0, self.cut + leaving.LOST_SECONDS - time.monotonic()))


@pytest.fixture(scope="module", autouse=True)
def lost(calm: Gateway) -> Iterator[Lost]:
    """Half a minute passes before the gateway knows of it: meanwhile the other tests run."""
    with leaving.lost_network(calm, 104) as execs:
        yield Lost(execs)


@pytest.mark.parametrize("accept", [NDJSON, SSE])
def test_slow_reader_costs_bounded_memory(calm: Gateway, accept: str) -> None:
    """A12: somebody reads `yes` at 1 KiB/s; memory stays, and the others' execs go on."""
    slow_reader.read_slowly(calm, 101, seconds=1, others=20, rounds=1, accept=accept)


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize("on_disconnect", ["kill", "continue"])
@pytest.mark.parametrize("way", leaving.WAYS)
def test_client_of_a_silent_exec_leaves(api: Api, small_vmid: int, way: str, on_disconnect: str, reset: bool) -> None:
    """A14: `kill`: the tree is gone within 2 s and a heartbeat; `continue`: it runs on, and its result is there."""
    leaving.leave(api, small_vmid, way, on_disconnect, reset=reset)


@pytest.mark.parametrize("victim", list(killing.VICTIMS))
def test_killed_at_random_moments(mortal: Gateway, small_vmid: int, victim: str) -> None:
    """A15: SIGKILL, then the same requests with the same keys: each ran at most once, its state is final."""
    killing.kill_at_random(mortal, small_vmid, victim, moments=2, seed=time.time_ns())


def test_upgrades_lose_and_refuse_nothing(mortal: Gateway, installation: Installation) -> None:
    """A16: web restarts, reloads, the supervisor's reloads, each once the newer: all execs and requests live on."""
    figures = upgrading.upgrade_under_load(mortal, installation, 101, execs=8, rate=40, pause=0.2)
    assert figures["longest wait s"] < 13, "seconds, on a busy machine; a restart is 1.5 on an idle one"


def test_restart_of_the_supervisor_tells_all(mortal: Gateway) -> None:
    """A16: its restart ends what runs as `gateway_lost`; streams are told, results are read afterwards."""
    upgrading.restart_supervisor(mortal, 101, execs=8)


def test_large_streams_arrive_whole(api: Api) -> None:
    """A11: 64 MiB to each of stdout and stderr at the same time, streamed: no hang, hashes equal."""
    cutting.cut_events(api, 101, cuts=0, mib=64, seed=0, accept=NDJSON)


@pytest.mark.parametrize("accept", [NDJSON, SSE])
def test_cut_events_are_resumed(api: Api, small_vmid: int, accept: str) -> None:
    """A23: events cut at random points and resumed by seq: no byte is lost, none comes twice."""
    cutting.cut_events(api, small_vmid, cuts=10, mib=2, seed=time.time_ns(), accept=accept)


def test_cut_output_is_resumed(api: Api, small_vmid: int) -> None:
    """A23: the raw bytes of both streams, resumed by offset."""
    cutting.cut_output(api, small_vmid, cuts=10, mib=2, seed=time.time_ns())


def test_cut_websockets_are_attached_again(api: Api, small_vmid: int) -> None:
    """A23: WebSockets attached again behind the last byte seen."""
    cutting.cut_attached(api, small_vmid, cuts=10, mib=2, seed=time.time_ns())


LIMITS = {
    "exec.max_running_per_guest": [(101, "one")] * 2,
    "exec.max_running_per_token": [(101, "one"), (102, "one"), (104, "one")],
    "exec.max_running": [(101, "one"), (102, "one"), (102, "two"), (104, "two")],
}
"""Who runs where (guest, token) until each limit is reached; the last one's neighbour then finds no place."""


@pytest.fixture(scope="module")
def narrow(make_gateway: Callable[..., Gateway]) -> Gateway:
    """Two execs in a guest, three of a token, four on the node; eight may wait."""
    limits = {"max_running_per_guest": 2, "max_running_per_token": 3, "max_running": 4, "max_queued": 8}
    return make_gateway(exec=limits)


@pytest.fixture(scope="module")
def tokens(narrow: Gateway) -> Iterator[dict[str, Api]]:
    """Three tokens of that gateway."""
    opened = {name: narrow.api(narrow.token(name)) for name in ("one", "two", "three")}
    yield opened
    for one in opened.values():
        one.close()


@pytest.mark.parametrize("limit", list(LIMITS))
def test_full_limit_queues_then_refuses(tokens: dict[str, Api], limit: str) -> None:
    """A24: past the limit per guest, token and node one waits for its queue_timeout, then 429 with Retry-After."""
    mark = new_mark()
    for vmid, name in LIMITS[limit]:
        detach(tokens[name], vmid, ["sleep", mark])
    until(lambda: len(living(mark, alone=True)) == len(LIMITS[limit]), why="all places are taken")
    asking = {
        "exec.max_running_per_guest": (101, "two"),
        "exec.max_running_per_token": (102, "one"),
        "exec.max_running": (101, "three"),
    }
    vmid, name = asking[limit]
    for queue_timeout in (0, 0.3):
        began = time.monotonic()
        answer = tokens[name].post(vmid, {"command": ["true"], "queue_timeout": queue_timeout})
        assert (answer.status, answer.code, answer.json()["limited_by"]) == (429, "too_many_execs", limit)
        assert int(answer.headers["Retry-After"]) >= 1
        assert time.monotonic() - began >= queue_timeout
    with ThreadPoolExecutor(1) as pool:
        queued = pool.submit(tokens[name].run, vmid, ["true"], queue_timeout=30)
        assert not queued.done()
        kill_all(mark)
        result = queued.result(20)
    assert result["reason"] == "exited"
    until(lambda: not tokens["one"].get("/execs?state=running").json()["execs"], why="all have ended")


def test_storm_is_answered_by_200_or_429(tokens: dict[str, Api]) -> None:
    """A24: many more than may run and wait, from three tokens into three guests: none is lost, none is a 5xx."""

    def ask(number: int) -> tuple[int, Any]:
        api = tokens[("one", "two", "three")[number % 3]]
        answer = api.post((101, 102, 104)[number // 3 % 3], {"command": ["true"], "queue_timeout": 1})
        return answer.status, answer.json().get("exit_code", answer.headers["Retry-After"])

    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(ask, range(200)))
    assert {status for status, _ in answers} == {200, 429}
    assert all(told == 0 if status == 200 else int(told) >= 1 for status, told in answers)


def test_loop_leaves_nothing_behind(calm: Gateway) -> None:
    """A25: execs of every kind in a loop; descriptors, threads, zombies, cgroups and memory stay as they were."""
    looping.loop(calm, 101, execs=200)


@pytest.mark.parametrize("way", leaving.WAYS)
def test_silent_network_loss_is_noticed(lost: Lost, way: str) -> None:
    """A14: a client's network is gone without a word: within TCP_USER_TIMEOUT that is known, and `kill` kills."""
    lost.check(way, "kill")


@pytest.mark.parametrize("way", leaving.WAYS)
def test_exec_of_a_lost_network_runs_on(lost: Lost, way: str) -> None:
    """A14: with `continue` it outlives that, and its result is there."""
    lost.check(way, "continue")
