"""Queries and replies of the task resource."""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

from pydantic import Field

from gateway.api.models.execs import Query
from gateway.api.models.work import TaskWait

NODE = r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$"
UPID = r"^UPID:[!-.0-~]{20,600}$"
MAX_LINES = 1000

NodeParameter = Annotated[str, Field(pattern=NODE)]
Vmid = Annotated[int, Field(ge=100, le=999_999_999)]


class TasksQuery(Query):
    """Filters and paging of the list of a node's tasks."""

    node: NodeParameter | None = Field(default=None, description="The node whose tasks; without it this gateway's.")
    vmid: Vmid | None = Field(default=None, description="Only tasks about this guest.")
    since: Annotated[int, Field(ge=0, lt=1 << 40)] | None = Field(
        default=None, description="Only those begun at this time or later, in seconds since 1970."
    )
    errors: bool = Field(default=False, description="Only those that failed or warned.")
    limit: int = Field(default=50, ge=1, le=500, description="How many at most.")
    after: Annotated[str, Field(pattern=UPID)] | None = Field(
        default=None, description="`next` of the page before: the name of its last task."
    )


class TaskQuery(Query):
    """How long the answer may wait."""

    wait: TaskWait = Field(default=0.0, description="Seconds to wait for the task's end before answering.")


class TaskLogQuery(Query):
    """Which lines."""

    after: int = Field(default=0, ge=0, lt=1 << 31, description="Lines behind this one: `next` of the answer before.")
    limit: int = Field(default=500, ge=1, le=MAX_LINES, description="How many at most.")
    wait: TaskWait = Field(
        default=0.0, description="Seconds to wait for a line behind `after`, or for the task's end: follows the log."
    )


class TaskView(TypedDict):
    """A task of PVE's. `ok`: whether it did what it was to do; null while it runs. `vmid`: the guest that it is about.

    `requested`: it only asks the HA manager, which does it later: its end says no more than that.
    """

    upid: str
    node: str
    type: str
    vmid: int | None
    user: str
    state: Literal["running", "ended"]
    ok: bool | None
    exitstatus: str | None
    requested: bool
    started_at: int
    ended_at: int | None


class TaskList(TypedDict):
    """One page of tasks: those that run, then those that ended last. `next` asks for the page after it; null: none."""

    tasks: list[TaskView]
    next: str | None


class TaskLine(TypedDict):
    """One line; `number` counts from 1."""

    number: int
    text: str


class TaskLog(TypedDict):
    """Lines of a task's log. `next` asks for what follows; null when the task has ended and nothing does."""

    lines: list[TaskLine]
    next: int | None
