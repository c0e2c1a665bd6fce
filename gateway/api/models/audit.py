"""Queries and replies of the audit log; its records are in `audit_records`."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, TypedDict

from pydantic import AwareDatetime, BeforeValidator, Field, TypeAdapter, WithJsonSchema

from gateway.api.models.audit_records import AuditEntry
from gateway.api.models.execs import EXEC_ID, PAGE_MAX, Query
from gateway.audit.parts import CURSOR
from gateway.audit.record import Event
from gateway.audit.walk import Wrong


def _as_recorded(text: object) -> str:
    """Raises ValueError for what is no time, or has no zone."""
    moment = _TIME.validate_python(text)
    try:
        return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    except OverflowError:
        raise ValueError("out of range") from None


_TIME = TypeAdapter[datetime](AwareDatetime)
Moment = Annotated[str, BeforeValidator(_as_recorded), WithJsonSchema({"type": "string", "format": "date-time"})]
"""A time of any zone, as records carry theirs."""

Id = Annotated[str, Field(min_length=1, max_length=256)]


class Order(StrEnum):
    """Which end a listing begins at."""

    NEWEST = "newest"
    OLDEST = "oldest"


class AuditQuery(Query):
    """Every filter that is given must fit."""

    event: list[Event] = Field(default=[], max_length=32, description="Repeatable: records of any of these events.")
    token: Id | None = Field(default=None, description="The id of the token that acted, or that was acted on.")
    vmid: Annotated[int, Field(ge=100, le=999_999_999)] | None = Field(default=None, description="About this guest.")
    exec_id: str | None = Field(default=None, pattern=EXEC_ID, description="About this exec.")
    request_id: Id | None = Field(default=None, description="Of this request.")
    audit_id: Id | None = Field(default=None, description="Of this operation: its intent, outcome or abort.")
    outcome: Id | None = Field(
        default=None, description="`exited`, `timeout`, ...: the reason of an end, of a denial or of an abort."
    )
    since: Moment | None = Field(default=None, description="Written at this time or later (RFC 3339).")
    until: Moment | None = Field(default=None, description="Written before this time.")
    order: Order = Field(default=Order.NEWEST, description="`oldest` and `after` follow the log as it grows.")
    limit: int = Field(default=100, ge=1, le=PAGE_MAX, description="How many at most.")
    after: Annotated[int, Field(ge=0, lt=1 << 53)] | None = Field(
        default=None, description="`next` of the page before, or any `seq`: begin behind it."
    )


class AuditPage(TypedDict):
    """One page, which may be short or empty. `next` asks for the page behind it; null: nothing is left to look at."""

    records: list[AuditEntry]
    next: int | None


class VerifyQuery(Query):
    """Where to go on."""

    after: str | None = Field(
        default=None,
        pattern=CURSOR,
        description="`next` of the part before; without it the log is verified from its begin.",
    )


class Witness(StrEnum):
    """What else than the log itself knows where it ended: what the audit writer has in memory, and the journal."""

    WRITER = "writer"
    JOURNAL = "journal"


class LogFault(TypedDict):
    """The first place that is not as written: `line` counts from 1, and the record `seq` belongs there."""

    file: str
    line: int
    seq: int
    wrong: Wrong
    detail: str


class LogVerdict(TypedDict):
    """Whether a part of the log is as it was written: `records` of them, `first` to `last` (0 where there are none).

    A token that may not read all records is told `good` alone: `fault` and the numbers are null.
    `checked` and `unchecked`: the anchors that the log was held against, or not yet. Those in the journal the API never
    asks; `audit verify --anchors` does. `next` asks for the part behind this one; null: that was the last, or a fault.
    """

    good: bool
    fault: LogFault | None
    records: int | None
    first: int | None
    last: int | None
    checked: list[Witness]
    unchecked: list[Witness]
    next: str | None
