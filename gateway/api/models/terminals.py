"""What the query of a WebSocket can say."""

from __future__ import annotations

from pydantic import Field

from gateway.api.models.execs import Query
from gateway.api.terminal_frames import MAX_WINDOW


class TerminalQuery(Query):
    """How to open a terminal; the command comes in the first message."""

    ticket: str | None = Field(default=None, max_length=512, description="From POST /tickets, for browsers.")


class AttachQuery(TerminalQuery):
    """How to attach to an exec."""

    from_: int = Field(
        default=0,
        alias="from",
        ge=0,
        lt=1 << 63,
        description="Begin behind this place of the output (`cursor`, `seq`); 0 is the beginning.",
    )
    write: bool = Field(default=False, description="Be the one writer: send input, signals and sizes.")
    window: int | None = Field(
        default=None, ge=1, le=MAX_WINDOW, description="Bytes of output that may be unacknowledged. Default: any."
    )
