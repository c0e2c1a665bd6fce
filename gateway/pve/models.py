"""Guests as PVE tells of them, as frozen values, read once.

A member that is missing, or is nothing that PVE sends, is None (or empty), never an error: PVE leaves out what it does
not know at the moment, for a node that is offline, say. Sizes are bytes, times seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.exec.order import GuestKind
from gateway.pve.scalars import Raw, flag, fraction, number, read_kind, split_tags, text


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
