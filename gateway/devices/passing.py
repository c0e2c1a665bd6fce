"""How a container is given a device: PVE's `dev[n]` option, and the raw line of LXC that stands behind it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.devices.tree import Node

DEVICE_KEY = re.compile(r"^dev(?:[0-9]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5])$")
_COUNT = 256


def device_value(path: str, *, mode: int, uid: int = 0, gid: int = 0, deny_write: bool = False) -> str:
    """The value of a `dev[n]`: owner and mode are those of the node in the guest, by the guest's numbers."""
    parts = [path, *([f"uid={uid}"] if uid else []), *([f"gid={gid}"] if gid else []), f"mode={mode & 0o777:04o}"]
    return ",".join([*parts, *(["deny-write=1"] if deny_write else [])])


def allow_line(node: Node) -> str:
    """The raw line that lets a container use the device; it makes no node in it."""
    return f"lxc.cgroup2.devices.allow: {'b' if node.block else 'c'} {node.major}:{node.minor} rwm"


def device_options(options: Mapping[str, str]) -> dict[str, str]:
    """Those of a container's options that are `dev[n]`, by number."""
    keys = sorted((key for key in options if DEVICE_KEY.fullmatch(key)), key=lambda key: int(key[3:]))
    return {key: options[key] for key in keys}


@dataclass(frozen=True)
class Passed:
    """What a `dev[n]` says; PVE's defaults where it says nothing."""

    path: str
    mode: int
    uid: int
    gid: int
    read_only: bool

    @classmethod
    def read(cls, value: str) -> Passed:
        """As PVE reads it (PVE::LXC::Config, $dev_desc). What cannot be read is 0, or nothing."""
        pairs = (part.partition("=") for part in value.split(","))
        parts = {key if equals else "path": text if equals else key for key, equals, text in pairs}
        mode, uid, gid = parts.get("mode", "0660"), parts.get("uid", "0"), parts.get("gid", "0")
        return cls(
            path=parts.get("path", ""),
            mode=int(mode, 8) if re.fullmatch("[0-7]{1,6}", mode) else 0,
            uid=int(uid) if re.fullmatch("[0-9]{1,10}", uid) else 0,
            gid=int(gid) if re.fullmatch("[0-9]{1,10}", gid) else 0,
            read_only=parts.get("deny-write", "0").lower() in ("1", "on", "yes", "true"),
        )


def free_keys(taken: Iterable[str], word: str = "dev") -> list[str]:
    """The `dev[n]`, or `mp[n]`, that nothing has, the lowest first."""
    used = set(taken)
    return [key for key in (f"{word}{number}" for number in range(_COUNT)) if key not in used]
