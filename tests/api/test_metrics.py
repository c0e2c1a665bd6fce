"""GET /metrics over fakes: names, units and labels are as Prometheus asks, and nothing that is away hides the rest."""

from __future__ import annotations

import time
from typing import Any

import pytest

from gateway.errors import SupervisorUnavailable
from gateway.exec.ending import Ending
from gateway.exec.order import GuestKind
from gateway.exec.view import Reason
from gateway.supervisor.execs.figures import Figures

from .fakes import Api
from .metrics import PREFIX, Scrape, lint

ENDING = Ending(
    reason=Reason.EXITED,
    exit_code=0,
    signal=None,
    ended_at="2026-01-01T00:00:00Z",
    output={
        "stdout": {"bytes": 20, "dropped": 5, "dropped_at": 10, "sha256": None},
        "stderr": {"bytes": 1, "dropped": 0, "dropped_at": None, "sha256": None},
    },
    usage={"cpu_ms": 2, "memory_peak": None, "oom_killed": 1},
    killed=2,
    timing={"queued_ms": 0, "spawn_ms": 9, "run_ms": 3},
)


def scrape(api: Api, token: str | None = None) -> Scrape:
    reply = api.request("GET", "/metrics", token or api.token("metrics:read"))
    assert reply.status_code == 200
    assert reply.headers["Content-Type"].startswith("text/plain; version=")
    return Scrape(reply.get_data(as_text=True))


@pytest.fixture
def figures(api: Api, monkeypatch: pytest.MonkeyPatch) -> Figures:
    """The supervisor's, to be counted on by the test."""
    counted = Figures("lxc-attach")
    seen = api.supervisor.figures()
    monkeypatch.setattr(api.supervisor, "figures", lambda: {**seen, **counted.to_wire()})
    return counted


def test_requests_are_counted_by_route_and_status(api: Api) -> None:
    """Each in its place, with how long it took; no path that a caller has made up is a label."""
    token = api.token("metrics:read,exec:run")
    api.request("POST", "/exec/101", token, json={"command": ["true"]})
    api.request("POST", "/exec/198", token, json={"command": ["true"]})
    api.request("GET", "/no/such/path")
    found = scrape(api, token)
    assert found.value("http_requests_total", method="POST", route="/exec/{vmid}", status="200") == 1
    assert found.value("http_requests_total", method="POST", route="/exec/{vmid}", status="404") == 1
    assert found.value("http_requests_total", route="unmatched", status="404") == 1
    assert found.value("http_request_duration_seconds_count", route="/exec/{vmid}") == 2
    labels = {value for family in found.families for sample in family.samples for value in sample.labels.values()}
    assert not any("no/such" in value or "198" in value for value in labels)


def test_execs_are_counted_by_driver_and_reason(api: Api, figures: Figures) -> None:
    """What the supervisor has seen, by phases, in seconds and bytes."""
    figures.began(GuestKind.LXC, queued=2.0, overhead=0.004)
    figures.ended(GuestKind.LXC, ENDING)
    figures.ended(GuestKind.QEMU, None)
    found = scrape(api)
    assert found.value("execs_total", driver="lxc-attach", reason="exited") == 1
    assert found.value("execs_total", driver="guest-agent", reason="unknown") == 1
    sums = {phase: found.value(f"exec_{phase}_seconds_sum") for phase in ("queue", "overhead", "spawn", "run")}
    assert sums == {"queue": 2.0, "overhead": 0.004, "spawn": 0.009, "run": 0.003}
    assert found.value("exec_spawn_seconds_bucket", le="0.01") == 1
    assert found.value("exec_spawn_seconds_bucket", le="0.005") == 0
    assert found.value("exec_output_bytes_total", stream="stdout") == 20
    assert found.value("exec_output_dropped_bytes_total") == 5
    assert found.value("exec_killed_processes_total") == 2
    assert found.value("exec_cpu_seconds_total") == 0.002


def test_calls_of_pve_are_counted_by_component(api: Api, figures: Figures) -> None:
    """The supervisor's, which are to guest agents, beside the web service's; an earlier version of it tells of none."""
    api.figures.count_call("GET", "ok", 0.02)
    figures.count_call("POST", "refused", 0.3)
    figures.count_call("GET", "ok", 0.004)
    found = scrape(api)
    assert found.value("pve_api_requests_total", component="web") == 1
    assert found.value("pve_api_requests_total", component="supervisor", method="POST", outcome="refused") == 1
    assert found.value("pve_api_request_duration_seconds_sum", component="supervisor") == pytest.approx(0.304)
    told = {name: value for name, value in api.supervisor.figures().items() if not name.startswith("call")}
    api.supervisor.figures = lambda: told  # type: ignore[method-assign]
    found = scrape(api)
    assert not list(found.samples("pve_api_requests_total", component="supervisor"))
    assert found.value("component_up", component="supervisor") == 1


def test_the_next_image_goes_on_counting(figures: Figures) -> None:
    """What a reload hands over, and no more than that, is what was counted; of histograms with other bounds it begins
    anew."""
    figures.began(GuestKind.LXC, queued=0.0, overhead=0.004)
    figures.ended(GuestKind.LXC, ENDING)
    figures.count_call("GET", "ok", 0.004)
    told: dict[str, Any] = figures.to_wire()
    successor = Figures("lxc-attach")
    successor.take_over(told)
    assert successor.to_wire() == {**told, "reloads": 1}
    told["phases"] = [[phase, driver, {**data, "bounds": [1.0]}] for phase, driver, data in told["phases"]]
    other = Figures("lxc-attach")
    other.take_over(told)
    assert sum(sum(data["counts"]) for _, _, data in other.to_wire()["phases"]) == 0


def test_promtool_finds_nothing(api: Api, figures: Figures) -> None:
    """`promtool check metrics` has no complaint; where it is not installed: every name has our prefix and a help."""
    figures.began(GuestKind.LXC, queued=0.0, overhead=0.004)
    figures.ended(GuestKind.LXC, ENDING)
    figures.count_call("GET", "ok", 0.004)
    found = scrape(api)
    assert lint(found.text) == ""
    assert all(family.name.startswith(PREFIX) and family.documentation for family in found.families)
    assert {name for family in found.families for sample in family.samples for name in sample.labels} <= {
        "method", "route", "status", "le", "outcome", "driver", "reason", "stream", "state", "component", "check",
        "version", "python", "node",
    }  # fmt: skip


def test_what_is_away_hides_no_other(api: Api) -> None:
    """Without the supervisor and the audit writer the rest is told, and that they are away."""
    api.supervisor.fails = SupervisorUnavailable("down")
    api.audit.down = True
    found = scrape(api)
    assert {sample.labels["component"]: sample.value for sample in found.samples("component_up")} == {
        "web": 1, "supervisor": 0, "audit": 0
    }  # fmt: skip
    assert found.value("ready_check", check="audit") == 0
    assert found.value("tokens", state="active") == 1


def test_metrics_hold_nothing_of_anybody(api: Api) -> None:
    """No token, token's name or id, guest or command stands in what everybody's monitoring reads."""
    token = api.token("metrics:read,exec:run")
    api.request("POST", "/exec/101?canary=1", token, json={"command": ["canary"], "env": {"CANARY": "canary"}})
    api.request("GET", "/execs/canary", token, headers={"X-Canary": "canary"})
    text = scrape(api, token).text
    assert "canary" not in text.lower()
    assert token not in text and token.split(".")[0].removeprefix("pveg_") not in text


def test_a_hundred_thousand_execs_cost_a_scrape_nothing(api: Api, figures: Figures) -> None:
    """Figures are sums: with 100,000 execs of every driver and reason seen, and every route asked, a scrape takes
    less than 20 ms of processor time."""
    for number in range(100_000):
        figures.began(GuestKind.LXC, queued=0.0, overhead=number / 1e6)
        figures.ended(GuestKind.LXC if number % 2 else GuestKind.QEMU, ENDING)
    for method, route in api.figures._routes:
        for status in (200, 404, 500):
            api.figures.count_request((method, route), status, 0.01)
    token = api.token("metrics:read")
    scrape(api, token)
    took = []
    for _ in range(5):
        began = time.thread_time()
        api.request("GET", "/metrics", token)
        took.append(time.thread_time() - began)
    assert min(took) < 0.02, took
