"""The options in a container's configuration file, read without asking PVE: for what has to be quick."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.errors import NodeNotReady
from gateway.pve.models import GuestRef

_LINE = re.compile(r"([a-z][a-z0-9._]*):[ \t]*(\S.*)")
_MAX_BYTES = 1 << 20  # pmxcfs


def read_options(etc: Path, guest: GuestRef) -> dict[str, str]:
    """What a container has, and what it will have at its next start; a deletion that waits is not done yet. Snapshots
    are left out. Raises NodeNotReady. (PVE::LXC::Config, parse_pct_config.)"""
    path = etc / "nodes" / guest.node / "lxc" / f"{guest.vmid}.conf"
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES).decode(errors="replace")
    except OSError as exc:
        raise NodeNotReady(
            f"cannot read {path}: {exc.strerror}; see `systemctl status pve-cluster`", missing=["pve.etc"]
        ) from exc
    options: dict[str, str] = {}
    section = ""
    for line in text.split("\n"):
        if line.startswith("["):
            section = line.strip().lower()
        elif section in ("", "[pve:pending]") and (found := _LINE.fullmatch(line)) and found[1] != "delete":
            options[found[1]] = found[2].rstrip()
    return options
