"""Queries and replies of making guests. The requests themselves are `guests.wish`."""

from __future__ import annotations

from typing import Literal, TypedDict

from pydantic import Field

from gateway.api.models.execs import Query
from gateway.api.models.work import TaskWait


class MakingQuery(Query):
    """How long the answer may wait."""

    wait: TaskWait = Field(
        default=0.0,
        description="Seconds to wait until it is all done: 201 with the guest, or a problem that tells why it failed; "
        "202 while it goes on, once PVE has begun.",
    )


class NewAddress(TypedDict):
    """One address of the guest."""

    interface: str
    address: str
    prefix: int | None


class NewGuest(TypedDict):
    """A guest that is made, or being made. `upid`: PVE's task that makes it; what follows that (`start`, waiting for an
    address) goes on behind it, whoever waits, and its outcome is recorded under `audit_id`. `addresses`: with
    `wait_for_address`, when it is made."""

    vmid: int
    node: str
    type: Literal["lxc", "qemu"]
    state: Literal["making", "made"]
    upid: str
    addresses: list[NewAddress]
    audit_id: str
