"""Each source's figures as Prometheus' families: names, help and labels stand here, and nowhere else.

No label knows a guest, a token, an address or anything else that callers choose: their number is bounded by the code.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from gateway import __version__

PREFIX = "pve_exec_gateway_"

_PHASES = {
    "queue": "How long execs that began had waited for a place.",
    "overhead": "The gateway's own time from a request's arrival at the supervisor to the spawn, less the queue: "
    "checks, the audit log's receipt, the spool.",
    "spawn": "How long it took to get a command into its guest, to the millisecond.",
    "run": "How long commands ran, to the millisecond.",
}


def build_info(node: str) -> Iterator[Metric]:
    labels = {"version": __version__, "python": platform.python_version(), "node": node}
    yield _gauge("build_info", "What runs here; always 1.", [(labels, 1)])


def up(sources: Mapping[str, bool]) -> Iterator[Metric]:
    yield _gauge(
        "component_up",
        "Whether a process of the gateway has answered to this scrape.",
        [({"component": name}, value) for name, value in sources.items()],
    )


def ready(checks: Mapping[str, bool]) -> Iterator[Metric]:
    yield _gauge(
        "ready_check",
        "Whether a check of GET /health/ready holds.",
        [({"check": name}, value) for name, value in checks.items()],
    )


def requests(figures: Mapping[str, Any]) -> Iterator[Metric]:
    """What the web workers have counted (api.figures)."""
    yield _counter(
        "http_requests",
        "Requests by operation and status; 499: the client left before its reply.",
        (
            ({"method": method, "route": route, "status": str(status)}, count)
            for method, route, status, count in figures["requests"]
        ),
    )
    yield _histogram(
        "http_request_duration_seconds",
        "From a request's arrival to its reply, of a stream to its begin; an exec's run is in it.",
        (({"method": method, "route": route}, histogram) for method, route, *histogram in figures["seconds"]),
    )


def pve_calls(components: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    """What the web workers have counted, and the supervisor (of guest agents; an earlier version of it does not)."""
    yield _counter(
        "pve_api_requests",
        "Calls of PVE's API by their outcome: refused by PVE, unreachable, or silent (nobody knows what came of it).",
        (
            ({"component": component, "method": method, "outcome": outcome}, count)
            for component, figures in components.items()
            for method, outcome, count in figures.get("calls", ())
        ),
    )
    yield _histogram(
        "pve_api_request_duration_seconds",
        "How long calls of PVE's API took.",
        (
            ({"component": component, "method": method}, histogram)
            for component, figures in components.items()
            for method, *histogram in figures.get("call_seconds", ())
        ),
    )


def execs(figures: Mapping[str, Any]) -> Iterator[Metric]:
    """What the supervisor has counted (supervisor.figures)."""
    yield _counter(
        "execs",
        "Execs that have ended, by how they entered the guest and why they ended.",
        (({"driver": driver, "reason": reason}, count) for driver, reason, count in figures["ended"]),
    )
    for phase, text in _PHASES.items():
        found = [(driver, histogram) for of, driver, histogram in figures["phases"] if of == phase]
        yield _histogram(
            f"exec_{phase}_seconds",
            text,
            (({"driver": driver}, (data["bounds"], data["counts"], data["sum"])) for driver, data in found),
        )
    streams = figures["output"]
    yield _counter(
        "exec_output_bytes",
        "Bytes that commands have written.",
        (({"stream": stream}, streams.get(stream, 0)) for stream in ("stdout", "stderr")),
    )
    totals = figures["totals"]
    for name, key, text in (
        ("exec_output_dropped_bytes", "dropped", "Bytes of output past the limits, which were not kept."),
        ("exec_killed_processes", "killed", "Processes that were sent TERM or KILL to end an exec."),
        ("exec_oom_killed_processes", "oom_killed", "Processes of execs that the kernel killed for want of memory."),
    ):
        yield _counter(name, text, [({}, totals.get(key, 0))])
    yield _counter("exec_cpu_seconds", "Processor time that execs have used.", [({}, figures["cpu"])])
    running = figures["running"]
    yield _gauge(
        "execs_running",
        "Execs that run now.",
        [({"driver": driver}, running.get(driver, 0)) for driver in sorted({figures["driver"], *running})],
    )
    for name, key, text in (
        ("execs_running_limit", "places", "How many execs may run at once (exec.max_running)."),
        ("execs_queued", "queued", "Execs that wait for a place now."),
        ("execs_surviving", "surviving", "Ended execs with processes that live on."),
        ("execs_remembered", "remembered", "Ended execs that can still be read."),
        ("spool_bytes", "spool_bytes", "Bytes of output kept of ended execs."),
        ("spool_limit_bytes", "spool_limit", "How many bytes the spool may hold (spool.total)."),
        ("supervisor_connections", "connections", "Connections of the web service to the supervisor."),
        (
            "supervisor_start_time_seconds",
            "started",
            "When the supervisor was started, Unix time; a reload is no start.",
        ),
    ):
        yield _gauge(name, text, [({}, figures[key])])
    yield _counter("supervisor_reloads", "Reloads of the supervisor since its start.", [({}, figures["reloads"])])


def audit(status: Mapping[str, Any]) -> Iterator[Metric]:
    """What the audit writer tells of itself (audit.committer)."""
    for name, key, text in (
        ("audit_records", "records", "Records that became durable."),
        ("audit_refused_records", "refused", "Records that were refused: what they announced was not done."),
        ("audit_write_failures", "failures", "Writes that the disk refused."),
        ("audit_anchors", "anchors_sent", "Anchors of the log that the journal took."),
        ("audit_anchor_failures", "anchors_failed", "Anchors that the journal did not take."),
    ):
        yield _counter(name, text, [({}, status[key])])
    took = status["sync_seconds"]
    yield _histogram(
        "audit_write_duration_seconds",
        "How long it took to make a batch of records durable.",
        [({}, (took["bounds"], took["counts"], took["sum"]))],
    )
    for name, key, text in (
        ("audit_lag_seconds", "lag", "For how long the disk has had the batch that is being written; 0: none is."),
        ("audit_queued_records", "queued", "Records that wait to be written."),
        ("audit_filled_ratio", "filled", "How much of audit.max_bytes the log has taken."),
        ("audit_healthy", "ok", "Whether records can be written; while they cannot, nothing is done."),
    ):
        yield _gauge(name, text, [({}, status[key])])


def tokens(states: Mapping[str, int]) -> Iterator[Metric]:
    yield _gauge("tokens", "Tokens by state.", [({"state": state}, count) for state, count in states.items()])


def certificate(not_after: float) -> Iterator[Metric]:
    yield _gauge("certificate_not_after_seconds", "When the certificate of the API ends, Unix time.", [({}, not_after)])


Samples = Iterable[tuple[Mapping[str, str], float]]


def _counter(name: str, text: str, samples: Samples) -> Metric:
    return _fill(CounterMetricFamily(PREFIX + name, text), "_total", samples)


def _gauge(name: str, text: str, samples: Samples) -> Metric:
    return _fill(GaugeMetricFamily(PREFIX + name, text), "", samples)


def _fill(family: Metric, suffix: str, samples: Samples) -> Metric:
    for labels, value in samples:
        family.add_sample(family.name + suffix, dict(labels), float(value))
    return family


def _histogram(name: str, text: str, samples: Iterable[tuple[Mapping[str, str], Any]]) -> Metric:
    family = HistogramMetricFamily(PREFIX + name, text)
    for labels, (bounds, counts, total) in samples:
        upper = [*map(floatToGoString, bounds), "+Inf"]
        below = list(accumulate(counts))
        for bound, count in zip(upper, below, strict=True):
            family.add_sample(f"{family.name}_bucket", {**labels, "le": bound}, count)
        family.add_sample(f"{family.name}_count", dict(labels), below[-1])
        family.add_sample(f"{family.name}_sum", dict(labels), total)
    return family
