"""What must hold: of each reply, of the logs, and of the processes from the middle of a run to its end."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jsonschema_rs
import requests
import yaml
from schemathesis import Response
from schemathesis.checks import CheckFunction
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.exec.gateways import Gateway
from tests.fuzz.requesting import SPEC, Sent
from tests.soak import processes

MAX_SECONDS = 20.0
"""For one request, from its first byte to its reply's last."""
MAX_GROWTH = 12 << 20
"""Bytes that a process may have more at the end than in the middle."""
MAX_MORE = 8
"""Descriptors that it may have more."""

_EDGE = {404: "not_found", 405: "method_not_allowed", 414: "request_line_too_long", 431: "headers_too_large"}
"""What is answered before an operation is known: to paths that are none, and to heads over the limits."""
_ASKED_FOR = frozenset({"storage_full", "task_unfinished", "guest_without_address"})
"""What a request may bring about in a gateway and a PVE that are well: a disk too large, a time limit too short."""
_BROUGHT_ABOUT = (b"container did not stop", b"(pve.agent_token_file) is absent")
"""The same: too little time for a shutdown; files of machines, which here are the node's: nobody may ask for them."""
_REFUSALS = (413, 426)
"""Refusals, too, which schemathesis does not know as such: of what is long in too many places; of no WebSocket."""
_CHECKS: list[CheckFunction] = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
_EVENTS: dict[str, Callable[[bytes], list[bytes]]] = {
    "application/x-ndjson": bytes.splitlines,
    "text/event-stream": lambda body: re.findall(rb"^data: ?(.*)$", body, re.MULTILINE),
}
"""The events in a body, as JSON, by its media type."""
_LINE = re.compile(r"(\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+0000\] \[\d+\] )?\[?(INFO|WARNING|ERROR)\]? ")


def judge(sent: Sent, reply: requests.Response, seconds: float) -> Iterator[str]:
    """What is wrong with a reply, each a line that is the same for the same kind of wrong."""
    where = sent.case.operation.label
    if seconds > MAX_SECONDS:
        yield f"{where}: slower than {MAX_SECONDS:.0f} s"
    if "X-Request-Id" not in reply.headers:
        yield f"{where}: {reply.status_code} without X-Request-Id"
    code = _code(reply)
    asked_for = code in _ASKED_FOR or (
        reply.status_code >= 500 and any(word in reply.content for word in _BROUGHT_ABOUT)
    )
    if reply.status_code >= 500 and "/health/" not in where and not asked_for:
        yield f"{where}: {reply.status_code} {code}"
    if _EDGE.get(reply.status_code) == code and code is not None:
        return
    checks = [*_CHECKS, *([negative_data_rejection] if sent.pure and reply.status_code not in _REFUSALS else [])]
    events = _EVENTS.get(reply.headers.get("Content-Type", "").partition(";")[0])
    if events is not None:
        # In OpenAPI 3.1 a stream is a string, and `x-item-schema` says what its events are.
        checks.remove(response_schema_conformance)
    if events is not None:
        yield from (f"{where}: {wrong}" for wrong in _judge_events(events(reply.content)))
    try:
        sent.case.validate_response(Response.from_requests(reply, True), checks=checks)
    except FailureGroup as found:
        for failure in found.exceptions:
            yield f"{where}: {reply.status_code} {code}: {getattr(failure, 'title', failure)}"


def _code(reply: requests.Response) -> str | None:
    with contextlib.suppress(ValueError, AttributeError):
        code: str | None = reply.json().get("code")
        return code
    return None


def _judge_events(lines: list[bytes]) -> Iterator[str]:
    """Each is an event."""
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            yield "an event that breaks off"
            continue
        for error in _event().iter_errors(event):
            yield f"an event that is none: {error.message:.200}"


@functools.cache
def _event() -> jsonschema_rs.Draft202012Validator:
    components = yaml.safe_load(SPEC.read_text())["components"]
    return jsonschema_rs.Draft202012Validator({"$ref": "#/components/schemas/ExecEvent", "components": components})


def judge_logs(gateway: Gateway, secrets: list[str]) -> Iterator[str]:
    """C8: no log shows a secret or a traceback, and every line is one that the log made."""
    for name in ("web", "supervisor", "audit"):
        text = gateway.log(name)
        lines = text.splitlines()
        yield from (f"log of {name}: {line[:300]}" for line in lines if line and not _LINE.match(line))
        if any(secret in text for secret in secrets):
            yield f"log of {name}: shows a secret"
    for file in gateway.audit_log.parent.glob("audit.log*"):
        text = file.read_text()
        if any(secret in text for secret in secrets):
            yield f"{file.name}: shows a secret"
        for line in text.split("\n")[:-1]:
            try:
                json.loads(line)
            except ValueError:
                yield f"{file.name}: a line that is no record: {line[:200]}"


def judge_trail(gateway: Gateway) -> Iterator[str]:
    """Every change of a guest or storage that was announced has one end in the audit log, once PVE is done with it."""
    changes: dict[str, str] = {}
    ends: Counter[str] = Counter()
    for file in gateway.audit_log.parent.glob("audit.log*"):
        whole = file.read_text().rpartition("\n")[0]  # the last line may be half there
        for record in map(json.loads, whole.splitlines()):
            subject, _, what = record["event"].partition(":")
            if subject in ("guest", "storage") and what in ("outcome", "aborted"):
                ends[record["audit_id"]] += 1
            elif subject in ("guest", "storage"):
                changes[record["audit_id"]] = record["event"]
    wrong = Counter((event, ends[name]) for name, event in changes.items() if ends[name] != 1)
    yield from (f"audit: {count} x {event} with {number} ends" for (event, number), count in wrong.items())
    yield from ["audit: an end without a beginning" for name in ends if name not in changes][:1]


@dataclass(frozen=True)
class Footprint:
    """Bytes of memory, and descriptors, of one process."""

    memory: int
    descriptors: int


def footprints(gateway: Gateway) -> dict[str, Footprint]:
    """Of each of the gateway's processes, by name."""
    pids = {name: gateway.services.pid(name) for name in ("audit", "supervisor")}
    pids["web"] = processes.the_worker(gateway)
    return {name: Footprint(processes.resident(pid), processes.descriptors(pid)) for name, pid in pids.items()}


def judge_growth(middle: dict[str, Footprint], end: dict[str, Footprint]) -> Iterator[str]:
    """What has grown."""
    for name, before in middle.items():
        if end[name].memory - before.memory > MAX_GROWTH:
            yield f"{name} has {(end[name].memory - before.memory) >> 20} MiB more than in the middle"
        if end[name].descriptors - before.descriptors > MAX_MORE:
            yield f"{name} has {end[name].descriptors - before.descriptors} descriptors more than in the middle"
