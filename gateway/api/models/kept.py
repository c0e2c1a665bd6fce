"""Requests, queries and replies about what is kept of guests, and for them: snapshots, backups, templates."""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

from pydantic import Field, StringConstraints

from gateway.api.models.execs import PAGE_MAX, Query
from gateway.api.models.work import Work, WorkQuery
from gateway.exec.spec import Strict
from gateway.guests.fields import SnapshotName, StorageName, VolumeName

_After = Annotated[str, StringConstraints(max_length=512)]


class PageQuery(Query):
    """Paging of a list."""

    limit: int = Field(default=100, ge=1, le=PAGE_MAX, description="How many at most.")
    after: _After | None = Field(default=None, description="`next` of the page before.")


# ---- snapshots


class SnapshotRequest(Strict):
    """A snapshot to be taken. A running container stands still meanwhile."""

    name: SnapshotName
    description: Annotated[str, StringConstraints(max_length=4096)] = ""
    with_memory: bool = Field(default=False, description="Machines only: the memory of a running one, too.")


class RollbackQuery(WorkQuery):
    """What follows the rollback."""

    start: bool = Field(default=False, description="Start the guest afterwards; asks for guest:power, too.")


class SnapshotView(TypedDict):
    """A snapshot; `parent` is the one before it, `made_at` seconds since 1970."""

    name: str
    description: str
    parent: str | None
    made_at: int | None
    with_memory: bool


class SnapshotList(TypedDict):
    """One page, the oldest first; `next` asks for the page after it and is null on the last."""

    snapshots: list[SnapshotView]
    next: str | None


# ---- backups


class BackupsQuery(PageQuery):
    """Where to look, and paging."""

    storage: StorageName | None = Field(default=None, description="Default: every storage of the node for backups.")


class BackupRequest(Strict):
    """A backup to be made. Nothing older is removed by it."""

    storage: StorageName
    mode: Literal["snapshot", "suspend", "stop"] = Field(
        default="snapshot", description="`suspend` where the storage has no snapshots; `stop` shuts it down meanwhile."
    )
    compress: Literal["zstd", "gzip", "lzo", "none"] = "zstd"
    notes: Annotated[str, StringConstraints(max_length=1024, pattern=r"^[^\x00-\x1f\x7f]*$")] | None = Field(
        default=None, description="May hold PVE's {{guestname}}, {{node}}, {{vmid}} and {{cluster}}."
    )
    protected: bool = Field(default=False, description="Whether PVE refuses to remove it.")


class BackupDeleteQuery(WorkQuery):
    """Which backup."""

    volume: VolumeName = Field(description="As the guest's list of backups names it.")


class BackupView(TypedDict):
    """A backup; sizes in bytes, `made_at` seconds since 1970. `volume` is what POST /guests takes as `backup`."""

    volume: str
    storage: str
    size: int | None
    format: str | None
    made_at: int | None
    notes: str
    protected: bool


class BackupList(TypedDict):
    """One page, the newest first; `next` asks for the page after it and is null on the last."""

    backups: list[BackupView]
    next: str | None


class BackupWork(Work):
    """`volume`: the backup, when it is made."""

    volume: str | None


# ---- templates


class TemplatesQuery(PageQuery):
    """What to list, and paging."""

    available: bool = Field(default=False, description="What PVE's catalogue offers, instead of what is there.")
    storage: StorageName | None = Field(default=None, description="Only those on this storage.")
    content: Literal["vztmpl", "import", "iso"] = Field(
        default="vztmpl", description="Of what is there: templates of containers, images for machines' disks, or CDs."
    )


class TemplateRequest(Strict):
    """A template of PVE's catalogue, to be downloaded."""

    storage: StorageName
    template: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+~@:-]{0,253}$")] = Field(
        description="As GET /templates?available=true names it."
    )


class TemplateView(TypedDict):
    """What guests are made of. `volume` is what POST /guests takes as `template`, as a disk's `image`, or as `cd`: null
    for what is only offered."""

    name: str
    volume: str | None
    size: int | None
    os: str | None
    version: str | None
    headline: str | None


class TemplateList(TypedDict):
    """One page by name; `next` asks for the page after it and is null on the last."""

    templates: list[TemplateView]
    next: str | None


class TemplateWork(Work):
    """`volume`: what the template is when it is there."""

    volume: str
