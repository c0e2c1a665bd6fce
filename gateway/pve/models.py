"""What PVE tells, as frozen values: 0/1 booleans, numbers sent as texts, joined tags, missing members, read once.

A member that is missing, or is nothing that PVE sends, is None (or empty), never an error: PVE leaves out what it does
not know at the moment, for a node that is offline, say. Sizes are bytes, times seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gateway.exec.order import GuestKind

Raw = Mapping[str, Any]
_KINDS: Mapping[str, GuestKind] = {kind.value: kind for kind in GuestKind}


class GuestRef(NamedTuple):
    """Where a guest is: what every call about it needs."""

    vmid: int
    kind: GuestKind
    node: str


@dataclass(frozen=True, kw_only=True)
class Guest:
    """A guest as the list of the cluster shows it."""

    vmid: int
    kind: GuestKind
    node: str
    name: str | None
    status: str
    template: bool
    tags: tuple[str, ...]
    pool: str | None
    lock: str | None
    ha_state: str | None
    cpus: float | None
    memory: int | None
    disk: int | None
    uptime: int | None
    cpu_used: float | None
    memory_used: int | None

    @property
    def ref(self) -> GuestRef:
        return GuestRef(self.vmid, self.kind, self.node)

    @classmethod
    def read(cls, raw: Raw) -> Guest | None:
        """None for what is no guest."""
        vmid, node, kind = number(raw.get("vmid")), text(raw.get("node")), read_kind(raw.get("type"))
        if vmid is None or node is None or kind is None:
            return None
        return cls(
            vmid=vmid,
            kind=kind,
            node=node,
            name=text(raw.get("name")),
            status=text(raw.get("status")) or "unknown",
            template=flag(raw.get("template")),
            tags=split_tags(raw.get("tags")),
            pool=text(raw.get("pool")),
            lock=text(raw.get("lock")),
            ha_state=text(raw.get("hastate")),
            cpus=fraction(raw.get("maxcpu")),
            memory=number(raw.get("maxmem")),
            disk=number(raw.get("maxdisk")),
            uptime=number(raw.get("uptime")),
            cpu_used=fraction(raw.get("cpu")),
            memory_used=number(raw.get("mem")),
        )


@dataclass(frozen=True, kw_only=True)
class GuestStatus:
    """A guest as its own status shows it, of this moment."""

    vmid: int
    name: str | None
    status: str
    paused: bool
    """A machine whose processors are halted; PVE calls it running."""
    lock: str | None
    ha_managed: bool
    template: bool
    tags: tuple[str, ...]
    cpus: float | None
    memory: int | None
    disk: int | None
    uptime: int | None
    agent: bool

    @property
    def running(self) -> bool:
        return self.status == "running"

    @classmethod
    def read(cls, vmid: int, raw: Raw) -> GuestStatus:
        ha = raw.get("ha")
        return cls(
            vmid=vmid,
            name=text(raw.get("name")),
            status=text(raw.get("status")) or "unknown",
            paused=raw.get("qmpstatus") in ("paused", "suspended", "prelaunch"),
            lock=text(raw.get("lock")),
            ha_managed=flag(ha.get("managed")) if isinstance(ha, dict) else False,
            template=flag(raw.get("template")),
            tags=split_tags(raw.get("tags")),
            cpus=fraction(raw.get("cpus")),
            memory=number(raw.get("maxmem")),
            disk=number(raw.get("maxdisk")),
            uptime=number(raw.get("uptime")),
            agent=flag(raw.get("agent")),
        )


@dataclass(frozen=True, kw_only=True)
class GuestConfig:
    """A guest's configuration: options by PVE's names, what waits for its next start, and the digest of the file."""

    options: Mapping[str, str]
    digest: str
    pending: Mapping[str, str | None]
    """What will be at the next start; None for an option that will be gone."""
    raw: Mapping[str, str] = field(default_factory=dict)
    """A container's raw `lxc.*` options, of which PVE tells beside the others: a name's values, one a line."""

    @property
    def name(self) -> str | None:
        return self.options.get("hostname") or self.options.get("name")

    @property
    def notes(self) -> str:
        return self.options.get("description", "")

    @property
    def tags(self) -> tuple[str, ...]:
        return split_tags(self.options.get("tags"))

    @classmethod
    def read(cls, raw: Raw, pending: Iterable[Raw] = ()) -> GuestConfig:
        waiting: dict[str, str | None] = {}
        for item in pending:
            key = text(item.get("key"))
            if key is None:
                continue
            if number(item.get("delete")):
                waiting[key] = None
            elif "pending" in item:
                waiting[key] = str(item["pending"])
        options = {key: str(value) for key, value in raw.items() if key not in ("digest", "lxc") and value is not None}
        lines = raw.get("lxc")
        more: dict[str, str] = {}
        for line in lines if isinstance(lines, list) else ():
            if isinstance(line, list) and line:
                name = str(line[0])
                more[name] = "\n".join([*([more[name]] if name in more else []), *map(str, line[1:])])
        return cls(options=options, digest=text(raw.get("digest")) or "", pending=waiting, raw=more)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A snapshot of a guest; `parent` is the one before it."""

    name: str
    description: str
    parent: str | None
    made_at: int | None
    with_memory: bool

    @classmethod
    def read(cls, raw: Raw) -> Snapshot | None:
        """None for `current`, which is no snapshot but the guest as it is."""
        name = text(raw.get("name"))
        if name is None or name == "current":
            return None
        return cls(
            name=name,
            description=(text(raw.get("description")) or "").rstrip("\n"),
            parent=text(raw.get("parent")),
            made_at=number(raw.get("snaptime")),
            with_memory=flag(raw.get("vmstate")),
        )


@dataclass(frozen=True, kw_only=True)
class Address:
    """One address of a guest's interface, with its prefix length."""

    interface: str
    mac: str | None
    address: str
    prefix: int | None
    family: str
    """`inet` or `inet6`."""


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


# ---- PVE's scalars


def read_kind(value: Any) -> GuestKind | None:
    """What a guest is; None for the types of other things."""
    return _KINDS.get(value) if isinstance(value, str) else None


def number(value: Any) -> int | None:
    """A whole number, sent as one or as a text; a fraction is cut."""
    if type(value) is int:
        return value
    if isinstance(value, bool):
        return int(value)
    found = fraction(value)
    return int(found) if found is not None else None


def fraction(value: Any) -> float | None:
    """A finite number, sent as one or as a text."""
    if type(value) is int:
        return value
    try:
        found = float(value) if isinstance(value, float | str) else None
    except ValueError:
        return None
    return found if found is not None and abs(found) < float("inf") else None


def flag(value: Any) -> bool:
    """0 or 1, as a number or a text; what is missing is false."""
    return value in (1, "1", True)


def text(value: Any) -> str | None:
    """A text that is not empty; PVE sends names of digits as numbers."""
    if type(value) is str:
        return value or None
    if type(value) in (int, float):
        return str(value)
    return None


def split_tags(value: Any) -> tuple[str, ...]:
    """PVE joins tags by semicolons, and takes commas and spaces too."""
    return tuple(word for word in re.split(r"[;,\s]+", value) if word) if isinstance(value, str) else ()
