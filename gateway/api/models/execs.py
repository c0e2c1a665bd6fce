"""Queries and replies of the exec resource. The exec itself is `exec.spec` and `exec.view`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, TypedDict

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from gateway.exec.view import ExecView, State

MAX_WAIT = 60.0
PAGE_MAX = 1000
EXEC_ID = r"^ex_[0-9A-HJKMNP-TV-Z]{26}$"

Wait = Annotated[float, Field(ge=0, le=MAX_WAIT, allow_inf_nan=False)]


class Query(BaseModel):
    """Query parameters: text, so numbers are read out of it; nothing unknown, never repeated back."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    def __repr_args__(self) -> Iterator[tuple[None, str]]:
        """Which were given, and not what they are: a ticket is one."""
        return ((None, name) for name in sorted(self.model_fields_set))


class WaitQuery(Query):
    """How long the answer may wait for the end of the exec."""

    wait: Wait = Field(default=0.0, description="Seconds to wait for the exec to end before answering.")


class ListQuery(Query):
    """Filters and paging of the list of execs."""

    vmid: Annotated[int, Field(ge=100, le=999_999_999)] | None = Field(
        default=None, description="Only execs in this guest."
    )
    state: State | None = Field(default=None, description="Only execs in this state.")
    label: list[Annotated[str, StringConstraints(pattern=r"^[^=]+=", max_length=320)]] = Field(
        default=[], max_length=32, description="`key=value`, repeatable: only execs that carry all of them."
    )
    limit: int = Field(default=100, ge=1, le=PAGE_MAX, description="How many at most.")
    after: str | None = Field(default=None, pattern=EXEC_ID, description="`next` of the page before.")


class OutputQuery(Query):
    """Where to begin reading an output stream, and whether to stay."""

    offset: int | None = Field(default=None, ge=0, lt=1 << 63, description="First byte, counted in the stream.")
    follow: bool = Field(
        default=False,
        description="Go on until the exec ends. Then a Range is ignored, and output that was dropped on the way cuts "
        "the reply.",
    )


class ExecList(TypedDict):
    """One page of execs; `next` asks for the page after it and is null on the last."""

    execs: list[ExecView]
    next: str | None
