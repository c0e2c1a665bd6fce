"""The messages of pvex.v1 as the API's description has them: who sends which, and what closes the connection."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict

from pydantic import BaseModel

from gateway.api import terminal_frames as frames
from gateway.api.route import Route
from gateway.api.schemas import REF, Schema, model_schema, type_schema
from gateway.exec.view import ExecView, Reason


class TerminalStarted(TypedDict):
    """The first message of the gateway's. Output begins behind `cursor`, a place in all output of the exec.

    `replayed`: an earlier `start` with this key has begun it.
    """

    type: Literal["started"]
    exec: ExecView
    cursor: int
    replayed: bool


class TerminalInputAck(TypedDict):
    """Input has been taken up to `offset` and goes on there. One comes at once to who may write."""

    type: Literal["ack"]
    offset: int


class TerminalGap(TypedDict):
    """`bytes` bytes of `stream` from its `offset` on were not kept. `cursor`: the place behind them."""

    type: Literal["gap"]
    stream: Literal["stdout", "stderr"]
    offset: int
    bytes: int
    cursor: int


class TerminalEnd(TypedDict):
    """How the exec ended: the last message, and then the connection is closed by 1000."""

    type: Literal["end"]
    reason: Annotated[str, Reason] | None
    exit_code: int | None
    signal: str | None
    exec: ExecView


_FROM_CLIENT: dict[str, tuple[str, type[BaseModel]]] = {
    "start": ("TerminalStart", frames.Start),
    "ack": ("TerminalAck", frames.Ack),
    "resize": ("TerminalResize", frames.Resize),
    "signal": ("TerminalSignal", frames.Signal),
    "stdin_eof": ("TerminalStdinEof", frames.StdinEof),
}
_FROM_GATEWAY: dict[str, Any] = {
    "started": TerminalStarted,
    "ack": TerminalInputAck,
    "gap": TerminalGap,
    "end": TerminalEnd,
}
_ERROR: Schema = {
    "type": "object",
    "description": "A refusal, with the members that the same problem has elsewhere; unless a close follows, the exec "
    "goes on untouched.",
    "required": ["type", "code", "detail", "retryable"],
    "properties": {
        "type": {"type": "string", "const": "error"},
        "code": {"type": "string", "description": "Stable; for programs, as in Problem."},
        "detail": {"type": "string", "description": "What was wrong and what to do next; for people."},
        "retryable": {"type": "boolean", "description": "Whether the same may succeed later."},
    },
    "additionalProperties": True,
}
_BINARY = (
    "`[channel: u8][offset: u64, big-endian][payload]`, at most 1 MiB of payload. Channels: 0 stdin (client to "
    "gateway), 1 stdout, 2 stderr; with `tty` all output is stdout. `offset` counts the bytes of that stream from the "
    "exec's beginning; input that was sent before is skipped."
)
_CLOSE_CODES = {
    "1000": "The exec has ended: `end` was sent.",
    "1001": "The gateway's web service restarts: attach again with `from`; the exec goes on.",
    "1002": "No WebSocket frames.",
    "1007": "Text that is not UTF-8.",
    "1009": "A message is over its limit: 1 MiB of payload, 4 KiB of text but for `start`.",
    "1011": "A fault of the gateway: attach again with `from`.",
    "4400": "No JSON, no such message or channel.",
    "4401": "The token has ended.",
    "4403": "The command is not granted.",
    "4404": "No such exec or guest.",
    "4408": "No `start` within 10 s, or idle for longer than `web.terminal_idle`.",
    "4409": "`idempotency_conflict`; `writer_taken`; `guest_not_running`, `guest_frozen`; `exec_queued`, `exec_ended`, "
    "`stdin_closed` on attach with `write`.",
    "4416": "`from` is past the end of the output.",
    "4422": "`start` has wrong fields.",
    "4429": "Too many execs or starts.",
    "4503": "The supervisor or the audit log is away.",
}


def describe_websocket(route: Route, schemas: dict[str, Schema]) -> Schema:
    """What goes over the connection when it is open; its messages are added to `schemas`."""
    starts = route.path.endswith("/terminal")
    _add_messages(schemas)
    return {
        "subprotocol": "pvex.v1",
        "binary": _BINARY,
        "client_messages": {"$ref": REF + "TerminalClientMessage"},
        "gateway_messages": {"$ref": REF + "TerminalGatewayMessage"},
        "first_message": "`start`, from the client, within 10 s" if starts else "`started`, from the gateway",
        "keep_alive": "A ping after 20 s without a move, another 20 s later; 20 s after that the client is gone.",
        "close_codes": _CLOSE_CODES,
    }


def _add_messages(schemas: dict[str, Schema]) -> None:
    if "TerminalClientMessage" in schemas:
        return
    for name, model in _FROM_CLIENT.values():
        model_schema(model, schemas)
        schemas[name] = schemas.pop(model.__name__)
    for hint in _FROM_GATEWAY.values():
        type_schema(hint, schemas)
    schemas["TerminalError"] = _ERROR
    client = {word: REF + name for word, (name, _) in _FROM_CLIENT.items()}
    gateway = {word: REF + hint.__name__ for word, hint in _FROM_GATEWAY.items()} | {"error": REF + "TerminalError"}
    schemas["TerminalClientMessage"] = _one_of("A text message from the client.", client)
    schemas["TerminalGatewayMessage"] = _one_of("A text message from the gateway.", gateway)


def _one_of(description: str, kinds: dict[str, str]) -> Schema:
    return {
        "description": description,
        "oneOf": [{"$ref": target} for target in kinds.values()],
        "discriminator": {"propertyName": "type", "mapping": kinds},
    }
