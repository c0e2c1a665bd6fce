"""How a container is given a device: PVE's `dev[n]` option, and the raw line of LXC that stands behind it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from gateway.devices.tree import Node

DEVICE_KEY = re.compile(r"dev(?:[0-9]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5])")
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


def device_path(value: str) -> str:
    """The host's path in the value of a `dev[n]`."""
    first = value.split(",")
    return next((part.removeprefix("path=") for part in first if part.startswith(("/", "path="))), "")


def free_keys(taken: Iterable[str]) -> list[str]:
    """The `dev[n]` that nothing has, the lowest first."""
    used = set(taken)
    return [key for key in (f"dev{number}" for number in range(_COUNT)) if key not in used]
