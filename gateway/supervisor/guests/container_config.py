"""What a container's configuration file says that its files depend on: its lock, its users' numbers, whether it is a
template. Nobody is asked; snapshots and pending changes are left out (PVE::LXC::Config, parse_pct_config)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import GuestNotFound, GuestUnsupported, NodeNotReady

_MAX_BYTES = 1 << 20  # pmxcfs
_MAX_RANGES = 64
_LINE = re.compile(r"([a-z][a-z0-9._]*)[ \t]*[:=][ \t]*(\S.*)")
_RANGE = re.compile(r"([ug])\s+([0-9]{1,10})\s+([0-9]{1,10})\s+([0-9]{1,10})\s*")
_TRUE = frozenset({"1", "on", "yes", "true"})  # PVE::JSONSchema, parse_boolean
_PRIVILEGED = "0 0 4294967295\n"
_UNPRIVILEGED = "0 100000 65536\n"


@dataclass(frozen=True)
class ContainerConfig:
    """Of one container. The maps are as /proc/PID/uid_map takes them."""

    lock: str | None
    template: bool
    uid_map: str
    gid_map: str


def read_container_config(etc: Path, node: str, vmid: int) -> ContainerConfig:
    """Raises GuestNotFound, GuestUnsupported for a map of users that is none, and NodeNotReady."""
    path = etc / "nodes" / node / "lxc" / f"{vmid}.conf"
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES).decode(errors="replace")
    except OSError as exc:
        if isinstance(exc, FileNotFoundError) and path.parent.is_dir():  # else nothing is mounted at /etc/pve
            raise GuestNotFound.for_vmid(vmid) from exc
        raise NodeNotReady(
            f"cannot read {path}: {exc.strerror}; see `systemctl status pve-cluster`", missing=["pve.etc"]
        ) from exc
    lines = (_LINE.fullmatch(line.rstrip()) for line in _main_section(text))
    pairs = [(str(found[1]), str(found[2])) for found in lines if found is not None]
    options = dict(pairs)
    unprivileged = options.get("unprivileged", "0").lower() in _TRUE
    ranges = [value for name, value in pairs if name == "lxc.idmap"]
    default = _UNPRIVILEGED if unprivileged else _PRIVILEGED  # PVE::LXC, parse_id_maps
    return ContainerConfig(
        options.get("lock"),
        options.get("template", "0").lower() in _TRUE,
        _map_of("u", ranges, vmid) if ranges else default,
        _map_of("g", ranges, vmid) if ranges else default,
    )


def _main_section(text: str) -> list[str]:
    lines = text.split("\n")
    end = next((number for number, line in enumerate(lines) if line.startswith("[")), len(lines))
    return lines[:end]


def _map_of(kind: str, ranges: list[str], vmid: int) -> str:
    """The kernel itself refuses ranges that overlap, or are too many."""
    found = [_RANGE.fullmatch(value) for value in ranges]
    mine = [" ".join(one.groups()[1:]) for one in found if one is not None and one[1] == kind]
    if None in found or not 0 < len(mine) <= _MAX_RANGES:
        raise GuestUnsupported(
            f"the lxc.idmap of guest {vmid} is none that is understood here; start it to reach its files", vmid=vmid
        )
    return "".join(f"{line}\n" for line in mine)
