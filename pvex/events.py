"""The events of one exec as one unbroken sequence: a stream that is cut goes on with the very next byte."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from requests.exceptions import RequestException

from pvex.api import STREAM_SECONDS
from pvex.errors import ClientError, Cut, Problem, Unreachable
from pvex.paths import segment

if TYPE_CHECKING:
    import requests

    from pvex.api import Api

NDJSON = "application/x-ndjson"
PATIENCE = 60.0
"""Seconds without any event until a stream that was cut is given up."""
BEGIN_PATIENCE = 15.0
"""The same before the first event."""

Event = dict[str, Any]
Open = Callable[[], "requests.Response"]


def run_stream(api: Api, vmid: int, spec: dict[str, Any], key: str, *, patience: float = PATIENCE) -> Iterator[Event]:
    """Runs a command and gives what happens; it runs once, however often this is cut. Raises ClientError.

    A machine's guest agent cannot stream: its output comes at the end.
    """
    headers = {"Accept": NDJSON, "Idempotency-Key": key}
    try:
        yield from _follow(api, lambda: _post(api, vmid, spec, headers), None, 0, patience)
    except Problem as problem:
        if not cannot_stream(problem) or spec.get("stdin_open"):
            raise
        yield from _run_whole(api, vmid, spec, f"{key}-whole", patience)


def cannot_stream(problem: Problem) -> bool:
    """Whether the guest can run the command, but nobody can follow it."""
    unsupported = set(problem.document.get("unsupported", ()))
    return problem.code == "driver_unsupported" and unsupported <= {"streams", "stdin_open"}


def _run_whole(api: Api, vmid: int, spec: dict[str, Any], key: str, patience: float) -> Iterator[Event]:
    """The same events, those of the output when it has ended."""
    headers = {"Prefer": "respond-async", "Idempotency-Key": key}
    view = api.call("POST", f"/exec/{vmid}", spec, headers=headers)
    yield {"type": "start", "exec": view}
    retry = Retry(patience)
    while view["state"] in ("queued", "running"):
        try:
            view = api.get(f"/execs/{view['id']}", {"wait": 30}, wait=30)
            retry.succeeded()
        except ClientError as error:
            retry.after(error, view["id"])
    for stream in ("stdout", "stderr"):
        if view["output"] and view["output"][stream]["bytes"]:
            data = api.send("GET", f"/execs/{view['id']}/{stream}").content
            yield {"type": stream, "data": base64.b64encode(data).decode(), "encoding": "base64"}
    yield {"type": "end", "exec": view}


def follow(api: Api, exec_id: str, *, start: int = 0, stay: bool = True, patience: float = PATIENCE) -> Iterator[Event]:
    """What an exec has done behind `start` and, with `stay`, goes on to do. Without, it ends where it is now."""
    if stay:
        return _follow(api, lambda: _resume(api, exec_id, start), exec_id, start, patience)
    return _read(_resume(api, exec_id, start, stay=False))


def read_data(event: Event) -> bytes:
    """The bytes of an output event."""
    data: str = event["data"]
    return base64.b64decode(data) if event["encoding"] == "base64" else data.encode()


def _follow(api: Api, begin: Open, exec_id: str | None, seq: int, patience: float) -> Iterator[Event]:
    begun = False
    retry = Retry(patience)
    while True:
        try:
            again = begun and exec_id is not None
            for event in _read(_resume(api, str(exec_id), seq) if again else begin()):
                begun = True
                retry.succeeded()
                if event["type"] == "start":
                    exec_id = event["exec"]["id"]
                seq = event["seq"]
                yield event
                if event["type"] == "end":
                    return
            raise Cut(f"the connection to {api.profile.url} was cut")
        except ClientError as error:
            retry.after(error, exec_id)


class Retry:
    """Whether, and when, to try again after a cut."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._until: float | None = None
        self._delay = 0.0
        self._reached = False

    def succeeded(self) -> None:
        self._until, self._delay, self._reached = None, 0.0, True

    def after(self, error: ClientError, exec_id: str | None, *, wait: Callable[[float], None] = time.sleep) -> None:
        """Returns when it is time to try again; raises `error` where that has no sense, or no more."""
        passing = isinstance(error, Cut | Unreachable) or (
            isinstance(error, Problem) and (error.passing or (exec_id is not None and error.retryable))
        )
        if isinstance(error, Unreachable) and not self._reached and self._until is None:
            raise error
        now = time.monotonic()
        if self._until is None:
            self._until = now + (self._patience if self._reached else min(self._patience, BEGIN_PATIENCE))
        if not passing or now >= self._until:
            if exec_id is not None and passing:
                raise Cut(f"{error}; it goes on without us: `pvex logs -f {exec_id}` shows it") from error
            raise error
        if isinstance(error, Problem | Unreachable):
            self._delay = max(0.1, self._delay)
        wait(self._delay)
        self._delay = min(3.0, 2 * self._delay or 0.1)


def _post(api: Api, vmid: int, spec: dict[str, Any], headers: dict[str, str]) -> requests.Response:
    read = STREAM_SECONDS + float(spec.get("queue_timeout") or 0) + 60
    return api.send("POST", f"/exec/{vmid}", spec, headers=headers, stream=True, read=read)


def _resume(api: Api, exec_id: str, seq: int, *, stay: bool = True) -> requests.Response:
    query = {"from": seq, "follow": stay}
    return api.send(
        "GET",
        f"/execs/{segment(exec_id)}/events",
        query=query,
        headers={"Accept": NDJSON},
        stream=True,
        read=STREAM_SECONDS,
    )


def _read(response: requests.Response) -> Iterator[Event]:
    """The events of one connection: whole lines alone. Raises Cut, and ClientError for what is no stream of them."""
    media_type = response.headers.get("Content-Type", "")
    if response.status_code != 204 and not media_type.startswith(NDJSON):
        response.close()
        raise ClientError(f"{response.url} answered with {media_type or 'nothing'}: is that a gateway?")
    rest = b""
    with response:
        try:
            for chunk in response.iter_content(chunk_size=None):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield json.loads(line)
        except (RequestException, OSError, ValueError) as exc:
            raise Cut(f"the stream from {response.url} was cut") from exc
