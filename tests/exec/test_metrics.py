"""GET /metrics of a whole gateway: right over several workers, a reload, and the death of any of its processes."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

import pytest

from tests.api.metrics import Scrape, lint
from tests.exec.gateways import Gateway
from tests.exec.streams import detach
from tests.exec.waiting import until

GUEST = 101


@pytest.fixture(scope="module")
def gateway(make_gateway: Callable[..., Gateway]) -> Gateway:
    """With three workers: whichever answers tells of all."""
    return make_gateway(web={"workers": 3})


@pytest.fixture(scope="module")
def scrape(gateway: Gateway) -> Callable[[], Scrape]:
    """Each on a connection of its own: any worker may answer."""
    token = gateway.token("monitoring", actions="metrics:read")

    def ask() -> Scrape:
        with contextlib.closing(gateway.api(token)) as api:
            reply = api.request("GET", "/metrics")
            assert reply.status == 200, reply.body
            return Scrape(reply.body.decode())

    return ask


def run_some(gateway: Gateway, times: int) -> None:
    """Each on a connection of its own."""
    for _ in range(times):
        with contextlib.closing(gateway.api()) as api:
            assert api.run(GUEST, ["echo", "12345"])["stdout"] == "12345\n"


def workers(gateway: Gateway) -> list[int]:
    master = gateway.services.pid("web")
    with open(f"/proc/{master}/task/{master}/children") as file:
        return [int(pid) for pid in file.read().split()]


def test_every_worker_tells_of_all(gateway: Gateway, scrape: Callable[[], Scrape]) -> None:
    """Twelve execs over three workers are twelve in each of six scrapes, with nothing for promtool to say."""
    before = scrape()
    run_some(gateway, 12)
    for _ in range(6):
        after = scrape()
        for name, labels in (
            ("http_requests_total", {"route": "/exec/{vmid}", "status": "200"}),
            ("execs_total", {"driver": "liblxc", "reason": "exited"}),
            ("exec_spawn_seconds_count", {}),
            ("exec_run_seconds_count", {}),
            ("exec_overhead_seconds_count", {}),
        ):
            assert after.value(name, **labels) - before.value(name, **labels) == 12, name
        told = "exec_output_bytes_total"
        assert after.value(told, stream="stdout") - before.value(told, stream="stdout") == 12 * 6
        assert after.value("audit_records_total") - before.value("audit_records_total") >= 12
    assert after.value("ready_check") == len(list(after.samples("ready_check")))
    assert 0.001 < after.value("exec_spawn_seconds_sum") / after.value("exec_spawn_seconds_count") < 5
    assert lint(after.text) == ""


def test_a_killed_worker_takes_no_count_along(gateway: Gateway, scrape: Callable[[], Scrape]) -> None:
    """Its successor goes on where it was."""
    run_some(gateway, 6)
    before = scrape()
    for pid in workers(gateway):
        os.kill(pid, signal.SIGKILL)
        until(lambda: pid not in workers(gateway) and len(workers(gateway)) == 3, why="it has a successor")  # noqa: B023
    run_some(gateway, 6)
    asked = {"route": "/exec/{vmid}", "status": "200"}
    assert scrape().value("http_requests_total", **asked) == before.value("http_requests_total", **asked) + 6


def test_a_reload_of_each_keeps_the_counts(gateway: Gateway, scrape: Callable[[], Scrape]) -> None:
    """Of the supervisor, while an exec runs that ends after it, and of the web service."""
    with contextlib.closing(gateway.api()) as api:
        exec_id = detach(api, GUEST, ["sleep", "600"])
    before = scrape()
    assert before.value("execs_running", driver="liblxc") == 1
    gateway.services.reload("supervisor")
    gateway.services.reload("web")
    with contextlib.closing(gateway.api()) as api:
        assert api.request("DELETE", f"/execs/{exec_id}").status == 202
        assert api.get(f"/execs/{exec_id}?wait=10").json()["reason"] == "cancelled"
    after = scrape()
    assert after.value("execs_total", reason="exited") == before.value("execs_total", reason="exited")
    assert after.value("execs_total", reason="cancelled") == before.value("execs_total", reason="cancelled") + 1
    assert after.value("supervisor_reloads_total") == before.value("supervisor_reloads_total") + 1
    assert after.value("supervisor_start_time_seconds") == before.value("supervisor_start_time_seconds")
    assert after.value("exec_killed_processes_total") > before.value("exec_killed_processes_total")
    asked = {"route": "/exec/{vmid}"}
    assert after.value("http_requests_total", **asked) >= before.value("http_requests_total", **asked)
    assert after.value("execs_running") == 0


def test_a_killed_supervisor_is_seen(gateway: Gateway, scrape: Callable[[], Scrape]) -> None:
    """It begins anew with another start time, and with what the one before it has lost; meanwhile it is down."""
    with contextlib.closing(gateway.api()) as api:
        detach(api, GUEST, ["sleep", "600"])
    before = scrape()
    gateway.services.kill("supervisor")
    down = scrape()
    assert (down.value("component_up", component="supervisor"), down.value("component_up", component="audit")) == (0, 1)
    gateway.services.restart("supervisor")
    after = scrape()
    assert after.value("supervisor_start_time_seconds") > before.value("supervisor_start_time_seconds")
    assert after.value("execs_total", reason="gateway_lost") == 1
    assert after.value("execs_total") == 1
