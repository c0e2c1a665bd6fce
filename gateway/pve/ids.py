"""Names of Proxmox VE's things, checked before a URL is built: `lxc('../../../version')` once reached /version.

The patterns are PVE's own: PVE::JSONSchema (pve-vmid, pve-node, pve-configid, pve-storage-id, pve-poolid, pve-tag),
PVE::UPID, PVE::Storage (parse_volume_id).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NewType

from gateway.errors import InvalidRequest

NodeName = NewType("NodeName", str)
StorageId = NewType("StorageId", str)
SnapName = NewType("SnapName", str)
PoolId = NewType("PoolId", str)
Tag = NewType("Tag", str)

MIN_VMID, MAX_VMID = 100, 999_999_999

NODE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
STORAGE = re.compile(r"[A-Za-z](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])")
SNAPSHOT = re.compile(r"[A-Za-z][A-Za-z0-9_-]{1,39}")
POOL = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+){0,2}")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+.-]{0,127}")
_VOLUME = re.compile(r"(?P<storage>[^:]+):(?P<name>[A-Za-z0-9][A-Za-z0-9._+~@:/=-]{0,254})")
_UPID = re.compile(
    r"UPID:(?P<node>[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?):(?P<pid>[0-9A-Fa-f]{8}):(?P<pstart>[0-9A-Fa-f]{8,9}):"
    r"(?P<start>[0-9A-Fa-f]{8}):(?P<type>[^:\s/]{1,64}):(?P<id>[^:\s/]{0,128}):(?P<user>[^:\s/]{1,256}):"
)
_VISIBLE = re.compile(r"[!-~]+")
_RESERVED_SNAPSHOTS = ("current", "vzdump", "pending")


class PathText(str):
    """A text that has been checked to stand in a path as one part of it, percent-encoded."""

    __slots__ = ()


class VolumeId(PathText):
    """A volume's name, `STORAGE:NAME`; of the name no part is empty, `.` or `..`."""

    __slots__ = ()

    @property
    def storage(self) -> StorageId:
        return StorageId(self.partition(":")[0])

    @property
    def name(self) -> str:
        return self.partition(":")[2]


@dataclass(frozen=True)
class Upid:
    """The name of a task: `UPID:node:pid:pstart:start:type:id:user[!token]:`."""

    text: PathText
    node: NodeName
    pid: int
    start: int
    """When it began, seconds since 1970."""
    type: str
    """What it does: vzstart, qmclone, vzdump, imgdel, ..."""
    id: str
    """What it does that to: most often a vmid; empty for a task about no guest."""
    user: str
    """Who began it, `user@realm`, with `!token` for a token."""

    def __str__(self) -> str:
        return str(self.text)

    @property
    def vmid(self) -> int | None:
        """The guest that it is about, if it is about one."""
        found = re.fullmatch(r"([1-9][0-9]{2,8})(?:@.*)?", self.id)  # imgdel: VMID@STORAGE
        return int(found[1]) if found else None


def parse_vmid(value: int | str, field: str = "vmid") -> int:
    """Raises InvalidRequest unless it is one: a whole number from 100 to 999999999."""
    text = str(value) if type(value) is int else value
    if not isinstance(text, str) or not re.fullmatch(r"[1-9][0-9]{2,8}", text):
        raise InvalidRequest.for_field(field, "a vmid is a whole number from 100 to 999999999")
    return int(text)


def parse_node(text: str, field: str = "node") -> NodeName:
    """Raises InvalidRequest unless it is a node's name."""
    return NodeName(_match(NODE, text, field, "a node's name is made of letters, digits and hyphens"))


def parse_storage(text: str, field: str = "storage") -> StorageId:
    """Raises InvalidRequest unless it is a storage's name."""
    return StorageId(_match(STORAGE, text, field, "a storage's name begins with a letter; then letters, digits, . _ -"))


def parse_snapshot(text: str, field: str = "name") -> SnapName:
    """Raises InvalidRequest unless it is a snapshot's name, and none that PVE keeps to itself."""
    _match(SNAPSHOT, text, field, "a snapshot's name begins with a letter; then 1 to 39 letters, digits, _ or -")
    if text in _RESERVED_SNAPSHOTS:
        raise InvalidRequest.for_field(field, f"PVE keeps the names {', '.join(_RESERVED_SNAPSHOTS)} to itself")
    return SnapName(text)


def parse_pool(text: str, field: str = "pool") -> PoolId:
    """Raises InvalidRequest unless it is a pool's name; one in another is written `above/below`."""
    return PoolId(_match(POOL, text, field, "a pool's name is made of letters, digits, . _ -; at most three deep"))


def parse_tag(text: str, field: str = "tags") -> Tag:
    """Raises InvalidRequest unless it is a tag."""
    return Tag(_match(TAG, text, field, "a tag is made of letters, digits, _ + . - and begins with neither of + . -"))


def parse_volume(text: str, field: str = "volume") -> VolumeId:
    """Raises InvalidRequest unless it is a volume's name."""
    found = _VOLUME.fullmatch(text) if isinstance(text, str) else None
    if found is None or any(part in ("", ".", "..") for part in found["name"].split("/")):
        raise InvalidRequest.for_field(field, "a volume's name is STORAGE:NAME, as in local:vztmpl/debian-13.tar.zst")
    parse_storage(found["storage"], field)
    return VolumeId(text)


def parse_upid(text: str, field: str = "upid") -> Upid:
    """Raises InvalidRequest unless it is a task's name."""
    found = _UPID.fullmatch(text) if isinstance(text, str) and _VISIBLE.fullmatch(text) else None
    if found is None:
        raise InvalidRequest.for_field(
            field, "a task's name is UPID:node:pid:pstart:start:type:id:user: as PVE gave it"
        )
    return Upid(
        PathText(text),
        NodeName(found["node"]),
        int(found["pid"], 16),
        int(found["start"], 16),
        found["type"],
        found["id"],
        found["user"],
    )


def _match(pattern: re.Pattern[str], text: object, field: str, rule: str) -> str:
    if not isinstance(text, str) or not pattern.fullmatch(text) or set(text) == {"."}:
        raise InvalidRequest.for_field(field, rule)
    return text
