"""The frames of pvex.v1: what a client may say, parsed once, and what it is told. `terminal.py` describes them."""

from __future__ import annotations

import json
import struct
from typing import Any, Literal

from pydantic import Field, ValidationError

from gateway.api.models.input import ResizeRequest, SignalRequest
from gateway.api.parse import parse_json
from gateway.api.problems import explain
from gateway.errors import GatewayError, MalformedRequest
from gateway.exec.reply import EventBatch, GapEvent, OutputEvent
from gateway.exec.spec import ExecSpec, Strict
from gateway.exec.view import ExecView

MAX_CONTROL = 4096
"""Bytes of a text message, `start` apart."""
MAX_WINDOW = 1 << 30
STDIN, STDOUT, STDERR = range(3)
_HEADER = struct.Struct(">BQ")
_CHANNELS = {"stdout": STDOUT, "stderr": STDERR}


class Start(ExecSpec):
    """The first message to a new terminal: the command, as POST /exec/{vmid} takes it, and the client's window."""

    type: Literal["start"]
    window: int | None = Field(default=None, ge=1, le=MAX_WINDOW)
    idempotency_key: str | None = Field(
        default=None,
        pattern=r"^[\x21-\x7e]{1,255}$",
        description="As the header Idempotency-Key, which browsers cannot send: the same `start` with the same key "
        "holds the exec that the first one began.",
    )

    def body(self) -> bytes:
        """The ExecSpec in it, as the supervisor takes it."""
        return self.model_dump_json(exclude={"type", "window", "idempotency_key"}, exclude_unset=True).encode()


class Ack(Strict):
    """The client has dealt with all output before `cursor`."""

    type: Literal["ack"]
    cursor: int = Field(ge=0)


class Resize(ResizeRequest):
    """The terminal's window has another size."""

    type: Literal["resize"]


class Signal(SignalRequest):
    """A signal, by name or number, for the command or for its whole tree."""

    type: Literal["signal"]


class StdinEof(Strict):
    """No input follows."""

    type: Literal["stdin_eof"]


Control = Ack | Resize | Signal | StdinEof
_CONTROLS: dict[str, type[Control]] = {"ack": Ack, "resize": Resize, "signal": Signal, "stdin_eof": StdinEof}


def parse_start(text: bytes) -> Start:
    """The first message to a new terminal. Raises MalformedRequest or InvalidRequest."""
    if _type_of(text) != "start":
        raise MalformedRequest('the first message is {"type": "start", "command": ...}')
    start = parse_json(Start, text)
    assert isinstance(start, Start)
    return start


def parse_control(text: bytes) -> Control:
    """A later message. Raises MalformedRequest where it is none, InvalidRequest where its members are wrong."""
    if len(text) > MAX_CONTROL:
        raise MalformedRequest(f"a control message has at most {MAX_CONTROL} bytes")
    model = _CONTROLS.get(_type_of(text))
    if model is None:
        raise MalformedRequest(f"a control message here is of one of the types {', '.join(_CONTROLS)}")
    try:
        return model.model_validate_json(text)
    except ValidationError as exc:
        raise explain(model, exc) from None


def _type_of(text: bytes) -> str:
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise MalformedRequest("a text message is a JSON object") from None
    kind = message.get("type") if isinstance(message, dict) else None
    return kind if isinstance(kind, str) else ""


def parse_input(data: bytes) -> tuple[int, bytes]:
    """The offset and the bytes of a binary message. Raises MalformedRequest."""
    if len(data) < _HEADER.size:
        raise MalformedRequest(f"a binary message begins with {_HEADER.size} bytes of channel and offset")
    channel, offset = _HEADER.unpack_from(data)
    if channel != STDIN:
        raise MalformedRequest("the client's only channel is 0, stdin")
    return offset, data[_HEADER.size :]


def show_started(view: ExecView, cursor: int, *, replayed: bool) -> str:
    """The first message to the client; its output begins behind `cursor`. `replayed`: its key has begun it before."""
    return _dump({"type": "started", "exec": view, "cursor": cursor, "replayed": replayed})


def show_ack(offset: int) -> str:
    """The input has been taken up to `offset`, and goes on there."""
    return _dump({"type": "ack", "offset": offset})


def show_output(event: OutputEvent) -> bytes:
    return _HEADER.pack(_CHANNELS[event.stream], event.offset) + event.data


def show_gap(event: GapEvent) -> str:
    """Bytes of one stream that were not kept. `cursor` is the place behind them, to be acknowledged as such."""
    return _dump(
        {"type": "gap", "stream": event.stream, "offset": event.offset, "bytes": event.size, "cursor": event.cursor}
    )


def show_end(batch: EventBatch) -> str:
    """The last message to the client."""
    view = batch.view
    ending = {"reason": view["reason"], "exit_code": view["exit_code"], "signal": view["signal"]}
    return _dump({"type": "end", **ending, "exec": view})


def show_error(error: GatewayError) -> str:
    """A refusal: the members of the problem that HTTP would answer with."""
    evidence = {name: value for name, value in error.evidence.items() if name not in _OWN and value is not None}
    members = {"code": error.code, "detail": error.detail, "retryable": error.retryable}
    return _dump({"type": "error", **members, **evidence})


_OWN = frozenset({"type", "code", "detail", "retryable"})


def _dump(message: dict[str, Any]) -> str:
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))
