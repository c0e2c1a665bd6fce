"""Replies that are read as they come: the events of an exec, as NDJSON or SSE, and raw bytes."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from tests.contract import check_event, check_reply
from tests.exec.api import Api

NDJSON = "application/x-ndjson"
SSE = "text/event-stream"

Event = dict[str, Any]


class Reply:
    """One reply on a connection of its own. Leaving the `with` block closes it, whatever is still to come."""

    def __init__(
        self,
        api: Api,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: dict[str, str] | None = None,
        timeout: float = 30,
    ) -> None:
        self.connection = api.connect(timeout)
        data = None if body is None else json.dumps(body).encode()
        sent = {"Authorization": f"Bearer {api.token}", "Content-Type": "application/json", **(headers or {})}
        try:
            self.connection.request(method, path, data, sent)
            # Asked for now: a reply that lasts until the connection closes takes the socket away from it.
            self.sock = self.connection.sock
            self._reply = self.connection.getresponse()
        except BaseException:
            self.connection.close()
            raise
        self.status = self._reply.status
        self.headers = self._reply.headers
        try:
            check_reply(method, path, self.status, self.headers.items(), None)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self) -> bytes:
        """All that is still to come."""
        return self._reply.read()

    def pieces(self, size: int = 1 << 16) -> Iterator[bytes]:
        """The body as it comes. It stops at its end; where it is cut, that is http.client.IncompleteRead."""
        while piece := self._reply.read1(size):
            yield piece

    def events(self) -> Iterator[Event]:
        """The events as they come, heartbeats too. It stops where the reply does: after `end`, if it was not cut."""
        assert self.status == 200, (self.status, self.read())
        lines = self._server_sent() if self.headers.get_content_type() == SSE else self._lines()
        for line in lines:
            event = json.loads(line)
            check_event(event)
            yield event

    def next_event(self, kind: str) -> Event:
        """The next event of a type; those before it are passed over."""
        return next(event for event in self.events() if event["type"] == kind)

    def close(self) -> None:
        self._reply.close()
        self.connection.close()

    def _lines(self) -> Iterator[bytes]:
        """Whole lines: what a cut leaves of one is none."""
        while (line := self._read_line()).endswith(b"\n"):
            yield line

    def _read_line(self) -> bytes:
        try:
            return self._reply.readline()
        except (http.client.HTTPException, ConnectionError):
            return b""

    def _server_sent(self) -> Iterator[bytes]:
        """The data of each event, whose `id` and `event` say the same; a comment is no event."""
        fields: dict[bytes, bytes] = {}
        for line in self._lines():
            if line != b"\n":
                name, _, value = line.rstrip(b"\n").partition(b": ")
                assert name not in fields, line
                fields[name] = value
                continue
            if fields.pop(b"", None) is None:
                event = json.loads(fields[b"data"])
                assert fields.keys() == {b"id", b"event", b"data"}, fields
                assert (int(fields[b"id"]), fields[b"event"].decode()) == (event["seq"], event["type"])
                yield fields[b"data"]
            fields = {}


class Follower:
    """What was seen of an exec over any number of replies, each checked to go on where the one before it stopped."""

    def __init__(self) -> None:
        self.seq = 0
        self.sizes = {"stdout": 0, "stderr": 0}
        self.digests = {"stdout": hashlib.sha256(), "stderr": hashlib.sha256()}
        self.end: Event | None = None

    def take(self, event: Event) -> tuple[str, bytes] | None:
        """Counts an event in; the stream and bytes of output. Fails on a gap, and where anything does not fit."""
        assert self.end is None, f"behind the end: {event}"
        kind = event["type"]
        if kind in ("start", "heartbeat"):
            assert event["seq"] == (0 if kind == "start" else self.seq), event
            return None
        if kind == "end":
            assert event["seq"] == self.seq + 1, event
            self.end = event
            return None
        assert kind in self.sizes, event
        data = data_of(event)
        self.add(kind, event["offset"], data)
        assert event["seq"] == self.seq, (event["seq"], self.seq)
        return kind, data

    def add(self, kind: str, offset: int, data: bytes) -> None:
        """Counts bytes of a stream in. Fails where they do not follow what was seen of it."""
        assert data
        assert offset == self.sizes[kind], (offset, self.sizes)
        self.sizes[kind] += len(data)
        self.seq += len(data)
        self.digests[kind].update(data)

    def hashes(self) -> dict[str, str]:
        """Of all bytes seen, by stream."""
        return {stream: digest.hexdigest() for stream, digest in self.digests.items()}


def data_of(event: Event) -> bytes:
    """The bytes in an output event."""
    data: str = event["data"]
    return base64.b64decode(data, validate=True) if event["encoding"] == "base64" else data.encode()


def stream(api: Api, vmid: int, spec: dict[str, Any], accept: str = NDJSON, **options: Any) -> Reply:
    """POST /exec/{vmid}, answered by events."""
    headers = {"Accept": accept, **options.pop("headers", {})}
    return Reply(api, "POST", f"/exec/{vmid}", spec, headers=headers, **options)


def detach(api: Api, vmid: int, command: str | list[str], **spec: Any) -> str:
    """Starts an exec that runs by itself; its id."""
    answer = api.post(vmid, {"command": command, **spec}, headers={"Prefer": "respond-async"})
    assert answer.status == 202, (answer.status, answer.body)
    exec_id: str = answer.json()["id"]
    assert answer.headers["Location"] == f"/execs/{exec_id}"
    return exec_id
