"""The events of an exec as clients get them: the members of an NDJSON line, and of an SSE event's data."""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

from pydantic import Field

from gateway.api.models.execs import Query
from gateway.exec.view import ExecView, Reason

Stream = Literal["stdout", "stderr"]


class EventStart(TypedDict):
    """The exec as it stands when the stream begins. First, and only where it is read from seq 0."""

    seq: int
    type: Literal["start"]
    exec: ExecView


class EventOutput(TypedDict):
    """Bytes of one stream from its `offset` on. `utf-8` text holds whole characters; all else is `base64`.

    `seq` is the place behind these bytes in all output of the exec, counted in bytes of both streams in the order of
    their coming. Whoever has seen this event goes on with `?from=<seq>`, and no byte is lost or comes twice.
    """

    seq: int
    type: Stream
    offset: int
    data: str
    encoding: Literal["utf-8", "base64"]


class EventGap(TypedDict):
    """`bytes` bytes of `stream` from its `offset` on were not kept."""

    seq: int
    type: Literal["gap"]
    stream: Stream
    offset: int
    bytes: int


class EventHeartbeat(TypedDict):
    """Nothing has come for four seconds, and the connection lives. In SSE it is a comment."""

    seq: int
    type: Literal["heartbeat"]


class EventEnd(TypedDict):
    """How the exec ended. Always last: a stream that stops without it was cut, and can be resumed."""

    seq: int
    type: Literal["end"]
    reason: Annotated[str, Reason] | None
    exit_code: int | None
    signal: str | None
    exec: ExecView


ExecEvent = EventStart | EventOutput | EventGap | EventHeartbeat | EventEnd


class EventsQuery(Query):
    """Where to begin, and whether to stay."""

    from_: int | None = Field(
        default=None,
        alias="from",
        ge=0,
        lt=1 << 63,
        description="`seq` of the last event seen. Wins over Last-Event-ID; neither means from the beginning.",
    )
    follow: bool = Field(default=True, description="Stay until the exec ends; else give what there is now.")
