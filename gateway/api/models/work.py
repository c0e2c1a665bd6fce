"""Queries and replies of everything that PVE does in a task."""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

from pydantic import Field

from gateway.api.models.execs import Query

MAX_TASK_WAIT = 300.0

TaskWait = Annotated[float, Field(ge=0, le=MAX_TASK_WAIT, allow_inf_nan=False)]
WAIT = "Seconds to wait for the task's end: 200 with it, or a problem that tells why it failed; 202 when it still runs."


class WorkQuery(Query):
    """How long the answer may wait."""

    wait: TaskWait = Field(default=0.0, description=WAIT)


class Work(TypedDict):
    """A change that PVE makes, or has made. `upid`: its task, for GET /tasks/{upid}; null where it needed none.

    `requested`: the guest is HA-managed, and the task has only asked the HA manager, which does it later. What comes of
    it is recorded under `audit_id`.
    """

    vmid: int | None
    node: str
    upid: str | None
    state: Literal["running", "ended"]
    exitstatus: str | None
    requested: bool
    audit_id: str
