"""The ways in: each asks for an exec as a client of its kind does, and gives one Outcome or one Refused."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.conformance.drivers import Guest
from tests.exec.api import Answer
from tests.exec.streams import NDJSON, SSE, Follower, stream
from tests.exec.websocket import STDERR, STDOUT, Closed, NotUpgraded, Output, WebSocket

SECONDS = 40.0


@dataclass(frozen=True)
class Outcome:
    """What an exec did. `stdout` and `stderr` are the bytes that the client got; `view` is the exec as it ended."""

    stdout: bytes
    stderr: bytes
    view: dict[str, Any]

    @property
    def ending(self) -> tuple[str, int | None, str | None]:
        return self.view["reason"], self.view["exit_code"], self.view["signal"]


class Refused(Exception):
    """Nothing was run: the HTTP status, or what the close code says of it, and the problem's members."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(f"{status} {problem}")
        self.status = status
        self.code: str = problem["code"]
        self.problem = problem


@dataclass(frozen=True)
class Way:
    """One way in. `streams`: it shows what an exec does as it does it, and the exec waits for a reader that is slow."""

    name: str
    run: Callable[[Guest, dict[str, Any]], Outcome]
    streams: bool = False


def run_as_json(guest: Guest, spec: dict[str, Any]) -> Outcome:
    """POST, answered when it has ended."""
    answer = _granted(guest.api.post(guest.vmid, spec, timeout=SECONDS), 200)
    result = answer.json()
    stdout, stderr = (_decode(result.pop(name), result["encoding"][name]) for name in ("stdout", "stderr"))
    del result["encoding"]
    return Outcome(stdout, stderr, result)


def run_as_ndjson(guest: Guest, spec: dict[str, Any]) -> Outcome:
    return _run_as_events(guest, spec, NDJSON)


def run_as_sse(guest: Guest, spec: dict[str, Any]) -> Outcome:
    return _run_as_events(guest, spec, SSE)


def run_over_websocket(guest: Guest, spec: dict[str, Any]) -> Outcome:
    """A WebSocket whose first message starts it."""
    try:
        socket = WebSocket(guest.api, f"/exec/{guest.vmid}/terminal", timeout=SECONDS)
    except NotUpgraded as refusal:
        raise Refused(refusal.answer.status, refusal.answer.json()) from None
    output = {STDOUT: bytearray(), STDERR: bytearray()}
    said: dict[str, Any] = {}
    with socket:
        socket.say("start", **spec)
        while not isinstance(heard := socket.receive(), Closed):
            assert said.get("type") not in ("end", "error"), heard
            if isinstance(heard, Output):
                assert heard.offset == len(output[heard.channel])
                output[heard.channel] += heard.data
            else:
                assert heard["type"] in ("started", "end", "error"), heard
                said = heard
    if said["type"] == "error":
        raise Refused(heard.code - 4000, said)
    assert (said["type"], heard.code) == ("end", 1000)
    _check_end(said)
    return Outcome(bytes(output[STDOUT]), bytes(output[STDERR]), said["exec"])


def run_detached(guest: Guest, spec: dict[str, Any]) -> Outcome:
    """202 at once; then a long poll for its end, and its output as raw bytes."""
    answer = _granted(guest.api.post(guest.vmid, spec, headers={"Prefer": "respond-async"}), 202)
    assert answer.headers["Preference-Applied"] == "respond-async"
    place = answer.headers["Location"]
    assert place == f"/execs/{answer.json()['id']}"
    view = guest.api.get(f"{place}?wait={SECONDS:.0f}", timeout=SECONDS + 5).json()
    stdout, stderr = (_granted(guest.api.get(f"{place}/{name}"), 200) for name in ("stdout", "stderr"))
    for raw in (stdout, stderr):
        assert raw.headers["X-Output-Complete"] == "true"
    return Outcome(stdout.body, stderr.body, view)


def _run_as_events(guest: Guest, spec: dict[str, Any], accept: str) -> Outcome:
    """POST, answered by events: `start` first, `end` last, each `seq` and offset where the one before it left off."""
    output, follower = {"stdout": bytearray(), "stderr": bytearray()}, Follower()
    with stream(guest.api, guest.vmid, spec, accept, timeout=SECONDS) as reply:
        if reply.status != 200:
            raise Refused(reply.status, Answer(reply.status, reply.headers, reply.read()).json())
        assert reply.headers["X-Accel-Buffering"] == "no"
        events = reply.events()
        assert next(events)["type"] == "start"
        for event in events:
            if taken := follower.take(event):
                output[taken[0]] += taken[1]
    assert follower.end is not None, "cut before its end"
    _check_end(follower.end)
    return Outcome(bytes(output["stdout"]), bytes(output["stderr"]), follower.end["exec"])


def _check_end(end: dict[str, Any]) -> None:
    """What an end tells by itself is what the exec in it tells."""
    assert [end["exec"][name] for name in ("reason", "exit_code", "signal")] == [
        end[name] for name in ("reason", "exit_code", "signal")
    ]


def _granted(answer: Answer, status: int) -> Answer:
    if answer.status >= 400:
        raise Refused(answer.status, answer.json())
    assert answer.status == status, (answer.status, answer.body[:500])
    return answer


def _decode(text: str, encoding: str) -> bytes:
    return base64.b64decode(text, validate=True) if encoding == "base64" else text.encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


JSON_WAY = Way("json", run_as_json)
WAYS = (
    JSON_WAY,
    Way("ndjson", run_as_ndjson, streams=True),
    Way("sse", run_as_sse, streams=True),
    Way("websocket", run_over_websocket, streams=True),
    Way("detached", run_detached),
)
