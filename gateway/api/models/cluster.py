"""Queries and replies about what the cluster has beside guests: nodes, storages, pools, free vmids."""

from __future__ import annotations

from enum import StrEnum
from typing import TypedDict

from pydantic import Field

from gateway.api.models.execs import Query
from gateway.api.models.tasks import NodeParameter


class Content(StrEnum):
    """What a storage may hold, in PVE's words."""

    ROOTDIR = "rootdir"
    IMAGES = "images"
    VZTMPL = "vztmpl"
    ISO = "iso"
    BACKUP = "backup"
    SNIPPETS = "snippets"


class StoragesQuery(Query):
    """Whose storages."""

    node: NodeParameter | None = Field(default=None, description="The node that sees them; without it this gateway's.")
    content: Content | None = Field(default=None, description="Only those that may hold this.")


class NodeView(TypedDict):
    """A node; figures are null of one that is offline. Sizes are bytes, times seconds."""

    name: str
    online: bool
    cpus: int | None
    cpu_used: float | None
    memory: int | None
    memory_used: int | None
    uptime: int | None


class NodeList(TypedDict):
    """The nodes by name."""

    nodes: list[NodeView]


class StorageView(TypedDict):
    """A storage as one node sees it; sizes are bytes."""

    name: str
    node: str
    type: str
    content: list[str]
    active: bool
    enabled: bool
    shared: bool
    total: int | None
    used: int | None
    available: int | None


class StorageList(TypedDict):
    """The storages by name."""

    storages: list[StorageView]


class PoolView(TypedDict):
    """A pool and those of its guests that the token may read."""

    name: str
    comment: str
    guests: list[int]


class PoolList(TypedDict):
    """The pools by name: those that have a guest which the token may read, and all of them for one who may read every
    guest."""

    pools: list[PoolView]


class NextVmid(TypedDict):
    """A vmid that nobody had when this was answered. Nothing is reserved."""

    vmid: int
