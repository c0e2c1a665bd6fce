"""Running one command in a guest to its end, once, however often the connection is cut on the way."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import uuid
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Protocol

from .client import Client, Problem, Retry
from .wire import Cut, Failure

STREAM_SECONDS = 20.0
"""Silence after which a stream is taken for cut; the gateway's heartbeats come every 4 seconds."""
BEGIN_SECONDS = 360.0
"""What an answer may take to begin: its place in the queue, which the gateway bounds by 300 seconds, and the spawn."""
INLINE = 1 << 20
"""Bytes of input that go with the request."""
_NDJSON = {"Accept": "application/x-ndjson", "Content-Type": "application/json"}


class Lost(Failure):
    """The command has not ended by itself, or nobody knows how it ended."""


class Dialogue(Protocol):
    """What a command is told, depending on what it has said."""

    def answer(self, output: Output) -> bytes | None:
        """What it is to be sent now, if anything."""

    def is_over(self) -> bool:
        """Whether its input follows, and nothing more is said."""


@dataclass
class Output:
    """What a command has written so far, and how it ended."""

    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    exit_code: int | None = None


class Run:
    """One command. `data` is its input; with a `dialogue` it is sent when that is over."""

    def __init__(
        self, client: Client, vmid: int, spec: dict[str, Any], data: bytes | None, dialogue: Dialogue | None
    ) -> None:
        self._client = client
        self._vmid = vmid
        self._dialogue = dialogue
        self._data = data or b""
        self._sent = 0
        self._typing: Client | None = None
        self._exec_id = ""
        self._seq = 0
        self.output = Output()
        self._spec = {**spec, "on_disconnect": "continue"}
        self._open = dialogue is not None or len(self._data) > INLINE
        if self._open:
            self._spec["stdin_open"] = True
        elif self._data:
            self._spec |= {"stdin": base64.b64encode(self._data).decode(), "stdin_encoding": "base64"}
        self._headers = {**_NDJSON, "Idempotency-Key": f"ansible-{uuid.uuid4()}"}

    def finish(self) -> Output:
        """Its output and exit code. Raises Failure, and Lost where it has no end of its own. Whatever else interrupts
        it ends the command."""
        retry = Retry(self._client)
        try:
            while True:
                try:
                    with contextlib.closing(_read_events(self._client, self._begin())) as events:
                        for event in events:
                            retry.succeeded()
                            self._take(event)
                    if self.output.exit_code is None:
                        raise Cut(f"the stream from {self._client.address.url} was cut")
                    return self.output
                except Failure as failure:
                    if self.output.exit_code is not None:
                        return self.output
                    retry.after(failure)
        except BaseException as exc:
            if not isinstance(exc, Failure):
                self._cancel()
            raise
        finally:
            if self._typing is not None:
                self._typing.close()

    def _begin(self) -> http.client.HTTPResponse:
        if self._exec_id:
            path = f"/execs/{self._exec_id}/events"
            return self._client.send("GET", path, query={"from": self._seq}, headers=_NDJSON, read=STREAM_SECONDS)
        body = json.dumps(self._spec).encode()
        response = self._client.send(
            "POST", f"/exec/{self._vmid}", body=body, headers=self._headers, read=BEGIN_SECONDS
        )
        self._client.wait_at_most(STREAM_SECONDS)
        return response

    def _take(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind == "start":
            self._exec_id = event["exec"]["id"]
        elif kind in ("stdout", "stderr"):
            data: str = event["data"]
            raw = base64.b64decode(data) if event["encoding"] == "base64" else data.encode()
            getattr(self.output, kind).extend(raw)
        elif kind == "gap":
            raise Lost("the gateway could not keep all of the command's output; its spool is full (spool.per_exec)")
        elif kind == "end":
            self._open = False
            self.output.exit_code = _read_end(event["exec"])
        self._seq = event["seq"]
        if self._open and self._exec_id:
            self._type()

    def _type(self) -> None:
        """Input, as far as it is time for it."""
        if self._dialogue is not None and not self._dialogue.is_over():
            said = self._dialogue.answer(self.output)
            if said:
                self._put(said, eof=False)
            if not self._dialogue.is_over():
                return
        self._open = False
        self._put(self._data, eof=True)

    def _put(self, data: bytes, *, eof: bool) -> None:
        """On a connection of its own: the first one has the stream."""
        if self._typing is None:
            self._typing = self._client.twin()
            self._typing.reached = True
        typing, query = self._typing, {"offset": self._sent, "eof": str(eof).lower()}
        try:
            typing.again(lambda: typing.call("PUT", f"/execs/{self._exec_id}/stdin", query=query, body=data))
        except Problem as problem:
            if problem.code not in ("exec_ended", "stdin_closed"):
                raise
        self._sent += len(data)

    def _cancel(self) -> None:
        """As far as that can be: who waited for it is interrupted himself."""
        if self._exec_id:
            with contextlib.suppress(Exception), contextlib.closing(self._client.twin()) as client:
                client.call("DELETE", f"/execs/{self._exec_id}", read=5.0)


def _read_events(client: Client, response: http.client.HTTPResponse) -> Generator[dict[str, Any], None, None]:
    """The events of one connection: whole lines alone. Raises Cut."""
    rest = b""
    try:
        while chunk := response.read1(1 << 20):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield json.loads(line)
    except (OSError, http.client.HTTPException, ValueError) as exc:
        raise client.cut(exc) from exc


def _read_end(view: dict[str, Any]) -> int:
    """The exit code of a command that has one. Raises Lost."""
    reason = view["reason"]
    if reason in ("exited", "signaled"):
        return int(view["exit_code"])
    vmid = view["vmid"]
    if reason == "spawn_failed":
        error = view["spawn_error"]
        raise Lost(f"nothing could be run in guest {vmid}: {error['message']} ({error['stage']})")
    if reason == "container_stopped":
        raise Lost(f"guest {vmid} was stopped while the command ran; start it")
    if reason == "timeout":
        raise Lost("the command was ended: its time was over; raise ansible_pve_exec_command_timeout")
    if reason == "gateway_lost" or view["state"] == "unknown":
        raise Lost(
            "the gateway's supervisor was stopped or killed, and the command with it; how far it came, nobody knows"
        )
    raise Lost(f"the command was ended by somebody else ({reason})")
