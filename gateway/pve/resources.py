"""What a cluster has beside guests, as frozen values: nodes, storages and what is on them, pools.

As in pve.models, what PVE leaves out is None or empty; sizes are bytes, times seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.exec.order import GuestKind
from gateway.pve.scalars import Raw, flag, fraction, number, read_kind, text


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node of the cluster."""

    name: str
    online: bool
    cpus: int | None
    memory: int | None
    memory_used: int | None
    cpu_used: float | None
    uptime: int | None

    @classmethod
    def read(cls, raw: Raw) -> Node | None:
        name = text(raw.get("node"))
        if name is None:
            return None
        return cls(
            name=name,
            online=raw.get("status") == "online",
            cpus=number(raw.get("maxcpu")),
            memory=number(raw.get("maxmem")),
            memory_used=number(raw.get("mem")),
            cpu_used=fraction(raw.get("cpu")),
            uptime=number(raw.get("uptime")),
        )


@dataclass(frozen=True, kw_only=True)
class Storage:
    """A storage as one node sees it."""

    name: str
    node: str
    kind: str
    content: tuple[str, ...]
    active: bool
    enabled: bool
    shared: bool
    total: int | None
    used: int | None
    available: int | None

    @classmethod
    def read(cls, node: str, raw: Raw) -> Storage | None:
        name = text(raw.get("storage"))
        if name is None:
            return None
        return cls(
            name=name,
            node=node,
            kind=text(raw.get("type")) or "",
            content=tuple(sorted(word for word in (text(raw.get("content")) or "").split(",") if word)),
            active=flag(raw.get("active")),
            enabled=flag(raw.get("enabled")),
            shared=flag(raw.get("shared")),
            total=number(raw.get("total")),
            used=number(raw.get("used")),
            available=number(raw.get("avail")),
        )


@dataclass(frozen=True, kw_only=True)
class Volume:
    """Something on a storage: a template (`vztmpl`, `iso`), a backup, a disk."""

    volume: str
    content: str
    format: str | None
    size: int | None
    made_at: int | None
    vmid: int | None
    kind: GuestKind | None
    """Of a backup: what it is a backup of."""
    notes: str
    protected: bool

    @classmethod
    def read(cls, raw: Raw) -> Volume | None:
        name = text(raw.get("volid"))
        if name is None:
            return None
        return cls(
            volume=name,
            content=text(raw.get("content")) or "",
            format=text(raw.get("format")),
            size=number(raw.get("size")),
            made_at=number(raw.get("ctime")),
            vmid=number(raw.get("vmid")) or None,
            kind=read_kind(raw.get("subtype")),
            notes=text(raw.get("notes")) or "",
            protected=flag(raw.get("protected")),
        )


@dataclass(frozen=True, kw_only=True)
class Appliance:
    """A container template that PVE's catalogue offers for download."""

    template: str
    os: str
    version: str
    section: str
    headline: str

    @classmethod
    def read(cls, raw: Raw) -> Appliance | None:
        name = text(raw.get("template"))
        if name is None:
            return None
        words = [text(raw.get(key)) or "" for key in ("os", "version", "section", "headline")]
        return cls(template=name, os=words[0], version=words[1], section=words[2], headline=words[3])


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A resource pool; `guests` and `storages` only where it was asked for by its name."""

    name: str
    comment: str
    guests: tuple[int, ...] = ()
    storages: tuple[str, ...] = ()

    @classmethod
    def read(cls, raw: Raw) -> Pool | None:
        name = text(raw.get("poolid"))
        if name is None:
            return None
        told = raw.get("members")
        members = [member for member in told if isinstance(member, dict)] if isinstance(told, list) else []
        vmids = {number(member.get("vmid")) for member in members if read_kind(member.get("type"))}
        storages = {text(member.get("storage")) for member in members if member.get("type") == "storage"}
        return cls(
            name=name,
            comment=text(raw.get("comment")) or "",
            guests=tuple(sorted(vmid for vmid in vmids if vmid is not None)),
            storages=tuple(sorted(storage for storage in storages if storage is not None)),
        )
