"""Queries of starting, stopping and the like."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gateway.api.models.work import WorkQuery

MAX_SHUTDOWN = 7200

Timeout = Annotated[int, Field(ge=1, le=MAX_SHUTDOWN)]


class StopQuery(WorkQuery):
    """How to stop at once."""

    overrule_shutdown: bool = Field(default=False, description="A shutdown that is under way is ended first.")


class ShutdownQuery(WorkQuery):
    """How to shut down."""

    timeout: Timeout = Field(default=60, description="Seconds that the guest has for it; then the task fails.")
    force: bool = Field(default=False, description="Stop it at once when it has not shut down in time.")


class RebootQuery(WorkQuery):
    """How to reboot."""

    timeout: Timeout = Field(default=60, description="Seconds that the guest has to shut down; then it is stopped.")


class SuspendQuery(WorkQuery):
    """How to suspend."""

    to_disk: bool = Field(
        default=False, description="Machines only: keep the memory on disk, and free it; 422 for a container."
    )
